//! Addresses that an upstream may not point a name at: a page from elsewhere would reach, by a name of its own, what
//! only this cluster should (DNS rebinding). Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::access::Access;
use crate::zone::rtype;

/// Type SVCB (RFC 9460), of the same form as HTTPS.
const SVCB: u16 = 64;
/// Keys of the address hints in such a record.
const HINTS: [(u16, usize); 2] = [(4, 4), (6, 16)];

/// The ranges that are denied; by default none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Guard {
    denied: Arc<[IpNet]>,
    /// The ranges of the cluster that the zone knows.
    subnets: Arc<Access>,
}

/// Loopback, and the unspecified addresses, which reach it as well.
const LOOPBACK: [&str; 4] = ["127.0.0.0/8", "0.0.0.0/8", "::1/128", "::/128"];
/// Private and link-local ranges (RFC 1918, 6598, 3927, 4193, 4291).
const PRIVATE: [&str; 7] =
    ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "fc00::/7", "fe80::/10"];

impl Guard {
    /// Denies loopback and these ranges.
    pub(crate) fn cluster(ranges: &[IpNet]) -> Self {
        Self { denied: nets(&LOOPBACK).chain(ranges.iter().copied()).collect(), ..Self::default() }
    }

    /// Denies loopback, these ranges, and all that are private.
    pub(crate) fn private(ranges: &[IpNet]) -> Self {
        Self { denied: local().chain(ranges.iter().copied()).collect(), ..Self::default() }
    }

    /// The same, and where anything is denied these as well.
    pub(crate) fn with(&self, subnets: &Arc<Access>) -> Self {
        if self.denied.is_empty() {
            return self.clone();
        }
        Self { denied: Arc::clone(&self.denied), subnets: Arc::clone(subnets) }
    }

    /// Whether a record points at something denied.
    pub(crate) fn denies(&self, kind: u16, rdata: &[u8]) -> bool {
        if self.denied.is_empty() {
            return false;
        }
        match kind {
            rtype::A | rtype::AAAA => address(rdata).is_some_and(|address| self.has(address)),
            rtype::HTTPS | SVCB => hints(rdata).iter().any(|address| self.has(*address)),
            _ => false,
        }
    }

    /// Whether an address is in these ranges, or reaches into them.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        let denied = |address: IpAddr| self.denied.iter().any(|net| net.contains(&address));
        let within = |address: IpAddr| denied(address) || self.subnets.has(address);
        within(address) || embedded(address).is_some_and(within)
    }
}

/// Loopback, and all ranges that are private.
pub(super) fn local() -> impl Iterator<Item = IpNet> {
    nets(&LOOPBACK).chain(nets(&PRIVATE))
}

fn nets(texts: &'static [&'static str]) -> impl Iterator<Item = IpNet> {
    texts.iter().map(|text| text.parse().expect("a range"))
}

/// The IPv4 address in an IPv6 one by which it is reached: mapped (RFC 4291 §2.5.5), or by NAT64 (RFC 6052).
fn embedded(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(v6) = address else { return None };
    let octets = v6.octets();
    let last = Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15]);
    let nat64 = octets[..12] == [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0];
    (v6.to_ipv4_mapped().is_some() || nat64).then_some(last.into())
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|octets| Ipv4Addr::from(octets).into());
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|octets| Ipv6Addr::from(octets).into())).ok()
}

/// The address hints of an SVCB or HTTPS record, as far as it can be read; the codec that judges the whole message
/// refuses it if it cannot.
fn hints(rdata: &[u8]) -> Vec<IpAddr> {
    let mut found = Vec::new();
    let mut at = 2;
    while let Some(&length) = rdata.get(at)
        && length > 0
    {
        at += 1 + usize::from(length);
    }
    let mut rest = rdata.get(at + 1..).unwrap_or_default();
    while let Some((head, tail)) = rest.split_at_checked(4) {
        let key = u16::from_be_bytes([head[0], head[1]]);
        let Some((value, next)) = tail.split_at_checked(usize::from(u16::from_be_bytes([head[2], head[3]]))) else {
            break;
        };
        if let Some((_, size)) = HINTS.iter().find(|(hint, _)| *hint == key) {
            found.extend(value.chunks(*size).filter_map(address));
        }
        rest = next;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_denied_is_seen_through_every_form_of_it() {
        let guard = Guard::cluster(&["10.210.0.0/16".parse().unwrap()]);
        let denies = |text: &str| {
            let rdata = match text.parse().unwrap() {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            guard.denies(if rdata.len() == 4 { rtype::A } else { rtype::AAAA }, &rdata)
        };
        for text in ["10.210.3.4", "127.0.0.1", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "64:ff9b::10.210.0.1"] {
            assert!(denies(text), "{text}");
        }
        for text in ["10.211.0.1", "192.168.1.1", "1.1.1.1", "fd00::1", "2606:4700::1111"] {
            assert!(!denies(text), "{text}");
        }
        assert!(Guard::private(&[]).denies(rtype::A, &[192, 168, 1, 1]));
        assert!(!Guard::default().denies(rtype::A, &[127, 0, 0, 1]));
    }

    #[test]
    fn ranges_of_servers_are_denied_where_anything_is() {
        let subnets = Arc::new(Access::new(["10.99.3.0/24".parse().unwrap()]));
        let denies = |guard: Guard| guard.with(&subnets).denies(rtype::A, &[10, 99, 3, 7]);
        assert!(denies(Guard::cluster(&[])));
        assert!(!Guard::cluster(&[]).denies(rtype::A, &[10, 99, 3, 7]));
        assert!(!denies(Guard::default()), "below a configured domain nothing is");
    }

    #[test]
    fn hints_of_a_service_are_addresses_as_well() {
        let guard = Guard::cluster(&[]);
        // Priority 1, target `.`, ALPN h2, one IPv4 hint.
        let record = |last: u8| [&[0, 1, 0, 0, 1, 0, 3, 2, b'h', b'2', 0, 4, 0, 4][..], &[last, 0, 0, 1]].concat();
        assert!(guard.denies(rtype::HTTPS, &record(127)));
        assert!(!guard.denies(rtype::HTTPS, &record(8)));
        assert!(!guard.denies(rtype::HTTPS, &[0]));
    }
}
