//! What is said of names that are not ours before anybody is asked: whom anything is forwarded for, and the names that mean
//! something here only. A worker and a connection decide it where they stand; no lock, no allocation.

use std::net::IpAddr;
use std::sync::Arc;

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
}

impl Front {
    pub(super) fn new(config: &Config, routes: Arc<Routes>) -> Self {
        // Everybody may be told the cluster's names; a resolver for everybody is a weapon for anybody (RFC 5358).
        let named = config.allow.iter().copied().filter(|network| network.prefix_len() > 0);
        let near = rebind::local().chain(config.ranges.iter().copied());
        let clients = Access::new(near.chain(named).collect::<Vec<IpNet>>());
        Self { server: config.server.as_str().into(), routes, clients }
    }

    /// Whether names of others are looked up for who asks from there.
    pub(crate) fn recursion(&self, zone: &Zone, source: IpAddr) -> Recursion {
        match self.clients.has(source) || zone.has_subnet_of(source) {
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
