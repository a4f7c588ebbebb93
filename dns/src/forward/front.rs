//! What is said of names that are not ours before anybody is asked: whom anything is forwarded for, and the names that mean
//! something here only. A worker and a connection decide it where they stand; no lock, no allocation.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use ipnet::IpNet;

use super::rebind;
use super::route::{Route, Routes};
use crate::access::Access;
use crate::answer::{Asked, Tally};
use crate::config::Config;
use crate::query;
use crate::zone::{Owner, Zone};

/// Whether names of others are looked up for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recursion {
    Available,
    None,
}

/// What is known before anybody is asked.
#[derive(Debug)]
pub(crate) struct Front {
    server: Arc<str>,
    routes: Arc<Routes>,
    /// Whom anything is forwarded for, beside the ranges of the cluster that the zone knows.
    clients: Access,
    /// And who may ask because it is near; `None` where it is configured who may.
    near: Option<Arc<ArcSwap<Access>>>,
}

impl Front {
    pub(super) fn new(config: &Config, routes: Arc<Routes>, access: &Arc<ArcSwap<Access>>) -> Self {
        // Everybody may be told the cluster's names; a resolver for everybody is a weapon for anybody (RFC 5358).
        let named = config.allow.iter().copied().filter(|network| network.prefix_len() > 0);
        let near = rebind::local().chain(config.ranges.iter().copied());
        let clients = Access::new(near.chain(named).collect::<Vec<IpNet>>());
        let near = config.allow.is_empty().then(|| Arc::clone(access));
        Self { server: config.server.as_str().into(), routes, clients, near }
    }

    /// Whether names of others are looked up for who asks from there.
    pub(crate) fn recursion(&self, zone: &Zone, source: IpAddr) -> Recursion {
        // Nearly all are found by the first.
        let is_near = || self.near.as_ref().is_some_and(|near| near.load().has(source));
        match self.clients.has(source) || zone.has_subnet_of(source) || is_near() {
            true => Recursion::Available,
            false => Recursion::None,
        }
    }

    /// The answer to a question about a name that no upstream is asked about, for a client that anything is forwarded for.
    pub(crate) fn special(&self, zone: &Zone, asked: &Asked<'_>, out: &mut Vec<u8>) -> Option<Tally> {
        let query = &query::parse(asked.query).ok()?;
        let Route::Special(special) = self.routes.foreign(query) else { return None };
        if self.recursion(zone, asked.source) == Recursion::None {
            return None;
        }
        let opt = asked.opt(query, &self.server, None);
        let rcode = special.answer(query, asked.size(query), opt.as_ref(), out);
        Some(Tally { owner: Owner::Nobody, qtype: query.qtype, rcode })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{config, zone};

    #[test]
    fn whoever_may_ask_for_being_near_is_forwarded_for_and_of_whom_is_named_all_but_everybody() {
        let near = Access::new(["2001:db8:1::/64".parse().unwrap()]);
        let recursion = |allow: &[&str], source: &str| {
            let allow = allow.iter().map(|network| network.parse().unwrap()).collect();
            let access = Arc::new(ArcSwap::from_pointee(near.clone()));
            let front = Front::new(&Config { allow, ..config() }, Arc::default(), &access);
            front.recursion(&zone([]), source.parse().unwrap())
        };
        assert_eq!(recursion(&[], "2001:db8:1::7"), Recursion::Available);
        assert_eq!(recursion(&[], "2001:db8:2::7"), Recursion::None);
        assert_eq!(recursion(&["2001:db8:2::/64"], "2001:db8:2::7"), Recursion::Available);
        assert_eq!(recursion(&["::/0"], "2001:db8:1::7"), Recursion::None);
    }
}
