//! Turns what chitchat knows into members, and tells chitchat what this node is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chitchat::{ChitchatHandle, ChitchatId, NodeState};
use kith_gossip_proto::NodeId;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::facts::{Facts, StoreHash};
use super::label::label;
use super::liveness::{Heard, Liveness};
use super::{Belongs, Hashes, INTERVAL, Members, MembershipError, STATE_EVERY, ServerRow, Servers, StoreFacts};
use crate::api::{Member, MemberState};
use crate::net::Net;
use crate::net::dial::Addresses;

pub(super) struct Watcher {
    net: Net,
    chitchat: ChitchatHandle,
    store: Box<dyn Fn() -> StoreFacts + Send + Sync>,
    servers: watch::Receiver<Servers>,
    own: Facts,
    started: Instant,
    /// When the state's hash was last told.
    told: Instant,
    liveness: Liveness,
    /// The latest facts of every node, by generation; kept when chitchat forgets.
    known: BTreeMap<NodeId, (u64, Facts)>,
    list: watch::Sender<Arc<Vec<Member>>>,
    /// The list as it was when it was last news.
    noted: Arc<Vec<Member>>,
    hashes: watch::Sender<Arc<Hashes>>,
    addresses: watch::Sender<Addresses>,
}

impl Watcher {
    pub(super) fn new(
        net: Net,
        chitchat: ChitchatHandle,
        store: Box<dyn Fn() -> StoreFacts + Send + Sync>,
        servers: watch::Receiver<Servers>,
        own: Facts,
    ) -> Self {
        let (started, told) = (Instant::now(), Instant::now());
        let (liveness, known) = (Liveness::default(), BTreeMap::new());
        let (list, noted, hashes, addresses) = Default::default();
        Self { net, chitchat, store, servers, own, started, told, liveness, known, list, noted, hashes, addresses }
    }

    /// The members, from here on.
    pub(super) fn members(&self) -> Members {
        Members { list: self.list.subscribe(), hashes: self.hashes.subscribe() }
    }

    pub(super) fn net(&self) -> &Net {
        &self.net
    }

    /// Where every member is dialled.
    pub(super) fn addresses(&self) -> watch::Receiver<Addresses> {
        self.addresses.subscribe()
    }

    pub(super) async fn watch(&mut self, token: &CancellationToken) -> Result<(), MembershipError> {
        let mut tick = interval(INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut connections = self.net.changes();
        let mut live = self.chitchat.chitchat().lock().await.live_nodes_watcher();
        let ended = self.chitchat.termination_watcher();
        tokio::pin!(ended);
        loop {
            // Cancel-safe: all only wait for a change, and each change makes the same look at everything.
            tokio::select! {
                () = token.cancelled() => return Ok(()),
                ended = &mut ended => {
                    let error = ended.err().unwrap_or_else(|| anyhow::anyhow!("chitchat stopped by itself"));
                    return Err(MembershipError::Ended(error));
                }
                _ = tick.tick() => {}
                _ = connections.changed() => {}
                changed = live.changed() => if changed.is_err() { tick.tick().await; },
                changed = self.servers.changed() => if changed.is_err() { tick.tick().await; },
            }
            self.tell().await;
            self.look().await;
        }
    }

    /// Ends chitchat.
    pub(super) async fn stop(self) -> Result<(), MembershipError> {
        self.chitchat.shutdown().await.map_err(MembershipError::Ended)
    }

    /// Tells the cluster what this node's store is like.
    async fn tell(&mut self) {
        let store = (self.store)();
        let mut own = Facts { site: Some(store.site), schema: Some(store.schema), ..self.own.clone() };
        if own.state != Some(store.hash) && self.told.elapsed() >= STATE_EVERY {
            own.state = Some(store.hash);
            self.told = Instant::now();
        }
        if own != self.own {
            self.own = own;
            let keys = self.own.keys();
            let chitchat = self.chitchat.chitchat();
            let mut chitchat = chitchat.lock().await;
            let state = chitchat.self_node_state();
            keys.into_iter().for_each(|(key, value)| state.set(key, value));
        }
    }

    /// Looks at every node, talks to those chitchat does not know, and publishes what changed.
    async fn look(&mut self) {
        let now = self.started.elapsed();
        let live = {
            let chitchat = self.chitchat.chitchat();
            let chitchat = chitchat.lock().await;
            for (id, state) in chitchat.node_states() {
                if let Ok(node) = id.node_id.parse::<NodeId>() {
                    self.observe(node, id, state, now);
                }
            }
            chitchat.live_nodes().map(|id| Arc::clone(&id.node_id)).collect::<BTreeSet<_>>()
        };
        for node in self.net.nodes().into_iter().filter(|node| !live.contains(node.as_str())) {
            // Fails only when chitchat has ended, which the loop sees.
            drop(self.chitchat.gossip(label(&node)));
        }
        self.publish(now);
    }

    fn observe(&mut self, node: NodeId, id: &ChitchatId, state: &NodeState, now: Duration) {
        if node == *self.net.node() || id.gossip_advertise_addr != label(&node) {
            return;
        }
        let heartbeat = u64::from(state.heartbeat());
        if heartbeat > 0 {
            self.liveness.observe(&node, id.generation_id, heartbeat, now);
        }
        // The node states come with rising generations, so the greatest one's facts stay.
        if let Some(facts) = Facts::read(|key| state.get(key))
            && self.known.get(&node).is_none_or(|(generation, _)| *generation <= id.generation_id)
        {
            self.known.insert(node, (id.generation_id, facts));
        }
    }

    fn publish(&mut self, now: Duration) {
        let servers = self.servers.borrow_and_update().clone();
        let nodes = self.liveness.nodes().filter_map(|node| {
            let (_, facts) = self.known.get(node)?;
            let verdict = self.liveness.judge(node, now)?;
            Some((self.member(node, facts, verdict.pulse, servers.get(node), now), facts.state))
        });
        let seen: Vec<_> = nodes.collect();
        let mut addresses: Addresses = self.known.iter().map(|(node, (_, facts))| (node.clone(), facts.addr)).collect();
        for (gone, _) in seen.iter().filter(|(member, _)| member.state == MemberState::Removed) {
            addresses.remove(&gone.server);
        }
        self.addresses.send_if_modified(|current| std::mem::replace(current, addresses.clone()) != addresses);

        let hash = |(member, state): &(Member, Option<StoreHash>)| (member.server.clone(), (member.state, *state));
        let hashes = Arc::new(seen.iter().map(hash).collect());
        self.hashes.send_if_modified(|current| std::mem::replace(current, Arc::clone(&hashes)) != hashes);

        let mut list: Vec<_> = seen.into_iter().map(|(member, _)| member).collect();
        let own = self.member(self.net.node(), &self.own, Heard::Up(now), servers.get(self.net.node()), now);
        list.push(Member { rtt: Some(Duration::ZERO), ..own });
        list.sort_by(|a, b| a.server.cmp(&b.server));
        let list = Arc::new(list);
        // By what was last news rather than by the last look: a round trip may move by little each time.
        let news = self.noted.len() != list.len()
            || self.noted.iter().zip(&*list).any(|(before, now)| now.is_news_after(before));
        if news {
            self.noted = Arc::clone(&list);
        }
        self.list.send_if_modified(|current| {
            report(current, &list);
            // Written in any case, so that who looks sees how long ago a member was heard.
            *current = list;
            news
        });
    }

    fn member(&self, node: &NodeId, facts: &Facts, pulse: Heard, row: Option<&ServerRow>, now: Duration) -> Member {
        let (state, at) = match pulse {
            Heard::Up(at) => (MemberState::Up, Some(at)),
            Heard::Silent(at) => (MemberState::Silent, at),
        };
        let removed = row.is_some_and(|row| row.belongs == Belongs::Removed);
        Member {
            server: node.clone(),
            number: row.and_then(|row| row.number),
            addr: facts.addr,
            site: facts.site,
            boot_id: facts.boot_id.clone(),
            state: if removed { MemberState::Removed } else { state },
            heard: at.map(|at| now.saturating_sub(at)),
            rtt: self.net.rtt(node),
            release: facts.release.clone(),
        }
    }
}

/// Says which members have come to another state.
fn report(before: &[Member], list: &[Member]) {
    for member in list {
        let known = before.iter().find(|known| known.server == member.server);
        if known.map(|known| known.state) != Some(member.state) {
            let heard_ms_ago = member.heard.map(|heard| heard.as_millis());
            tracing::info!(member = %member.server, address = %member.addr, state = member.state.as_str(), heard_ms_ago, "member");
        }
    }
}
