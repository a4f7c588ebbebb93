//! Who is a peer, with what behind it: the rows, the peer cache and the interface, judged together. Pure.
//!
//! ```text
//!   row of a server ─► its key is nobody else's ─► its range is nobody else's ─► wanted: all its ranges
//!   cached, no row ───►        │                          └─ else: wanted, with nothing behind it, and a fault
//!                              └─ else: not a peer, and a fault
//!   row with removed_at ─► leaving: left as it is until its time has come
//!   a key that a server had before ─► former: until the key it has now has shaken hands
//!   any other peer ─► foreign: left alone
//! ```
//!
//! A row that is gone, empty or wrong takes nothing away: what was known of its server goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;

use super::cache::{Cache, FORMER, Known, MOST};
use super::key::PublicKey;
use super::mesh::{MeshRange, Number, management};
use super::row::{Fault, Row, Said, Server};
use crate::endpoints::Echoed;
use crate::partition::Suspicion;

/// All that is judged by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    /// The ranges of the cluster.
    pub(crate) mesh: MeshRange,
    /// This server.
    pub(crate) own: &'a str,
    /// Its key.
    pub(crate) own_key: PublicKey,
    /// The number of its row.
    pub(crate) own_row: Option<Number>,
    /// The rows; none while the store is away, or has not caught up.
    pub(crate) rows: Option<&'a BTreeMap<String, Row>>,
    /// What was known before.
    pub(crate) cache: &'a Cache,
    /// Where peers were reached since.
    pub(crate) worked: &'a BTreeMap<PublicKey, SocketAddr>,
    /// Whose daemons echoed since.
    pub(crate) echoed: &'a BTreeSet<PublicKey>,
    /// The interface's peers.
    pub(crate) peers: &'a BTreeMap<PublicKey, Installed>,
    /// Since when we see that a server was removed.
    pub(crate) tombstones: &'a BTreeMap<String, Instant>,
    /// Since when we see that a key was replaced.
    pub(crate) replaced: &'a BTreeMap<PublicKey, Instant>,
    /// When peers of removed servers were removed, of late.
    pub(crate) removals: &'a [Instant],
    /// Removed servers of which an operator has said that they may go beside any number of others.
    pub(crate) sure: &'a BTreeSet<String>,
    /// Whether so many servers are missing that it may be us.
    pub(crate) suspicion: Suspicion,
    /// How long a tombstone must have been seen.
    pub(crate) hold: Duration,
}

/// A peer of the interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Installed {
    /// Where its tunnel ends.
    pub(crate) endpoint: Option<SocketAddr>,
    /// What is behind it.
    pub(crate) allowed: BTreeSet<IpNet>,
    /// Seconds between packets that keep the way open.
    pub(crate) keepalive: Option<u16>,
    /// Whether it has ever shaken hands.
    pub(crate) shook: Shook,
}

/// Whether a peer has shaken hands with us since it was added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Shook {
    /// It has.
    Yes,
    /// Not yet.
    #[default]
    NotYet,
}

/// What is to be.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Judgement {
    /// What is known from here on.
    pub(crate) cache: Cache,
    /// The peers that are to be there.
    pub(crate) wanted: BTreeMap<PublicKey, Wanted>,
    /// Peers whose server was removed.
    pub(crate) leaving: BTreeMap<PublicKey, Leaving>,
    /// Peers whose server has another key.
    pub(crate) former: BTreeMap<PublicKey, Former>,
    /// Peers that are none of ours.
    pub(crate) foreign: BTreeSet<PublicKey>,
    /// What is wrong, by server.
    pub(crate) faults: BTreeMap<String, Vec<Fault>>,
    /// Servers that are known though they have no row.
    pub(crate) unlisted: BTreeSet<String>,
}

/// A peer that is to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Its server.
    pub(crate) id: String,
    /// What is behind it.
    pub(crate) allowed: BTreeSet<IpNet>,
    /// Where to begin.
    pub(crate) endpoint: Option<SocketAddr>,
}

/// A peer whose server was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaving {
    /// Its server.
    pub(crate) id: String,
    /// Since when we see that.
    pub(crate) since: Instant,
}

/// A peer whose server has another key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Former {
    /// Its server.
    pub(crate) id: String,
    /// The key that it has.
    pub(crate) by: PublicKey,
}

/// What one server claims to have.
#[derive(Debug)]
struct Claim {
    server: Server,
    listed: bool,
}

/// Judges.
pub(crate) fn judge(view: &View<'_>) -> Judgement {
    let mut judgement =
        Judgement { cache: Cache { own: own_number(view), ..Cache::default() }, ..Judgement::default() };
    for (id, row) in view.rows.into_iter().flatten().filter(|(id, row)| *id != view.own && !row.faults.is_empty()) {
        judgement.faults.insert(id.clone(), row.faults.clone());
    }
    let mut claims = claims(view, &mut judgement);
    contest_keys(&mut claims, view, &mut judgement);
    let losers = contest_ranges(&claims, view, &mut judgement);
    for (id, claim) in &claims {
        let known = known(id, claim, view);
        let Known { key, number, endpoints, worked, .. } = &known;
        let allowed = if losers.contains(id) {
            BTreeSet::new()
        } else {
            view.mesh.behind(*number).chain([IpNet::from(std::net::IpAddr::from(management(key)))]).collect()
        };
        let endpoint = worked.or(endpoints.first().copied());
        judgement.wanted.insert(*key, Wanted { id: id.clone(), allowed, endpoint });
        if !claim.listed && view.rows.is_some() {
            judgement.unlisted.insert(id.clone());
        }
        judgement.cache.servers.insert(id.clone(), known);
    }
    leave(view, &mut judgement);
    let known = &mut judgement;
    for (id, server) in &mut known.cache.servers {
        server.former.retain(|key| {
            view.peers.contains_key(key) && !known.wanted.contains_key(key) && !known.leaving.contains_key(key)
        });
        let former = server.former.iter().map(|key| (*key, Former { id: id.clone(), by: server.key }));
        known.former.extend(former);
    }
    let ours = |key: &PublicKey| {
        known.wanted.contains_key(key) || known.leaving.contains_key(key) || known.former.contains_key(key)
    };
    known.foreign = view.peers.keys().filter(|key| !ours(key)).copied().collect();
    judgement
}

/// Our own number: the one that we always had, else that of our row.
fn own_number(view: &View<'_>) -> Option<Number> {
    view.cache.own.or(view.own_row)
}

/// Who claims what: what was known, and over it the rows. Whoever was removed claims nothing.
fn claims(view: &View<'_>, judgement: &mut Judgement) -> BTreeMap<String, Claim> {
    let cached = view.cache.servers.iter().map(|(id, known)| {
        let Known { key, number, endpoints, .. } = known.clone();
        (id.clone(), Claim { server: Server { key, number, endpoints }, listed: false })
    });
    let mut claims: BTreeMap<String, Claim> = cached.collect();
    for (id, row) in view.rows.into_iter().flatten() {
        match &row.said {
            Said::Server(_) if !claims.contains_key(id) && claims.len() >= MOST => {
                judgement.faults.entry(id.clone()).or_default().push(Fault::Beyond(MOST));
            }
            Said::Server(server) => {
                claims.insert(id.clone(), Claim { server: server.clone(), listed: true });
            }
            Said::Nothing | Said::Wrong => {
                if let Some(claim) = claims.get_mut(id) {
                    claim.listed = true;
                }
            }
            Said::Removed(_) => {}
        }
    }
    claims.retain(|id, _| id != view.own && !view.tombstones.contains_key(id));
    claims
}

/// Of several servers with one key one keeps it: we ourselves, else who has a row and always had it, else who has a row, else who always
/// had it, else the smaller id.
fn contest_keys(claims: &mut BTreeMap<String, Claim>, view: &View<'_>, judgement: &mut Judgement) {
    let had = |id: &str, key| view.cache.servers.get(id).is_some_and(|known| known.key == key);
    let mut by_key: BTreeMap<PublicKey, Vec<&String>> = BTreeMap::new();
    for (id, claim) in claims.iter() {
        by_key.entry(claim.server.key).or_default().push(id);
    }
    let mut losers = BTreeMap::new();
    for (key, mut ids) in by_key {
        ids.sort_by_key(|id| (!claims[*id].listed, !had(id, key), *id));
        let (keeps, lose) = if key == view.own_key { (view.own, &ids[..]) } else { (ids[0].as_str(), &ids[1..]) };
        losers.extend(lose.iter().map(|id| ((*id).clone(), keeps.to_owned())));
    }
    for (id, keeps) in losers {
        judgement.faults.entry(id.clone()).or_default().push(Fault::SharesKey(keeps));
        // With the key that it had it may still be reached.
        let before = view.cache.servers.get(&id).filter(|known| known.key != claims[&id].server.key);
        match before.filter(|known| known.key != view.own_key).cloned() {
            Some(Known { key, number, endpoints, .. }) if claims.values().all(|claim| claim.server.key != key) => {
                let listed = claims[&id].listed;
                claims.insert(id, Claim { server: Server { key, number, endpoints }, listed });
            }
            Some(_) | None => {
                claims.remove(&id);
            }
        }
    }
}

/// Of several servers with one range one keeps it: we ourselves, else who has a row, else the peer that has it here, else the smaller id.
fn contest_ranges(claims: &BTreeMap<String, Claim>, view: &View<'_>, judgement: &mut Judgement) -> BTreeSet<String> {
    let has_it = |claim: &Claim| {
        let subnet = IpNet::from(view.mesh.subnet(claim.server.number));
        view.peers.get(&claim.server.key).is_some_and(|peer| peer.allowed.contains(&subnet))
    };
    let mut by_number: BTreeMap<Number, Vec<&String>> = BTreeMap::new();
    for (id, claim) in claims {
        by_number.entry(claim.server.number).or_default().push(id);
    }
    let mut losers = BTreeSet::new();
    for (number, mut ids) in by_number {
        ids.sort_by_key(|id| (!claims[*id].listed, !has_it(&claims[*id]), *id));
        let own = judgement.cache.own == Some(number);
        let (keeps, lose) = if own { (view.own, &ids[..]) } else { (ids[0].as_str(), &ids[1..]) };
        for id in lose {
            judgement.faults.entry((*id).clone()).or_default().push(Fault::SharesRange(keeps.to_owned()));
            losers.insert((*id).clone());
        }
    }
    losers
}

/// What is known of a server from here on. A key that it had is kept in mind for as long as the interface has it.
fn known(id: &str, claim: &Claim, view: &View<'_>) -> Known {
    let Server { key, number, endpoints } = claim.server.clone();
    let before = view.cache.servers.get(id);
    let mut former: BTreeSet<PublicKey> = before.map(|known| known.former.clone()).unwrap_or_default();
    former.extend(before.map(|known| known.key));
    former.retain(|former| *former != key && view.peers.contains_key(former));
    let former = former.into_iter().take(FORMER).collect();
    let before = before.filter(|known| known.key == key);
    let worked = view.worked.get(&key).copied().or(before.and_then(|known| known.worked));
    let echoed = match before.map(|known| known.echoed) {
        Some(Echoed::Ever) => Echoed::Ever,
        Some(Echoed::Never) | None if view.echoed.contains(&key) => Echoed::Ever,
        Some(Echoed::Never) | None => Echoed::Never,
    };
    Known { key, number, endpoints, worked, echoed, former }
}

/// The peers of servers that were removed, which stay known until they are gone from the interface.
fn leave(view: &View<'_>, judgement: &mut Judgement) {
    for (id, since) in view.tombstones.iter().filter(|(id, _)| *id != view.own) {
        let known = view.cache.servers.get(id);
        let said = match view.rows.and_then(|rows| rows.get(id)).map(|row| &row.said) {
            Some(Said::Removed(key)) => *key,
            Some(Said::Server(_) | Said::Nothing | Said::Wrong) | None => None,
        };
        let keys = known.into_iter().flat_map(|known| known.former.iter().copied().chain([known.key])).chain(said);
        let installed = |key: &PublicKey| view.peers.contains_key(key) && !judgement.wanted.contains_key(key);
        let keys: BTreeSet<PublicKey> = keys.filter(installed).collect();
        if let (Some(known), false) = (known, keys.is_empty()) {
            judgement.cache.servers.insert(id.clone(), known.clone());
        }
        judgement.leaving.extend(keys.into_iter().map(|key| (key, Leaving { id: id.clone(), since: *since })));
    }
}
