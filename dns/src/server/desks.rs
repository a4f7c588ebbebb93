//! The desks of all listeners, made of one configuration.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;

use arc_swap::ArcSwap;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::networks::{NetworkWatch, networks};
use super::{Cluster, Desk, Foreign, Queue, tcp};
use crate::access::Access;
use crate::config::Config;
use crate::cookie::Cookies;
use crate::forward::Front;
use crate::status::{Counters, Published, Writers};
use crate::tap::Tap;

/// What the listeners answer with, and what keeps it current.
#[derive(Debug)]
pub(crate) struct Desks {
    /// By address, at last the bridge's: that of the streams, then one for each worker. Then those of the addresses for TLS.
    pub(crate) listeners: Vec<Desk>,
    /// That of the slow path.
    pub(crate) last: Desk,
    pub(crate) counters: Arc<[Counters]>,
    /// Of all of them.
    pub(crate) tap: Tap,
}

impl Desks {
    /// Those of a configuration.
    pub(crate) fn new(
        config: &Config,
        published: &Arc<ArcSwap<Published>>,
        access: &Arc<ArcSwap<Access>>,
        (slow, front): (Option<&Queue>, Option<Arc<Front>>),
    ) -> Self {
        let secure = config.tls.as_ref().map_or(0, |tls| tls.listen.len());
        let places = places(config.listen.len() + config.bridge.iter().count(), config.threads, secure);
        let counters = places.iter().map(|(_, writers)| Counters::new(config.zones.len(), *writers));
        let counters: Arc<[Counters]> = counters.collect();
        let (cookies, tap, connections) = (Cookies::new(rand::random()), Tap::default(), tcp::seats());
        // The kernel spreads the askers of a network over the workers.
        let threads = u32::try_from(config.threads.get()).unwrap_or(u32::MAX);
        let rate = config.rate.map(|rate| NonZeroU32::new(rate.get() / threads).unwrap_or(NonZeroU32::MIN));
        let desk = |(mine, (worker, _)): (usize, &(Option<usize>, Writers))| Desk {
            published: Arc::clone(published),
            all: Arc::clone(&counters),
            mine,
            worker: *worker,
            access: Arc::clone(access),
            cluster: if config.allow.is_empty() { Cluster::Heard } else { Cluster::Unheard },
            connections: connections.clone(),
            cookies,
            rate,
            tap: tap.clone(),
            slow: slow.cloned(),
            foreign: if front.is_some() { Foreign::Forwarded } else { Foreign::Refused },
            front: front.clone(),
        };
        let mut listeners: Vec<Desk> = places.iter().enumerate().map(desk).collect();
        let last = listeners.pop().expect("the slow path has the last place");
        Self { listeners, last, counters, tap }
    }
}

/// This host by itself, whatever its interfaces have.
const LOOPBACK: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
];

/// Who may ask, and what keeps that current; `None` where it is configured.
pub(crate) fn who_may_ask(config: &Config) -> (Arc<ArcSwap<Access>>, Option<NetworkWatch>) {
    if !config.allow.is_empty() {
        return (Arc::new(ArcSwap::from_pointee(Access::new(config.allow.iter().copied()))), None);
    }
    let always = [&LOOPBACK[..], &config.ranges, &config.own_addresses].concat();
    let access = Access::new(always.iter().copied().chain(networks()));
    let access = Arc::new(ArcSwap::from_pointee(access));
    (Arc::clone(&access), Some(NetworkWatch { access, always }))
}

/// Who answers, in the order of the desks: for each address the streams, then its workers, of which each knows its
/// place among all workers; then the addresses for TLS, and at last the slow path.
fn places(addrs: usize, threads: NonZeroUsize, secure: usize) -> Vec<(Option<usize>, Writers)> {
    let workers = |addr: usize| (addr * threads.get()..(addr + 1) * threads.get()).map(|n| (Some(n), Writers::One));
    let of_addr = |addr| std::iter::once((None, Writers::Many)).chain(workers(addr));
    (0..addrs).flat_map(of_addr).chain(std::iter::repeat_n((None, Writers::Many), secure + 1)).collect()
}
