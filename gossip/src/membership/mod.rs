//! Who is here, by chitchat.
//!
//! Chitchat spreads a few keys per node (`facts`) and a heartbeat. Its messages travel on our connections (`socket`,
//! `codec`), so its nodes are known by labels that nobody dials (`label`). Whether a node is up is judged by its
//! heartbeat alone (`liveness`); chitchat's own failure detector only decides whom chitchat talks to.
//!
//! Chitchat is given no seeds. Connections to seeds are the network's affair, for ever; whenever a connection is there
//! whose node chitchat does not know as live, chitchat is told to talk to it. That heals every split that the network
//! heals.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chitchat::{ChitchatConfig, ChitchatId, FailureDetectorConfig, ProtocolVersion, spawn_chitchat};
use kith_gossip_proto::{NodeId, SiteId};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::api::{Member, MemberState};
use crate::net::Net;
use crate::net::dial;

pub(crate) mod codec;
pub(crate) mod facts;
pub(crate) mod label;
pub mod liveness;
pub(crate) mod servers;
pub(crate) mod socket;
mod watcher;

use facts::{Facts, StoreHash};
use label::label;
use watcher::Watcher;

#[cfg(test)]
mod tests;

/// How often a node gossips with three others.
const INTERVAL: Duration = Duration::from_millis(300);

/// How often the hash of the vector is told at most. It changes with every commit; one value more per 300 ms and node
/// would be most of what gossip carries, for something that only a pull's timing rests on.
const STATE_EVERY: Duration = Duration::from_secs(10);

/// How long chitchat keeps a node that died, half of it telling others. Each restart of a node leaves a dead entry of some
/// 15 bytes in every message: with a restart a second this makes 3,600 of them, which still fits in one. That a node is
/// silent is remembered by us, not by chitchat.
const DEAD_GRACE: Duration = Duration::from_secs(2 * 60 * 60);

/// Intervals between heartbeats that chitchat keeps of each start of a node, for as long as it keeps the start: 8 bytes each. By
/// itself it keeps 1,000. Where nodes restarted all the time, that was some of the 0.6 to 0.8 MB an hour that the live heap grew by.
/// This many are half a minute of heartbeats.
const INTERVALS: usize = 100;

/// How long chitchat keeps the tombstone of a deleted key. We delete none.
const DELETED_GRACE: Duration = Duration::from_secs(60 * 60);

/// What the `servers` rows say of nodes.
pub(crate) type Servers = BTreeMap<NodeId, ServerRow>;

/// What the `servers` row of a node says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerRow {
    pub(crate) number: Option<u8>,
    pub(crate) belongs: Belongs,
}

/// Whether an operator has removed the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Belongs {
    Yes,
    Removed,
}

/// What this node's store is like at the moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoreFacts {
    pub(crate) site: SiteId,
    pub(crate) schema: u64,
    pub(crate) hash: StoreHash,
}

/// What membership is made of.
pub(crate) struct MembershipConfig {
    pub(crate) cluster_id: String,
    /// Greater than that of any earlier start of this node.
    pub(crate) generation: u64,
    pub(crate) advertise: SocketAddr,
    pub(crate) boot_id: String,
    pub(crate) seeds: Vec<String>,
    /// Asked at every tick.
    pub(crate) store: Box<dyn Fn() -> StoreFacts + Send + Sync>,
    pub(crate) servers: watch::Receiver<Servers>,
}

/// Why membership cannot start, or ended.
#[derive(Debug, Error)]
pub enum MembershipError {
    /// Chitchat or its transport could not start.
    #[error("gossip cannot start: {0:#}")]
    Start(anyhow::Error),
    /// Chitchat has ended.
    #[error("gossip has ended: {0:#}")]
    Ended(anyhow::Error),
    /// One of its tasks failed.
    #[error("a task of membership failed")]
    Task(#[source] JoinError),
}

/// The state and the vector's hash of every member but this node.
pub(crate) type Hashes = BTreeMap<NodeId, (MemberState, Option<StoreHash>)>;

/// The members as they are seen from here. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Members {
    /// All, this node among them, by name. Told of when a member comes or anything of one changes but its age and its
    /// round trip; those are at most [`INTERVAL`] old.
    pub(crate) list: watch::Receiver<Arc<Vec<Member>>>,
    /// What replication acts on.
    pub(crate) hashes: watch::Receiver<Arc<Hashes>>,
}

/// Membership at work.
pub(crate) struct Membership {
    watcher: Watcher,
    carriers: socket::Carriers,
    seeds: Vec<String>,
}

impl Membership {
    /// Starts chitchat; nothing is carried before [`Membership::run`].
    pub(crate) async fn start(
        config: MembershipConfig,
        net: Net,
        received: mpsc::Receiver<(NodeId, Bytes)>,
    ) -> Result<(Self, Members), MembershipError> {
        let facts = (config.store)();
        let own = Facts {
            addr: config.advertise,
            site: Some(facts.site),
            schema: Some(facts.schema),
            state: Some(facts.hash),
            boot_id: config.boot_id,
            release: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let (transport, carriers) = socket::open(net.clone(), received).await.map_err(MembershipError::Start)?;
        let keys = own.keys().into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let chitchat = chitchat_config(net.node(), config.generation, config.cluster_id);
        let chitchat = spawn_chitchat(chitchat, keys, &transport).await.map_err(MembershipError::Start)?;
        let watcher = Watcher::new(net, chitchat, config.store, config.servers, own);
        let members = watcher.members();
        Ok((Self { watcher, carriers, seeds: config.seeds }, members))
    }

    /// Gossips until the token is cancelled.
    pub(crate) async fn run(self, token: CancellationToken) -> Result<(), MembershipError> {
        let Self { mut watcher, carriers, seeds } = self;
        let mut tasks = JoinSet::new();
        tasks.spawn(carriers.run());
        tasks.spawn(dial::run(watcher.net().clone(), seeds, watcher.addresses(), token.clone()));
        // Not cancel-safe, and need not be: whichever ends first ends membership.
        let ended = tokio::select! {
            ended = watcher.watch(&token) => ended,
            Some(joined) = tasks.join_next() => match joined {
                Ok(()) if token.is_cancelled() => Ok(()),
                Ok(()) => Err(MembershipError::Ended(anyhow::anyhow!("a task ended by itself"))),
                Err(error) => Err(MembershipError::Task(error)),
            },
        };
        let stopped = watcher.stop().await;
        tasks.shutdown().await;
        ended.and(stopped)
    }
}

fn chitchat_config(node: &NodeId, generation: u64, cluster_id: String) -> ChitchatConfig {
    let label = label(node);
    ChitchatConfig {
        chitchat_id: ChitchatId::new(node.as_str(), generation, label),
        cluster_id,
        gossip_interval: INTERVAL,
        listen_addr: label,
        seed_nodes: Vec::new(),
        failure_detector_config: FailureDetectorConfig {
            // How long chitchat keeps talking to a node mostly; not whether it is up for us.
            initial_interval: Duration::from_secs(1),
            sampling_window_size: INTERVALS,
            dead_node_grace_period: DEAD_GRACE,
            ..FailureDetectorConfig::default()
        },
        marked_for_deletion_grace_period: DELETED_GRACE,
        catchup_callback: None,
        extra_liveness_predicate: None,
        protocol_version: ProtocolVersion::V1,
    }
}
