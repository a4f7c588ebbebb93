//! What each node says of itself: the keys in gossip.
//!
//! | key | value |
//! |---|---|
//! | `addr` | where others dial it |
//! | `site` | its store, 32 hex digits |
//! | `schema` | the hash of its tables, 16 hex digits |
//! | `state` | the hash of its vector, its digest, and from which day on tombstones are in that: 16, 32 and 8 hex digits; one value, so that they belong together |
//! | `boot_id` | of the host |
//! | `release` | of Kith |
//!
//! Values are an authenticated peer's, but a peer may be of another release: what cannot be read counts as absent.

use std::net::SocketAddr;

pub(crate) use kith_gossip_proto::agreement::Fingerprint as StoreHash;
use kith_gossip_proto::{Day, Digest, SiteId};

/// The longest text that is taken over from a peer.
const TEXT_MAX: usize = 128;

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) addr: SocketAddr,
    pub(crate) site: Option<SiteId>,
    pub(crate) schema: Option<u64>,
    pub(crate) state: Option<StoreHash>,
    pub(crate) boot_id: String,
    pub(crate) release: String,
}

impl Facts {
    /// Reads the facts; None without a usable address, since a node is of no use before that is known.
    pub(crate) fn read<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        let hex = |key: &str| get(key).filter(|text| text.len() == 16).and_then(|t| u64::from_str_radix(t, 16).ok());
        let text = |key: &str| get(key).unwrap_or_default().chars().take(TEXT_MAX).collect();
        let addr: SocketAddr = get("addr")?.parse().ok()?;
        let usable = !addr.ip().is_unspecified() && !addr.ip().is_multicast() && addr.port() != 0;
        usable.then(|| Self {
            addr,
            site: get("site").and_then(site),
            schema: hex("schema"),
            state: get("state").and_then(fingerprint),
            boot_id: text("boot_id"),
            release: text("release"),
        })
    }

    /// The keys and values that say this.
    pub(crate) fn keys(&self) -> Vec<(&'static str, String)> {
        let mut keys =
            vec![("addr", self.addr.to_string()), ("boot_id", self.boot_id.clone()), ("release", self.release.clone())];
        keys.extend(self.site.map(|site| ("site", site.to_string())));
        keys.extend(self.schema.map(|hash| ("schema", format!("{hash:016x}"))));
        keys.extend(
            self.state.map(|state| ("state", format!("{:016x} {} {:08x}", state.vector, state.digest, state.floor.0))),
        );
        keys
    }
}

fn fingerprint(text: &str) -> Option<StoreHash> {
    let (vector, rest) = text.split_once(' ').filter(|(vector, _)| vector.len() == 16)?;
    let (digest, floor) = rest.split_once(' ').filter(|(digest, floor)| digest.len() == 32 && floor.len() == 8)?;
    Some(StoreHash {
        vector: u64::from_str_radix(vector, 16).ok()?,
        floor: Day(u32::from_str_radix(floor, 16).ok()?),
        digest: Digest::from_bits(u128::from_str_radix(digest, 16).ok()?),
    })
}

fn site(text: &str) -> Option<SiteId> {
    let bits = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32)?;
    Some(SiteId::new(bits.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn facts() -> Facts {
        Facts {
            addr: "10.0.0.1:31280".parse().unwrap(),
            site: Some(SiteId::new([0xA5; 16])),
            schema: Some(7),
            state: Some(StoreHash { vector: u64::MAX, floor: Day(20_000), digest: Digest::from_bits(1) }),
            boot_id: "b".into(),
            release: "0.1.0".into(),
        }
    }

    #[test]
    fn what_is_said_is_what_is_read() {
        let keys: BTreeMap<_, _> = facts().keys().into_iter().collect();
        assert_eq!(Facts::read(|key| keys.get(key).map(String::as_str)), Some(facts()));
    }

    #[test]
    fn what_cannot_be_read_is_absent_and_without_an_address_there_is_nothing() {
        let mut keys: BTreeMap<_, _> = facts().keys().into_iter().collect();
        for key in ["site", "schema", "state"] {
            keys.insert(key, "é".repeat(8));
        }
        let read = Facts::read(|key| keys.get(key).map(String::as_str)).unwrap();
        assert_eq!((read.site, read.schema, read.state), (None, None, None));
        for addr in ["", "0.0.0.0:1", "10.0.0.1:0", "host:1", "224.0.0.1:1"] {
            keys.insert("addr", addr.into());
            assert_eq!(Facts::read(|key| keys.get(key).map(String::as_str)), None, "{addr}");
        }
    }
}
