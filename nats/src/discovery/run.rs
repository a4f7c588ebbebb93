//! The loop itself: one task owns peers, documents and the file.

use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::check::Check;
use super::desk::Desk;
use super::observe::{Observed, observe};
use super::{Ask, News, Sources};
use crate::peers::{Kept, Peers};
use crate::render::{Document, Settings};
use crate::resolve::Dns;
use crate::shape::{Place, Shape};

/// The longest time between two looks at DNS.
const PERIOD: Duration = Duration::from_secs(5);
/// The shortest, for records that say they hold for less.
const SHORTEST: Duration = Duration::from_secs(1);

pub(super) struct Loop<D, C> {
    place: Place,
    settings: Box<dyn FnMut() -> Result<Settings, String> + Send>,
    dns: D,
    kept: Kept,
    peers: Peers,
    desk: Desk<C>,
    asked: mpsc::Receiver<Ask>,
}

impl<D: Dns, C: Check> Loop<D, C> {
    pub(super) fn new(
        sources: Sources,
        check: C,
        dns: D,
        says: watch::Sender<News>,
        asked: mpsc::Receiver<Ask>,
    ) -> Self {
        let Sources { place, settings, file, mut kept, .. } = sources;
        let peers = kept.read().unwrap_or_else(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "the last peers are not known");
            Peers::default()
        });
        Self { place, settings, dns, kept, peers, desk: Desk::new(file, check, says), asked }
    }

    /// Until the token is cancelled or the runner is gone.
    pub(super) async fn run(mut self, token: CancellationToken) {
        // What was known is enough to start with, whatever DNS says and however long it takes.
        self.want().await;
        let mut rest = Duration::ZERO;
        while let Some(observed) = self.observed(rest, &token).await {
            rest = observed.ttl.unwrap_or(PERIOD).clamp(SHORTEST, PERIOD);
            self.desk.heard(observed.trouble.as_deref());
            let now: Instant = tokio::time::Instant::now().into_std();
            observed.into_peers(&mut self.peers, self.place.region.as_ref(), now);
            self.want().await;
            self.keep();
        }
    }

    /// The next look at DNS, after a rest; the runner is answered meanwhile. None at the end.
    async fn observed(&mut self, rest: Duration, token: &CancellationToken) -> Option<Observed> {
        self.dns.refresh();
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
            self.desk.answer(ask);
        }
    }

    /// Wants what the peers make of this place.
    async fn want(&mut self) {
        let shape = match Shape::of(&self.place, &self.peers) {
            Ok(shape) => shape,
            Err(unknown) => return self.desk.wait(unknown),
        };
        match (self.settings)() {
            Ok(settings) => self.desk.want(Document::of(&settings, &shape), shape.others(self.place.address)).await,
            Err(reason) => self.desk.unreadable(&reason),
        }
    }

    fn keep(&mut self) {
        if let Err(error) = self.kept.write(&self.peers) {
            tracing::warn!(error = &error as &dyn std::error::Error, "the peers are not kept on disk");
        }
    }
}
