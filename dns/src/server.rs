//! Sockets: datagrams and streams, bound early, served until told to stop. All that is decided about a query is decided
//! by the answerer; what is here moves bytes and keeps limits.

mod batch;
mod bind;
mod bridge;
mod desks;
mod limit;
mod lister;
mod networks;
mod round;
mod slow;
mod stream;
mod tcp;
mod tls;
mod worker;

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::{ArcSwap, Guard};

use crate::access::Access;
use crate::answer::{self, Asked, AtOnce, Outcome, Tally, message};
use crate::cookie::Cookies;
use crate::forward::{Front, Recursion};
use crate::seats::Seats;
use crate::status::{Counters, Published};
use crate::tap::Tap;
use crate::zone::Zone;
use slow::{Handed, Question, ReplyTo};

pub(crate) use bind::{Bound, bind, tcp as bind_tcp};
pub(crate) use bridge::BridgeWatch;
pub(crate) use desks::{Desks, who_may_ask};
pub(crate) use lister::Lister;
pub(crate) use networks::NetworkWatch;
pub(crate) use slow::{Answerer, Queue, Replied, Slow, slow};
pub(crate) use tcp::{Wire, serve as serve_tcp};
pub use tls::TlsError;
pub(crate) use tls::{Certificate, CertificateWatch};
pub(crate) use worker::Worker;

/// What a listener answers with.
#[derive(Debug, Clone)]
pub(crate) struct Desk {
    pub(crate) published: Arc<ArcSwap<Published>>,
    pub(crate) all: Arc<[Counters]>,
    /// The place of this listener's own counters.
    pub(crate) mine: usize,
    /// The place of a worker among all workers.
    pub(crate) worker: Option<usize>,
    /// Who may ask.
    pub(crate) access: Arc<ArcSwap<Access>>,
    pub(crate) cluster: Cluster,
    /// Room for connections, of this listener and all others.
    pub(crate) connections: Seats,
    pub(crate) cookies: Cookies,
    /// Answers a second by UDP for each network that is not private, by this worker; `None`: without a bound.
    pub(crate) rate: Option<NonZeroU32>,
    /// Who looks at what is answered.
    pub(crate) tap: Tap,
    /// Where questions go whose answer takes time.
    pub(crate) slow: Option<Queue>,
    /// What becomes of names that are not ours.
    pub(crate) foreign: Foreign,
    /// What is known of them without asking anybody.
    pub(crate) front: Option<Arc<Front>>,
}

/// Whether the ranges of the cluster that the zone knows may ask beside who may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cluster {
    Heard,
    /// The networks that may ask are configured: no others.
    Unheard,
}

/// What becomes of names that are not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Foreign {
    /// They go to the slow path.
    Forwarded,
    Refused,
}

/// Whether there is something to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    Send,
    Nothing,
    /// The slow path is to answer: not before it is handed over.
    Later,
    /// The slow path is to add to the reply what its alias leads to, or to make a list: not before it is handed over.
    Onward,
}

impl Desk {
    /// The zone to answer from, for one query or one batch of them.
    fn published(&self) -> Guard<Arc<Published>> {
        self.published.load()
    }

    /// Whether who is at this address may ask.
    fn hears(&self, access: &Access, zone: &Zone, source: IpAddr) -> bool {
        access.has(source) || self.cluster == Cluster::Heard && zone.has_subnet_of(source)
    }

    /// Cookies at this moment.
    fn cookies(&self) -> Cookies {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.cookies.at(now.as_secs() as u32)
    }

    /// Answers one query into `out`.
    fn answer(&self, published: &Published, asked: &Asked<'_>, out: &mut Vec<u8>) -> Reply {
        let zone = &published.zone;
        let outcome = match answer::answer_at_once(zone, asked, out) {
            AtOnce::Done(outcome) => outcome,
            AtOnce::Unmade(_) if self.slow.is_some() => return Reply::Onward,
            AtOnce::Unmade(_) => answer::answer(zone, asked, out),
        };
        match outcome {
            Outcome::Foreign(_) if self.foreign == Foreign::Forwarded => {
                match self.front.as_ref().and_then(|front| front.special(zone, asked, out)) {
                    Some(tally) => self.send(zone, asked, tally, out),
                    None => Reply::Later,
                }
            }
            Outcome::Onward(_) if self.foreign == Foreign::Forwarded => Reply::Onward,
            // Where nothing forwards, it is said what is known here.
            Outcome::Answer(tally) | Outcome::Foreign(tally) | Outcome::Onward(tally) => {
                self.send(zone, asked, tally, out)
            }
            Outcome::Drop => {
                self.counters().add(|counters| &counters.dropped, 1);
                Reply::Nothing
            }
        }
    }

    /// Counts a reply, and says in it whether this client may ask for other names as well.
    fn send(&self, zone: &Zone, asked: &Asked<'_>, tally: Tally, out: &mut [u8]) -> Reply {
        self.counters().count(&tally);
        if self.front.as_ref().is_some_and(|front| front.recursion(zone, asked.source) == Recursion::Available) {
            message::set_recursion_available(out);
        }
        Reply::Send
    }

    /// Hands a query over to the slow path, with the reply in `out` of who does not forward, which is empty where a list is to be
    /// made; its own goes where it is told.
    /// Where it takes no more, `out` says so.
    fn hand_over(&self, published: &Published, asked: &Asked<'_>, reply_to: ReplyTo, out: &mut Vec<u8>) -> Reply {
        let Some(slow) = &self.slow else { return Reply::Nothing };
        if slow.offer(Question::new(asked, out, self.worker), reply_to) == Handed::Over {
            return Reply::Later;
        }
        self.counters().add(|counters| &counters.overflows, 1);
        match answer::overloaded(&published.zone, asked, out) {
            Some(tally) => self.send(&published.zone, asked, tally, out),
            None => Reply::Nothing,
        }
    }

    fn counters(&self) -> &Counters {
        &self.all[self.mine]
    }
}

#[cfg(test)]
mod tests {
    use crate::testing;

    #[test]
    fn the_cluster_is_heard_where_nobody_is_named_who_may_ask() {
        let hears = |desk: super::Desk, source: &str| {
            desk.hears(&desk.access.load(), &desk.published().zone, source.parse().unwrap())
        };
        assert!(hears(testing::desk([], 0), "fdcc::7"));
        assert!(!hears(testing::desk(["10.0.0.0/8"], 0), "fdcc::7"));
        assert!(hears(testing::desk(["10.0.0.0/8"], 0), "10.7.0.1"));
    }
}
