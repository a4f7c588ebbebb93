//! Who is answered at all: networks that may ask. Pure; the networks of this host come in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The networks that may ask, as numbers that compare at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Access {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl Access {
    /// These, each once, the widest first: most who ask are found by the first few.
    pub(crate) fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        let mut networks: Vec<IpNet> = networks.into_iter().map(|network| network.trunc()).collect();
        networks.sort_by_key(|network| (network.prefix_len(), *network));
        networks.dedup();
        let mut access = Self::default();
        for network in networks {
            if access.has(network.network()) {
                continue;
            }
            match network {
                IpNet::V4(v4) => access.v4.push((v4.network().to_bits(), v4.netmask().to_bits())),
                IpNet::V6(v6) => access.v6.push((v6.network().to_bits(), v6.netmask().to_bits())),
            }
        }
        access
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// All of them.
    pub(crate) fn networks(&self) -> impl Iterator<Item = IpNet> {
        let net = |network: IpAddr, mask: IpAddr| IpNet::with_netmask(network, mask).expect("it was made of a network");
        let v4 = self
            .v4
            .iter()
            .map(move |(network, mask)| net(Ipv4Addr::from_bits(*network).into(), Ipv4Addr::from_bits(*mask).into()));
        v4.chain(
            self.v6.iter().map(move |(network, mask)| {
                net(Ipv6Addr::from_bits(*network).into(), Ipv6Addr::from_bits(*mask).into())
            }),
        )
    }

    /// Whether this address may ask.
    pub(crate) fn has(&self, source: IpAddr) -> bool {
        match source.to_canonical() {
            IpAddr::V4(v4) => self.v4.iter().any(|(network, mask)| v4.to_bits() & mask == *network),
            IpAddr::V6(v6) => self.v6.iter().any(|(network, mask)| v6.to_bits() & mask == *network),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_in_a_network_may_ask_and_nobody_else() {
        let access =
            Access::new(["10.0.0.0/8", "10.1.0.0/16", "192.0.2.7/32", "fd00::/16"].map(|net| net.parse().unwrap()));
        let has = |ip: &str| access.has(ip.parse().unwrap());
        let networks: Vec<_> = access.networks().map(|net| net.to_string()).collect();
        assert_eq!(networks, ["10.0.0.0/8", "192.0.2.7/32", "fd00::/16"], "what is within another is not kept");
        assert!(["10.1.2.3", "10.200.0.1", "192.0.2.7", "::ffff:10.0.0.1", "fd00::1"].into_iter().all(has));
        assert!(!["11.0.0.1", "192.0.2.8", "fd01::1", "::"].into_iter().any(has));
        assert!(Access::new(["0.0.0.0/0".parse().unwrap()]).has(IpAddr::from([1, 2, 3, 4])));
        assert!(!Access::default().has(IpAddr::from([127, 0, 0, 1])));
    }
}
