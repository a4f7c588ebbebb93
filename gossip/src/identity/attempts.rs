//! How often one address may try to join: guessing a secret of 128 bits is hopeless, and checking a guess costs us a
//! signature.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(60);

/// Attempts of one address in a minute: a person who mistypes makes three.
const EACH: u32 = 10;

/// Addresses that are counted. With more of them in one minute this is an attack, and who is not counted yet is refused.
const ADDRESSES: usize = 1_024;

/// The attempts of the current minute.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    since: Option<Instant>,
    made: BTreeMap<IpAddr, u32>,
}

impl Attempts {
    /// Counts an attempt; returns whether it may be made.
    pub(super) fn may(&mut self, address: IpAddr, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.duration_since(since) >= WINDOW) {
            self.since = Some(now);
            self.made.clear();
        }
        if !self.made.contains_key(&address) && self.made.len() >= ADDRESSES {
            return false;
        }
        let made = self.made.entry(address).or_default();
        *made = made.saturating_add(1);
        *made <= EACH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_ten_attempts_a_minute_and_a_flood_of_addresses_has_none() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let address = |n: u16| IpAddr::from([10, 0, (n >> 8) as u8, n as u8]);
        assert_eq!((0..100).filter(|_| attempts.may(address(1), now)).count(), EACH as usize);
        assert!(attempts.may(address(2), now));
        assert_eq!((2..5_000).filter(|&n| attempts.may(address(n), now)).count(), ADDRESSES - 1);
        assert!(attempts.may(address(1), now + WINDOW));
    }
}
