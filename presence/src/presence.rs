//! A node: bound, then run.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use kith_gossip_proto::{Hlc, NodeId};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{App, Center, FAREWELLS, Limits, Others, Server, Tls, router};
use crate::auth::{Auth, KeyError};
use crate::clock::Clock;
use crate::config::{Config, Nats, Page, TlsFiles};
use crate::core::board::To;
use crate::core::{Board, Says, SessionName, Sight, UserId};
use crate::desk::{Desk, Requests, SAID, Tally, Tools, work};
use crate::hub::Hub;
use crate::journal::{InMemory, Journal};
use crate::link::{Link, LinkError};
use crate::shown::Shown;
use crate::tls::Certificate;

/// Descriptors that are not for connections: log, link, files.
const RESERVED: u64 = 64;
/// New connections are refused at this share of the limit, so that the rest goes on.
const SHARE: (u64, u64) = (9, 10);
/// How often keys and certificates are looked at for changes.
const KEYS_EVERY: Duration = Duration::from_secs(5);
/// How long connections are waited for once all else has ended: longer than any of them goes on, which each knows best.
const GRACE: Duration = Duration::from_secs(2);
const _: () = assert!(GRACE.as_millis() > Server::GRACE.as_millis());
/// How long the last batch, and what is said last, may take then: a nats-server answers within 2 s or not at all.
const END: Duration = Duration::from_secs(4);

/// A node whose sockets are bound.
pub struct Presence {
    config: Config,
    listeners: Vec<TcpListener>,
    addrs: Vec<SocketAddr>,
    tls: Tls,
    auth: Arc<Auth>,
    most: usize,
}

/// Why a node cannot be built.
#[derive(Debug, Error)]
pub enum BuildError {
    /// An address.
    #[error("cannot listen on {0}")]
    Bind(SocketAddr, #[source] io::Error),
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The certificate.
    #[error("cannot use the certificate {0:?}: {1}")]
    Tls(TlsFiles, String),
}

/// Why a node ended by itself.
#[derive(Debug, Error)]
pub enum RunError {
    /// The link to other nodes.
    #[error("the link ended")]
    Link(#[from] LinkError),
    /// A task failed.
    #[error("a task of presence failed")]
    Task(#[from] tokio::task::JoinError),
}

impl Presence {
    /// Binds everything, reads keys and certificates, raises the limit of descriptors.
    pub async fn build(config: Config) -> Result<Self, BuildError> {
        let auth = Arc::new(Auth::new(config.auth.clone())?);
        let tls = config.tls.as_ref().map(certificate).transpose()?;
        let (mut listeners, mut addrs) = (Vec::new(), Vec::new());
        for addr in &config.listen {
            let bound = async {
                let listener = TcpListener::bind(addr).await?;
                Ok((listener.local_addr()?, listener))
            };
            let (local, listener) = bound.await.map_err(|e| BuildError::Bind(*addr, e))?;
            listeners.push(listener);
            addrs.push(local);
        }
        Ok(Self { config, listeners, addrs, tls, auth, most: connections() })
    }

    /// Where it listens.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Runs until the token is cancelled. Every socket is free again when this returns.
    pub async fn run(self, token: CancellationToken) -> Result<(), RunError> {
        let clock = Clock::start();
        let epoch = clock.now().wall_ms;
        let (desk, requests) = Desk::new();
        let stopping = token.child_token();
        let _stopped_in_any_case = stopping.clone().drop_guard();
        let sight = Sight { me: self.config.node.clone(), latest: Hlc::MAX, nodes: std::collections::BTreeMap::new() };
        let shown = Arc::new(Shown::new(Arc::new(sight), clock));
        let (hub, tally) = (Arc::<Hub>::default(), Arc::<Tally>::default());
        let link = match &self.config.nats {
            Nats::Alone => None,
            Nats::Server(server) => {
                Some(Link::new(server.clone(), self.config.node.clone(), Arc::clone(&shown), desk.clone()))
            }
        };
        let journal: Arc<dyn Journal> =
            link.as_ref().map_or_else(|| Arc::<InMemory>::default() as Arc<dyn Journal>, Link::journal);
        let others = link.as_ref().map_or_else(|| Arc::new(Nobody) as Arc<dyn Others>, Link::others);
        let app = Arc::new(App {
            shown: Arc::clone(&shown),
            hub: Arc::clone(&hub),
            desk,
            journal: Arc::clone(&journal),
            others,
            tally: Arc::clone(&tally),
            auth: Arc::clone(&self.auth),
            limits: Limits::new(self.config.rates),
            start: epoch,
            release: self.config.release.clone(),
            page: (self.config.page == Page::Served).then_some(include_str!("page.html")),
            stopping: stopping.clone(),
            connections: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            cut: Arc::default(),
        });
        let node = Node { node: self.config.node, clock, epoch, app: Arc::clone(&app) };
        let server = Server {
            router: router(Arc::clone(&app)),
            app,
            tls: self.tls.clone(),
            connections: TaskTracker::new(),
            most: self.most,
            // Out of the tenth that is left.
            farewells: Arc::new(Semaphore::new((self.most / 9).clamp(1, FAREWELLS))),
        };
        let mut tasks = JoinSet::new();
        for listener in self.listeners {
            let server = server.clone();
            tasks.spawn(async move {
                server.accept(listener).await;
                Ok(())
            });
        }
        tasks.spawn(refresh(self.auth, self.tls, stopping.clone()));
        tasks.spawn(node.run(link, requests));
        let mut result = Ok(());
        // Each arm may be dropped: what ended stays in the set.
        tokio::select! {
            () = token.cancelled() => {}
            Some(ended) = tasks.join_next() => result = ended.map_err(RunError::from).and_then(|ended| ended),
        }
        stopping.cancel();
        result.and(ended(tasks, &server.connections).await)
    }
}

/// Waits until all that was told to stop has, but for what does not in time: it is dropped, as a kill would have dropped it.
async fn ended(mut tasks: JoinSet<Result<(), RunError>>, connections: &TaskTracker) -> Result<(), RunError> {
    let mut result = Ok(());
    let rest = async {
        while let Some(ended) = tasks.join_next().await {
            let ended = ended.map_err(RunError::from).and_then(|ended| ended);
            result = std::mem::replace(&mut result, Ok(())).and(ended);
        }
    };
    if tokio::time::timeout(END, rest).await.is_err() {
        tracing::warn!(left = tasks.len(), "tasks did not end at shutdown");
        tasks.shutdown().await;
    }
    connections.close();
    if tokio::time::timeout(GRACE, connections.wait()).await.is_err() {
        tracing::warn!(left = connections.len(), "connections did not end at shutdown");
    }
    result
}

impl std::fmt::Debug for Presence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Presence").field("config", &self.config).field("addrs", &self.addrs).finish_non_exhaustive()
    }
}

/// What the desk and the link are made of.
struct Node {
    node: NodeId,
    clock: Clock,
    epoch: u64,
    app: Arc<App>,
}

impl Node {
    /// Reads what is known, and then does what is asked.
    async fn run(self, link: Option<Link>, requests: Requests) -> Result<(), RunError> {
        let (say, said) = mpsc::channel(SAID);
        let (hear, heard) = mpsc::channel(SAID);
        let opened = match &link {
            None => Some(crate::link::Opened::default()),
            // Dropped half-way, nothing was begun.
            Some(link) => tokio::select! {
                opened = link.open() => Some(opened),
                () = self.app.stopping.cancelled() => None,
            },
        };
        let Some(opened) = opened else { return Ok(()) };
        let now = self.clock.now();
        let me = self.node.clone();
        let mut board = Board::new(self.node, self.epoch.max(opened.epoch.saturating_add(1)), now);
        let kept = opened.own.len();
        board.restore(opened.own, now);
        for (node, facts) in opened.others {
            if node == me {
                board.restore(facts, now);
            } else {
                board.load(&node, facts, now);
            }
        }
        let counts = board.kept().min(kept);
        let tools = Tools {
            board,
            clock: self.clock,
            shown: Arc::clone(&self.app.shown),
            hub: Arc::clone(&self.app.hub),
            journal: Arc::clone(&self.app.journal),
            kept,
            said: counts,
            say,
            heard,
            tally: Arc::clone(&self.app.tally),
            filled_at: now.mono + opened.listen,
        };
        let (stopping, done) = (self.app.stopping.clone(), CancellationToken::new());
        let unlinked = stopping.clone();
        let linked = async {
            match link {
                None => silence(said, &done).await,
                Some(link) => link.run(self.app, said, hear, done.clone()).await?,
            }
            Ok::<(), RunError>(())
        };
        let linked = async {
            let ended = linked.await;
            // Without a link the node is of no use: it ends, and is started again whole.
            ended.inspect_err(|_| unlinked.cancel())
        };
        let worked = async {
            work(tools, requests, stopping).await;
            done.cancel();
        };
        let (linked, ()) = tokio::join!(linked, worked);
        linked
    }
}

/// Of a node that is alone nobody hears anything.
async fn silence(mut said: mpsc::Receiver<(To, Says)>, done: &CancellationToken) {
    // Dropping the wait loses what nobody would hear.
    tokio::select! {
        () = async { while said.recv().await.is_some() {} } => {}
        () = done.cancelled() => {}
    }
}

/// There is no center, and no other node.
pub(crate) struct Nobody;

impl Others for Nobody {
    fn unforwarded(&self) -> usize {
        0
    }

    fn end(&self, _: &NodeId, _: &UserId, _: Option<&SessionName>, _: &str) -> BoxFuture<'static, bool> {
        std::future::ready(false).boxed()
    }

    fn confirm(&self, _: &UserId) -> BoxFuture<'static, Center> {
        std::future::ready(Center::Away).boxed()
    }
}

/// Reads keys and certificates again when their files change.
async fn refresh(auth: Arc<Auth>, tls: Tls, stopping: CancellationToken) -> Result<(), RunError> {
    let (mut told, mut told_of_tls) = (None, None);
    loop {
        // Both may be dropped.
        tokio::select! {
            () = stopping.cancelled() => return Ok(()),
            () = tokio::time::sleep(KEYS_EVERY) => {}
        }
        let (keys, certificate) = (Arc::clone(&auth), tls.clone());
        let read = move || (keys.refresh(), certificate.map_or(Ok(()), |certificate| certificate.refresh()));
        // A disk may hang: nobody waits for it but this task.
        let (read, certificate) = tokio::select! {
            () = stopping.cancelled() => return Ok(()),
            read = tokio::task::spawn_blocking(read) => read?,
        };
        let error = read.as_ref().err().map(ToString::to_string);
        if error != told
            && let Err(error) = &read
        {
            tracing::warn!(error = error as &dyn std::error::Error, "keys are not read again; those from before hold");
        }
        told = error;
        let error = certificate.err();
        if error != told_of_tls
            && let Some(error) = &error
        {
            tracing::warn!(error, "the certificate is not read again; the one from before is shown");
        }
        told_of_tls = error;
    }
}

/// Raises the limit of descriptors as far as it goes, and says how many connections fit.
fn connections() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 512 };
    let limit = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    };
    usize::try_from(limit.saturating_sub(RESERVED) / SHARE.1 * SHARE.0).unwrap_or(usize::MAX)
}

fn certificate(files: &TlsFiles) -> Result<Arc<Certificate>, BuildError> {
    Certificate::read(files).map(Arc::new).map_err(|reason| BuildError::Tls(files.clone(), reason))
}
