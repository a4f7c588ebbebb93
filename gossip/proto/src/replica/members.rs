//! The members by name, those that have a stream with us in an index of their own: gossip may see a thousand, and what is
//! asked at every input is asked of the few.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Stream;
use super::member::Member;
use crate::{NodeId, Vector};

#[derive(Debug, Default)]
pub(super) struct Members {
    all: BTreeMap<NodeId, Member>,
    connected: BTreeSet<NodeId>,
}

impl Members {
    pub(super) fn get(&self, node: &NodeId) -> Option<&Member> {
        self.all.get(node)
    }

    pub(super) fn get_mut(&mut self, node: &NodeId) -> Option<&mut Member> {
        self.all.get_mut(node)
    }

    pub(super) fn entry(&mut self, node: &NodeId) -> &mut Member {
        self.all.entry(node.clone()).or_default()
    }

    pub(super) fn opened(&mut self, node: &NodeId, stream: Stream) {
        self.entry(node).opened(stream);
        self.connected.insert(node.clone());
    }

    pub(super) fn closed(&mut self, node: &NodeId, stream: Stream) {
        if let Some(member) = self.all.get_mut(node) {
            member.closed(stream);
            if !member.is_connected() {
                self.connected.remove(node);
            }
        }
        self.forget_if_gone(node);
    }

    pub(super) fn forget_if_gone(&mut self, node: &NodeId) {
        if self.all.get(node).is_some_and(Member::is_gone) {
            self.all.remove(node);
        }
    }

    /// Those that have a stream with us, by name.
    pub(super) fn connected(&self) -> impl Iterator<Item = (&NodeId, &Member)> {
        self.connected.iter().filter_map(|node| self.all.get_key_value(node))
    }

    /// Those that this stream is open with, by name.
    pub(super) fn with(&self, stream: Stream) -> impl Iterator<Item = (&NodeId, &Member)> {
        self.connected().filter(move |(_, member)| member.has(stream))
    }

    pub(super) fn is_open(&self, node: &NodeId, stream: Stream) -> bool {
        self.all.get(node).is_some_and(|member| member.has(stream))
    }

    /// Deletions are forgotten.
    pub(super) fn purging(&mut self, purged: &Vector) {
        self.all.values_mut().for_each(|member| member.purging(purged));
    }

    /// Our heads rose.
    pub(super) fn we_rose(&mut self, ours: &Vector, now: Duration) {
        for node in &self.connected {
            if let Some(member) = self.all.get_mut(node) {
                member.we_rose(ours, now);
            }
        }
    }
}
