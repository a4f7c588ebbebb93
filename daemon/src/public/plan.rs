//! The plan of the public address: pure.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde_json::json;

use crate::config::Public;

/// Endpoints that are said. Others try one after the other, so a long list is a long outage.
const MOST: usize = 8;
/// Starts of the names of interfaces that lead nowhere outside: Docker's, containers', and our own.
const INSIDE: [&str; 6] = ["docker", "br-", "veth", "virbr", "kith", "cni"];

/// What there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Observed {
    /// What sources see us as.
    pub(crate) seen: Vec<IpAddr>,
    /// What interfaces have.
    pub(crate) interfaces: Vec<Interface>,
    /// What is said now.
    pub(crate) said: Option<String>,
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Interface {
    /// The interface's name.
    pub(crate) name: String,
    /// One of its addresses.
    pub(crate) address: IpAddr,
}

/// The endpoints that are to be said, as a JSON array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step(pub(crate) String);

/// What is to be said.
pub(crate) fn plan(config: &Public, observed: &Observed) -> Vec<Step> {
    let texts: Vec<String> = endpoints(config, observed).iter().map(SocketAddr::to_string).collect();
    let text = json!(texts).to_string();
    if observed.said.as_ref() == Some(&text) { Vec::new() } else { vec![Step(text)] }
}

/// Most useful first, each once.
fn endpoints(config: &Public, observed: &Observed) -> Vec<SocketAddr> {
    let outside = |interface: &&Interface| !INSIDE.iter().any(|start| interface.name.starts_with(start));
    let usable = |address: &IpAddr| is_usable(*address) && !is_inside(config, *address);
    let interfaces = || observed.interfaces.iter().filter(outside).map(|interface| interface.address).filter(usable);
    let addresses = config.advertised.into_iter().filter(usable);
    let addresses = addresses.chain(observed.seen.iter().copied().filter(|address| is_public(*address)));
    let addresses = addresses.chain(interfaces().filter(|address| is_public(*address)));
    let addresses = addresses.chain(interfaces().filter(|address| !is_public(*address)));
    let mut endpoints = Vec::new();
    for endpoint in config.endpoints.iter().copied().chain(addresses.map(|address| (address, config.port).into())) {
        if !endpoints.contains(&endpoint) {
            endpoints.push(endpoint);
        }
    }
    endpoints.truncate(MOST);
    endpoints
}

/// Whether a packet can be sent there from another host.
fn is_usable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified() && !v4.is_multicast(),
        IpAddr::V6(v6) => {
            !v6.is_loopback() && !v6.is_unicast_link_local() && !v6.is_unspecified() && !v6.is_multicast()
        }
    }
}

/// Whether it is inside the mesh, where no tunnel can end.
fn is_inside(config: &Public, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => config.cluster.is_some_and(|cluster| cluster.contains(&v4)),
        IpAddr::V6(v6) => v6.segments()[0] == 0xfdcc,
    }
}

/// Whether it is reached from anywhere.
pub(super) fn is_public(address: IpAddr) -> bool {
    let is_private = match address {
        // 100.64.0.0/10 is shared by a carrier's customers (RFC 6598).
        IpAddr::V4(v4) => v4.is_private() || matches!(v4.octets(), [100, 64..=127, ..]),
        IpAddr::V6(v6) => v6.is_unique_local(),
    };
    is_usable(address) && !is_private
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "say {}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Public {
        Public {
            sources: Vec::new(),
            advertised: None,
            endpoints: Vec::new(),
            port: 31820,
            cluster: Some("10.210.0.0/16".parse().expect("a range")),
        }
    }

    fn observed(seen: &[&str], interfaces: &[(&str, &str)]) -> Observed {
        let ip = |text: &str| text.parse().expect("an address");
        let interface = |(name, address): &(&str, &str)| Interface { name: (*name).to_owned(), address: ip(address) };
        Observed {
            seen: seen.iter().map(|text| ip(text)).collect(),
            interfaces: interfaces.iter().map(interface).collect(),
            said: None,
        }
    }

    fn planned(config: &Public, observed: &Observed) -> String {
        plan(config, observed).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    const NEAR: [(&str, &str); 9] = [
        ("lo", "127.0.0.1"),
        ("eth0", "192.168.1.7"),
        ("eth0", "fe80::1"),
        ("eth1", "203.0.113.9"),
        ("eth1", "2001:db8:1::9"),
        ("docker0", "172.17.0.1"),
        ("kith0", "10.210.7.1"),
        ("eth2", "10.210.9.1"),
        ("eth2", "fdcc::1"),
    ];

    #[test]
    fn what_is_useful_everywhere_comes_first_and_addresses_of_the_lan_stay() {
        insta::assert_snapshot!(planned(&config(), &observed(&[], &NEAR)), @r#"say ["203.0.113.9:31820","[2001:db8:1::9]:31820","192.168.1.7:31820"]"#);
        insta::assert_snapshot!(planned(&config(), &observed(&["198.51.100.4"], &NEAR[..3])), @r#"say ["198.51.100.4:31820","192.168.1.7:31820"]"#);
        let config = Public {
            advertised: Some([192, 0, 2, 1].into()),
            endpoints: vec![([198, 51, 100, 5], 4000).into()],
            ..config()
        };
        insta::assert_snapshot!(planned(&config, &observed(&["198.51.100.4", "192.0.2.1"], &NEAR[..3])), @r#"say ["198.51.100.5:4000","192.0.2.1:31820","198.51.100.4:31820","192.168.1.7:31820"]"#);
    }

    #[test]
    fn what_a_source_says_is_taken_only_if_it_is_public() {
        for wrong in ["10.0.0.1", "127.0.0.1", "100.64.0.1", "::1", "fd00::1", "fe80::1", "0.0.0.0", "169.254.169.254"]
        {
            assert_eq!(planned(&config(), &observed(&[wrong], &[])), "say []", "{wrong}");
        }
        assert_ne!(planned(&config(), &observed(&["100.128.0.1"], &[])), "say []");
    }

    #[test]
    fn nothing_is_said_twice_and_never_too_much() {
        let many: Vec<String> = (1..20).map(|n| format!("203.0.113.{n}")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|address| ("eth0", address.as_str())).collect();
        let mut observed = observed(&[], &many);
        let Some(Step(text)) = plan(&config(), &observed).pop() else { panic!("something is said") };
        assert_eq!(text.matches("203.0.113.").count(), MOST);
        observed.said = Some(text);
        assert_eq!(planned(&config(), &observed), "");
    }
}
