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

/// Since when regions are missing.
#[derive(Debug, Default)]
struct Unheard {
    since: Option<Instant>,
    asked: Option<Instant>,
}

impl Unheard {
    /// Takes in a look; whether a restart is to be asked for.
    fn observe(&mut self, missing: &BTreeSet<String>, now: Instant) -> bool {
        if missing.is_empty() {
            self.since = None;
            return false;
        }
        let since = *self.since.get_or_insert(now);
        let long = now.saturating_duration_since(since) >= UNHEARD;
        let lately = self.asked.is_some_and(|asked| now.saturating_duration_since(asked) < AGAIN);
        let ask = long && !lately;
        if ask {
            self.asked = Some(now);
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
                // One that is not there to be asked is started with the whole list.
                let missing = missing(&monitor, &news).await.unwrap_or_default();
                if !unheard.observe(&missing, Instant::now()) {
                    continue;
                }
                let regions = missing.into_iter().collect::<Vec<_>>().join(", ");
                tracing::warn!(
                    regions,
                    "in DNS for minutes, and no gateway leads there: nats-server is to be restarted"
                );
                if let Err(error) = orders.try_send(Order::Restart(Reason::Regions)) {
                    tracing::warn!(%error, "the restart cannot be asked for");
                }
            }
        })
        .await;
}

/// Regions that DNS names, that no gateway leads to, and that the process does not know from its file: of those that it does it tries by itself.
/// None where it does not answer.
pub(crate) async fn missing(monitor: &Monitor, news: &watch::Receiver<News>) -> Option<BTreeSet<String>> {
    let Named::Center { regions, .. } = news.borrow().named.clone() else { return Some(BTreeSet::new()) };
    match (monitor.gateways().await, monitor.varz().await) {
        (Ok(seen), Ok(varz)) => {
            let told: BTreeSet<String> = varz.gateway.gateways.into_iter().map(|gateway| gateway.name).collect();
            Some(regions.into_iter().filter(|region| !seen.contains(region) && !told.contains(region)).collect())
        }
        (Err(_), _) | (_, Err(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{UNHEARD, Unheard};
    use crate::peers::HOLD;

    #[test]
    fn a_region_that_is_not_heard_of_for_minutes_is_a_restart_and_not_one_after_the_other() {
        assert!(UNHEARD > HOLD, "one that is gone is named for so long");
        let begun = Instant::now();
        let mut unheard = Unheard::default();
        let mut asked = |missing: bool, second| {
            let missing = missing.then(|| "iad".to_owned()).into_iter().collect();
            unheard.observe(&missing, begun + Duration::from_secs(second))
        };
        assert!(!asked(true, 0) && !asked(true, 149), "it may be heard of yet");
        assert!(!asked(false, 150) && !asked(true, 151) && !asked(true, 300), "it was, meanwhile");
        assert!(asked(true, 301));
        assert!(!asked(true, 302) && !asked(true, 3_900), "once an hour");
        assert!(asked(true, 3_901));
    }
}
