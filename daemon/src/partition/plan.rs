//! The plan of partitions: pure. What is done is telling: who is missing, who is not any more, and what is to be thought of it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::Suspicion;
use crate::clock::Now;

/// How long a server that belongs may be no member before it is missing: as long as a member may be unheard before gossip
/// calls it silent. Who joins is a member within a second of its row, and after a start those that are remembered are judged
/// within this time.
const ABSENT: Duration = Duration::from_secs(10);

/// How long a member may be unheard before it is missing. Gossip calls it silent, and takes its containers out of answers, after 10 s. But
/// of a link that is cut in one direction the side that still hears does so until the other's connection has died, 5 s later, and it is to
/// tell within 15 s too. Heartbeats come every 300 ms: twenty in a row are lost to nothing else.
const UNHEARD_MS: u64 = 6_000;
/// When it is looked more closely.
const LATE_MS: u64 = 2_000;

/// What there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Observed {
    /// Every server that belongs, but us.
    pub(crate) others: BTreeMap<String, Heard>,
    /// Who was said to be missing.
    pub(crate) told: Vec<String>,
    /// What was thought.
    pub(crate) before: Suspicion,
}

/// How a server is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Its heartbeat advances here.
    Up {
        /// By which way.
        link: Link,
        /// When it last did.
        ms_ago: u64,
    },
    /// Its heartbeat has not advanced here for 10 s.
    Silent {
        /// When it last did, if it ever did.
        ms_ago: Option<u64>,
    },
    /// It is no member here.
    Not {
        /// Since when we see its row without a member.
        since: Instant,
    },
}

/// By which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// By a connection of our own.
    Direct,
    /// Only by what others pass on: one way between us may be cut.
    ByOthers,
}

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// A server is missing.
    Missing {
        /// Which.
        server: String,
        /// Whether it was ever a member.
        heard: Heard,
    },
    /// A server that was missing is not any more.
    Settled {
        /// Which.
        server: String,
        /// Why not.
        why: Settled,
    },
    /// Another thing is to be thought.
    Turn {
        /// What.
        to: Suspicion,
        /// How many are missing.
        missing: usize,
        /// Of how many, ourselves counted.
        belonging: usize,
    },
}

/// Why a server is not missing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    /// It is heard.
    Heard,
    /// It does not belong any more.
    Left,
}

/// Whether a server is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Here,
    Missing,
    NotYet,
}

impl Observed {
    /// How many servers belong, ourselves counted.
    pub(crate) fn belonging(&self) -> usize {
        self.others.len() + 1
    }

    /// Who is heard in this way.
    pub(crate) fn up(&self, by: Link) -> Vec<&str> {
        let up = self.others.iter().filter(|(_, heard)| matches!(heard, Heard::Up { link, .. } if *link == by));
        up.map(|(id, _)| id.as_str()).collect()
    }

    /// Whether somebody may be missing in a moment.
    pub(crate) fn is_uncertain(&self) -> bool {
        self.others.values().any(|heard| matches!(heard, Heard::Up { ms_ago: LATE_MS.., .. } | Heard::Not { .. }))
    }
}

impl Heard {
    fn verdict(self, now: Now) -> Verdict {
        match self {
            Heard::Up { ms_ago: UNHEARD_MS.., .. } => Verdict::Missing,
            Heard::Up { .. } => Verdict::Here,
            Heard::Silent { .. } => Verdict::Missing,
            Heard::Not { since } if now.at.saturating_duration_since(since) >= ABSENT => Verdict::Missing,
            Heard::Not { .. } => Verdict::NotYet,
        }
    }
}

/// What is to be told.
pub(crate) fn plan(observed: &Observed, now: Now) -> Vec<Step> {
    let told = |id: &String| observed.told.contains(id);
    let is = |wanted: Verdict| observed.others.iter().filter(move |(_, heard)| heard.verdict(now) == wanted);
    let new = is(Verdict::Missing).filter(|(id, _)| !told(id));
    let new = new.map(|(id, heard)| Step::Missing { server: id.clone(), heard: *heard });
    let settled = observed.told.iter().filter_map(|id| {
        let why = match observed.others.get(id).map(|heard| heard.verdict(now)) {
            None => Settled::Left,
            Some(Verdict::Here) => Settled::Heard,
            Some(Verdict::Missing | Verdict::NotYet) => return None,
        };
        Some(Step::Settled { server: id.clone(), why })
    });
    let (missing, unjudged) = (is(Verdict::Missing).count(), is(Verdict::NotYet).count());
    let to = suspicion(missing, unjudged, observed.belonging(), observed.before);
    let turn = (to != observed.before).then(|| Step::Turn { to, missing, belonging: observed.belonging() });
    new.chain(settled).chain(turn).collect()
}

/// Half of the servers or more are missing: suspected. What cannot be said while some are not judged yet stays as it was.
fn suspicion(missing: usize, unjudged: usize, belonging: usize, before: Suspicion) -> Suspicion {
    if 2 * missing >= belonging {
        Suspicion::Suspected
    } else if 2 * (missing + unjudged) < belonging {
        Suspicion::Clear
    } else {
        before
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Missing { server, heard: Heard::Not { .. } } => write!(f, "{server} is missing: no member"),
            Step::Missing { server, .. } => write!(f, "{server} is missing: silent"),
            Step::Settled { server, why: Settled::Heard } => write!(f, "{server} is heard again"),
            Step::Settled { server, why: Settled::Left } => write!(f, "{server} does not belong any more"),
            Step::Turn { to, missing, belonging } => {
                write!(f, "partition {}: {missing} of {belonging} servers are missing", to.as_str())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: Heard = Heard::Up { link: Link::Direct, ms_ago: 300 };
    const SILENT: Heard = Heard::Silent { ms_ago: Some(10_000) };

    fn planned(others: &[(&str, Heard)], told: &[&str], before: Suspicion, now: Instant) -> String {
        let others = others.iter().map(|(id, heard)| ((*id).to_owned(), *heard)).collect();
        let told = told.iter().map(|id| (*id).to_owned()).collect();
        let steps = plan(&Observed { others, told, before }, Now { at: now, wall_ms: 0 });
        steps.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn who_is_missing_is_told_once_and_so_is_who_comes_back() {
        let now = Instant::now() + ABSENT * 3;
        let others = [("a", UP), ("b", Heard::Up { link: Link::ByOthers, ms_ago: 4_000 }), ("c", SILENT), ("d", UP)];
        insta::assert_snapshot!(planned(&others, &[], Suspicion::Clear, now), @"c is missing: silent");
        assert_eq!(planned(&others, &["c"], Suspicion::Clear, now), "");
        insta::assert_snapshot!(planned(&others, &["a", "gone", "c"], Suspicion::Clear, now), @r"
        a is heard again
        gone does not belong any more
        ");
    }

    #[test]
    fn half_or_more_missing_is_suspected_and_fewer_is_not() {
        let now = Instant::now() + ABSENT * 3;
        let turn = |missing: usize, belonging: usize, before| {
            let names: Vec<String> = (1..belonging).map(|n| format!("n{n}")).collect();
            let heard = |n: usize| if n < missing { SILENT } else { UP };
            let others: Vec<_> = names.iter().enumerate().map(|(n, name)| (name.as_str(), heard(n))).collect();
            let told: Vec<&str> = names.iter().take(missing).map(String::as_str).collect();
            planned(&others, &told, before, now)
        };
        for (missing, belonging) in [(1, 2), (2, 3), (2, 4), (3, 4), (3, 5), (10, 20)] {
            let expected = format!("partition suspected: {missing} of {belonging} servers are missing");
            assert_eq!(turn(missing, belonging, Suspicion::Clear), expected);
            assert_eq!(turn(missing, belonging, Suspicion::Unknown), expected);
            assert_eq!(turn(missing, belonging, Suspicion::Suspected), "");
        }
        for (missing, belonging) in [(0, 1), (0, 2), (1, 3), (1, 4), (2, 5), (9, 20)] {
            let expected = format!("partition clear: {missing} of {belonging} servers are missing");
            assert_eq!(turn(missing, belonging, Suspicion::Suspected), expected);
            assert_eq!(turn(missing, belonging, Suspicion::Unknown), expected);
            assert_eq!(turn(missing, belonging, Suspicion::Clear), "");
        }
    }

    #[test]
    fn a_server_without_a_member_is_missing_after_10_s_and_nothing_is_clear_before() {
        let begun = Instant::now();
        let (early, late) = (begun + ABSENT - Duration::from_millis(1), begun + ABSENT);
        let others = [("a", Heard::Not { since: begun })];
        for before in [Suspicion::Unknown, Suspicion::Clear, Suspicion::Suspected] {
            assert_eq!(planned(&others, &[], before, early), "");
        }
        insta::assert_snapshot!(planned(&others, &[], Suspicion::Unknown, late), @r"
        a is missing: no member
        partition suspected: 1 of 2 servers are missing
        ");
        // One of four cannot make half.
        let others = [("a", Heard::Not { since: begun }), ("b", UP), ("c", UP)];
        insta::assert_snapshot!(planned(&others, &[], Suspicion::Unknown, early), @"partition clear: 0 of 4 servers are missing");
        // A store that began anew has no members for a moment: nobody has come back.
        assert_eq!(planned(&others, &["a"], Suspicion::Clear, early), "");
    }

    #[test]
    fn a_member_is_missing_before_gossip_calls_it_silent() {
        let now = Instant::now() + ABSENT * 3;
        let up = |link, ms_ago| [("a", Heard::Up { link, ms_ago }), ("b", UP), ("c", UP)];
        for link in [Link::Direct, Link::ByOthers] {
            assert_eq!(planned(&up(link, 5_999), &[], Suspicion::Clear, now), "");
            assert_eq!(planned(&up(link, 6_000), &[], Suspicion::Clear, now), "a is missing: silent");
        }
        let uncertain = |ms_ago| {
            let others = up(Link::Direct, ms_ago).map(|(id, heard)| (id.to_owned(), heard));
            Observed { others: others.into(), told: Vec::new(), before: Suspicion::Clear }.is_uncertain()
        };
        assert!(!uncertain(1_999) && uncertain(2_000));
    }

    #[test]
    fn a_server_alone_is_not_cut_off() {
        insta::assert_snapshot!(planned(&[], &[], Suspicion::Unknown, Instant::now()), @"partition clear: 0 of 1 servers are missing");
    }
}
