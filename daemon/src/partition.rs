//! Partitions: which servers that belong are not heard here, told within 15 s on each side of a cut, and whether so many are
//! missing that it may be us who are cut off.
//!
//! ```text
//!              too many are not judged yet, or the store is away
//!   Unknown ◄────────────────────────────────────────────────────┐
//!      │  half of the servers or more are missing                │
//!      ├────────────────────────────────────────► Suspected ─────┤
//!      │  fewer, whatever becomes of those                ▲ │    │
//!      │  that are not judged yet                         │ ▼    │
//!      └────────────────────────────────────────► Clear ─────────┘
//! ```
//!
//! Nobody hears who is cut off, so each side can only speak for itself: what is destroyed elsewhere for good (rows of a
//! removed server, a peer) is destroyed in [`Suspicion::Clear`] alone. What a server says of itself goes on.

mod plan;
mod suspicion;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kith_gossip_client::members::{Member, MemberState};
use kith_gossip_proto::NodeId;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::clock::Now;
use crate::driver::Reconciler;
use crate::error::Error;
use crate::status::Alarm;
use crate::store::Store;
use plan::{Heard, Link, Observed, Step, plan};
pub(crate) use suspicion::{Partition, Suspicion};

/// How often is looked if no member changes. A report is made every 2 s.
const PERIOD: Duration = Duration::from_secs(3);
/// The same while somebody may be missing in a moment.
const UNCERTAIN: Duration = Duration::from_secs(1);
/// Names in an alarm; the rest are counted.
const NAMED: usize = 10;

/// Looks who is heard.
pub(crate) struct Partitions {
    node: NodeId,
    store: Store,
    partition: Partition,
    /// Since when each server that belongs is no member.
    absent: BTreeMap<String, Instant>,
    /// Who is said to be missing.
    told: Vec<String>,
    last: Option<Observed>,
}

impl Partitions {
    /// The partitions as this node sees them, which tells `partition`.
    pub(crate) fn new(node: NodeId, store: Store, partition: Partition) -> Partitions {
        Partitions { node, store, partition, absent: BTreeMap::new(), told: Vec::new(), last: None }
    }

    async fn look(&mut self, now: Now) -> Result<Observed, Error> {
        let mut belonging = self.store.servers().await?.belonging;
        belonging.remove(self.node.as_str());
        let members = self.store.members().await?;
        let mut members: BTreeMap<String, Member> =
            members.into_iter().map(|member| (member.server.clone(), member)).collect();
        self.absent.retain(|id, _| belonging.contains(id));
        let mut others = BTreeMap::new();
        for id in belonging {
            let heard = match heard(members.remove(&id)) {
                Some(heard) => {
                    self.absent.remove(&id);
                    heard
                }
                None => Heard::Not { since: *self.absent.entry(id.clone()).or_insert(now.at) },
            };
            others.insert(id, heard);
        }
        Ok(Observed { others, told: self.told.clone(), before: self.partition.suspicion() })
    }
}

/// How a member is heard; none if it is no member, or has left.
fn heard(member: Option<Member>) -> Option<Heard> {
    let member = member?;
    let link = if member.rtt_us.is_some() { Link::Direct } else { Link::ByOthers };
    match member.state {
        MemberState::Up => Some(Heard::Up { link, ms_ago: member.heard_ms_ago.unwrap_or(0) }),
        MemberState::Silent => Some(Heard::Silent { ms_ago: member.heard_ms_ago }),
        MemberState::Removed => None,
    }
}

impl Reconciler for Partitions {
    const NAME: &'static str = "partition";
    type Observed = Observed;
    type Step = Step;

    async fn observe(&mut self, now: Now) -> Result<Observed, Error> {
        let seen = self.look(now).await;
        match &seen {
            Ok(seen) => {
                let up = seen.others.iter().filter(|(_, heard)| matches!(heard, Heard::Up { .. }));
                self.partition.hears(up.map(|(id, _)| id.clone()).collect());
                self.last = Some(seen.clone());
            }
            // Who is heard is not known while the store is away, nor for a moment after its return.
            Err(_) => {
                self.partition.hears(BTreeSet::new());
                self.partition.set(Suspicion::Unknown);
            }
        }
        seen
    }

    fn plan(&self, observed: &Observed, now: Now) -> Vec<Step> {
        plan(observed, now)
    }

    async fn apply(&mut self, step: Step, _now: Now) -> Result<(), Error> {
        match &step {
            Step::Missing { server, .. } => {
                tracing::warn!(%step, "server not heard");
                self.told.push(server.clone());
            }
            Step::Settled { server, .. } => {
                tracing::info!(%step, "server not missing any more");
                self.told.retain(|told| told != server);
            }
            Step::Turn { to, .. } => {
                match to {
                    Suspicion::Suspected => tracing::warn!(%step, "partition suspected"),
                    Suspicion::Clear | Suspicion::Unknown => tracing::info!(%step, "partition not suspected"),
                }
                self.partition.set(*to);
            }
        }
        Ok(())
    }

    fn period(&self, _now: Now) -> Duration {
        if self.last.as_ref().is_some_and(Observed::is_uncertain) { UNCERTAIN } else { PERIOD }
    }

    fn detail(&self, now: Now) -> Value {
        let Some(last) = &self.last else { return Value::Null };
        let ms = |since: Instant| u64::try_from(now.at.saturating_duration_since(since).as_millis()).ok();
        let missing = self.told.iter().map(|id| {
            let about = match last.others.get(id) {
                Some(Heard::Silent { ms_ago }) => json!({ "gossip": "silent", "heard_ms_ago": ms_ago }),
                Some(Heard::Not { since }) => json!({ "gossip": "no member", "for_ms": ms(*since) }),
                Some(Heard::Up { ms_ago, .. }) => json!({ "gossip": "unheard", "heard_ms_ago": ms_ago }),
                None => json!({ "gossip": "left" }),
            };
            (id.clone(), about)
        });
        json!({
            "suspicion": self.partition.suspicion().as_str(),
            "belonging": last.belonging(),
            "hears": last.up(Link::Direct),
            "hears_by_others": last.up(Link::ByOthers),
            "missing": missing.collect::<Map<_, _>>(),
        })
    }

    fn alarms(&self, _now: Now) -> Vec<Alarm> {
        let Some(last) = self.last.as_ref().filter(|_| !self.told.is_empty()) else { return Vec::new() };
        let mut missing: Vec<&str> = self.told.iter().map(String::as_str).collect();
        missing.sort_unstable();
        let text = alarm(&missing, last.belonging(), self.partition.suspicion());
        vec![Alarm { name: "partition", text }]
    }
}

/// What is said of those that are missing.
fn alarm(missing: &[&str], belonging: usize, suspicion: Suspicion) -> String {
    let more = missing.len().saturating_sub(NAMED);
    let mut names = missing.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    if more > 0 {
        names.push_str(&format!(" and {more} more"));
    }
    let heard =
        format!("not heard here: {names}; {} of {belonging} servers are", belonging.saturating_sub(missing.len()));
    match suspicion {
        Suspicion::Suspected => {
            format!("{heard}, so it may be this one that is cut off: nothing is swept, and no peer removed")
        }
        Suspicion::Unknown | Suspicion::Clear => heard,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_says_who_is_missing_and_what_follows() {
        insta::assert_snapshot!(alarm(&["n4", "n5"], 5, Suspicion::Clear), @"not heard here: n4, n5; 3 of 5 servers are");
        insta::assert_snapshot!(alarm(&["b"], 2, Suspicion::Suspected), @"not heard here: b; 1 of 2 servers are, so it may be this one that is cut off: nothing is swept, and no peer removed");
        let many = vec!["x"; 12];
        assert!(alarm(&many, 30, Suspicion::Clear).contains("x and 2 more; 18 of 30"));
    }
}
