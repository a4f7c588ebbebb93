//! The addresses of the mesh: what each server has by its number, and by its key.
//!
//! ```text
//!  server N of 10.210.0.0/16:  10.210.N.0/24          itself, at .1
//!                              10.210.(128+N).0/24    its containers
//!                              fdHH:HHHH:HHHH:N::/64  their IPv6, H the first 40 bits of the authority's hash
//!  by its key:                 fdcc:…/128             the management address
//! ```

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::key::PublicKey;

/// A server's number, 0 to 127: the third part of its range. Above are the ranges of containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Number(u8);

impl Number {
    const MAX: u8 = 127;

    /// The number, if it is one of a server.
    pub(crate) fn new(number: u8) -> Option<Number> {
        (number <= Number::MAX).then_some(Number(number))
    }

    /// As it is written.
    pub(crate) fn get(self) -> u8 {
        self.0
    }
}

/// The ranges that all servers' are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeshRange {
    v4: [u8; 2],
    v6: Option<[u8; 5]>,
}

impl MeshRange {
    /// The servers' ranges of a /16, as 10.210.0.0/16; no other length can be divided among them. Without IPv6.
    pub fn new(range: IpNet) -> Option<MeshRange> {
        let IpNet::V4(range) = range else { return None };
        match (range.addr().octets(), range.prefix_len()) {
            ([a, b, 0, 0], 16) => Some(MeshRange { v4: [a, b], v6: None }),
            _ => None,
        }
    }

    /// With IPv6 for containers, in a range that comes of the SHA-256 of the authority's certificate.
    #[must_use]
    pub fn with_authority(self, sha256: [u8; 32]) -> MeshRange {
        let [a, b, c, d, e, ..] = sha256;
        MeshRange { v6: Some([a, b, c, d, e]), ..self }
    }

    /// All of IPv4.
    pub(crate) fn all(self) -> Ipv4Net {
        self.net(0, 16)
    }

    /// All containers' IPv6.
    pub(crate) fn all6(self) -> Option<Ipv6Net> {
        self.net6(0, 48)
    }

    /// A server's own range.
    pub(crate) fn subnet(self, number: Number) -> Ipv4Net {
        self.net(number.0, 24)
    }

    /// A server's own address.
    pub(crate) fn address(self, number: Number) -> Ipv4Addr {
        let [a, b] = self.v4;
        Ipv4Addr::new(a, b, number.0, 1)
    }

    /// The range of its containers.
    pub(crate) fn containers(self, number: Number) -> Ipv4Net {
        self.net(128 + number.0, 24)
    }

    /// The range of their IPv6.
    pub(crate) fn containers6(self, number: Number) -> Option<Ipv6Net> {
        self.net6(number.0, 64)
    }

    /// All that is behind a server but its management address.
    pub(crate) fn behind(self, number: Number) -> impl Iterator<Item = IpNet> {
        let v4 = [self.subnet(number).into(), self.containers(number).into()];
        v4.into_iter().chain(self.containers6(number).map(IpNet::from))
    }

    /// The number of the server whose range this text is.
    pub(crate) fn number_of(self, subnet: &str) -> Option<Number> {
        let net: Ipv4Net = subnet.parse().ok()?;
        let number = Number::new(net.addr().octets()[2])?;
        (net == self.subnet(number)).then_some(number)
    }

    /// Whether an address is inside the mesh, where no tunnel can end.
    pub(crate) fn is_inside(self, address: std::net::IpAddr) -> bool {
        match address {
            std::net::IpAddr::V4(address) => self.all().contains(&address),
            std::net::IpAddr::V6(address) => {
                MANAGEMENT.contains(&address) || self.all6().is_some_and(|all| all.contains(&address))
            }
        }
    }

    fn net(self, third: u8, length: u8) -> Ipv4Net {
        let [a, b] = self.v4;
        Ipv4Net::new(Ipv4Addr::new(a, b, third, 0), length).expect("a length of at most 32")
    }

    fn net6(self, number: u8, length: u8) -> Option<Ipv6Net> {
        let [a, b, c, d, e] = self.v6?;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&[0xfd, a, b, c, d, e, 0, number]);
        Some(Ipv6Net::new(bytes.into(), length).expect("a length of at most 128"))
    }
}

/// Where all management addresses are.
const MANAGEMENT: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfdcc, 0, 0, 0, 0, 0, 0, 0), 16);

/// The management address of the server that has this key: `fdcc` and the first 14 bytes of its hash.
pub(crate) fn management(key: &PublicKey) -> Ipv6Addr {
    let hash = ring::digest::digest(&ring::digest::SHA256, key.bytes());
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&[0xfd, 0xcc]);
    bytes[2..].copy_from_slice(&hash.as_ref()[..14]);
    bytes.into()
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mesh() -> MeshRange {
        MeshRange::new("10.210.0.0/16".parse().unwrap()).unwrap()
    }

    #[test]
    fn a_number_is_four_ranges() {
        let mut hash = [0; 32];
        hash[..5].copy_from_slice(&[0x11, 0x22, 0x33, 0x44, 0x55]);
        let (mesh, seven) = (mesh().with_authority(hash), Number::new(7).unwrap());
        let behind: Vec<String> = mesh.behind(seven).map(|net| net.to_string()).collect();
        assert_eq!(behind, ["10.210.7.0/24", "10.210.135.0/24", "fd11:2233:4455:7::/64"]);
        assert_eq!(mesh.address(seven).to_string(), "10.210.7.1");
        assert_eq!(mesh.all6().unwrap().to_string(), "fd11:2233:4455::/48");
        assert_eq!((mesh.number_of("10.210.7.0/24"), Number::new(128)), (Some(seven), None));
        for none in ["10.210.128.0/24", "10.211.7.0/24", "10.210.7.1/24", "10.210.7.0/23", "10.210.7.0", "", "x"] {
            assert_eq!(mesh.number_of(none), None, "{none}");
        }
    }

    #[test]
    fn only_a_16_is_divided_among_servers() {
        for wrong in ["10.210.0.0/24", "10.0.0.0/8", "10.210.1.0/16", "fd00::/16"] {
            assert_eq!(MeshRange::new(wrong.parse().unwrap()), None, "{wrong}");
        }
    }

    #[test]
    fn the_management_address_is_as_earlier_tools_make_it() {
        // By `printf KEY | base64 -d | sha256sum`.
        let key: PublicKey = "DD5yKRfzExcV5+kDnTroDgCU15latdMjiQ59j1hEuk8=".parse().unwrap();
        assert_eq!(management(&key).to_string(), "fdcc:bd2c:204f:e186:3538:ee4a:e2a6:3a7d");
        assert!(mesh().is_inside(management(&key).into()) && mesh().is_inside("10.210.200.3".parse().unwrap()));
        assert!(!mesh().is_inside("10.211.0.1".parse().unwrap()) && !mesh().is_inside("2001:db8::1".parse().unwrap()));
    }
}
