//! One stream from a server to another: its snapshot, restored as it comes. The messages are those that NATS's own tool sends:
//!
//! ```text
//!  us ─ STREAM.SNAPSHOT.x ─► source ── chunk, reply ─► us ── chunk ─► restore subject ─► target
//!                               ▲───────── go on ──────┘ ◄── taken ───────────┘
//!                             an empty one is the end, on both sides; then the target says how the stream is
//! ```
//! The target has the stream when it has said so, and nothing of it before but its name, which it then holds for good: that we have begun is
//! marked first, so that who is ended and begins again may give it up. When all is there a second mark is set, since applications use the stream
//! from there on. One without that mark, where we were ended between the two, is ours when its last message is.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use async_nats::jetstream::context::{GetStreamErrorKind, UpdateStreamErrorKind};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::RawMessageErrorKind;
use async_nats::jetstream::{self, ErrorCode, stream};
use async_nats::{Client, Message, Request};
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde::Deserialize;
use serde_json::{Value, json};

use super::mark::Mark;

/// Bytes of a chunk: below what any server takes for a message.
const CHUNK: usize = 64 * 1024;
/// How long each side may take for one, with its disk busy.
const ANSWER: Duration = Duration::from_secs(30);
/// How long the target may take to make a stream of what it has.
const WHOLE: Duration = Duration::from_secs(1800);
/// Bytes between two words of how far it is.
const STEP: u64 = 16 << 20;
/// The end of a snapshot.
const END: u16 = 204;
/// What says that it is HTTP's "not now" in a refusal of JetStream: no leader, or no room on enough servers, yet.
const NOT_NOW: usize = 503;
/// Before a stream is begun again.
const PAUSE: Duration = Duration::from_secs(6);
/// For how long a stream is begun again where what stands in its way passes: a leader that is to be elected, a server that restarts.
const PATIENCE: Duration = Duration::from_secs(30);
/// Whom we copy from.
const ASIDE: &str = "what was put aside";
/// Whom we copy to.
const CLUSTER: &str = "the cluster";

/// When a stream came into the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copied {
    Now,
    Before,
}

/// Why a stream is not copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// No answer.
    #[error("{0} does not answer: {1}")]
    Silent(&'static str, String),
    /// It refuses.
    #[error("{0} refuses: {1}")]
    Refused(&'static str, String),
    /// Its name is held by a restore that came to no end.
    #[error(
        "the cluster holds the name for somebody who has begun to restore such a stream and did not end: \
         when nobody is at it any more, delete the stream there, and run this again"
    )]
    Taken,
    /// The target cannot just now.
    #[error("the cluster cannot take it just now: {0}")]
    NotNow(String),
    /// The target says that it has it, and has not all.
    #[error("the cluster has it up to message {there}, where {here} was the last")]
    Short {
        /// Its last sequence.
        there: u64,
        /// That of the snapshot.
        here: u64,
    },
    /// There is one of its name that we cannot tell to be a copy.
    #[error(
        "the cluster has a stream of this name that is no copy of it, up to message {there} where {here} was put aside; \
         if that one is to stay as it is, make the file {}", mark.display()
    )]
    Another {
        /// Its last sequence.
        there: u64,
        /// Ours.
        here: u64,
        /// The file.
        mark: PathBuf,
    },
    /// That it is copied cannot be written down.
    #[error("{} cannot be used", path.display())]
    Mark {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// An answer of JetStream, as far as it matters here.
#[derive(Deserialize)]
struct Answer {
    error: Option<Refusal>,
    #[serde(default)]
    config: Value,
    #[serde(default)]
    state: Value,
    deliver_subject: Option<String>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    code: usize,
    err_code: Option<ErrorCode>,
    #[serde(default)]
    description: String,
}

/// The streams of an account, by name.
pub(super) async fn streams(client: &Client) -> Result<Vec<stream::Info>, String> {
    let context = jetstream::new(client.clone());
    let mut streams: Vec<stream::Info> = context.streams().try_collect().await.map_err(|error| error.to_string())?;
    streams.sort_by(|one, other| one.config.name.cmp(&other.config.name));
    Ok(streams)
}

/// Copies it, unless it is there; `tell` hears how many bytes were. It is begun again for half a minute where what fails passes by itself.
pub(super) async fn copy(
    source: &Client,
    target: &Client,
    stream: &stream::Info,
    replicas: Option<usize>,
    mark: &Mark,
    mut tell: impl FnMut(u64),
) -> Result<Copied, CopyError> {
    let began = Instant::now();
    loop {
        match begin(source, target, stream, replicas, mark, &mut tell).await {
            Err(error) if error.passes() && began.elapsed() < PATIENCE => tokio::time::sleep(PAUSE).await,
            done => return done,
        }
    }
}

async fn begin(
    source: &Client,
    target: &Client,
    stream: &stream::Info,
    replicas: Option<usize>,
    mark: &Mark,
    tell: impl FnMut(u64),
) -> Result<Copied, CopyError> {
    let name = &stream.config.name;
    let unmarked = |source| CopyError::Mark { path: mark.path(), source };
    let copied = match state(target, name).await? {
        None => {
            restore(source, target, name, mark, tell).await?;
            Copied::Now
        }
        Some(there) => {
            if !mark.is_set().map_err(unmarked)? && !is_copy(source, target, stream, &there).await? {
                let (there, here) = (there.last_sequence, stream.state.last_sequence);
                return Err(CopyError::Another { there, here, mark: mark.path() });
            }
            Copied::Before
        }
    };
    mark.set().map_err(unmarked)?;
    replicate(target, name, replicas).await?;
    Ok(copied)
}

/// Whether what is there has grown out of this one: it has our last message, of the same nanosecond at the same place.
async fn is_copy(
    source: &Client,
    target: &Client,
    stream: &stream::Info,
    there: &stream::State,
) -> Result<bool, CopyError> {
    let last = stream.state.last_sequence;
    if stream.state.messages == 0 {
        return Ok(there.last_sequence == last);
    }
    let (name, place) = (&stream.config.name, there.last_sequence >= last);
    let ours = message(source, ASIDE, name, last).await?;
    let theirs = message(target, CLUSTER, name, last).await?;
    let is_same =
        ours.zip(theirs).is_some_and(|(ours, theirs)| ours.time == theirs.time && ours.subject == theirs.subject);
    Ok(place && is_same)
}

/// The message of this sequence, if it is there.
async fn message(
    of: &Client,
    who: &'static str,
    name: &str,
    sequence: u64,
) -> Result<Option<StreamMessage>, CopyError> {
    let silent = |error: &dyn std::fmt::Display| CopyError::Silent(who, error.to_string());
    let stream = jetstream::new(of.clone()).get_stream_no_info(name).await.map_err(|error| silent(&error))?;
    match stream.get_raw_message(sequence).await {
        Ok(message) => Ok(Some(message)),
        Err(error) => match error.kind() {
            RawMessageErrorKind::NoMessageFound => Ok(None),
            _ => Err(silent(&error)),
        },
    }
}

/// Has the target make the stream of a snapshot.
async fn restore(
    source: &Client,
    target: &Client,
    name: &str,
    mark: &Mark,
    mut tell: impl FnMut(u64),
) -> Result<(), CopyError> {
    let inbox = source.new_inbox();
    let silent = |error: &dyn std::fmt::Display| CopyError::Silent(ASIDE, error.to_string());
    let mut chunks = source.subscribe(inbox.clone()).await.map_err(|error| silent(&error))?;
    let asked = json!({ "deliver_subject": inbox, "no_consumers": false, "chunk_size": CHUNK });
    let snapshot = ask(source, ASIDE, &format!("$JS.API.STREAM.SNAPSHOT.{name}"), &asked).await?;
    let into = place(target, name, &json!({ "config": snapshot.config, "state": snapshot.state }), mark).await?;
    let (mut copied, mut told) = (0, 0);
    loop {
        let next = tokio::time::timeout(ANSWER, chunks.next()).await;
        let chunk: Message = next.ok().flatten().ok_or_else(|| silent(&"no more of the snapshot came"))?;
        if chunk.payload.is_empty() {
            ended(&chunk)?;
            break;
        }
        copied += u64::try_from(chunk.payload.len()).unwrap_or(u64::MAX);
        send(target, &into, Request::new().payload(chunk.payload).timeout(Some(ANSWER))).await?;
        if let Some(reply) = chunk.reply {
            source.publish(reply, "".into()).await.map_err(|error| silent(&error))?;
        }
        if copied - told >= STEP {
            told = copied;
            tell(copied);
        }
    }
    // Whoever does not say so may still be at it: that is not begun again.
    let whole = send(target, &into, Request::new().timeout(Some(WHOLE))).await.map_err(|error| match error {
        CopyError::Silent(who, why) => CopyError::Refused(who, format!("it does not say that it has all: {why}")),
        other => other,
    })?;
    let last = |state: &Value| state["last_seq"].as_u64().unwrap_or(0);
    let (there, here) = (whole.map_or(0, |whole| last(&whole.state)), last(&snapshot.state));
    // Who writes to it in the same moment makes it longer.
    if there >= here { Ok(()) } else { Err(CopyError::Short { there, here }) }
}

/// Has the target begin to restore a stream, and returns where to send it. A restore in which we were ended before is given up first.
async fn place(target: &Client, name: &str, begin: &Value, mark: &Mark) -> Result<String, CopyError> {
    let unmarked = |source| CopyError::Mark { path: mark.path(), source };
    let subject = format!("$JS.API.STREAM.RESTORE.{name}");
    let begun = mark.is_begun().map_err(unmarked)?;
    mark.begin().map_err(unmarked)?;
    let answer = match ask(target, CLUSTER, &subject, begin).await {
        Err(CopyError::Taken) if begun => {
            if state(target, name).await?.is_some() {
                return Err(CopyError::NotNow("a stream of its name has come meanwhile".to_owned()));
            }
            forget(target, name).await?;
            ask(target, CLUSTER, &subject, begin).await?
        }
        // Who says nothing may have heard us.
        Err(error @ CopyError::Silent(..)) => return Err(error),
        Err(refused) => {
            if !begun {
                mark.unbegin().map_err(unmarked)?;
            }
            return Err(refused);
        }
        Ok(answer) => answer,
    };
    answer.deliver_subject.ok_or(CopyError::Refused(CLUSTER, "no subject to send to".to_owned()))
}

/// Has the target give up a restore in which we were ended: it is no stream, and by itself the name stays taken for good.
async fn forget(target: &Client, name: &str) -> Result<(), CopyError> {
    ask(target, CLUSTER, &format!("$JS.API.STREAM.DELETE.{name}"), &json!({})).await.map(drop)
}

/// Whether the end of a snapshot is one.
fn ended(last: &Message) -> Result<(), CopyError> {
    let status = last.status.map(|status| status.as_u16());
    if status.is_none_or(|status| status == END) {
        return Ok(());
    }
    let why = last.description.clone().unwrap_or_else(|| format!("{status:?}"));
    Err(CopyError::Refused(ASIDE, why))
}

async fn state(target: &Client, name: &str) -> Result<Option<stream::State>, CopyError> {
    let context = jetstream::new(target.clone());
    match context.get_stream(name).await {
        Ok(stream) => Ok(Some(stream.cached_info().state.clone())),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(refused) if refused.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
            GetStreamErrorKind::JetStream(refused) => Err(refused_by_cluster(&refused)),
            _ => Err(CopyError::Silent(CLUSTER, error.to_string())),
        },
    }
}

async fn replicate(target: &Client, name: &str, replicas: Option<usize>) -> Result<(), CopyError> {
    let Some(replicas) = replicas else { return Ok(()) };
    let context = jetstream::new(target.clone());
    let silent = |error: &dyn std::fmt::Display| CopyError::Silent(CLUSTER, error.to_string());
    let stream = context.get_stream(name).await.map_err(|error| silent(&error))?;
    let config = stream.cached_info().config.clone();
    if config.num_replicas == replicas {
        return Ok(());
    }
    let wanted = stream::Config { num_replicas: replicas, ..config };
    context.update_stream(wanted).await.map(drop).map_err(|error| match error.kind() {
        UpdateStreamErrorKind::JetStream(refused) => refused_by_cluster(&refused),
        _ => silent(&error),
    })
}

fn refused_by_cluster(refused: &jetstream::Error) -> CopyError {
    match refused.code() {
        NOT_NOW => CopyError::NotNow(refused.to_string()),
        _ => CopyError::Refused(CLUSTER, refused.to_string()),
    }
}

impl CopyError {
    /// Whether it may be otherwise soon.
    fn passes(&self) -> bool {
        match self {
            Self::NotNow(_) | Self::Silent(CLUSTER, _) => true,
            Self::Taken
            | Self::Silent(..)
            | Self::Refused(..)
            | Self::Short { .. }
            | Self::Another { .. }
            | Self::Mark { .. } => false,
        }
    }
}

async fn ask(of: &Client, who: &'static str, subject: &str, body: &Value) -> Result<Answer, CopyError> {
    let request = Request::new().payload(body.to_string().into()).timeout(Some(ANSWER));
    let answer = of.send_request(subject.to_owned(), request).await;
    let answer = answer.map_err(|error| CopyError::Silent(who, error.to_string()))?;
    read(who, &answer.payload)
}

/// Sends a chunk. What is said to it is empty, or why it was refused; to the last, how the stream is.
async fn send(target: &Client, into: &str, chunk: Request) -> Result<Option<Answer>, CopyError> {
    let answer = target.send_request(into.to_owned(), chunk).await;
    let answer = answer.map_err(|error| CopyError::Silent(CLUSTER, error.to_string()))?;
    if answer.payload.is_empty() { Ok(None) } else { read(CLUSTER, &answer.payload).map(Some) }
}

fn read(who: &'static str, payload: &[u8]) -> Result<Answer, CopyError> {
    let answer: Answer = serde_json::from_slice(payload).map_err(|error| CopyError::Refused(who, error.to_string()))?;
    match answer.error {
        Some(refused) if refused.err_code == Some(ErrorCode::STREAM_NAME_EXIST_RESTORE_FAILED) => Err(CopyError::Taken),
        Some(refused) if who == CLUSTER && refused.code == NOT_NOW => Err(CopyError::NotNow(refused.description)),
        Some(refused) => Err(CopyError::Refused(who, refused.description)),
        None => Ok(answer),
    }
}
