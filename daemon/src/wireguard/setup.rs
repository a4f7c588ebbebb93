//! What is to be done so that the interface is ours and carries packets: pure.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Seen;
use crate::peers::MeshRange;
use crate::peers::{Number, PublicKey, management};

/// What WireGuard adds to a packet, with an IPv6 header below it.
const OVERHEAD: u32 = 80;
/// WireGuard's own default, which passes over what most providers call Ethernet.
const MTU_MOST: u32 = 1420;
/// Below this a link has no IPv6 (RFC 8200).
const MTU_LEAST: u32 = 1280;

/// How the interface is to be.
#[derive(Debug, Clone)]
pub(crate) struct Desired {
    /// Our key.
    pub(crate) key: PublicKey,
    /// Where it listens.
    pub(crate) port: u16,
    /// The ranges of the cluster.
    pub(crate) mesh: MeshRange,
    /// Our number, once we have one.
    pub(crate) number: Option<Number>,
    /// Keys of those whose management addresses are reached by it.
    pub(crate) peers: BTreeSet<PublicKey>,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Make the interface.
    Create,
    /// Give it our key, and this port.
    Listen(u16),
    /// Give it an address.
    Address(IpNet),
    /// Let packets be at most this long.
    Mtu(u32),
    /// Let packets through.
    Up,
    /// Send what is for there by it.
    Route(IpNet),
    /// No longer.
    Unroute(IpNet),
}

/// Why the interface is not touched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotOurs {
    /// There is a link of that name which is no WireGuard.
    #[error("is no WireGuard interface: rename it, or set daemon.interface to another name")]
    OtherKind,
    /// It has another key.
    #[error(
        "has the key {0}, and ours is {1}: somebody else made it, or our key file was replaced; remove it, or set daemon.interface to another name"
    )]
    OtherKey(PublicKey, PublicKey),
    /// It has peers, and no key.
    #[error("has peers and no key: somebody else is setting it up")]
    InTheMaking,
}

/// Whether the interface is one that we may touch: ours, or one that nobody has begun with.
pub(crate) fn is_ours(seen: &Seen, key: PublicKey) -> Result<(), NotOurs> {
    match (&seen.link, &seen.device) {
        (None, _) => Ok(()),
        (Some(_), None) => Err(NotOurs::OtherKind),
        (Some(_), Some(device)) => match device.key {
            Some(other) if other != key => Err(NotOurs::OtherKey(other, key)),
            None if !device.peers.is_empty() => Err(NotOurs::InTheMaking),
            Some(_) | None => Ok(()),
        },
    }
}

/// What is missing. Of addresses and MTU nothing is taken away that somebody added.
pub(crate) fn plan(desired: &Desired, seen: &Seen) -> Vec<Step> {
    let mut steps = Vec::new();
    let (addresses, routes, mtu, up) = match &seen.link {
        Some(link) => (link.addresses.clone(), link.routes.clone(), Some(link.mtu), link.up),
        None => {
            steps.push(Step::Create);
            Default::default()
        }
    };
    if seen.device.as_ref().is_none_or(|device| device.key.is_none() || device.port != Some(desired.port)) {
        steps.push(Step::Listen(desired.port));
    }
    let own = [
        desired.number.map(|number| host(desired.mesh.address(number).into())),
        Some(host(management(&desired.key).into())),
    ];
    steps.extend(own.into_iter().flatten().filter(|net| !addresses.contains(net)).map(Step::Address));
    let wanted = seen.underlay.map_or(MTU_MOST, |mtu| mtu.saturating_sub(OVERHEAD).clamp(MTU_LEAST, MTU_MOST));
    if mtu != Some(wanted) {
        steps.push(Step::Mtu(wanted));
    }
    if !up {
        steps.push(Step::Up);
    }
    let mesh = [Some(IpNet::from(desired.mesh.all())), desired.mesh.all6().map(IpNet::from)];
    let peers = desired.peers.iter().map(|key| host(management(key).into()));
    let wanted: BTreeSet<IpNet> = mesh.into_iter().flatten().chain(peers).collect();
    steps.extend(wanted.difference(&routes).copied().map(Step::Route));
    steps.extend(routes.difference(&wanted).copied().map(Step::Unroute));
    steps
}

fn host(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Create => f.write_str("make the interface"),
            Step::Listen(port) => write!(f, "give it our key, listen on {port}"),
            Step::Address(net) => write!(f, "give it {net}"),
            Step::Mtu(mtu) => write!(f, "set its MTU to {mtu}"),
            Step::Up => f.write_str("set it up"),
            Step::Route(net) => write!(f, "route {net} by it"),
            Step::Unroute(net) => write!(f, "route {net} by it no longer"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DeviceSeen, LinkSeen};
    use super::*;

    fn desired() -> Desired {
        Desired {
            key: PublicKey::new([1; 32]),
            port: 31820,
            mesh: MeshRange::new("10.210.0.0/16".parse().unwrap()).unwrap().with_authority([7; 32]),
            number: Number::new(4),
            peers: [PublicKey::new([2; 32])].into(),
        }
    }

    fn planned(seen: &Seen) -> String {
        plan(&desired(), seen).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    fn whole() -> Seen {
        let mut link = LinkSeen { index: 3, wireguard: true, up: true, mtu: 1420, ..LinkSeen::default() };
        for step in plan(&desired(), &Seen::default()) {
            match step {
                Step::Address(net) => drop(link.addresses.insert(net)),
                Step::Route(net) => drop(link.routes.insert(net)),
                Step::Create | Step::Listen(_) | Step::Mtu(_) | Step::Up | Step::Unroute(_) => {}
            }
        }
        let device = DeviceSeen { key: Some(desired().key), port: Some(31820), ..DeviceSeen::default() };
        Seen { link: Some(link), device: Some(device), underlay: None }
    }

    #[test]
    fn an_interface_that_is_missing_is_made_whole_and_then_left_alone() {
        insta::assert_snapshot!(planned(&Seen::default()), @r"
        make the interface
        give it our key, listen on 31820
        give it 10.210.4.1/32
        give it fdcc:72cd:6e84:22c4:7fb:6d09:8690:f113/128
        set its MTU to 1420
        set it up
        route 10.210.0.0/16 by it
        route fd07:707:707::/48 by it
        route fdcc:7587:7bb4:1d39:3b5f:b845:5ce6:ecd/128 by it
        ");
        assert_eq!(planned(&whole()), "");
    }

    #[test]
    fn the_mtu_follows_the_smallest_link_below() {
        for (below, planned_mtu) in
            [(1500, ""), (9000, ""), (1450, "set its MTU to 1370"), (1300, "set its MTU to 1280")]
        {
            assert_eq!(planned(&Seen { underlay: Some(below), ..whole() }), planned_mtu, "{below}");
        }
    }

    #[test]
    fn what_somebody_changed_is_put_right_and_what_somebody_added_stays() {
        let mut seen = whole();
        let (link, device) = (seen.link.as_mut().unwrap(), seen.device.as_mut().unwrap());
        device.port = Some(7);
        link.up = false;
        link.addresses = ["10.0.0.9/32".parse().unwrap()].into();
        link.routes = ["fdcc::9/128".parse().unwrap(), "10.210.0.0/16".parse().unwrap()].into();
        insta::assert_snapshot!(planned(&seen), @r"
        give it our key, listen on 31820
        give it 10.210.4.1/32
        give it fdcc:72cd:6e84:22c4:7fb:6d09:8690:f113/128
        set it up
        route fd07:707:707::/48 by it
        route fdcc:7587:7bb4:1d39:3b5f:b845:5ce6:ecd/128 by it
        route fdcc::9/128 by it no longer
        ");
    }

    #[test]
    fn an_interface_of_somebody_else_is_not_ours() {
        let key = desired().key;
        assert_eq!(is_ours(&Seen::default(), key), Ok(()));
        assert_eq!(is_ours(&whole(), key), Ok(()));
        let with = |device| Seen { device, ..whole() };
        assert_eq!(is_ours(&with(None), key), Err(NotOurs::OtherKind));
        let other = PublicKey::new([9; 32]);
        let device = |key, peers| Some(DeviceSeen { key, peers, ..DeviceSeen::default() });
        assert_eq!(is_ours(&with(device(Some(other), Default::default())), key), Err(NotOurs::OtherKey(other, key)));
        assert_eq!(is_ours(&with(device(None, Default::default())), key), Ok(()));
        let peers = [(other, Default::default())].into();
        assert_eq!(is_ours(&with(device(None, peers)), key), Err(NotOurs::InTheMaking));
    }
}
