//! The networks of this host, from which anybody may ask: those of its bridges, behind which its containers are, and
//! private ones that it is in. A public network that an interface is in belongs to strangers; of it the host itself
//! may ask and nobody else.
//!
//! Bridges come and go, so the kernel is asked to tell (rtnetlink), and the list is read anew when it does.

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
        Some(allowed(network, kind(&one.interface_name)))
    };
    interfaces.filter_map(of_one).collect()
}

/// What an interface is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bridge,
    Other,
}

fn kind(interface: &str) -> Kind {
    match Path::new("/sys/class/net").join(interface).join("bridge").exists() {
        true => Kind::Bridge,
        false => Kind::Other,
    }
}

/// Who may ask of the network that an interface has an address in.
fn allowed(network: IpNet, kind: Kind) -> IpNet {
    match kind {
        Kind::Bridge => network.trunc(),
        Kind::Other if is_private(network.addr()) => network.trunc(),
        Kind::Other => IpNet::from(network.addr()),
    }
}

fn ip(address: SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

/// What the kernel tells of interfaces and addresses. Of a datagram socket as the runtime has it only reading is used,
/// which is the same for rtnetlink.
struct Changes(UdpSocket);

impl Changes {
    fn watch() -> io::Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS as u32))?;
        Ok(Self(UdpSocket::from_std(socket.into())?))
    }

    /// Waits for a change, and takes what waits with it. What it says is not read: the list is read anew whole.
    async fn next(&self) -> io::Result<()> {
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
    fn bridges_and_private_networks_may_ask_and_public_ones_may_not() {
        let allowed = |network: &str, kind| allowed(network.parse().unwrap(), kind).to_string();
        assert_eq!(allowed("172.17.0.1/16", Kind::Bridge), "172.17.0.0/16");
        assert_eq!(allowed("2001:db8:1::1/64", Kind::Bridge), "2001:db8:1::/64");
        assert_eq!(allowed("192.168.1.5/24", Kind::Other), "192.168.1.0/24");
        assert_eq!(allowed("203.0.113.9/24", Kind::Other), "203.0.113.9/32");
        assert_eq!(allowed("2001:db8::9/64", Kind::Other), "2001:db8::9/128");
    }

    #[test]
    fn this_host_has_its_loopback() {
        assert!(Access::new(networks()).has(IpAddr::from([127, 0, 0, 1])));
    }
}
