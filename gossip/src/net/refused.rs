//! Who refused whom of late, for whoever asks why a peer is not heard though its port answers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::refusal::Refusal;

/// For how long it is told. Whoever belongs is dialled every few seconds, so it is told until it is over.
const TOLD_FOR: Duration = Duration::from_secs(30);
/// Addresses that are remembered. With more at once (a scan, forged sources) the rest is not.
const ADDRESSES: usize = 256;

/// The last refusal at each address.
#[derive(Default)]
pub(super) struct Refused(Mutex<BTreeMap<SocketAddr, (Refusal, Instant)>>);

impl Refused {
    pub(super) fn note(&self, refusal: Refusal, address: SocketAddr) {
        let (mut refused, now) = (self.0.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
        if refused.len() >= ADDRESSES {
            refused.retain(|_, (_, at)| now.duration_since(*at) < TOLD_FOR);
        }
        if refused.len() < ADDRESSES || refused.contains_key(&address) {
            refused.insert(address, (refusal, now));
        }
    }

    /// Those of late.
    pub(super) fn of_late(&self) -> Vec<(SocketAddr, Refusal)> {
        let refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_late = refused.iter().filter(|(_, (_, at))| at.elapsed() < TOLD_FOR);
        of_late.map(|(address, (refusal, _))| (*address, *refusal)).collect()
    }
}
