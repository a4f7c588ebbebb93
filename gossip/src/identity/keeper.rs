//! Keeps this node's certificate in force, and serves those who want one, where the authority's key is.
//!
//! From 30 days before the end a new certificate is asked for, of every connected node until one has the authority's key.
//! It takes the place of the old one for handshakes to come; connections that are open know nothing of it. An alarm is
//! raised only once that has failed.

use std::time::Duration;

use kith_gossip_proto::NodeId;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::desk::Desk;
use super::{Identity, Stage, certificate_of};
use crate::chain::Chain;
use crate::net::driver::{self, BUSY};
use crate::net::{Ask, Asker, Close, Kind, Net};
use crate::retry::Retry;

/// How often the certificate's end is looked at. A clock that jumps is noticed within this.
const LOOK_EVERY: Duration = Duration::from_secs(600);

/// The first and the longest wait after a renewal that failed: the peers of a node that has just started are there in a
/// second, an authority's node that is down may be so for days.
const FIRST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(3_600);

/// How often an alarm is said again in the log.
const SAY_EVERY: Duration = Duration::from_secs(86_400);

/// Wishes that are served at once; each takes a signature and, of newcomers, a commit. Further ones are turned away.
const AT_ONCE: usize = 8;

/// How long a peer may take to renew, and all of them together: those who cannot say so at once.
const PATIENCE: Duration = Duration::from_secs(5);
const PATIENCE_WITH_ALL: Duration = Duration::from_secs(30);

/// The most bytes of a certificate.
const CERTIFICATE_MAX: usize = 16 << 10;

/// The task that keeps it.
pub(crate) struct Keeper {
    identity: Identity,
    net: Net,
    /// Where the authority's key is.
    desk: Option<Desk>,
    asks: mpsc::Receiver<Ask>,
    alarm: watch::Sender<Stage>,
    retry: Retry,
    /// The stage that was last said, and when.
    said: Option<(Stage, Instant)>,
}

impl Keeper {
    pub(crate) fn new(identity: Identity, net: Net, desk: Option<Desk>, asks: mpsc::Receiver<Ask>) -> Self {
        let (alarm, retry) = (watch::Sender::new(Stage::InForce), Retry::new(FIRST, LONGEST));
        Self { identity, net, desk, asks, alarm, retry, said: None }
    }

    /// The stage that is worth an alarm; [`Stage::InForce`] for none.
    pub(crate) fn alarm(&self) -> watch::Receiver<Stage> {
        self.alarm.subscribe()
    }

    /// Works until the token is cancelled.
    pub(crate) async fn run(mut self, token: CancellationToken) {
        let mut serving = JoinSet::new();
        if let Some(desk) = &self.desk {
            desk.enter_ourselves().await;
        }
        let mut next = Instant::now();
        loop {
            // Cancel-safe: recv takes nothing that it does not return, join_next keeps its tasks, the rest only waits.
            tokio::select! {
                () = token.cancelled() => break,
                ask = self.asks.recv() => match (ask, &self.desk) {
                    (Some(ask), Some(desk)) if serving.len() < AT_ONCE => drop(serving.spawn(desk.clone().serve(ask))),
                    (Some(ask), _) => self.turn_away(ask),
                    // The network has ended, and with it the node.
                    (None, _) => break,
                },
                Some(joined) = serving.join_next(), if !serving.is_empty() => driver::report(joined),
                () = sleep_until(next) => {
                    // Cancel-safe: a renewal that is dropped has either replaced the certificate or not begun to.
                    let again = tokio::select! {
                        () = token.cancelled() => break,
                        again = self.tend() => again,
                    };
                    next = Instant::now() + again;
                }
            }
        }
        serving.shutdown().await;
    }

    /// Renews if it is due; returns when to look again.
    pub(crate) async fn tend(&mut self) -> Duration {
        let stage = || self.identity.validity().stage(self.identity.clock().now());
        if stage() == Stage::InForce {
            self.alarm.send_replace(Stage::InForce);
            self.said = None;
            return LOOK_EVERY;
        }
        let failed = self.renew().await.err();
        let stage = stage();
        self.alarm.send_replace(stage);
        if stage == Stage::InForce {
            self.net.counters().renewals.inc();
            tracing::info!(days_left = self.days_left(), "the certificate is renewed");
            self.retry.reset();
            self.said = None;
            return LOOK_EVERY;
        }
        self.net.counters().renewals_failed.inc();
        let again = self.said.is_none_or(|(said, at)| said != stage || at.elapsed() >= SAY_EVERY);
        if again {
            self.said = Some((stage, Instant::now()));
            let reason = failed.unwrap_or_else(|| "the authority itself ends".to_owned());
            match stage {
                Stage::Over => tracing::error!(reason, "the certificate is over: open connections stay, new ones fail"),
                _ => tracing::warn!(days_left = self.days_left(), reason, "the certificate cannot be renewed yet"),
            }
        }
        self.retry.delay().min(LONGEST)
    }

    /// Here is no authority, or there is too much to do.
    fn turn_away(&self, ask: Ask) {
        let Ask { who, mut send, mut recv, connection } = ask;
        match who {
            Asker::Newcomer => {
                self.net.counters().joins_refused.inc();
                connection.close(Close::Done.into(), BUSY);
            }
            // Both fail only for a stream that is already closed.
            Asker::Node(_) => drop((send.reset(Close::Unwanted.into()), recv.stop(Close::Unwanted.into()))),
        }
    }

    fn days_left(&self) -> u64 {
        self.identity.validity().left(self.identity.clock().now()).as_secs() / 86_400
    }

    /// A certificate for another term, from our own authority or that of a peer.
    async fn renew(&self) -> Result<(), String> {
        if let Some(desk) = &self.desk {
            let renewed = desk.renew_own().map_err(|error| Chain(&error).to_string())?;
            return self.identity.renew(renewed).map_err(|error| Chain(&error).to_string());
        }
        let mut reason = "no other node is connected".to_owned();
        let until = Instant::now() + PATIENCE_WITH_ALL;
        for node in self.net.nodes().into_iter().take_while(|_| Instant::now() < until) {
            match timeout(PATIENCE, self.ask(&node)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(Refused::NotThere)) => reason = "no connected node has the authority's key".to_owned(),
                Ok(Err(Refused::Unusable(why))) => return Err(format!("{node}: {why}")),
                Err(_) => reason = format!("{node} did not answer within {} s", PATIENCE.as_secs()),
            }
        }
        Err(reason)
    }

    async fn ask(&self, node: &NodeId) -> Result<(), Refused> {
        let not_there = |_| Refused::NotThere;
        let connection = self.net.connection(node).ok_or(Refused::NotThere)?;
        let (mut send, mut recv) = connection.open_bi().await.map_err(|_| Refused::NotThere)?;
        send.write_all(&[Kind::Renewal as u8]).await.map_err(|_| Refused::NotThere)?;
        // Fails only for a stream that is closed, which the read finds out.
        drop(send.finish());
        let pem = recv.read_to_end(CERTIFICATE_MAX).await.map_err(not_there)?;
        if pem.is_empty() {
            return Err(Refused::NotThere);
        }
        let pem = String::from_utf8_lossy(&pem);
        let certificate = certificate_of(&pem).ok_or_else(|| Refused::Unusable("it sent no certificate".to_owned()))?;
        self.identity.renew(certificate).map_err(|error| Refused::Unusable(Chain(&error).to_string()))
    }
}

/// Why a peer has not renewed.
enum Refused {
    NotThere,
    Unusable(String),
}
