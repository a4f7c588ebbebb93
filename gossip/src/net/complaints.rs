//! Once per address, or peer, and minute: a host that keeps trying with the wrong certificate must be seen, and must not fill
//! the log; nor must a disk that is dead for a night.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_secs(60);

/// Addresses that are remembered. With more at once (a scan, forged sources) the rest goes unsaid until the minute is
/// over; the counter still counts them.
const ADDRESSES: usize = 1024;

pub(super) struct Complaints<K>(Mutex<BTreeMap<K, Instant>>);

impl<K> Default for Complaints<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord> Complaints<K> {
    /// Whether something is to be said about this one.
    pub(super) fn due(&self, about: K) -> bool {
        self.due_at(about, Instant::now())
    }

    fn due_at(&self, about: K, now: Instant) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.get(&about).is_some_and(|&at| now.duration_since(at) < EVERY) {
            return false;
        }
        if said.len() >= ADDRESSES {
            said.retain(|_, at| now.duration_since(*at) < EVERY);
        }
        let due = said.len() < ADDRESSES;
        if due {
            said.insert(about, now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn an_address_is_named_once_a_minute() {
        let complaints = Complaints::<SocketAddr>::default();
        let now = Instant::now();
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        assert!(complaints.due_at(address(1), now));
        assert!(!complaints.due_at(address(1), now + EVERY / 2));
        assert!(complaints.due_at(address(2), now + EVERY / 2));
        assert!(complaints.due_at(address(1), now + EVERY));
    }

    #[test]
    fn a_flood_of_addresses_is_cut_off_until_the_minute_is_over() {
        let complaints = Complaints::<SocketAddr>::default();
        let now = Instant::now();
        let said = (1..=5000).filter(|&port| complaints.due_at(([127, 0, 0, 1], port).into(), now)).count();
        assert_eq!(said, ADDRESSES);
        assert!(complaints.due_at(([127, 0, 0, 2], 1).into(), now + EVERY));
    }
}
