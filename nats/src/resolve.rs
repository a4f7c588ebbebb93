//! What DNS says of one name: records, nothing, or no answer. Which of the three it is decides what becomes of peers, so
//! no caller can take one for another.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

mod system;

pub use system::{BadResolver, Servers, SystemDns};

/// Most records of one answer that are looked at, in the order of the records themselves, so that each server takes the
/// same ones. Ten times the largest cluster that nats-server is run in: above, an answer is a mistake or an attack.
pub const MOST: usize = 256;

/// What came of one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<T> {
    /// There are records: never none.
    Records(Records<T>),
    /// The name has none of this type, or there is no such name. Said by a server, so it is an answer, but Kith's own DNS
    /// gives it as well when all servers are out of its reach.
    Empty,
    /// No answer.
    Failed(Failure),
}

/// Records of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Records<T> {
    /// At most [`MOST`].
    pub set: BTreeSet<T>,
    /// How many were left out above that.
    pub left_out: usize,
    /// How long they hold.
    pub ttl: Duration,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// Nobody answered in time.
    TimedOut,
    /// A server answered that it cannot, with this rcode, or what it sent is no answer.
    Refused(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::TimedOut => out.write_str("no answer in time"),
            Failure::Refused(why) => out.write_str(why),
        }
    }
}

/// Where a service listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    /// The name of the host, lower-cased, with its last dot.
    pub target: String,
    /// Its port.
    pub port: u16,
    /// Addresses of the target that came with the answer.
    pub addresses: BTreeSet<IpAddr>,
}

/// Who answers. Tests have one of their own.
pub trait Dns: Send + Sync {
    /// Looks whether other servers are to be asked. Called before each pass.
    fn refresh(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
    /// A and AAAA together. Failed if one of the two failed: half a set would look like a smaller one.
    fn addresses(&self, name: &str) -> impl Future<Output = Answer<IpAddr>> + Send;
    /// SRV.
    fn services(&self, name: &str) -> impl Future<Output = Answer<Service>> + Send;
    /// TXT, the strings of each record joined.
    fn texts(&self, name: &str) -> impl Future<Output = Answer<String>> + Send;
}

impl<T: Ord> Answer<T> {
    /// Records, bounded; or empty if there are none.
    pub fn of(found: impl IntoIterator<Item = T>, ttl: Duration) -> Self {
        let mut set: BTreeSet<T> = found.into_iter().collect();
        let left_out = set.len().saturating_sub(MOST);
        while set.len() > MOST {
            set.pop_last();
        }
        if set.is_empty() { Answer::Empty } else { Answer::Records(Records { set, left_out, ttl }) }
    }

    /// Two answers about one name as one.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Answer::Failed(failure), _) | (_, Answer::Failed(failure)) => Answer::Failed(failure),
            (Answer::Empty, one) | (one, Answer::Empty) => one,
            (Answer::Records(one), Answer::Records(two)) => {
                let left_out = one.left_out + two.left_out;
                let ttl = one.ttl.min(two.ttl);
                match Answer::of(one.set.into_iter().chain(two.set), ttl) {
                    Answer::Records(both) => Answer::Records(Records { left_out: both.left_out + left_out, ..both }),
                    other => other,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, Failure, MOST};
    use std::time::Duration;

    const TTL: Duration = Duration::from_secs(5);

    #[test]
    fn half_an_answer_is_a_failure_and_not_a_smaller_set() {
        let some = || Answer::of([1, 2], TTL);
        assert_eq!(some().and(Answer::Failed(Failure::TimedOut)), Answer::Failed(Failure::TimedOut));
        assert_eq!(Answer::Empty.and(some()), some());
        assert_eq!(some().and(Answer::of([2, 3], TTL)), Answer::of([1, 2, 3], TTL));
        assert_eq!(Answer::<u8>::Empty.and(Answer::Empty), Answer::Empty);
    }

    #[test]
    fn a_thousand_records_are_cut_at_the_same_ones_and_counted() {
        let Answer::Records(cut) = Answer::of((0..1_000).rev(), TTL) else { panic!("records") };
        assert_eq!(cut.set, (0..i32::try_from(MOST).expect("small")).collect());
        assert_eq!(cut.left_out, 1_000 - MOST);
    }
}
