//! Two regions that join in the same moment may never hear of each other: each started with a list that lacks the other, and of gateways
//! nats-server learns by what others tell it when they connect, once. DNS has both. The next start has the whole list, so this server restarts,
//! in its turn. All servers of a region that lack another see it in the same moments and ask for a turn; the first restart has the others hear of
//! it, so who gets the next turn looks again, and gives it back (see [`crate::turn`]).

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::discovery::{News, PERIOD};
use crate::monitor::Monitor;
use crate::peers::{HOLD, MISSES};
use crate::status::Named;
use crate::turn::{Order, Reason};

/// How often it is looked.
const LOOKS: Duration = Duration::from_secs(10);
/// How long DNS has a server that is gone: its row goes when nobody hears of its store, or its runner says nothing.
const LEAVES: Duration = Duration::from_secs(30);
/// For how long a region is to be named with no gateway to it: 150 s. What nats-server hears of it hears within a second or two; but one whose
/// last server is gone is named for as long as DNS has it and its absence is not believed, and of that one no restart would know more.
const UNHEARD: Duration =
    LEAVES.saturating_add(HOLD).saturating_add(PERIOD.saturating_mul(MISSES + 1)).saturating_add(LOOKS);
/// How long after a restart the next one is asked for: what one did not mend, many will not.
const AGAIN: Duration = Duration::from_secs(3600);

/// What a look has shown.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Regions that DNS names, that no gateway leads to, and that the process does not know from its file: of those that it does it tries
    /// by itself.
    pub(crate) missing: BTreeSet<String>,
    /// Stands for the process that runs: another one, another text.
    process: String,
}

/// Since when regions are missing.
#[derive(Debug, Default)]
struct Unheard {
    since: Option<Instant>,
    /// When a restart was asked for last, and of which process.
    asked: Option<(Instant, String)>,
}

impl Unheard {
    /// Takes in a look, none where the process is not there to be asked: then it is started with the whole list. Whether a restart is to be
    /// asked for.
    fn observe(&mut self, seen: Option<&Seen>, now: Instant) -> bool {
        let Some(seen) = seen.filter(|seen| !seen.missing.is_empty()) else {
            self.since = None;
            // What was asked for is void where the same process has heard of them meanwhile: no restart was tried, so none counts.
            self.asked.take_if(|(_, of)| seen.is_some_and(|seen| seen.process == *of));
            return false;
        };
        let since = *self.since.get_or_insert(now);
        let long = now.saturating_duration_since(since) >= UNHEARD;
        let lately = self.asked.as_ref().is_some_and(|(asked, _)| now.saturating_duration_since(*asked) < AGAIN);
        let ask = long && !lately;
        if ask {
            self.asked = Some((now, seen.process.clone()));
        }
        ask
    }
}

/// Looks until the token is cancelled.
pub(crate) async fn mend(
    monitor: Monitor,
    news: watch::Receiver<News>,
    orders: mpsc::Sender<Order>,
    token: CancellationToken,
) {
    let mut unheard = Unheard::default();
    let mut looks = tokio::time::interval(LOOKS);
    // A look that is dropped has changed nothing.
    token
        .run_until_cancelled(async {
            loop {
                looks.tick().await;
                let seen = look(&monitor, &news).await;
                if !unheard.observe(seen.as_ref(), Instant::now()) {
                    continue;
                }
                let regions = seen.unwrap_or_default().missing.into_iter().collect::<Vec<_>>().join(", ");
                tracing::warn!(
                    regions,
                    "in DNS for minutes, and no gateway leads there: nats-server is to be restarted"
                );
                if let Err(error) = orders.try_send(Order::Restart(Reason::Regions)) {
                    tracing::warn!(%error, "the restart cannot be asked for");
                    unheard.asked = None;
                }
            }
        })
        .await;
}

/// Looks. None where the process does not answer.
pub(crate) async fn look(monitor: &Monitor, news: &watch::Receiver<News>) -> Option<Seen> {
    let Named::Center { regions, .. } = news.borrow().named.clone() else { return Some(Seen::default()) };
    match (monitor.gateways().await, monitor.varz().await) {
        (Ok(gateways), Ok(varz)) => {
            let told: BTreeSet<String> = varz.gateway.gateways.into_iter().map(|gateway| gateway.name).collect();
            let is_missing = |region: &String| !gateways.contains(region) && !told.contains(region);
            Some(Seen { missing: regions.into_iter().filter(is_missing).collect(), process: varz.start })
        }
        (Err(_), _) | (_, Err(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Seen, UNHEARD, Unheard};
    use crate::peers::HOLD;

    /// What of looks at a process that lacks a region, or none, in these seconds asks for a restart.
    fn asks(looks: &[(u64, &str, &[&str])]) -> Vec<u64> {
        let (begun, mut unheard) = (Instant::now(), Unheard::default());
        let asks = |(second, process, missing): &&(u64, &str, &[&str])| {
            let missing = missing.iter().map(|region| (*region).to_owned()).collect();
            let seen = Seen { missing, process: (*process).to_owned() };
            unheard.observe(Some(&seen), begun + Duration::from_secs(*second))
        };
        looks.iter().filter(asks).map(|(second, ..)| *second).collect()
    }

    #[test]
    fn a_region_that_is_not_heard_of_for_minutes_is_a_restart_and_not_one_after_the_other() {
        assert!(UNHEARD > HOLD, "one that is gone is named for so long");
        let lacks: &[&str] = &["iad"];
        let may_be_heard_of_yet = [(0, "1", lacks), (149, "1", lacks)];
        assert!(asks(&may_be_heard_of_yet).is_empty());
        let heard_meanwhile = [(0, "1", lacks), (150, "1", &[]), (151, "1", lacks), (300, "1", lacks)];
        assert!(asks(&heard_meanwhile).is_empty());
        let restarted_in_vain = [
            (0, "1", lacks),
            (150, "1", lacks),
            (151, "1", lacks),
            (190, "2", &[]),
            (200, "2", lacks),
            (3_749, "2", lacks),
            (3_750, "2", lacks),
        ];
        assert_eq!(asks(&restarted_in_vain), [150, 3_750], "once an hour");
    }

    #[test]
    fn what_the_process_hears_of_before_it_is_restarted_does_not_count() {
        let lacks: &[&str] = &["iad"];
        let void = [
            (0, "1", lacks),
            (150, "1", lacks),
            (160, "1", &[]),
            (170, "1", lacks),
            (319, "1", lacks),
            (320, "1", lacks),
        ];
        assert_eq!(asks(&void), [150, 320]);
        let mut unheard = Unheard::default();
        let begun = Instant::now();
        let seen = Seen { missing: ["iad".to_owned()].into(), process: "1".to_owned() };
        assert!(!unheard.observe(Some(&seen), begun) && unheard.observe(Some(&seen), begun + UNHEARD));
        // It is away, for its restart maybe.
        assert!(!unheard.observe(None, begun + UNHEARD));
        assert!(!unheard.observe(Some(&seen), begun + UNHEARD) && !unheard.observe(Some(&seen), begun + 2 * UNHEARD));
    }
}
