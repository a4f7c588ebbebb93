//! How often somebody may write: a bucket for each token's user and for each address.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Buckets of one kind. When there are more, those that are full again are dropped, and if none is, all are: for a moment
/// everybody may write, which is better than that nobody may, or that memory grows.
const BUCKETS: usize = 65_536;
/// A bucket holds what comes in this many seconds.
const BURST_SECS: f64 = 2.0;

/// How often somebody may write, a second; none: as often as he likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// For each token's user.
    pub token: Option<NonZeroU32>,
    /// For each address.
    pub address: Option<NonZeroU32>,
}

impl Default for Rates {
    fn default() -> Self {
        Self { token: NonZeroU32::new(50), address: NonZeroU32::new(1_000) }
    }
}

/// All buckets.
#[derive(Debug)]
pub(crate) struct Limits {
    rates: Rates,
    tokens: Mutex<HashMap<String, Bucket>>,
    addresses: Mutex<HashMap<IpAddr, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Limits {
    pub(crate) fn new(rates: Rates) -> Self {
        Self { rates, tokens: Mutex::default(), addresses: Mutex::default() }
    }

    /// A write of this address, whoever it is of. The error is after how many seconds there may be another.
    pub(crate) fn address(&self, address: IpAddr) -> Result<(), u64> {
        take(&self.addresses, address, self.rates.address, Instant::now())
    }

    /// A write by a token of this user.
    pub(crate) fn token(&self, sub: &str) -> Result<(), u64> {
        take(&self.tokens, sub.to_owned(), self.rates.token, Instant::now())
    }
}

fn take<K: Eq + Hash>(
    buckets: &Mutex<HashMap<K, Bucket>>,
    key: K,
    rate: Option<NonZeroU32>,
    now: Instant,
) -> Result<(), u64> {
    let Some(rate) = rate.map(|rate| f64::from(rate.get())) else { return Ok(()) };
    let full = rate * BURST_SECS;
    let mut buckets = buckets.lock().unwrap_or_else(PoisonError::into_inner);
    let level = |bucket: &Bucket| (bucket.left + now.duration_since(bucket.at).as_secs_f64() * rate).min(full);
    if buckets.len() >= BUCKETS && !buckets.contains_key(&key) {
        buckets.retain(|_, bucket| level(bucket) < full);
        if buckets.len() >= BUCKETS {
            buckets.clear();
        }
    }
    let bucket = buckets.entry(key).or_insert(Bucket { left: full, at: now });
    *bucket = Bucket { left: level(bucket), at: now };
    if bucket.left < 1.0 {
        return Err(((1.0 - bucket.left) / rate).ceil().max(1.0) as u64);
    }
    bucket.left -= 1.0;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_writes_too_often_waits_and_nobody_else() {
        let (buckets, rate, begun) = (Mutex::default(), NonZeroU32::new(10), Instant::now());
        for _ in 0..20 {
            assert_eq!(take(&buckets, 1, rate, begun), Ok(()));
        }
        assert_eq!(take(&buckets, 1, rate, begun), Err(1));
        assert_eq!(take(&buckets, 2, rate, begun), Ok(()));
        assert_eq!(take(&buckets, 1, rate, begun + Duration::from_millis(101)), Ok(()));
        assert_eq!(take(&buckets, 1, None, begun), Ok(()));
    }

    #[test]
    fn a_flood_of_addresses_takes_no_more_memory_than_is_written() {
        let (buckets, rate, begun) = (Mutex::default(), NonZeroU32::new(10), Instant::now());
        for address in 0..BUCKETS + 10 {
            assert_eq!(take(&buckets, address, rate, begun), Ok(()));
        }
        assert!(buckets.lock().unwrap().len() <= BUCKETS);
    }
}
