//! Keeps the configuration of nats-server as DNS says: asks, remembers, renders, checks, and tells the runner what the
//! process needs. The runner owns the process; this module owns its file, and never sends a signal.
//!
//! ```text
//!  every 5 s: resolve ─► peers ─► shape ─► render ─► nats-server -t ─► file ─► News ──► runner: SIGHUP, restart, or nothing
//!                                                                       ▲                 │
//!                                                                       └── start, reload ┘
//! ```
//! What is wanted and what runs are one value each, so nothing can be missed: the news say what is due *now*, not what
//! has happened since.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::change::{Class, Due};
use crate::follow::{Change, Follow, FollowError, Prepared, Reloaded};
use crate::peers::Kept;
use crate::render::Settings;
use crate::resolve::Dns;
use crate::shape::{Place, Unknown};
use crate::status::Named;

mod check;
mod desk;
mod observe;
mod run;
mod source;
#[cfg(test)]
mod tests;

pub(crate) use run::PERIOD;
pub use source::BadSource;

/// Asks of the runner that wait: it makes one at a time.
const ASKS: usize = 4;

/// What the loop works with.
pub struct Sources {
    /// Where the server stands.
    pub place: Place,
    /// Reads what does not come from DNS, files of accounts and certificates with it. Called in each pass, on a thread that it may
    /// hold; when it fails, what it gave before stays.
    pub settings: Read,
    /// The nats-server that checks a file (`-t`) before it is used.
    pub binary: PathBuf,
    /// The file that nats-server reads.
    pub file: PathBuf,
    /// The last good peers.
    pub kept: Kept,
}

/// Reads settings, or says why it cannot.
pub type Read = Arc<dyn Fn() -> Result<Settings, String> + Send + Sync>;

/// What is known, for whoever shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct News {
    /// Whether a process can be started.
    pub ready: Ready,
    /// How the wanted configuration differs from the one that runs; empty while nothing runs.
    pub due: Due,
    /// Rises when the file has something that a reload would bring.
    pub reload: u64,
    /// The last configuration that was refused, until one is accepted.
    pub refused: Option<Arc<str>>,
    /// How many other servers the wanted configuration names.
    pub peers: usize,
    /// Which.
    pub named: Named,
    /// Where those listen for clients, the nearest first.
    pub clients: Arc<[SocketAddr]>,
    /// Why DNS was of no use in the last pass.
    pub dns: Option<Arc<str>>,
}

/// Whether a process can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// Before the first pass.
    Asking,
    /// It waits for its first peers.
    Waiting(Unknown),
    /// There is a configuration to start with.
    Ready,
}

/// The runner's end. Made by [`discover`].
#[derive(Debug)]
pub struct Discovery {
    news: watch::Receiver<News>,
    asks: mpsc::Sender<Ask>,
    told: Told,
}

/// What the runner was told last, so that it is told once.
#[derive(Debug, Default)]
struct Told {
    /// It has a process, which was started with a file of ours.
    started: bool,
    /// The reload.
    reload: u64,
    /// What takes a restart.
    restart: Due,
}

/// What the runner asks. Answered between two awaits of a pass, so within the time of one `nats-server -t`.
#[derive(Debug)]
enum Ask {
    Start(oneshot::Sender<Result<Prepared, FollowError>>),
    Reloaded(u64, Result<(), String>),
}

/// The two ends: the runner's, and the loop, which the caller spawns and joins. The loop ends when `token` is cancelled.
pub fn discover<D: Dns>(
    sources: Sources,
    dns: D,
    token: CancellationToken,
) -> (Discovery, impl Future<Output = ()> + Send) {
    let (asks, asked) = mpsc::channel(ASKS);
    let (says, news) = watch::channel(News::none());
    let check = check::Binary(sources.binary.clone());
    (Discovery { news, asks, told: Told::default() }, run::Loop::new(sources, check, dns, says, asked).run(token))
}

impl Discovery {
    /// The news, to be shown.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<News> {
        self.news.clone()
    }

    async fn start(&mut self) -> Result<Prepared, FollowError> {
        let (answer, prepared) = oneshot::channel();
        let ended = |_| FollowError::Ended;
        self.asks.send(Ask::Start(answer)).await.map_err(|_| FollowError::Ended)?;
        let prepared = prepared.await.map_err(ended)?;
        let started = matches!(prepared, Ok(Prepared::File(_)));
        // What the file has, the process starts with.
        self.told = Told { started, reload: self.news.borrow().reload, restart: Due::none() };
        prepared
    }

    async fn next(&mut self) -> Change {
        loop {
            let news = self.news.borrow_and_update().clone();
            if let Some(change) = self.told.next(&news) {
                return change;
            }
            // The loop is gone only when all is ending; then there is no more to tell.
            if self.news.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Told {
    fn next(&mut self, news: &News) -> Option<Change> {
        if !self.started {
            return (news.ready == Ready::Ready).then_some(Change::Start);
        }
        if news.reload > self.reload {
            self.reload = news.reload;
            return Some(Change::Reload { what: news.due.only(Class::Reload).to_string() });
        }
        let restart = news.due.only(Class::Restart);
        if restart == self.restart {
            return None;
        }
        self.restart = restart;
        Some(if news.due.takes(Class::Restart) {
            Change::Restart { what: self.restart.to_string() }
        } else {
            Change::TakenBack
        })
    }
}

impl Follow for Discovery {
    fn before_start(&mut self) -> BoxFuture<'_, Result<Prepared, FollowError>> {
        self.start().boxed()
    }

    fn changed(&mut self) -> BoxFuture<'_, Change> {
        self.next().boxed()
    }

    fn reloaded(&mut self, outcome: Reloaded) -> BoxFuture<'_, ()> {
        let outcome = match outcome {
            Reloaded::Taken => Ok(()),
            Reloaded::Refused(reason) => Err(reason),
        };
        let ask = Ask::Reloaded(self.told.reload, outcome);
        // Nobody hears it only when all is ending.
        async move { drop(self.asks.send(ask).await) }.boxed()
    }
}

impl News {
    fn none() -> Self {
        Self {
            ready: Ready::Asking,
            due: Due::none(),
            reload: 0,
            refused: None,
            peers: 0,
            named: Named::Nobody,
            clients: Arc::from([]),
            dns: None,
        }
    }
}
