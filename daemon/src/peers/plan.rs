//! The plan of the peers: pure. What is missing is added, what is wrong is set, and nothing goes but by an operator's word or because its
//! server has another key.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::cache::Cache;
use super::judge::{Judgement, Leaving, Shook, View};
use super::key::PublicKey;
use crate::clock::Now;
use crate::partition::Suspicion;

/// How long a tombstone must have been seen. Who removed a server by mistake has as long to take it back.
pub(crate) const HOLD: Duration = Duration::from_secs(60);
/// How long a key that was replaced is kept if the one in its place does not shake hands.
const REPLACED: Duration = Duration::from_secs(60);
/// Within this, few peers are removed: somebody who removes servers by mistake removes many.
pub(crate) const WINDOW: Duration = Duration::from_secs(600);
/// Seconds between packets to a peer, so that no firewall between forgets the way (WireGuard's own advice).
pub(crate) const KEEPALIVE: u16 = 25;

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Know this from here on.
    Remember(Cache),
    /// A peer that is missing.
    Add {
        /// Its server.
        id: String,
        /// Its key.
        key: PublicKey,
        /// What is behind it.
        allowed: BTreeSet<IpNet>,
        /// Where to begin.
        endpoint: Option<SocketAddr>,
    },
    /// What is behind a peer; where its tunnel ends stays as it is.
    Allow {
        /// Its server.
        id: String,
        /// Its key.
        key: PublicKey,
        /// What is behind it.
        allowed: BTreeSet<IpNet>,
    },
    /// A peer that is to go.
    Remove {
        /// Its server.
        id: String,
        /// Its key.
        key: PublicKey,
        /// Why.
        why: Why,
    },
}

/// Why a peer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// Its server was removed.
    Removed,
    /// So it was, and an operator has said that it may go beside any number of others.
    Sure,
    /// Its server has this key.
    Replaced(PublicKey),
}

/// What is to be done.
pub(crate) fn plan(judgement: &Judgement, view: &View<'_>, now: Now) -> Vec<Step> {
    let removed = removed(judgement, view, now);
    let mut cache = judgement.cache.clone();
    let counts = |step: &&Step| matches!(step, Step::Remove { why: Why::Removed, .. });
    cache.removed = of_late(view, now) + removed.iter().filter(counts).count();
    let mut steps = Vec::new();
    if cache != *view.cache {
        steps.push(Step::Remember(cache));
    }
    for (key, wanted) in &judgement.wanted {
        let (id, key, allowed) = (wanted.id.clone(), *key, wanted.allowed.clone());
        match view.peers.get(&key) {
            None => steps.push(Step::Add { id, key, allowed, endpoint: wanted.endpoint }),
            Some(peer) if peer.allowed == allowed && peer.keepalive == Some(KEEPALIVE) => {}
            Some(_) => steps.push(Step::Allow { id, key, allowed }),
        }
    }
    // A range goes from peer to peer by being given; whoever is to have none gives it up first.
    steps.sort_by_key(|step| match step {
        Step::Remember(_) => 0,
        Step::Allow { allowed, .. } if allowed.is_empty() => 1,
        Step::Add { .. } | Step::Allow { .. } | Step::Remove { .. } => 2,
    });
    steps.extend(removed);
    steps.extend(replaced(judgement, view, now));
    steps
}

/// Peers of servers whose tombstone was seen long enough: those that an operator is sure of, and of the others those that were seen
/// first, as many as may go.
fn removed(judgement: &Judgement, view: &View<'_>, now: Now) -> Vec<Step> {
    let Due { sure, go, .. } = due(judgement, view, now);
    let step = |why| move |(key, leaving): (PublicKey, &Leaving)| Step::Remove { id: leaving.id.clone(), key, why };
    let sure = sure.into_iter().map(step(Why::Sure));
    sure.chain(go.into_iter().map(step(Why::Removed))).collect()
}

/// The servers whose peers would go, were they not so many.
pub(super) fn held(judgement: &Judgement, view: &View<'_>, now: Now) -> BTreeSet<String> {
    due(judgement, view, now).held.into_iter().map(|(_, leaving)| leaving.id.clone()).collect()
}

/// Peers whose time to go has come.
#[derive(Default)]
struct Due<'a> {
    sure: Vec<(PublicKey, &'a Leaving)>,
    go: Vec<(PublicKey, &'a Leaving)>,
    /// They stay: as many as may go did.
    held: Vec<(PublicKey, &'a Leaving)>,
}

fn due<'a>(judgement: &'a Judgement, view: &View<'_>, now: Now) -> Due<'a> {
    if view.rows.is_none() || view.suspicion != Suspicion::Clear {
        return Due::default();
    }
    let is_due = |leaving: &Leaving| now.at.saturating_duration_since(leaving.since) >= view.hold;
    let due = judgement.leaving.iter().filter(|(_, leaving)| is_due(leaving)).map(|(key, leaving)| (*key, leaving));
    let (sure, mut go): (Vec<_>, Vec<_>) = due.partition(|(_, leaving)| view.sure.contains(&leaving.id));
    go.sort_by_key(|(key, leaving)| (leaving.since, &leaving.id, *key));
    let of_late = of_late(view, now);
    let may_go = most(view.peers.len() + of_late).saturating_sub(of_late);
    let held = go.split_off(may_go.min(go.len()));
    Due { sure, go, held }
}

/// How many were removed of late.
fn of_late(view: &View<'_>, now: Now) -> usize {
    view.removals.iter().filter(|at| now.at.saturating_duration_since(**at) < WINDOW).count()
}

/// How many of that many peers may go within the window.
pub(crate) fn most(peers: usize) -> usize {
    (peers / 5).max(1)
}

/// Peers by whose server has another key, which works or has had its time.
fn replaced(judgement: &Judgement, view: &View<'_>, now: Now) -> Vec<Step> {
    let is_due = |key: &PublicKey, by: &PublicKey| {
        let works = view.peers.get(by).is_some_and(|peer| peer.shook == Shook::Yes);
        let since = view.replaced.get(key).copied().unwrap_or(now.at);
        works || now.at.saturating_duration_since(since) >= REPLACED
    };
    let due = judgement.former.iter().filter(|(key, former)| is_due(key, &former.by));
    due.map(|(key, former)| Step::Remove { id: former.id.clone(), key: *key, why: Why::Replaced(former.by) }).collect()
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |allowed: &BTreeSet<IpNet>| {
            let each: Vec<String> = allowed.iter().map(ToString::to_string).collect();
            if each.is_empty() { "nothing".to_owned() } else { each.join(", ") }
        };
        match self {
            Step::Remember(cache) => {
                let ids: Vec<&str> = cache.servers.keys().map(String::as_str).collect();
                write!(f, "remember {}", if ids.is_empty() { "nobody".to_owned() } else { ids.join(", ") })
            }
            Step::Add { id, key, allowed, endpoint } => {
                let at = endpoint.map_or_else(|| "no endpoint".to_owned(), |endpoint| endpoint.to_string());
                write!(f, "add {id} {key} at {at} with {}", list(allowed))
            }
            Step::Allow { id, key, allowed } => write!(f, "allow {id} {key} {}", list(allowed)),
            Step::Remove { id, key, why: Why::Removed } => write!(f, "remove {id} {key}, which was removed"),
            Step::Remove { id, key, why: Why::Sure } => write!(f, "remove {id} {key}, which was removed for sure"),
            Step::Remove { id, key, why: Why::Replaced(by) } => write!(f, "remove {id} {key}, which has {by}"),
        }
    }
}

#[cfg(test)]
mod tests;
