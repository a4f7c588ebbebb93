//! The networks of this host, from which anybody may ask: those of its bridges, behind which its containers are. The network that any
//! other interface is in belongs to its neighbours; of it the host itself may ask and nobody else. So does a public network on a bridge
//! that leads out of the host, and so do addresses of a link, which say nothing of which link.
//!
//! Bridges come and go, so the kernel is asked to tell (rtnetlink), and the list is read anew when it does.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use nix::libc;
use nix::sys::socket::{AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, socket};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use super::limit::is_private;
use crate::access::Access;

/// What rtnetlink tells of: addresses of both families, and interfaces, which become bridges' or stop being.
const GROUPS: i32 = libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR | libc::RTMGRP_LINK;

/// Keeps current who may ask.
#[derive(Debug)]
pub(crate) struct NetworkWatch {
    pub(crate) access: Arc<ArcSwap<Access>>,
    /// Networks that may ask, whatever this host is in.
    pub(crate) always: Vec<IpNet>,
}

impl NetworkWatch {
    /// Follows the networks of this host until told to stop.
    pub(crate) async fn run(self, token: CancellationToken) -> io::Result<()> {
        let changes = match Changes::watch() {
            Ok(changes) => changes,
            Err(error) => {
                tracing::warn!(%error, "cannot watch the networks of this host: those that come later may not ask");
                token.cancelled().await;
                return Ok(());
            }
        };
        loop {
            // After the watch began, so that no change falls between.
            let found = Access::new(self.always.iter().copied().chain(networks()));
            if found != **self.access.load() {
                tracing::info!(networks = found.len(), "networks that may ask changed");
                self.access.store(Arc::new(found));
            }
            tokio::select! {
                // Cancel-safe: a change that is not taken is told again.
                () = token.cancelled() => return Ok(()),
                changed = changes.next() => changed?,
            }
        }
    }
}

/// The networks of this host at this moment; none if the system does not say.
pub(crate) fn networks() -> Vec<IpNet> {
    let interfaces = match getifaddrs() {
        Ok(interfaces) => interfaces,
        Err(error) => {
            tracing::warn!(%error, "the system does not say which networks this host is in");
            return Vec::new();
        }
    };
    let of_one = |one: nix::ifaddrs::InterfaceAddress| {
        let (ip, mask) = (ip(one.address?)?, ip(one.netmask?)?);
        let network = IpNet::with_netmask(ip, mask).ok()?;
        Some(allowed(network, kind(Path::new(LINKS), device(&one.interface_name))))
    };
    interfaces.filter_map(of_one).collect()
}

/// The IPv4 address of an interface, where it is there and has one.
pub(super) fn address_of(interface: &str) -> Option<IpAddr> {
    let mut entries = getifaddrs().ok()?.filter(|entry| device(&entry.interface_name) == interface);
    entries.find_map(|entry| ip(entry.address?).filter(|ip| ip.is_ipv4() && !is_of_link(*ip)))
}

/// The interface that an address is of, by the label of the address: that of a further one may be `eth0:1`.
fn device(label: &str) -> &str {
    label.split_once(':').map_or(label, |(device, _)| device)
}

/// Where the kernel says of each interface what it is.
const LINKS: &str = "/sys/class/net";

/// What an interface is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A bridge with nothing but what is on this host behind it.
    Bridge,
    /// A bridge with an interface of the host in it.
    BridgeOut,
    Other,
    /// The kernel does not say: what it says is of another network than this process is in.
    Unknown,
}

fn kind(links: &Path, interface: &str) -> Kind {
    let link = links.join(interface);
    if !link.exists() {
        return Kind::Unknown;
    }
    let Ok(ports) = fs::read_dir(link.join("brif")) else { return Kind::Other };
    match ports.flatten().any(|port| leads_out(&links.join(port.file_name()))) {
        true => Kind::BridgeOut,
        false => Kind::Bridge,
    }
}

/// Whether a port of a bridge is a device, or upon one, as a VLAN is. What leads to a container or a machine on this host is neither.
fn leads_out(port: &Path) -> bool {
    let is_below = |name: OsString| name.to_string_lossy().starts_with("lower_");
    port.join("device").exists()
        || fs::read_dir(port).into_iter().flatten().flatten().any(|entry| is_below(entry.file_name()))
}

/// Who may ask of the network that an interface has an address in.
fn allowed(network: IpNet, kind: Kind) -> IpNet {
    let ip = network.addr();
    let whole = match kind {
        Kind::Bridge => !is_of_link(ip),
        Kind::BridgeOut | Kind::Unknown => is_private(ip) && !is_of_link(ip),
        Kind::Other => ip.is_loopback(),
    };
    if whole { network.trunc() } else { IpNet::from(ip) }
}

fn is_of_link(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn ip(address: SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

/// What the kernel tells of interfaces and addresses. Of a datagram socket as the runtime has it only reading is used,
/// which is the same for rtnetlink.
pub(super) struct Changes(UdpSocket);

impl Changes {
    pub(super) fn watch() -> io::Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS as u32))?;
        Ok(Self(UdpSocket::from_std(socket.into())?))
    }

    /// Waits for a change, and takes what waits with it. What it says is not read: the list is read anew whole.
    pub(super) async fn next(&self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        let mut taken = self.0.recv(&mut buffer).await;
        loop {
            match taken {
                Ok(_) => {}
                // More changes than the queue takes are changes as well.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
            taken = self.0.try_recv(&mut buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_behind_a_bridge_may_ask_and_no_neighbour() {
        let allowed = |network: &str, kind| allowed(network.parse().unwrap(), kind).to_string();
        assert_eq!(allowed("172.17.0.1/16", Kind::Bridge), "172.17.0.0/16");
        assert_eq!(allowed("2001:db8:1::1/64", Kind::Bridge), "2001:db8:1::/64");
        assert_eq!(allowed("fe80::1/64", Kind::Bridge), "fe80::1/128");
        assert_eq!(allowed("192.168.1.5/24", Kind::BridgeOut), "192.168.1.0/24");
        assert_eq!(allowed("203.0.113.9/24", Kind::BridgeOut), "203.0.113.9/32");
        assert_eq!(allowed("192.168.1.5/24", Kind::Other), "192.168.1.5/32");
        assert_eq!(allowed("2001:db8::9/64", Kind::Other), "2001:db8::9/128");
        assert_eq!(allowed("127.0.0.1/8", Kind::Other), "127.0.0.0/8");
        assert_eq!(allowed("172.17.0.1/16", Kind::Unknown), "172.17.0.0/16");
        assert_eq!(allowed("203.0.113.9/24", Kind::Unknown), "203.0.113.9/32");
    }

    #[test]
    fn a_bridge_leads_out_by_a_device_or_by_what_is_upon_one() {
        let links = tempfile::tempdir().unwrap();
        let made = [
            "docker0/brif/veth1",
            "veth1",
            "br0/brif/veth1",
            "br0/brif/eth0",
            "eth0/device",
            "br1/brif/eth0.7",
            "eth0.7/lower_eth0",
        ];
        made.iter().for_each(|path| fs::create_dir_all(links.path().join(path)).unwrap());
        let kind = |interface| kind(links.path(), interface);
        assert_eq!(["docker0", "br0", "br1"].map(kind), [Kind::Bridge, Kind::BridgeOut, Kind::BridgeOut]);
        assert_eq!(["eth0", "nowhere"].map(kind), [Kind::Other, Kind::Unknown]);
        assert_eq!(kind(device("eth0:1")), Kind::Other, "an address with a label of its own");
    }

    #[test]
    fn this_host_has_its_loopback() {
        assert!(Access::new(networks()).has(IpAddr::from([127, 0, 0, 1])));
    }
}
