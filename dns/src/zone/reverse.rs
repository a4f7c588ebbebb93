//! Names of addresses: `in-addr.arpa` (RFC 1035 §3.5) and `ip6.arpa` (RFC 3596 §2.5).

use std::net::IpAddr;

use ipnet::IpNet;

/// Most reverse zones that one range becomes. A range that does not end at an octet (a nibble) is as many zones as
/// there are octets (nibbles) in it: at most 128 (8), so this bounds nothing but mistakes.
const ZONES_MAX: usize = 128;

/// The reverse name of an address, without the closing zero.
pub(crate) fn name(address: IpAddr) -> Box<[u8]> {
    let name = match address {
        IpAddr::V4(v4) => partial(&v4.octets(), 4, Digits::Octets),
        IpAddr::V6(v6) => partial(&v6.octets(), 32, Digits::Nibbles),
    };
    name[..name.len() - 1].into()
}

/// The reverse zones of a range, with their closing zero.
pub(crate) fn zones(range: IpNet) -> Vec<Vec<u8>> {
    let (bits, digits) = match range {
        IpNet::V4(_) => (8, Digits::Octets),
        IpNet::V6(_) => (4, Digits::Nibbles),
    };
    let used = range.prefix_len().div_ceil(bits);
    let zone = |address: IpAddr| match address {
        IpAddr::V4(v4) => partial(&v4.octets(), usize::from(used), digits),
        IpAddr::V6(v6) => partial(&v6.octets(), usize::from(used), digits),
    };
    match range.subnets(used * bits) {
        Ok(subnets) => subnets.take(ZONES_MAX).map(|subnet| zone(subnet.network())).collect(),
        Err(_) => Vec::new(),
    }
}

#[derive(Clone, Copy)]
enum Digits {
    Octets,
    Nibbles,
}

/// The first `count` digits of an address, the last one first, with the suffix of their kind.
fn partial(octets: &[u8], count: usize, digits: Digits) -> Vec<u8> {
    let mut name = Vec::with_capacity(74);
    for index in (0..count).rev() {
        match digits {
            Digits::Octets => push_octet(&mut name, octets[index]),
            Digits::Nibbles => {
                let nibble = (octets[index / 2] >> (4 * (1 - index % 2))) & 15;
                name.extend_from_slice(&[1, b"0123456789abcdef"[usize::from(nibble)]]);
            }
        }
    }
    name.extend_from_slice(match digits {
        Digits::Octets => b"\x07in-addr\x04arpa\0",
        Digits::Nibbles => b"\x03ip6\x04arpa\0",
    });
    name
}

/// A label of one to three decimal digits.
fn push_octet(name: &mut Vec<u8>, octet: u8) {
    let digits = [octet / 100, octet / 10 % 10, octet % 10];
    let digits = match octet {
        100.. => &digits[..],
        10.. => &digits[1..],
        _ => &digits[2..],
    };
    name.push(digits.len() as u8);
    name.extend(digits.iter().map(|digit| b'0' + digit));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::text;

    fn zone_texts(range: &str) -> Vec<String> {
        zones(range.parse().unwrap()).iter().map(|zone| text(&zone[..zone.len() - 1])).collect()
    }

    #[test]
    fn a_range_is_the_zones_that_cover_it() {
        assert_eq!(zone_texts("10.210.0.0/16"), ["210.10.in-addr.arpa"]);
        assert_eq!(zone_texts("10.210.0.0/15"), ["210.10.in-addr.arpa", "211.10.in-addr.arpa"]);
        assert_eq!(zone_texts("192.0.2.8/31"), ["8.2.0.192.in-addr.arpa", "9.2.0.192.in-addr.arpa"]);
        assert_eq!(zone_texts("fdcc::/16"), ["c.c.d.f.ip6.arpa"]);
        assert_eq!(zone_texts("fd00::/7"), ["c.f.ip6.arpa", "d.f.ip6.arpa"]);
        assert_eq!(zone_texts("0.0.0.0/0"), ["in-addr.arpa"]);
    }

    #[test]
    fn an_address_reads_backwards() {
        assert_eq!(text(&name("10.210.128.7".parse().unwrap())), "7.128.210.10.in-addr.arpa");
        let six = text(&name("fdcc::1".parse().unwrap()));
        assert_eq!(six, format!("1.{}c.c.d.f.ip6.arpa", "0.".repeat(27)));
    }
}
