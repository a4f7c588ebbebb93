//! The daemon: its reconcilers, each with a driver of its own, and the watchdog over them.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use kith_gossip_client::Client;
use kith_gossip_proto::NodeId;
use serde_json::json;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::beat::{Beat, Doing, LIMIT, Stuck, Watchdog};
use crate::bridge::Bridge;
use crate::clock::Clock;
use crate::config::Config;
use crate::containers::{self, Containers, SeenFile};
use crate::docker::{self, Follow};
use crate::driver::{Driver, Reconciler};
use crate::endpoints::{self, Echoes, Endpoints, Ways};
use crate::error::Error;
use crate::heartbeat::Heartbeat;
use crate::nats::Nats;
use crate::own::{Column, Columns, Own};
use crate::partition::{Partition, Partitions};
use crate::peers::{self, Peers};
use crate::public::PublicAddress;
use crate::status::{Board, StatusHandle};
use crate::store::Store;
use crate::store_health::StoreHealth;
use crate::sweep::Sweep;
use crate::wake::Wake;
use crate::wireguard::Interface;

/// What the daemon is given by the process around it.
#[derive(Debug, Clone)]
pub struct Host {
    /// Its clock.
    pub clock: Clock,
    /// Called, from a thread of its own, with the loops that are stuck. Nothing in the process can be trusted to stop
    /// them: whoever is called ends it.
    pub stuck: fn(&[Stuck]),
}

/// A daemon that is ready to run.
pub struct Daemon {
    host: Host,
    loops: Vec<BoxFuture<'static, ()>>,
    token: CancellationToken,
    beats: Vec<Arc<Beat>>,
    boards: Vec<(&'static str, Board)>,
    alarmed: Wake,
}

/// Why a daemon cannot be built.
#[derive(Debug, thiserror::Error)]
#[error("what is remembered of this server cannot be read")]
pub struct BuildError(#[source] Box<dyn std::error::Error + Send + Sync>);

/// Why a daemon ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A reconciler panicked.
    #[error("a reconciler failed")]
    Reconciler(#[source] JoinError),
    /// A reconciler ended though it was not told to.
    #[error("a reconciler ended by itself")]
    Ended,
    /// The thread that finds stuck loops cannot be started.
    #[error("the watchdog cannot be started")]
    Watchdog(#[source] std::io::Error),
}

impl Daemon {
    /// Makes the reconcilers, which do nothing before [`run`](Daemon::run).
    pub fn build(config: &Config, client: Client, host: Host) -> Result<Daemon, BuildError> {
        let store = Store::new(client);
        let heartbeat_wake = Wake::default();
        let own = Own::new(said(config), heartbeat_wake.clone());
        let heartbeat = Heartbeat::new(config.node.clone(), &config.dir, store.clone(), own.clone())
            .map_err(|error: Error| BuildError(error.into()))?;
        let mut daemon = Daemon::empty(host);
        daemon.add(heartbeat, heartbeat_wake);
        daemon.add(StoreHealth::new(config.node.clone(), store.clone()), Wake::default());
        let (partition_wake, sweep_wake, peers_wake) = (Wake::default(), Wake::default(), Wake::default());
        let partition = Partition::new([sweep_wake.clone(), peers_wake.clone()]);
        daemon.add(Partitions::new(config.node.clone(), store.clone(), partition.clone()), partition_wake.clone());
        daemon.loops.push(Box::pin(store.clone().follow_members(partition_wake, daemon.token.clone())));
        if let Some(wireguard) = &config.wireguard {
            let interface = Interface::new(&wireguard.interface).map_err(|error| BuildError(error.into()))?;
            let (store, own, partition, ways) = (store.clone(), own.clone(), partition.clone(), Ways::default());
            daemon.tunnels(peers::Parts { config, wireguard, store, own, partition, interface, ways }, peers_wake)?;
        }
        daemon.add(Nats::new(config.node.clone(), store.clone(), own.clone(), config.nats), Wake::default());
        daemon.add(Sweep::new(store.clone(), own.clone(), partition, config.sweep_after), sweep_wake);
        if let Some(public) = &config.public {
            daemon.add(PublicAddress::new(own.clone(), public.clone()), Wake::default());
        }
        if let Some(socket) = &config.docker {
            let follow = Follow::default();
            if let Some(network) = config.network.clone() {
                let bridge = Bridge::new(config.node.clone(), store.clone(), own.clone(), network, socket);
                daemon.add(bridge, follow.networks.clone());
            }
            let parts = containers::Parts {
                node: config.node.clone(),
                boot_id: config.boot_id.clone(),
                store,
                own,
                socket: socket.clone(),
                changes: follow.changes.clone(),
                wake: follow.containers.clone(),
                file: SeenFile::within(&config.dir),
            };
            let containers = Containers::new(parts).map_err(|error| BuildError(error.into()))?;
            daemon.add(containers, follow.containers.clone());
            daemon.loops.push(Box::pin(docker::follow(socket.clone(), follow, daemon.token.clone())));
        }
        Ok(daemon)
    }

    /// A daemon that keeps the row of this node's nats-server, whose runner answers there, and nothing else: for a cluster on one host,
    /// whose nodes are no servers.
    pub fn of_nats(node: NodeId, client: Client, host: Host, at: SocketAddr) -> Daemon {
        let own = Own::new(Columns::new(), Wake::default());
        let mut daemon = Daemon::empty(host);
        daemon.add(Nats::new(node, Store::new(client), own, at), Wake::default());
        daemon
    }

    fn empty(host: Host) -> Daemon {
        Daemon {
            host,
            loops: Vec::new(),
            token: CancellationToken::new(),
            beats: Vec::new(),
            boards: Vec::new(),
            alarmed: Wake::default(),
        }
    }

    /// The peers, and where their tunnels end.
    fn tunnels(&mut self, parts: peers::Parts<'_>, wake: Wake) -> Result<(), BuildError> {
        let (store, echoes) = (parts.store.clone(), Echoes::by(&parts.interface.name()));
        let endpoints = endpoints::Parts {
            own: parts.own.clone(),
            mesh: parts.wireguard.mesh,
            interface: parts.interface.clone(),
            ways: parts.ways.clone(),
            echoes: echoes.clone(),
            peers: wake.clone(),
            partition: parts.partition.clone(),
        };
        self.add(Peers::new(parts).map_err(|error| BuildError(error.into()))?, wake.clone());
        self.loops.push(Box::pin(store.follow(peers::rows(), wake, self.token.clone())));
        self.loops.push(Box::pin(echoes.follow(endpoints.ways.clone(), self.token.clone())));
        self.add(Endpoints::new(endpoints), Wake::default());
        Ok(())
    }

    fn add(&mut self, reconciler: impl Reconciler, wake: Wake) {
        let driver = Driver::new(reconciler, self.host.clock.clone(), wake, self.alarmed.clone());
        self.beats.push(driver.beat());
        self.boards.push(driver.board());
        self.loops.push(Box::pin(driver.run(self.token.clone())));
    }

    /// Where it listens: nowhere.
    pub fn addrs(&self) -> &[SocketAddr] {
        &[]
    }

    /// Reads its status while it runs.
    pub fn status(&self) -> StatusHandle {
        StatusHandle { boards: self.boards.clone(), alarmed: self.alarmed.clone() }
    }

    /// Runs until the token is cancelled.
    pub async fn run(mut self, token: CancellationToken) -> Result<(), RunError> {
        let (beats, stuck) = (std::mem::take(&mut self.beats), self.host.stuck);
        for beat in &beats {
            beat.stamp(Doing::Waiting);
        }
        let watchdog = Watchdog::start(beats, LIMIT, move |found| stuck(&found)).map_err(RunError::Watchdog)?;
        let mut loops = JoinSet::new();
        for run in self.loops {
            loops.spawn(run.in_current_span());
        }
        let result = tokio::select! {
            // Dropping the wait loses no end: tasks stay in the set.
            () = token.cancelled() => Ok(()),
            ended = loops.join_next() => match ended {
                Some(Err(error)) => Err(RunError::Reconciler(error)),
                Some(Ok(())) | None => Err(RunError::Ended),
            },
        };
        self.token.cancel();
        while loops.join_next().await.is_some() {}
        drop(watchdog);
        result
    }
}

/// What is known of the own row from the start.
fn said(config: &Config) -> Columns {
    let endpoints = config.wireguard.as_ref().map(|wireguard| &wireguard.endpoints).filter(|ends| !ends.is_empty());
    let endpoints = endpoints.map(|ends| (Column::Endpoints, json!(ends).to_string()));
    [
        (Column::Hostname, config.hostname.clone()),
        (Column::Region, config.region.clone()),
        (Column::Release, config.release.clone()),
    ]
    .into_iter()
    .chain(endpoints)
    .collect()
}
