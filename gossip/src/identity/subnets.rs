//! Which range of addresses a server has, by its number.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use thiserror::Error;

/// Numbers of servers are 1 to this: the third part of their ranges, below 128.
pub(super) const NUMBER_MAX: u8 = 127;

/// Where the servers' ranges come from: number N has `a.b.N.0/24` of the cluster's `a.b.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnets([u8; 2]);

/// Why a text is no range of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a range for 127 servers, as 10.210.0.0/16")]
pub struct SubnetsError;

impl Subnets {
    /// The range of the server of this number.
    pub fn of(self, number: u8) -> String {
        let Self([a, b]) = self;
        format!("{a}.{b}.{number}.0/24")
    }
}

impl FromStr for Subnets {
    type Err = SubnetsError;

    fn from_str(text: &str) -> Result<Self, SubnetsError> {
        let address = text.strip_suffix("/16").and_then(|address| address.parse::<Ipv4Addr>().ok());
        match address.map(|address| address.octets()) {
            Some([a, b, 0, 0]) => Ok(Self([a, b])),
            Some(_) | None => Err(SubnetsError),
        }
    }
}

impl fmt::Display for Subnets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([a, b]) = self;
        write!(f, "{a}.{b}.0.0/16")
    }
}

/// The number of the server that has this range, 10.210.N.0/24, if it is one of a server.
pub fn number_of(subnet: &str) -> Option<u8> {
    let address: Ipv4Addr = subnet.strip_suffix("/24")?.parse().ok()?;
    Some(address.octets()[2]).filter(|&number| number <= NUMBER_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_range_tells_its_number() {
        let subnets: Subnets = "10.210.0.0/16".parse().unwrap();
        assert_eq!((subnets.to_string().as_str(), subnets.of(7).as_str()), ("10.210.0.0/16", "10.210.7.0/24"));
        assert_eq!(number_of(&subnets.of(7)), Some(7));
        for none in ["10.210.200.0/24", "10.0.0.0/8", "", "x/24"] {
            assert_eq!(number_of(none), None, "{none}");
        }
        for wrong in ["10.210.0.0/24", "10.210.1.0/16", "fd00::/16", "10.210.0.0", ""] {
            assert_eq!(wrong.parse::<Subnets>(), Err(SubnetsError), "{wrong}");
        }
    }
}
