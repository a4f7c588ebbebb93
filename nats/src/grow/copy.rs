//! One stream from a server to another: its snapshot, restored as it comes. The messages are those that NATS's own tool sends:
//!
//! ```text
//!  us ─ STREAM.SNAPSHOT.x ─► source ── chunk, reply ─► us ── chunk ─► restore subject ─► target
//!                               ▲───────── go on ──────┘ ◄── taken ───────────┘
//!                             an empty one is the end, on both sides; then the target says how the stream is
//! ```
//! The target has the stream when it has said so, and nothing of it before.

use std::time::Duration;

use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::{self, ErrorCode, stream};
use async_nats::{Client, Message, Request};
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde::Deserialize;
use serde_json::{Value, json};

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
    /// There is another one of its name.
    #[error(
        "the cluster has another stream of this name, of {there} messages where {here} were put aside; remove or rename that one"
    )]
    Another {
        /// Its messages.
        there: u64,
        /// Ours.
        here: u64,
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
    description: String,
}

/// The streams of an account.
pub(super) async fn streams(client: &Client) -> Result<Vec<stream::Info>, String> {
    let context = jetstream::new(client.clone());
    context.streams().try_collect().await.map_err(|error| error.to_string())
}

/// Copies it; `tell` hears how many bytes were.
pub(super) async fn copy(
    source: &Client,
    target: &Client,
    stream: &stream::Info,
    replicas: Option<usize>,
    mut tell: impl FnMut(u64),
) -> Result<Copied, CopyError> {
    let name = &stream.config.name;
    let there = state(target, name).await?;
    if let Some(there) = there {
        let is_same = (there.messages, there.last_sequence) == (stream.state.messages, stream.state.last_sequence);
        let (there, here) = (there.messages, stream.state.messages);
        if !is_same {
            return Err(CopyError::Another { there, here });
        }
        replicate(target, name, replicas).await?;
        return Ok(Copied::Before);
    }
    let inbox = source.new_inbox();
    let silent = |error: &dyn std::fmt::Display| CopyError::Silent("what was put aside", error.to_string());
    let mut chunks = source.subscribe(inbox.clone()).await.map_err(|error| silent(&error))?;
    let asked = json!({ "deliver_subject": inbox, "no_consumers": false, "chunk_size": CHUNK });
    let snapshot = ask(source, "what was put aside", &format!("$JS.API.STREAM.SNAPSHOT.{name}"), &asked).await?;
    let begin = json!({ "config": snapshot.config, "state": snapshot.state });
    let restore = ask(target, "the cluster", &format!("$JS.API.STREAM.RESTORE.{name}"), &begin).await?;
    let into = restore.deliver_subject.ok_or(CopyError::Refused("the cluster", "no subject to send to".to_owned()))?;
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
    send(target, &into, Request::new().timeout(Some(WHOLE))).await?;
    replicate(target, name, replicas).await?;
    match state(target, name).await? {
        Some(there) if there.messages == stream.state.messages => Ok(Copied::Now),
        Some(there) => Err(CopyError::Another { there: there.messages, here: stream.state.messages }),
        None => Err(CopyError::Refused("the cluster", "it was restored, and is not there".to_owned())),
    }
}

/// Whether the end of a snapshot is one.
fn ended(last: &Message) -> Result<(), CopyError> {
    let status = last.status.map(|status| status.as_u16());
    if status.is_none_or(|status| status == END) {
        return Ok(());
    }
    let why = last.description.clone().unwrap_or_else(|| format!("{status:?}"));
    Err(CopyError::Refused("what was put aside", why))
}

async fn state(target: &Client, name: &str) -> Result<Option<stream::State>, CopyError> {
    let context = jetstream::new(target.clone());
    match context.get_stream(name).await {
        Ok(stream) => Ok(Some(stream.cached_info().state.clone())),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(refused) if refused.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
            _ => Err(CopyError::Silent("the cluster", error.to_string())),
        },
    }
}

async fn replicate(target: &Client, name: &str, replicas: Option<usize>) -> Result<(), CopyError> {
    let Some(replicas) = replicas else { return Ok(()) };
    let context = jetstream::new(target.clone());
    let refused = |error: &dyn std::fmt::Display| CopyError::Refused("the cluster", error.to_string());
    let stream = context.get_stream(name).await.map_err(|error| refused(&error))?;
    let config = stream.cached_info().config.clone();
    if config.num_replicas == replicas {
        return Ok(());
    }
    let wanted = stream::Config { num_replicas: replicas, ..config };
    context.update_stream(wanted).await.map(drop).map_err(|error| refused(&error))
}

async fn ask(of: &Client, who: &'static str, subject: &str, body: &Value) -> Result<Answer, CopyError> {
    let request = Request::new().payload(body.to_string().into()).timeout(Some(ANSWER));
    let answer = of.send_request(subject.to_owned(), request).await;
    let answer = answer.map_err(|error| CopyError::Silent(who, error.to_string()))?;
    read(who, &answer.payload)
}

/// Sends a chunk. What is said to it is empty, or why it was refused; to the last, how the stream is.
async fn send(target: &Client, into: &str, chunk: Request) -> Result<(), CopyError> {
    let answer = target.send_request(into.to_owned(), chunk).await;
    let answer = answer.map_err(|error| CopyError::Silent("the cluster", error.to_string()))?;
    if answer.payload.is_empty() { Ok(()) } else { read("the cluster", &answer.payload).map(drop) }
}

fn read(who: &'static str, payload: &[u8]) -> Result<Answer, CopyError> {
    let answer: Answer = serde_json::from_slice(payload).map_err(|error| CopyError::Refused(who, error.to_string()))?;
    match answer.error {
        Some(refused) => Err(CopyError::Refused(who, refused.description)),
        None => Ok(answer),
    }
}
