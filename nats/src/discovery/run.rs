//! The loop itself: one task owns peers, documents and the file.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::check::Check;
use super::desk::Desk;
use super::observe::{Heard, Observed, observe};
use super::{Ask, News, Read, Sources};
use crate::blocking::blocking;
use crate::peers::{Kept, Peers};
use crate::render::Document;
use crate::resolve::Dns;
use crate::shape::{Place, Shape, Standing, Unknown};

/// The longest time between two looks at DNS.
pub(crate) const PERIOD: Duration = Duration::from_secs(5);
/// The shortest, for records that say they hold for less.
const SHORTEST: Duration = Duration::from_secs(1);
/// How long after its start a server looks as often as it may: those that are started with it are not all in DNS yet.
const EARLY: Duration = Duration::from_secs(60);
/// The time between two looks while the first list is waited for, or settles, in that minute: it is a part of how long all wait for the last one.
const SETTLING: Duration = Duration::from_millis(250);
/// How long the first list of peers has to stay the same before a server is started with it for the first time: in several looks, and longer
/// than rows of servers that are started together take to all names, which is tenths of a second. A server that comes later joins the group.
const SETTLES: Duration = Duration::from_secs(2);

pub(super) struct Loop<D, C> {
    place: Place,
    settings: Read,
    dns: D,
    kept: Kept,
    peers: Peers,
    first: First,
    begun: Instant,
    desk: Desk<C>,
    asked: mpsc::Receiver<Ask>,
}

/// The first start of a clustered server with an empty store. JetStream's group forms when all servers that are configured
/// then have come, and of two lists that know nothing of each other two groups would form, which never become one.
///
/// ```text
/// Unheard ─► Since(shape, when) ─┬─► the same for SETTLES ─► Over
///                    ▲           │
///                    └─ another ─┘
/// ```
enum First {
    Unheard,
    Since(Shape, Instant),
    Over,
}

impl<D: Dns, C: Check> Loop<D, C> {
    pub(super) fn new(
        sources: Sources,
        check: C,
        dns: D,
        says: watch::Sender<News>,
        asked: mpsc::Receiver<Ask>,
    ) -> Self {
        let Sources { place, settings, file, kept, .. } = sources;
        let (peers, first) = (Peers::default(), First::Unheard);
        Self { place, settings, dns, kept, peers, first, begun: now(), desk: Desk::new(file, check, says), asked }
    }

    /// Until the token is cancelled or the runner is gone.
    pub(super) async fn run(mut self, token: CancellationToken) {
        // What was known is enough to start with, whatever DNS says and however long it takes.
        self.remember().await;
        self.want().await;
        let mut rest = Duration::ZERO;
        while let Some(observed) = self.observed(rest, &token).await {
            let ttl = observed.ttl.unwrap_or(PERIOD);
            self.desk.heard(observed.trouble.as_deref());
            self.count(observed.heard);
            observed.into_peers(&mut self.peers, self.place.region.as_ref(), now());
            self.want().await;
            self.keep().await;
            rest = self.rest(ttl);
        }
    }

    /// Knows what an earlier life has kept.
    async fn remember(&mut self) {
        self.peers = self.kept.read().await.unwrap_or_else(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "the last peers are not known");
            Peers::default()
        });
        if self.place.standing != Standing::Clustered || self.peers != Peers::default() {
            self.first = First::Over;
        }
    }

    /// A look without some answers says of those names what the look before has said. So that such looks are not taken for a list that
    /// stays the same, time begins anew; after a minute, one that has no answer for some name for good is enough.
    fn count(&mut self, heard: Heard) {
        if heard == Heard::Some && self.is_early() && matches!(self.first, First::Since(..)) {
            self.first = First::Unheard;
        }
    }

    fn is_early(&self) -> bool {
        now().saturating_duration_since(self.begun) < EARLY
    }

    /// How long to rest after an answer that holds for so long.
    fn rest(&self, ttl: Duration) -> Duration {
        match self.first {
            First::Unheard | First::Since(..) if self.is_early() => SETTLING,
            // A list that never settles is asked for no more often than any other.
            First::Unheard | First::Since(..) => SHORTEST,
            First::Over if self.is_early() => SHORTEST,
            First::Over => ttl.clamp(SHORTEST, PERIOD),
        }
    }

    /// The next look at DNS, after a rest; the runner is answered meanwhile. None at the end.
    async fn observed(&mut self, rest: Duration, token: &CancellationToken) -> Option<Observed> {
        self.dns.refresh().await;
        let known = self.peers.regions.iter().cloned().collect();
        // Dropped half way, it is asked again in the next pass: nothing was changed yet.
        let mut look = pin!(async {
            tokio::time::sleep(rest).await;
            observe(&self.dns, &self.place, known).await
        });
        loop {
            let ask = tokio::select! {
                () = token.cancelled() => return None,
                // A channel: what is not received stays in it.
                ask = self.asked.recv() => ask?,
                observed = &mut look => return Some(observed),
            };
            self.desk.answer(ask).await;
        }
    }

    /// Wants what the peers make of this place.
    async fn want(&mut self) {
        let shape = match Shape::of(&self.place, &self.peers).and_then(|shape| self.settled(shape)) {
            Ok(shape) => shape,
            Err(unknown) => return self.desk.wait(unknown),
        };
        let settings = Arc::clone(&self.settings);
        match blocking(move || settings()).await {
            Ok(settings) => {
                let clients = shape.clients(self.place.address, self.place.ports.client);
                let named = shape.named(self.place.address);
                self.desk.want(Document::of(&settings, &shape), named, clients).await;
            }
            Err(reason) => self.desk.unreadable(&reason),
        }
    }

    fn settled(&mut self, shape: Shape) -> Result<Shape, Unknown> {
        match &self.first {
            First::Over => return Ok(shape),
            First::Since(before, since) if *before == shape => {
                if now().saturating_duration_since(*since) < SETTLES {
                    return Err(Unknown::Settling);
                }
                self.first = First::Over;
                return Ok(shape);
            }
            First::Unheard | First::Since(..) => {}
        }
        self.first = First::Since(shape, now());
        Err(Unknown::Settling)
    }

    /// Once there was a list to start with: peers on disk say that this is not the first start.
    async fn keep(&mut self) {
        if !matches!(self.first, First::Over) {
            return;
        }
        if let Err(error) = self.kept.write(&self.peers).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the peers are not kept on disk");
        }
    }
}

/// The runtime's clock, which tests turn.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
