//! Response rate limiting: a bound on what one network is sent by UDP, so that nobody is flooded with answers to
//! questions that others asked in its name. Pure: the time comes in.
//!
//! Who is over the bound is sent every second answer empty and cut (TC), which asks it to come by TCP, where an address
//! cannot be forged; the other answers are not sent. Private networks are not limited: a forged source among them is
//! somebody who is in the house already. Nor is who proves by a cookie that it is there.
//!
//! Each network has one number: until when what it was sent so far fills its rate ("generic cell rate algorithm"). The
//! table never grows: where it is full of networks that are over their rate, the one that is least so is forgotten.

use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::num::NonZeroU32;

use foldhash::fast::RandomState;

/// Networks that are remembered, by worker: 64 KiB. A flood in the name of more networks than this gets each of them a
/// burst of answers now and then, some thousandth of what it would be without a bound.
const NETWORKS: usize = 4096;
/// Networks that compete for one place: as many as a cache line holds.
const WAYS: usize = 4;
/// Nanoseconds for which a network may save up what it does not use.
const BURST: u64 = 1_000_000_000;

/// Answers to one network.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    /// Which network; collisions share a bucket, one pair in 2^32.
    tag: u32,
    /// Counts what was over the bound: every second one is cut, the others are dropped.
    over: u32,
    /// Nanoseconds until which the rate is used up.
    full_until: u64,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
struct Set([Bucket; WAYS]);

/// What may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// The answer.
    Pass,
    /// An empty one, cut.
    Cut,
    Drop,
}

/// The bounds of one worker.
#[derive(Debug)]
pub(crate) struct Limiter {
    sets: Box<[Set]>,
    hasher: RandomState,
    /// Nanoseconds that one answer fills.
    each: u64,
}

impl Limiter {
    /// So many answers a second for each /24 and /56.
    pub(crate) fn new(rate: NonZeroU32) -> Self {
        let sets = vec![Set::default(); NETWORKS / WAYS].into();
        Self { sets, hasher: RandomState::default(), each: 1_000_000_000 / u64::from(rate.get()) }
    }

    /// Whether another answer may go to this address, `now` nanoseconds after any moment before all of them.
    pub(crate) fn take(&mut self, source: IpAddr, now: u64) -> Limit {
        let hash = self.hasher.hash_one(network(source));
        let (place, tag) = (hash as usize % self.sets.len(), (hash >> 32) as u32);
        let set = &mut self.sets[place].0;
        let known = set.iter().position(|bucket| bucket.tag == tag);
        let least = || (0..WAYS).min_by_key(|way| set[*way].full_until).unwrap_or(0);
        let way = known.unwrap_or_else(least);
        let bucket = &mut set[way];
        if known.is_none() {
            *bucket = Bucket { tag, ..Bucket::default() };
        }
        let until = bucket.full_until.max(now) + self.each;
        if until <= now + BURST {
            bucket.full_until = until;
            return Limit::Pass;
        }
        bucket.over = bucket.over.wrapping_add(1);
        if bucket.over % 2 == 1 { Limit::Cut } else { Limit::Drop }
    }
}

/// The network that an address counts for: its /24 or /56.
fn network(source: IpAddr) -> (u8, u64) {
    match source {
        IpAddr::V4(v4) => (4, u64::from(v4.to_bits() >> 8)),
        IpAddr::V6(v6) => (6, (v6.to_bits() >> 72) as u64),
    }
}

/// Whether an address is of a private network, of this link or of this host.
pub(crate) fn is_private(source: IpAddr) -> bool {
    match source.to_canonical() {
        IpAddr::V4(v4) => {
            // RFC 6598: 100.64.0.0/10, between a provider and its customers; meshes use it as well.
            let shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64;
            v4.is_private() || v4.is_loopback() || v4.is_link_local() || shared
        }
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_loopback() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn rate(each_second: u32) -> NonZeroU32 {
        NonZeroU32::new(each_second).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn passed(limiter: &mut Limiter, source: &str, now: u64, asked: usize) -> usize {
        (0..asked).filter(|_| limiter.take(ip(source), now) == Limit::Pass).count()
    }

    #[test]
    fn a_network_gets_its_rate_and_no_more() {
        let mut limiter = Limiter::new(rate(100));
        assert_eq!(passed(&mut limiter, "192.0.2.1", SECOND, 300), 100, "what a second saves up");
        assert_eq!(passed(&mut limiter, "192.0.2.200", SECOND, 10), 0, "of the same /24");
        assert_eq!(passed(&mut limiter, "192.0.3.1", SECOND, 10), 10, "of another");
        assert_eq!(passed(&mut limiter, "192.0.2.1", SECOND + SECOND / 10, 300), 10);
        assert_eq!(passed(&mut limiter, "192.0.2.1", 60 * SECOND, 300), 100);
        assert_eq!(passed(&mut limiter, "2001:db8:0:100::1", SECOND, 300), 100);
        assert_eq!(passed(&mut limiter, "2001:db8:0:1ff::1", SECOND, 10), 0, "of the same /56");
        assert_eq!(passed(&mut limiter, "2001:db8:0:200::1", SECOND, 10), 10);
    }

    #[test]
    fn every_second_answer_over_the_rate_is_cut_and_the_others_are_dropped() {
        let mut limiter = Limiter::new(rate(1));
        let limits: Vec<Limit> = (0..5).map(|_| limiter.take(ip("192.0.2.1"), 0)).collect();
        assert_eq!(limits, [Limit::Pass, Limit::Cut, Limit::Drop, Limit::Cut, Limit::Drop]);
    }

    #[test]
    fn a_flood_in_the_name_of_many_networks_is_bounded_in_memory_and_mostly_dropped() {
        let mut limiter = Limiter::new(rate(1));
        let networks = 2 * NETWORKS as u32;
        let mut passed = 0;
        for round in 0..100 {
            for network in 0..networks {
                let source = IpAddr::from(((network << 8) | 0x0100_0000).to_be_bytes());
                passed += u32::from(limiter.take(source, round * SECOND / 100) == Limit::Pass);
            }
        }
        // A tenth: those that find their bucket are held to their rate, the others push each other out.
        assert!(passed < 100 * networks, "{passed} of {}", 100 * networks);
        assert_eq!(limiter.sets.len() * WAYS, NETWORKS);
    }

    #[test]
    fn private_networks_are_told_from_others() {
        for private in
            ["10.1.2.3", "172.16.0.1", "192.168.1.1", "127.0.0.2", "100.64.0.1", "169.254.1.1", "fd00::1", "::1"]
        {
            assert!(is_private(ip(private)), "{private}");
        }
        assert!(is_private(ip("::ffff:10.0.0.1")));
        for public in ["192.0.2.1", "100.128.0.1", "172.32.0.1", "2001:db8::1"] {
            assert!(!is_private(ip(public)), "{public}");
        }
    }
}
