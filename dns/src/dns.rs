//! The part as a whole: built (bound) early, then run until told to stop.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::task::{JoinError, JoinSet, spawn_blocking};
use tokio::time::timeout;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Tls};
use crate::feed::Event;
use crate::files::Files;
use crate::follow::{FollowError, Follower};
use crate::forward::{Engine, Forwarder, Table};
use crate::keep::{self, Keeper};
use crate::server::{
    Answerer, Bound, BridgeWatch, Certificate, CertificateWatch, Desk, Desks, Lister, NetworkWatch, Replied, Slow,
    TlsError, Wire, Worker, bind, bind_tcp, serve_tcp, slow, who_may_ask,
};
use crate::status::StatusHandle;
use crate::tap::Tap;
use crate::zone::{Saved, Settings};
use crate::zonefile::Fault;

/// How long a stop waits for answers that are being written. Whoever takes longer does not read them.
const DRAIN: Duration = Duration::from_secs(1);

/// The DNS part, bound and ready to run.
pub struct Dns {
    addrs: Vec<SocketAddr>,
    bound: Vec<Bound>,
    bridge: Option<BridgeWatch>,
    secure: Option<Secure>,
    /// By address, at last the bridge's: that of the streams, then one for each worker. Then those of the addresses for TLS.
    desks: Vec<Desk>,
    watch: Option<NetworkWatch>,
    slow: (Slow, Desk),
    /// What fetches ahead, and a table of answers for each worker.
    forwarding: Option<(Engine, Vec<Table>)>,
    follower: Follower,
    files: Files,
    keeper: Option<Keeper>,
    status: StatusHandle,
    tap: Tap,
}

/// Listeners for DNS over TLS.
#[derive(Debug)]
struct Secure {
    listeners: Vec<(SocketAddr, TcpListener)>,
    certificate: Certificate,
    watch: CertificateWatch,
}

/// Why the part cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The configuration names no zone.
    #[error("no zone to serve")]
    NoZone,
    /// A zone file is wrong, and there is nothing else to serve.
    #[error("{0}")]
    File(Fault),
    /// The certificate for DNS over TLS cannot be used.
    #[error("no DNS over TLS")]
    Tls(#[source] TlsError),
    /// The configuration names no address.
    #[error("no address to listen on")]
    NoAddress,
    /// An address cannot be bound.
    #[error("cannot listen for DNS on {addr}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// Reading the zone files or the last zone panicked: a bug.
    #[error("a zone could not be read")]
    Task(#[source] JoinError),
}

/// Why the part ended by itself. It is to be built anew as a whole.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The feed's stream ended.
    #[error("the feed of rows and members ended")]
    FeedEnded,
    /// A zone could not be built: a bug.
    #[error("building a zone panicked")]
    Zone,
    /// A listener failed.
    #[error("listener {addr} failed")]
    Listener {
        /// The address.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The kernel stopped telling of networks.
    #[error("following the networks of this host failed")]
    Networks(#[source] io::Error),
    /// A task panicked: a bug.
    #[error("a task of the DNS part failed")]
    Task(#[source] JoinError),
}

impl Dns {
    /// Binds every address of the configuration, UDP and TCP on the same port each. Must be awaited inside a runtime
    /// with I/O and time.
    ///
    /// # Errors
    /// When there is nothing to serve, or an address cannot be bound; the error names it.
    pub async fn build(
        config: Config,
        feed: impl Stream<Item = Event> + Send + Unpin + 'static,
    ) -> Result<Self, BuildError> {
        if config.zones.is_empty() && config.files.is_empty() && config.forward.is_refused() {
            return Err(BuildError::NoZone);
        }
        if config.listen.is_empty() {
            return Err(BuildError::NoAddress);
        }
        let settings = Arc::new(Settings::from(&config));
        let files = Files::new(&config);
        let (files, fixed) =
            spawn_blocking(|| files.load()).await.map_err(BuildError::Task)?.map_err(BuildError::File)?;
        let saved = saved(config.state.clone(), &settings).await.map_err(BuildError::Task)?;
        let first = match &saved {
            Some(saved) => Follower::last(saved, &fixed.borrow()),
            None => Follower::nothing(&settings, &fixed.borrow()),
        };
        let published = Arc::new(ArcSwap::from_pointee(first));
        let keeper = config.state.clone().map(|path| Keeper::new(path, Arc::clone(&settings), Arc::clone(&published)));
        let mut bound = Vec::new();
        for addr in &config.listen {
            bound.push(bind(*addr, config.threads).map_err(|source| BuildError::Bind { addr: *addr, source })?);
        }
        let secure = config.tls.clone().map(Secure::build).transpose()?;
        let addrs: Vec<SocketAddr> = bound.iter().map(|bound| bound.addr).collect();
        let bridge = BridgeWatch::new(&config, &addrs);
        let workers = (bound.len() + bridge.iter().count()) * config.threads.get();
        let routes = Arc::clone(&settings.routes);
        let (access, watch) = who_may_ask(&config);
        let (forwarder, forwarding) = Forwarder::new(&config, (routes, &published, &access), &addrs, workers).unzip();
        let (queue, slow) = slow(answerer(Lister::new(&published, forwarder.as_ref()), forwarder.clone()));
        let front = forwarder.as_ref().map(Forwarder::front);
        let Desks { listeners, last, counters, tap } = Desks::new(&config, &published, &access, (Some(&queue), front));
        let certificate = secure.as_ref().map(|secure| secure.certificate.clone());
        let status = StatusHandle::new(&config.zones, Arc::clone(&published), counters, (forwarder, certificate));
        let remembered = saved.map(|saved| saved.members).unwrap_or_default();
        let follower = Follower::new(Box::pin(feed), settings, published, (fixed, remembered));
        Ok(Self {
            addrs,
            bound,
            bridge,
            secure,
            desks: listeners,
            watch,
            slow: (slow, last),
            forwarding,
            follower,
            files,
            keeper,
            status,
            tap,
        })
    }

    /// The addresses listened on, in the order of the configuration, with the ports that were chosen.
    #[must_use]
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// The addresses for DNS over TLS, likewise.
    #[must_use]
    pub fn tls_addrs(&self) -> Vec<SocketAddr> {
        self.secure.iter().flat_map(|secure| &secure.listeners).map(|(addr, _)| *addr).collect()
    }

    /// Shows the state at any time, also while running and after.
    #[must_use]
    pub fn status(&self) -> StatusHandle {
        self.status.clone()
    }

    /// Shows answers while they are given.
    #[must_use]
    pub fn tap(&self) -> Tap {
        self.tap.clone()
    }

    /// Answers until the token is cancelled; then every socket is closed when this returns. A part of it that ends by
    /// itself ends it all.
    ///
    /// # Errors
    /// The first thing that failed.
    pub async fn run(self, token: CancellationToken) -> Result<(), RunError> {
        let stop = token.child_token();
        let mut tasks = JoinSet::new();
        let mut desks = self.desks.into_iter();
        let (engine, tables) = self.forwarding.unzip();
        let mut tables = tables.into_iter().flatten();
        for bound in self.bound {
            serve(&mut tasks, bound, (&mut desks, &mut tables), &stop);
        }
        if let Some(watch) = self.bridge {
            let desks: Vec<Desk> = desks.by_ref().take(watch.desks()).collect();
            let bridge = Bridge { watch, desks, tables: tables.collect() };
            let stop_bridge = stop.clone();
            tasks.spawn(async move { bridge.run(stop_bridge).await });
        }
        if let Some(Secure { listeners, certificate, watch }) = self.secure {
            for ((addr, tcp), desk) in listeners.into_iter().zip(desks) {
                let (wire, stop_tls) = (Wire::Tls(certificate.clone()), stop.clone());
                let failed = move |source| RunError::Listener { addr, source };
                tasks.spawn(async move { serve_tcp(tcp, wire, desk, stop_tls).await.map_err(failed) });
            }
            let stop_watch = stop.clone();
            tasks.spawn(async move { watch.run(stop_watch).await.map_err(RunError::Task) });
        }
        if let Some(watch) = self.watch {
            let stop_watch = stop.clone();
            tasks.spawn(async move { watch.run(stop_watch).await.map_err(RunError::Networks) });
        }
        let ((slow, desk), stop_slow) = (self.slow, stop.clone());
        tasks.spawn(async move { slow.run(desk, stop_slow).await.map_err(RunError::Task) });
        if let Some(engine) = engine {
            let stop_engine = stop.clone();
            tasks.spawn(async move {
                engine.run(stop_engine).await;
                Ok(())
            });
        }
        let (follower, stop_follower) = (self.follower, stop.clone());
        tasks.spawn(async move {
            follower.run(stop_follower).await.map_err(|error| match error {
                FollowError::Ended => RunError::FeedEnded,
                FollowError::Build => RunError::Zone,
            })
        });
        let (files, stop_files) = (self.files, stop.clone());
        tasks.spawn(async move { files.run(stop_files).await.map_err(RunError::Task) });
        if let Some(keeper) = self.keeper {
            let stop = stop.clone();
            tasks.spawn(async move { keeper.run(stop).await.map_err(RunError::Task) });
        }
        let mut result = tasks.join_next().await.map_or(Ok(()), outcome);
        stop.cancel();
        let drained = timeout(DRAIN, async {
            while let Some(ended) = tasks.join_next().await {
                result = std::mem::replace(&mut result, Ok(())).and(outcome(ended));
            }
        });
        if drained.await.is_err() {
            tracing::info!("connections cut that did not take their answers");
        }
        tasks.shutdown().await;
        result
    }
}

/// Serves the sockets of an address.
fn serve(
    tasks: &mut JoinSet<Result<(), RunError>>,
    Bound { addr, udp, tcp }: Bound,
    (desks, tables): (&mut impl Iterator<Item = Desk>, &mut impl Iterator<Item = Table>),
    stop: &CancellationToken,
) {
    let failed = move |source| RunError::Listener { addr, source };
    let mut desk = || desks.next().expect("build made one for each listener");
    let (desk_tcp, stop_tcp) = (desk(), stop.clone());
    tasks.spawn(async move { serve_tcp(tcp, Wire::Plain, desk_tcp, stop_tcp).await.map_err(failed) });
    for socket in udp {
        let (worker, stop_udp) = (Worker::start(socket, desk(), tables.next()), stop.clone());
        tasks.spawn(async move { worker.map_err(failed)?.run(stop_udp).await.map_err(failed) });
    }
}

/// The bridge, and what serves its address once it has one.
struct Bridge {
    watch: BridgeWatch,
    desks: Vec<Desk>,
    tables: Vec<Table>,
}

impl Bridge {
    /// Serves it until told to stop.
    async fn run(self, token: CancellationToken) -> Result<(), RunError> {
        let Some(bound) = self.watch.bound(&token).await else {
            token.cancelled().await;
            return Ok(());
        };
        let mut tasks = JoinSet::new();
        serve(&mut tasks, bound, (&mut self.desks.into_iter(), &mut self.tables.into_iter()), &token);
        while let Some(ended) = tasks.join_next().await {
            outcome(ended)?;
        }
        Ok(())
    }
}

impl Secure {
    /// Reads the certificate and binds every address, or says what is wrong.
    fn build(tls: Tls) -> Result<Self, BuildError> {
        let (certificate, watch) = Certificate::read(&tls.cert, &tls.key).map_err(BuildError::Tls)?;
        let listener = |addr: SocketAddr| {
            let bound = bind_tcp(addr).and_then(|listener| Ok((listener.local_addr()?, listener)));
            bound.map_err(|source| BuildError::Bind { addr, source })
        };
        let listeners = tls.listen.into_iter().map(listener).collect::<Result<_, _>>()?;
        Ok(Self { listeners, certificate, watch })
    }
}

/// What answers on the slow path: who makes lists, and whoever forwards.
fn answerer(lister: Lister, forwarder: Option<Forwarder>) -> Answerer {
    Answerer::new(move |question| {
        let (lister, forwarder) = (lister.clone(), forwarder.clone());
        async move {
            if question.begun().is_empty() {
                return lister.answer(question).await;
            }
            let forwarder = forwarder?;
            let mut reply = Vec::with_capacity(512);
            let (tally, from) =
                forwarder.answer(&question.asked(), question.begun(), question.worker(), &mut reply).await?;
            Some(Replied { reply, tally, from })
        }
    })
}

/// The last zone from disk, if there is one of use.
async fn saved(path: Option<PathBuf>, settings: &Arc<Settings>) -> Result<Option<Saved>, JoinError> {
    let Some(path) = path else { return Ok(None) };
    let settings = Arc::clone(settings);
    spawn_blocking(move || keep::load(&path, &settings)).await
}

fn outcome(ended: Result<Result<(), RunError>, JoinError>) -> Result<(), RunError> {
    ended.map_err(RunError::Task)?
}

impl std::fmt::Debug for Dns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dns").field("addrs", &self.addrs).finish_non_exhaustive()
    }
}
