//! Who is asked for which names: the groups of upstreams, and the one that follows the system's files.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::exchange::Trust;
use super::group::{Group, Peer};
use super::resolv::Files;
use super::settings::{Upstream, Upstreams};

/// How often the system's files are looked at while names are asked for: a call to the system or two.
const LOOK: Duration = Duration::from_secs(1);

/// The upstreams of some names.
#[derive(Debug)]
pub(crate) enum Servers {
    /// Nobody is asked.
    None,
    /// These.
    These(Arc<Group>),
    /// Those of the system.
    System(Mutex<System>),
}

/// The system's upstreams, and when its files were looked at last.
#[derive(Debug)]
pub(crate) struct System {
    files: Files,
    looked: Option<Instant>,
    group: Arc<Group>,
}

impl Servers {
    pub(crate) fn new(upstreams: &Upstreams, own: &Own) -> Self {
        match upstreams {
            Upstreams::None => Self::None,
            Upstreams::System => Self::system(Files::default()),
            Upstreams::These(servers) => Self::these(servers, own),
        }
    }

    pub(crate) fn these(servers: &[Upstream], own: &Own) -> Self {
        Self::These(Arc::new(group(servers, &[], own)))
    }

    fn system(files: Files) -> Self {
        Self::System(Mutex::new(System { files, looked: None, group: Arc::default() }))
    }

    /// Who is asked at this moment.
    pub(crate) fn group(&self, own: &Own) -> Option<Arc<Group>> {
        match self {
            Self::None => None,
            Self::These(group) => Some(Arc::clone(group)),
            Self::System(system) => {
                let mut system = system.lock().unwrap_or_else(PoisonError::into_inner);
                let now = Instant::now();
                if system.looked.is_none_or(|looked| now.duration_since(looked) >= LOOK) {
                    system.looked = Some(now);
                    if let Some(servers) = system.files.changed() {
                        // Who stays keeps what is known of it.
                        system.group = Arc::new(group(&servers, system.group.peers(), own));
                        let count = system.group.peers().len();
                        tracing::info!(upstreams = count, "upstreams of the system read");
                    }
                }
                Some(Arc::clone(&system.group))
            }
        }
    }
}

fn group(servers: &[Upstream], known: &[Arc<Peer>], own: &Own) -> Group {
    let peer = |server: &Upstream| {
        let known = known.iter().find(|peer| peer.upstream() == server).cloned();
        known.unwrap_or_else(|| Arc::new(Peer::new(server.clone(), &own.trust)))
    };
    let (ours, others): (Vec<_>, Vec<_>) = servers.iter().partition(|server| own.has(server.addr));
    for server in ours {
        tracing::warn!(upstream = %server, "upstream left out: it is this server itself");
    }
    Group::new(others.into_iter().map(peer).collect())
}

/// What is this server's own: the addresses that it listens on, which would be itself that it asks, and whom it trusts.
#[derive(Debug)]
pub(crate) struct Own {
    listen: Vec<SocketAddr>,
    trust: Arc<Trust>,
}

impl Own {
    pub(crate) fn new(listen: &[SocketAddr], trust: Trust) -> Self {
        Self { listen: listen.to_vec(), trust: Arc::new(trust) }
    }

    fn has(&self, addr: SocketAddr) -> bool {
        let ip = addr.ip().to_canonical();
        self.listen.iter().any(|own| {
            own.port() == addr.port()
                && (own.ip().to_canonical() == ip || own.ip().is_unspecified() && is_of_this_host(ip))
        })
    }
}

fn is_of_this_host(ip: IpAddr) -> bool {
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    ip.is_loopback() || ip.is_unspecified() || interfaces.filter_map(address).any(|own| own == ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_asks_itself() {
        let own = Own::new(&["10.210.0.1:53".parse().unwrap(), "0.0.0.0:5353".parse().unwrap()], Trust::new(None));
        for (addr, is) in [
            ("10.210.0.1:53", true),
            ("[::ffff:10.210.0.1]:53", true),
            ("10.210.0.1:54", false),
            ("10.210.0.2:53", false),
            ("127.0.0.1:5353", true),
            ("127.0.0.9:5353", true),
            ("192.0.2.1:5353", false),
        ] {
            assert_eq!(own.has(addr.parse().unwrap()), is, "{addr}");
        }
    }

    #[test]
    fn a_server_that_stays_in_the_list_keeps_what_is_known_of_it() {
        let own = Own::new(&["127.0.0.1:53".parse().unwrap()], Trust::new(None));
        let servers = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Upstream>>();
        let before = group(&servers(&["192.0.2.1", "127.0.0.1"]), &[], &own);
        let after = group(&servers(&["192.0.2.2", "192.0.2.1"]), before.peers(), &own);
        assert_eq!((before.peers().len(), after.peers().len()), (1, 2));
        assert!(Arc::ptr_eq(&before.peers()[0], &after.peers()[1]));
    }
}
