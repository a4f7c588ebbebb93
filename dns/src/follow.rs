//! The one writer of the zone: follows the feed, and swaps a new zone in after every change that shows.
//!
//! The first zone appears when all tables are `Synced`, so that a name is never denied because its row was still on
//! the way; until then it is the last one before the start, if that is on disk. A lost feed changes nothing but the mark.

mod remembered;
mod whole;

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;

use crate::facts::{Changes, Effect, Facts, Freshness};
use crate::feed::{Event, Member, Table};
use crate::status::Published;
use crate::zone::fixed::Fixed;
use crate::zone::{Builder, Problem, Saved, Settings, Zone};
use remembered::Remembered;
use whole::Whole;

/// How long nothing comes before a zone is built of what came: what one transaction did to several rows and tables arrives
/// without such a pause, and a lone change is answered 1 ms later than it could be.
const GATHER: Duration = Duration::from_millis(1);
/// The most a change waits, also when zones are slow to build: the rest of the time from event to answer is building.
const GATHER_MAX: Duration = Duration::from_millis(5);

/// The most that what is there already may hold up a zone: what one transaction did to several tables comes by as many ways,
/// and building between two that wait would answer half of it; but a feed that is never empty must not be the end of zones.
const OVERDUE: Duration = Duration::from_millis(3);
/// The most that a change waits for the rest of its transaction, which is there within milliseconds unless the store went away
/// between: the largest that a store takes is a mebibyte. Half of one is better than none of what came since.
const HALF_MAX: Duration = Duration::from_secs(1);

/// The most that a change waits for tables that are not followed again yet, once in an outage: each comes back by itself, at the
/// latest 2 s after the first, and a zone built between two would have half of what happened meanwhile.
const RETURN_MAX: Duration = Duration::from_secs(3);

/// Why following ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FollowError {
    /// Whoever feeds us is gone.
    Ended,
    /// Building a zone panicked.
    Build,
}

pub(crate) struct Follower {
    feed: Pin<Box<dyn Stream<Item = Event> + Send>>,
    /// The node id of this server.
    own: String,
    builder: Builder,
    published: Arc<ArcSwap<Published>>,
    /// The names of zone files.
    fixed: watch::Receiver<Fixed>,
    facts: Facts,
    remembered: Remembered,
    whole: Whole,
    generation: u64,
    /// When the first and the last change came that are not in the zone yet.
    pending: Option<(Instant, Instant)>,
    /// Whether [`RETURN_MAX`] was waited for in this outage: a table that stays away does not hold up the others at each change.
    waited: bool,
}

impl Follower {
    pub(crate) fn new(
        feed: Pin<Box<dyn Stream<Item = Event> + Send>>,
        settings: Arc<Settings>,
        published: Arc<ArcSwap<Published>>,
        (fixed, remembered): (watch::Receiver<Fixed>, Vec<Member>),
    ) -> Self {
        let (own, remembering) = (settings.server.clone(), Remembered::default());
        let builder = Builder::new(settings);
        // The next zone's number is greater than that of the one on disk, if there is one.
        let generation = published.load().zone.generation();
        let facts = Facts::remembering(remembered);
        let whole = Whole::default();
        Self {
            feed,
            own,
            builder,
            published,
            fixed,
            facts,
            remembered: remembering,
            whole,
            generation,
            pending: None,
            waited: false,
        }
    }

    /// What is answered before the first zone: nothing is known of any name, and that is said.
    pub(crate) fn nothing(settings: &Settings, fixed: &Fixed) -> Published {
        let zone = Zone::build(&Facts::default(), settings, 0).with_fixed(fixed);
        Published { zone, built: Instant::now(), took: Duration::ZERO, stale_since: None }
    }

    /// What is answered before the first zone when there is one on disk.
    pub(crate) fn last(saved: &Saved, fixed: &Fixed) -> Published {
        let (zone, stale_since) = (saved.zone.clone().with_fixed(fixed), Some(saved.written));
        Published { zone, built: Instant::now(), took: Duration::ZERO, stale_since }
    }

    pub(crate) async fn run(mut self, token: CancellationToken) -> Result<(), FollowError> {
        loop {
            let (due, silent) = (self.due(), self.remembered.due());
            let overdue = due.is_some_and(|due| Instant::now() >= due + OVERDUE);
            tokio::select! {
                // In this order: what is there already is taken before a zone is built.
                biased;
                // Losing any of these loses nothing: an event is taken from the stream only when its arm runs.
                () = token.cancelled() => return Ok(()),
                Ok(()) = self.fixed.changed() => self.lay(),
                event = self.feed.next(), if !overdue => self.hear(event.ok_or(FollowError::Ended)?),
                () = sleep_until(silent.unwrap_or_else(Instant::now)), if silent.is_some() => self.give_up(),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self = self.rebuild().await?,
            }
        }
    }

    /// When to build: a moment after the first change, later if the last zone took long, so that building never takes
    /// more than about half of the time, up to the bound. Within a transaction, or while only some tables are followed again, much
    /// later: the rest comes first.
    fn due(&self) -> Option<Instant> {
        let (first, latest) = self.pending?;
        if self.facts.freshness() == Freshness::Stale && !self.waited {
            return Some(first + RETURN_MAX);
        }
        if !self.whole.is_whole() {
            return Some(first + HALF_MAX);
        }
        let last = self.published.load();
        let rested = last.built + last.took;
        Some((latest + GATHER).max(rested).min(first + GATHER_MAX))
    }

    fn hear(&mut self, event: Event) {
        let told: Option<BTreeSet<_>> = if let Event::Members(members) = &event {
            Some(members.iter().map(|member| member.server.clone()).collect())
        } else {
            None
        };
        if let Event::Member(member) = &event {
            self.remembered.heard(&member.server);
        }
        self.whole.hear(&event);
        self.take(event);
        if let Some(told) = told {
            self.remembered.listed(&told, self.facts.members(), &self.own);
        }
        self.remembered.believe(self.facts.freshness(), Instant::now());
    }

    /// Leaves out servers that were up before the store was followed anew and are not heard.
    fn give_up(&mut self) {
        for event in self.remembered.give_up() {
            if let Event::Member(Member { server, .. }) = &event {
                tracing::info!(%server, "not heard since the store is followed again");
            }
            self.take(event);
        }
    }

    fn take(&mut self, event: Event) {
        match self.facts.apply(event) {
            Effect::None => {}
            Effect::Facts => {
                if self.facts.freshness() != Freshness::Loading {
                    let now = Instant::now();
                    self.pending = Some((self.pending.map_or(now, |(first, _)| first), now));
                }
            }
            Effect::Freshness => {
                self.waited = false;
                self.refresh();
            }
        }
    }

    /// Marks the zone without building it anew.
    fn refresh(&mut self) {
        let freshness = self.facts.freshness();
        let old = self.published.load();
        if freshness == Freshness::Loading || old.zone.freshness() == freshness {
            return;
        }
        let zone = old.zone.with_freshness(freshness);
        self.publish(Published { zone, built: old.built, took: old.took, stale_since: None });
    }

    /// Lays the names of zone files over the rows' as they are.
    fn lay(&mut self) {
        let fixed = self.fixed.borrow_and_update().clone();
        let old = self.published.load();
        let zone = old.zone.clone().with_fixed(&fixed);
        self.publish(Published { zone, built: old.built, took: old.took, stale_since: None });
    }

    /// Builds: here if little changed, else on a blocking thread, where the zone before is taken apart as well. Both are
    /// computing, and other tasks of this worker have answers to give; but a thread that has to be woken for half a millisecond
    /// of work comes later than the work is done.
    async fn rebuild(mut self) -> Result<Self, FollowError> {
        self.pending = None;
        self.waited = self.facts.freshness() == Freshness::Stale;
        self.whole.give_up();
        self.generation += 1;
        let changes = self.facts.take_changes();
        if changes.are_few() {
            return Ok(self.build(changes));
        }
        tokio::task::spawn_blocking(move || self.build(changes)).await.map_err(|_| FollowError::Build)
    }

    fn build(mut self, changes: Changes) -> Self {
        let begun = Instant::now();
        let fixed = self.fixed.borrow().clone();
        let zone = Zone::next(&mut self.builder, &self.facts, changes, self.generation).with_fixed(&fixed);
        let (built, took) = (Instant::now(), begun.elapsed());
        self.publish(Published { zone, built, took, stale_since: None });
        self
    }

    fn publish(&self, mut next: Published) {
        let last = self.published.load();
        let (was, is) = (last.zone.freshness(), next.zone.freshness());
        next.stale_since = match is {
            Freshness::Stale => last.stale_since.or_else(|| Some(SystemTime::now())),
            Freshness::Loading | Freshness::Current => None,
        };
        if was != is {
            tracing::info!(from = ?was, to = ?is, generation = next.zone.generation(), "zone freshness changed");
        }
        let ((problems, count), (before, count_before)) = (next.zone.problems(), last.zone.problems());
        if count != count_before {
            tracing::info!(problems = count, "rows left out of the zone");
        }
        // What is wrong with one row of the cluster's is wrong with all of DNS.
        let of_cluster = |one: &&Problem| one.table == Table::Metadata && !before.contains(one);
        for Problem { key, reason, .. } in problems.iter().filter(of_cluster) {
            tracing::warn!(key, reason, "of cluster_metadata something is left out");
        }
        self.published.store(Arc::new(next));
    }
}

#[cfg(test)]
mod tests;
