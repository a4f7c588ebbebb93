//! Which nodes are connected, by which connections.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kith_gossip_proto::NodeId;
use quinn::{Connection, Endpoint};
use tokio::sync::watch;

use super::Close;

/// Connections with one node. Two can meet when both dial at once, and a restarted peer's old one dies only after the
/// idle time; of more than this the oldest is closed.
const PER_NODE: usize = 4;

/// A connection that was taken in and is to be served.
pub(super) struct Arrival {
    pub(super) node: NodeId,
    pub(super) connection: Connection,
}

pub(super) struct Registry {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

struct State {
    /// None once the endpoint was closed, so that a forgotten handle does not hold the port.
    endpoint: Option<Endpoint>,
    /// The youngest last.
    nodes: BTreeMap<NodeId, Vec<Connection>>,
}

impl Registry {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        let state = State { endpoint: Some(endpoint), nodes: BTreeMap::new() };
        Self { state: Mutex::new(state), changes: watch::Sender::new(0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn endpoint(&self) -> Option<Endpoint> {
        self.state().endpoint.clone()
    }

    pub(super) fn connection(&self, node: &NodeId) -> Option<Connection> {
        let state = self.state();
        state.nodes.get(node)?.iter().rev().find(|connection| connection.close_reason().is_none()).cloned()
    }

    pub(super) fn nodes(&self) -> Vec<NodeId> {
        let state = self.state();
        let live = |connections: &Vec<Connection>| connections.iter().any(|c| c.close_reason().is_none());
        state.nodes.iter().filter(|(_, connections)| live(connections)).map(|(node, _)| node.clone()).collect()
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn add(&self, node: NodeId, connection: Connection) -> Arrival {
        let mut state = self.state();
        let connections = state.nodes.entry(node.clone()).or_default();
        connections.push(connection.clone());
        if connections.len() > PER_NODE {
            connections.remove(0).close(Close::Surplus.into(), b"too many connections of one node");
        }
        drop(state);
        self.changed();
        Arrival { node, connection }
    }

    /// Forgets a connection that has ended.
    pub(super) fn remove(&self, node: &NodeId, connection: &Connection) {
        let mut state = self.state();
        if let Some(connections) = state.nodes.get_mut(node) {
            connections.retain(|other| other.stable_id() != connection.stable_id());
            if connections.is_empty() {
                state.nodes.remove(node);
            }
        }
        drop(state);
        self.changed();
    }

    /// Closes every connection with a node. Whoever serves them forgets them.
    pub(super) fn close(&self, node: &NodeId, why: Close, words: &[u8]) {
        for connection in self.state().nodes.get(node).into_iter().flatten() {
            connection.close(why.into(), words);
        }
    }

    /// Lets go of the endpoint and of every connection.
    pub(super) fn clear(&self) {
        let mut state = self.state();
        state.endpoint = None;
        state.nodes.clear();
        drop(state);
        self.changed();
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}
