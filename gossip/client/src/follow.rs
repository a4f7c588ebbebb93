//! A stream that outlives its connections.
//!
//! ```text
//!              ┌────────────── delay ──────────────┐
//!              ▼                                   │ cut, refused for the moment: Lost, once per outage
//!   start ─► Connecting ── head of the answer ─► Reading ── line ─► event
//!              │                                   │
//!              └──► Ended ◄── an error that trying again cannot cure
//! ```
//!
//! A store that hangs keeps its connections. So every stream is asked to say from time to time that it is alive; one that has
//! said how often and is silent for thrice as long counts as cut.
//!
//! What to ask, what a line means and which failure is which is the `Source`'s, a plain state machine without I/O.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use http::HeaderMap;
use reqwest::RequestBuilder;
use tokio::time::{Instant, sleep, timeout};

use crate::client::Client;
use crate::endpoint::Endpoint;
use crate::error::{Chain, Error};
use crate::ndjson::Lines;
use crate::retry::Retry;

/// A connection that lived this long was a good one, also if nothing was said on it: the next delay is short again.
const HELD: Duration = Duration::from_secs(10);

/// The answer's header that says how often its stream says something, in milliseconds. A store without it says so seldom or never.
const ALIVE_HEADER: &str = "kith-alive-ms";
/// So many times that long is silence: a machine may be busy.
const SILENCE: u32 = 3;
/// What it is taken for at least and at most, whatever the server says.
const ALIVE_MIN: Duration = Duration::from_secs(1);
const ALIVE_MAX: Duration = Duration::from_secs(60);

/// A live stream of events that reconnects by itself. It ends after an error only.
///
/// Dropping it closes the connection. Dropping a future of its `next()` loses nothing.
pub struct Follow<E> {
    events: Pin<Box<dyn Stream<Item = Result<E, Error>> + Send>>,
}

/// What a followed stream consists of: its requests and the meaning of its lines.
pub(crate) trait Source: Send + 'static {
    /// What the consumer gets.
    type Event: Send;

    /// The next request: from the start, or from where the stream stopped.
    fn request(&self, client: &Client) -> Result<RequestBuilder, Error>;

    /// The server accepted the request.
    fn begun(&mut self, head: &HeaderMap) -> Option<Self::Event>;

    /// One line of the answer.
    fn line(&mut self, text: &str) -> Result<Option<Self::Event>, Error>;

    /// What to do about a failure, of the request or of a line.
    fn failed(&mut self, error: Error) -> Failure;

    /// How the consumer is told that the store is away.
    fn lost(&self, reason: String) -> Self::Event;
}

/// What follows from a failure.
pub(crate) enum Failure {
    /// Try again, and tell the consumer of the outage.
    Retry(Error),
    /// Ask again, otherwise: the source has forgotten its place.
    Anew,
    /// End the stream with this error.
    Fatal(Error),
}

impl Failure {
    /// The verdict where nothing special is known.
    pub(crate) fn by_kind(error: Error) -> Failure {
        if error.is_transient() { Failure::Retry(error) } else { Failure::Fatal(error) }
    }
}

impl<E: Send + 'static> Follow<E> {
    /// A stream that connects when polled.
    pub(crate) fn new<S: Source<Event = E>>(client: Client, source: S) -> Follow<E> {
        Run { client, source, retry: Retry::new(), phase: Phase::Connecting, outage: Outage::None }.into_stream(None)
    }

    /// A stream whose first connection is made here, in one attempt.
    pub(crate) async fn begun<S: Source<Event = E>>(client: Client, source: S) -> Result<Follow<E>, Error> {
        let mut run = Run { client, source, retry: Retry::new(), phase: Phase::Connecting, outage: Outage::None };
        let first = run.connect().await?;
        Ok(run.into_stream(first))
    }

    /// The next event, `None` after the error that ended the stream.
    pub async fn next_event(&mut self) -> Option<Result<E, Error>> {
        self.events.next().await
    }
}

impl<E> Stream for Follow<E> {
    type Item = Result<E, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.as_mut().poll_next(cx)
    }
}

impl<E> fmt::Debug for Follow<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follow").finish_non_exhaustive()
    }
}

struct Run<S> {
    client: Client,
    source: S,
    retry: Retry,
    phase: Phase,
    outage: Outage,
}

enum Phase {
    Waiting(Duration),
    Connecting,
    Reading { lines: Box<Lines>, since: Instant, silence: Option<Duration> },
    Ended,
}

/// Whether the consumer has been told that the store is away. It is told once, not at every attempt.
enum Outage {
    None,
    Told,
}

impl<S: Source> Run<S> {
    fn into_stream(self, first: Option<S::Event>) -> Follow<S::Event> {
        let steps = stream::unfold(self, |mut run| async move { run.step().await.map(|item| (item, run)) });
        Follow { events: Box::pin(stream::iter(first.map(Ok)).chain(steps).fuse()) }
    }

    /// Runs until there is something to say.
    async fn step(&mut self) -> Option<Result<S::Event, Error>> {
        loop {
            let outcome = match &mut self.phase {
                Phase::Ended => return None,
                Phase::Waiting(delay) => {
                    sleep(*delay).await;
                    self.phase = Phase::Connecting;
                    Ok(None)
                }
                Phase::Connecting => self.connect().await,
                Phase::Reading { lines, silence, .. } => {
                    match within(*silence, self.client.endpoint(), lines.next()).await {
                        Ok(Some(line)) => {
                            self.retry.succeeded();
                            self.source.line(&line)
                        }
                        Ok(None) => Err(Error::Incomplete),
                        Err(error) => Err(error),
                    }
                }
            };
            let item = match outcome {
                Ok(event) => event.map(Ok),
                Err(error) => self.failed(error),
            };
            if item.is_some() {
                return item;
            }
        }
    }

    async fn connect(&mut self) -> Result<Option<S::Event>, Error> {
        let request = self.source.request(&self.client)?;
        let response = self.client.send(request).await?;
        self.outage = Outage::None;
        let event = self.source.begun(response.headers());
        let silence = silence(response.headers());
        let lines = Box::new(Lines::of(self.client.endpoint(), response));
        self.phase = Phase::Reading { lines, since: Instant::now(), silence };
        Ok(event)
    }

    fn failed(&mut self, error: Error) -> Option<Result<S::Event, Error>> {
        if matches!(&self.phase, Phase::Reading { since, .. } if since.elapsed() >= HELD) {
            self.retry.succeeded();
        }
        match self.source.failed(error) {
            Failure::Fatal(error) => {
                self.phase = Phase::Ended;
                Some(Err(error))
            }
            Failure::Anew => {
                self.phase = Phase::Waiting(self.retry.delay());
                None
            }
            Failure::Retry(error) => {
                let delay = self.retry.delay();
                tracing::debug!(error = %Chain(&error), ?delay, "stream lost, trying again");
                self.phase = Phase::Waiting(delay);
                match std::mem::replace(&mut self.outage, Outage::Told) {
                    Outage::None => Some(Ok(self.source.lost(Chain(&error).to_string()))),
                    Outage::Told => None,
                }
            }
        }
    }
}

/// After how long without a line the stream of this answer counts as cut. `None`: never.
fn silence(head: &HeaderMap) -> Option<Duration> {
    let period: u64 = head.get(ALIVE_HEADER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_millis(period).clamp(ALIVE_MIN, ALIVE_MAX) * SILENCE)
}

/// The next line, or that there was none for so long. A line that is there already always comes first.
async fn within(
    silence: Option<Duration>,
    endpoint: &Endpoint,
    line: impl Future<Output = Result<Option<String>, Error>>,
) -> Result<Option<String>, Error> {
    let Some(waited) = silence else { return line.await };
    timeout(waited, line).await.unwrap_or_else(|_| Err(Error::Silent { endpoint: endpoint.clone(), waited }))
}
