//! The runner: what it needs found and bound, then run until it is told to end.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use kith_gossip_proto::NodeId;
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::beside;
use crate::binary::{Binary, BinaryError};
use crate::blocking::blocking;
use crate::board::Board;
use crate::config::Config;
use crate::control::{self, Control};
use crate::discovery::{BadSource, Sources, discover};
use crate::health::{self, Asked};
use crate::identity::{Identity, IdentityError};
use crate::lock::{Lock, NotOurs};
use crate::mend::mend;
use crate::monitor::Monitor;
use crate::name::{BadName, Label};
use crate::removal::remove;
use crate::resolve::SystemDns;
use crate::roll::{self, Roll};
use crate::server::Server;
use crate::shown;
use crate::standing::{self, BadStanding};
use crate::status::StatusHandle;
use crate::supervise::{Process, Spawner, leftover};
use crate::turn::{Access, Turn};

/// What nats-server is called in logs.
const NAME: &str = "nats-server";

/// A runner that is ready to run.
pub struct Nats {
    config: Config,
    binary: Binary,
    lock: Lock,
    board: Board,
    name: Label,
    system: Access,
    orders: UnixListener,
    sources: Sources,
    dns: SystemDns,
    listener: TcpListener,
    addrs: [SocketAddr; 1],
}

/// Why a runner cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// There is no nats-server that can be run.
    #[error(transparent)]
    Binary(BinaryError),
    /// Its store is not its own.
    #[error(transparent)]
    Store(NotOurs),
    /// It cannot be told which server it is.
    #[error(transparent)]
    Identity(IdentityError),
    /// Its configuration cannot be followed.
    #[error(transparent)]
    Source(BadSource),
    /// Its name is none.
    #[error("the server's name")]
    Name(#[source] BadName),
    /// The store is another's.
    #[error(transparent)]
    Standing(BadStanding),
    /// The socket for an operator's orders cannot be had.
    #[error("cannot listen on {}", at.display())]
    Control {
        /// Which.
        at: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The address for questions about health cannot be had.
    #[error("cannot listen on {at}")]
    Listen {
        /// Which.
        at: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Why a runner ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The thread that starts processes cannot be started.
    #[error("no thread to start processes")]
    Thread(#[source] io::Error),
    /// A task failed.
    #[error("a task of the runner failed")]
    Task(#[source] JoinError),
    /// A task ended though nobody had told it to.
    #[error("a task of the runner ended by itself")]
    Ended,
}

impl Nats {
    /// Finds nats-server, takes the store for itself, reads or makes its identity, and binds.
    pub async fn build(config: Config) -> Result<Nats, BuildError> {
        let binary = Binary::find(config.binary.as_deref()).await.map_err(BuildError::Binary)?;
        let (dir, node) = (config.store.dir.clone(), config.node.clone());
        let (lock, identity) = blocking(move || opened(&dir, &node)).await?;
        leftover::end(lock.mark()).await;
        let (sources, dns) = Sources::of(&config, &identity, &binary.path).map_err(BuildError::Source)?;
        let name = identity.name.parse().map_err(BuildError::Name)?;
        let (dir, standing) = (config.store.dir.clone(), sources.place.standing);
        blocking(move || standing::keep(&dir, standing)).await.map_err(BuildError::Standing)?;
        let failed = |source| BuildError::Listen { at: config.health, source };
        let listener = TcpListener::bind(config.health).await.map_err(failed)?;
        let addrs = [listener.local_addr().map_err(failed)?];
        let board = Board::new(&config, &identity, binary.version.to_string());
        let system = roll::system(&config, &identity, &sources.place);
        let dir = config.store.dir.clone();
        let orders = blocking(move || {
            control::bind(&dir).map_err(|source| BuildError::Control { at: control::socket(&dir), source })
        });
        let orders = orders.await?;
        Ok(Nats { config, binary, lock, board, name, system, orders, sources, dns, listener, addrs })
    }

    /// Where it answers about its health.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Which nats-server is run.
    pub fn binary(&self) -> &PathBuf {
        &self.binary.path
    }

    /// Reads its status while it runs.
    pub fn status(&self) -> StatusHandle {
        self.board.handle()
    }

    /// Runs until the token is cancelled and nats-server has ended.
    pub async fn run(self, token: CancellationToken) -> Result<(), RunError> {
        let spawner = Spawner::start(Handle::current(), self.lock.mark()).map_err(RunError::Thread)?;
        let monitor = Monitor::new(self.config.monitor);
        let asked = Asked::new(&self.config, self.board.handle(), monitor.clone());
        // What is told to end may take a while: health is answered, and DNS followed, for as long as nats-server runs.
        let (ending, gone) = (token.child_token(), CancellationToken::new());
        let (discovery, following) = discover(self.sources, self.dns, gone.clone());
        let news = discovery.news();
        let roll = Roll::new(&self.config, self.name.clone(), self.system.clone(), monitor.clone(), news.clone());
        let (turn, ends) = Turn::new(discovery, roll);
        let mending = mend(monitor.clone(), news.clone(), ends.orders.clone(), gone.clone());
        let removing = remove(self.config.remove_after, self.name, self.system.clone(), gone.clone());
        let board = self.board.clone();
        let server = Server {
            process: Process::new(NAME, spawner.spawn()),
            binary: self.binary,
            monitor,
            follow: turn,
            orders: ends.orders.clone(),
            store: self.config.store.dir.clone(),
            board: self.board,
            ending: self.config.ending,
        };
        let (mut inner, mut outer) = (JoinSet::new(), JoinSet::new());
        inner.spawn(server.run(ending.clone()).in_current_span());
        for extra in self.config.processes {
            let process = Process::new(&extra.name, spawner.spawn());
            inner.spawn(beside::keep(extra, process, board.clone(), ending.clone()).in_current_span());
        }
        outer.spawn(following.in_current_span());
        outer.spawn(shown::show(board, news, ends.waits).in_current_span());
        outer.spawn(mending.in_current_span());
        outer.spawn(removing.in_current_span());
        let control = Control { orders: ends.orders, system: self.system };
        outer.spawn(control::serve(self.orders, control, gone.clone()).in_current_span());
        outer.spawn(health::serve(self.listener, asked, gone.clone()).in_current_span());
        let result = tokio::select! {
            // Dropping the wait loses no end: tasks stay in their sets.
            () = token.cancelled() => Ok(()),
            ended = inner.join_next() => Err(unexpected(ended)),
            ended = outer.join_next() => Err(unexpected(ended)),
        };
        ending.cancel();
        while inner.join_next().await.is_some() {}
        gone.cancel();
        while outer.join_next().await.is_some() {}
        drop(spawner);
        // What has left the group of its process by then, as a daemon does.
        leftover::end(self.lock.mark()).await;
        result
    }
}

/// A store that is ours, and who we are by it.
fn opened(store: &Path, node: &NodeId) -> Result<(Lock, Identity), BuildError> {
    let lock = Lock::take(store).map_err(BuildError::Store)?;
    let identity = Identity::keep(store, node).map_err(BuildError::Identity)?;
    Ok((lock, identity))
}

/// The end of a task that nobody had told to end.
fn unexpected(ended: Option<Result<(), JoinError>>) -> RunError {
    match ended {
        Some(Err(error)) => RunError::Task(error),
        Some(Ok(())) | None => RunError::Ended,
    }
}
