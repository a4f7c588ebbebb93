//! The endpoints: where each peer's tunnel ends. One that carries nothing is tried at the next place, until one is found that does.
//!
//! ```text
//!   peers ─► ways: who, and where that may be ──┐
//!   echo: a question through each tunnel, 3 s ──┼─► observe ─► plan (pure) ─► where packets go
//!   WireGuard: handshakes, bytes, endpoint ─────┘                  └─► ways: where it was reached ─► peer cache
//! ```
//!
//! Where a peer was reached stays in the peer cache, and is written into nobody's row: a row says what its own server knows.

mod came;
mod echo;
mod heard;
mod plan;
mod socket;
mod trial;
mod ways;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::clock::Now;
use crate::driver::Reconciler;
use crate::error::Error;
use crate::own::{Own, Standing};
use crate::partition::Partition;
use crate::peers::{MeshRange, PublicKey};
use crate::status::Alarm;
use crate::wake::Wake;
use crate::wireguard::Interface;
use echo::BEFORE;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use echo::accepts;
use heard::Longest;
use plan::{State, Step, Tunnel, plan};
pub(crate) use socket::Echoes;
use trial::{Memory, Turn};
pub(crate) use ways::{Echoed, Way, Ways};

/// How often is looked while every tunnel carries: as often as each is asked.
const PERIOD: Duration = socket::EVERY;
/// The same while one does not, or an answer is missing.
const SOON: Duration = Duration::from_secs(1);
/// How long a tunnel must carry nothing before that is an alarm: until then another endpoint may do.
const ALARM: Duration = Duration::from_secs(30);
/// Names in an alarm; the rest are counted.
const NAMED: usize = 10;
/// Peers that are shown; there are 128 numbers.
const SHOWN: usize = 130;

/// Keeps them.
pub(crate) struct Endpoints {
    own: Own,
    mesh: MeshRange,
    interface: Interface,
    ways: Ways,
    echoes: Echoes,
    /// Woken when another place is to be remembered.
    peers: Wake,
    memory: BTreeMap<PublicKey, Memory>,
    last: Vec<Tunnel>,
    partition: Partition,
}

/// What an [`Endpoints`] is made of.
pub(crate) struct Parts {
    /// The own row.
    pub(crate) own: Own,
    /// The ranges of the cluster.
    pub(crate) mesh: MeshRange,
    /// The interface, which the peers set up.
    pub(crate) interface: Interface,
    /// Who is to be reached.
    pub(crate) ways: Ways,
    /// What their daemons say.
    pub(crate) echoes: Echoes,
    /// Woken when another place is to be remembered.
    pub(crate) peers: Wake,
    /// Who is heard by gossip.
    pub(crate) partition: Partition,
}

impl Endpoints {
    /// The endpoints of the peers that the ways name.
    pub(crate) fn new(parts: Parts) -> Endpoints {
        let Parts { own, mesh, interface, ways, echoes, peers, partition } = parts;
        let (memory, last) = (BTreeMap::new(), Vec::new());
        Endpoints { own, mesh, interface, ways, echoes, peers, memory, last, partition }
    }
}

impl Reconciler for Endpoints {
    const NAME: &'static str = "endpoints";
    type Observed = Vec<Tunnel>;
    type Step = Step;

    async fn observe(&mut self, now: Now) -> Result<Vec<Tunnel>, Error> {
        let ways = self.ways.peers();
        let mut peers = if ways.is_empty() { BTreeMap::new() } else { self.interface.peers().await? };
        peers.retain(|key, _| ways.contains_key(key));
        self.memory.retain(|key, _| peers.contains_key(key));
        let mut echoes = self.echoes.get();
        let mut tunnels = Vec::new();
        for (key, peer) in peers {
            let Some(Way { id, endpoints, worked, echoed }) = ways.get(&key).cloned() else { continue };
            let memory = self.memory.entry(key).or_insert_with(|| Memory::new(&peer, now.at));
            memory.look(&peer, now.at);
            let (trial, shook, received) = (memory.trial.clone(), memory.shook, memory.received);
            let (current, heard) = (peer.installed.endpoint, echoes.remove(&key).unwrap_or_default());
            let tunnel = Tunnel { key, id, endpoints, worked, echoed, current, trial, shook, received, heard };
            match memory.judge(tunnel.state(now), now.at) {
                Some(Turn::Up) => tracing::info!(peer = tunnel.id, "tunnel carries packets"),
                Some(Turn::Down) => tracing::info!(peer = tunnel.id, "tunnel carries nothing"),
                None => {}
            }
            tunnels.push(Tunnel { trial: memory.trial.clone(), ..tunnel });
        }
        self.last.clone_from(&tunnels);
        Ok(tunnels)
    }

    fn plan(&self, tunnels: &Vec<Tunnel>, now: Now) -> Vec<Step> {
        // Whoever was removed leaves its tunnels alone.
        if self.own.standing() == Standing::Removed { Vec::new() } else { plan(tunnels, self.mesh, now) }
    }

    async fn apply(&mut self, step: Step, now: Now) -> Result<(), Error> {
        match &step {
            Step::Try { key, endpoint, .. } => {
                tracing::info!(%step, "endpoint");
                self.interface.move_to(*key, *endpoint).await?;
                if let Some(memory) = self.memory.get_mut(key) {
                    memory.tries(&step, now.at);
                }
            }
            Step::Keep { key, endpoint, .. } => {
                self.ways.works(*key, *endpoint);
                self.peers.poke();
            }
            Step::Echoes { key, .. } => {
                self.ways.echoes(*key);
                self.peers.poke();
            }
        }
        Ok(())
    }

    fn period(&self, now: Now) -> Duration {
        let is_well = |tunnel: &Tunnel| tunnel.state(now) == State::Up && !tunnel.misses(now);
        if self.last.iter().all(is_well) { PERIOD } else { SOON }
    }

    fn alarms(&self, now: Now) -> Vec<Alarm> {
        let down = |tunnel: &&Tunnel| self.memory.get(&tunnel.key).is_some_and(|memory| memory.is_down(ALARM, now.at));
        let heard = self.partition.heard();
        let down = self.last.iter().filter(down).filter(|tunnel| heard.contains(&tunnel.id));
        let down: Vec<&str> = down.map(|tunnel| tunnel.id.as_str()).collect();
        alarm(&down).into_iter().collect()
    }

    fn detail(&self, now: Now) -> Value {
        let tunnels: Vec<Value> = self.last.iter().take(SHOWN).map(|tunnel| shown(tunnel, now)).collect();
        json!({ "tunnels": tunnels, "not_asking": self.echoes.not_asking() })
    }
}

/// That tunnels carry nothing, to servers that gossip hears: with those that it does not hear there is no link at all, which is an alarm
/// of its own.
fn alarm(servers: &[&str]) -> Option<Alarm> {
    let more = servers.len().saturating_sub(NAMED);
    let mut names = servers.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    if more > 0 {
        names.push_str(&format!(" and {more} more"));
    }
    let text = format!(
        "no packet comes through the tunnel to {names}, though gossip hears each: UDP of WireGuard may be blocked, or its key be \
         another; containers there are not reached from here (kith doctor says more)"
    );
    (!servers.is_empty()).then_some(Alarm { name: "tunnel", text })
}

/// A tunnel, for people and for `kith doctor`.
fn shown(tunnel: &Tunnel, now: Now) -> Value {
    let heard = &tunnel.heard;
    let (mtu, passes) = match heard.longest() {
        Longest::Pass(length) => (Some(length + BEFORE), Some(true)),
        Longest::Lost(length) => (Some(length + BEFORE), Some(false)),
        Longest::Unknown => (None, None),
    };
    json!({
        "server": tunnel.id,
        "state": tunnel.state(now).as_str(),
        "endpoint": tunnel.current.map(|at| at.to_string()),
        "round_trip_ms": heard.round_trip(now.at).map(|took| took.as_secs_f64() * 1000.0),
        "answered_s_ago": heard.answered.map(|at| now.at.saturating_duration_since(at).as_secs()),
        "mtu": mtu,
        "mtu_passes": passes,
        "tried": tunnel.trial.tried,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_names_the_servers_whose_tunnels_are_down() {
        assert_eq!(alarm(&[]), None);
        insta::assert_snapshot!(alarm(&["b", "c"]).unwrap().text, @"no packet comes through the tunnel to b, c, though gossip hears each: UDP of WireGuard may be blocked, or its key be another; containers there are not reached from here (kith doctor says more)");
        assert!(alarm(&["x"; 12]).unwrap().text.contains("x and 2 more, though"));
    }
}
