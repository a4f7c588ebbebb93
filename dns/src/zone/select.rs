//! Which instances answer a name: the rules, in their order, over the candidates of that name.

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::facts::Standing;
use crate::row::{Fallback, Health, Port, Serving};

/// A container or a NATS server that may answer.
#[derive(Debug, Clone)]
pub(crate) struct Candidate<'a> {
    /// Its key in the table: the last tie-break, and what status names.
    pub(crate) key: &'a str,
    /// Its label in `{ID}.vm`.
    pub(crate) label: &'a str,
    /// The slot as a label, for the names of instances.
    pub(crate) slot_label: Option<&'a str>,
    /// The process group, for the names below `process`.
    pub(crate) group: Option<&'a str>,
    /// What successive instances share, on one server.
    pub(crate) slot: Option<&'a str>,
    pub(crate) server: &'a str,
    pub(crate) region: &'a str,
    pub(crate) v4: Option<Ipv4Addr>,
    pub(crate) v6: Option<Ipv6Addr>,
    pub(crate) ports: &'a [Port],
    /// Ports of NATS listeners, zeros for containers.
    pub(crate) listeners: [u16; 4],
    pub(crate) health: Health,
    pub(crate) serving: Serving,
    pub(crate) standing: Standing,
    pub(crate) started_at: i64,
}

/// The instances that answer, sorted by server, slot and id.
///
/// 1. Those draining, or on a server that drains, is removed or is silent, are out.
/// 2. Of the rest, the best health class present answers; unhealthy ones never do.
/// 3. Only then, of each slot, the newest. In this order a starting container never hides its healthy predecessor.
/// 4. Nobody left and `fail_open`: everybody but those draining or of removed servers.
pub(crate) fn select<'c, 'a>(
    candidates: impl Iterator<Item = &'c Candidate<'a>> + Clone,
    fallback: Fallback,
) -> Vec<&'c Candidate<'a>> {
    let serving = candidates.clone().filter(|one| serves(one));
    let best = serving.clone().map(|one| one.health).max();
    let mut chosen: Vec<_> = serving.filter(|one| Some(one.health) == best).collect();
    if chosen.is_empty() {
        match fallback {
            Fallback::Empty => {}
            Fallback::All => chosen.extend(candidates.filter(|one| fails_open(one))),
        }
        chosen.sort_by_key(|one| (one.server, one.slot, one.key));
        return chosen;
    }
    chosen.sort_by(|a, b| {
        (a.server, a.slot).cmp(&(b.server, b.slot)).then((b.started_at, b.key).cmp(&(a.started_at, a.key)))
    });
    chosen.dedup_by(|later, first| (later.server, later.slot) == (first.server, first.slot));
    chosen
}

/// Why an instance answers, or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict<'a> {
    /// In: of the best class, and the newest of its slot.
    Best,
    /// In: nobody is fit to answer.
    FailOpen,
    Draining,
    ServerDraining,
    ServerRemoved,
    ServerSilent,
    Unhealthy,
    /// Others are of this class.
    Worse(Health),
    /// This one is newer in the same slot.
    Older(&'a str),
}

/// What [`select`] does with each candidate, and why.
pub(crate) fn judge<'c, 'a>(
    candidates: &[&'c Candidate<'a>],
    fallback: Fallback,
) -> Vec<(&'c Candidate<'a>, Verdict<'c>)> {
    let chosen = select(candidates.iter().copied(), fallback);
    let best = candidates.iter().filter(|one| serves(one)).map(|one| one.health).max();
    let keys: HashSet<&str> = chosen.iter().map(|one| one.key).collect();
    let verdict = |one: &'c Candidate<'a>| match (keys.contains(one.key), best) {
        (true, Some(_)) => Verdict::Best,
        (true, None) => Verdict::FailOpen,
        (false, _) => why_not(one, best, &chosen),
    };
    candidates.iter().map(|one| (*one, verdict(one))).collect()
}

fn why_not<'c>(one: &Candidate<'_>, best: Option<Health>, chosen: &[&'c Candidate<'_>]) -> Verdict<'c> {
    match (one.serving, one.standing) {
        (Serving::Draining, _) => return Verdict::Draining,
        (Serving::Yes, Standing::Draining) => return Verdict::ServerDraining,
        (Serving::Yes, Standing::Removed) => return Verdict::ServerRemoved,
        (Serving::Yes, Standing::Silent) => return Verdict::ServerSilent,
        (Serving::Yes, Standing::Serving) => {}
    }
    let newer = chosen.iter().find(|held| (held.server, held.slot) == (one.server, one.slot));
    match (one.health, best, newer) {
        (Health::Unhealthy, _, _) => Verdict::Unhealthy,
        (health, Some(best), _) if health < best => Verdict::Worse(best),
        (_, _, Some(newer)) => Verdict::Older(newer.key),
        // All that serve, are of the best class and alone in their slot are chosen.
        (_, _, None) => Verdict::Unhealthy,
    }
}

/// Whether one instance, asked for by its own id, answers: what [`select`] makes of it alone.
pub(crate) fn answers_alone(one: &Candidate<'_>, fallback: Fallback) -> bool {
    serves(one) || (fallback == Fallback::All && fails_open(one))
}

fn serves(one: &Candidate<'_>) -> bool {
    one.serving == Serving::Yes && one.standing == Standing::Serving && one.health > Health::Unhealthy
}

/// Draining is an operator's word, of a container or of its server; silence and health are guesses.
fn fails_open(one: &Candidate<'_>) -> bool {
    one.serving == Serving::Yes
        && match one.standing {
            Standing::Serving | Standing::Silent => true,
            Standing::Draining | Standing::Removed => false,
        }
}

#[cfg(test)]
mod tests;
