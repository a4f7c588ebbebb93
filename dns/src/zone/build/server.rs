//! `{server}.node`, and what is always there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use super::draft::{Draft, Rank, View, addresses};
use super::scope;
use crate::feed::Table;
use crate::row::{Belonging, Fault, Key, Server};
use crate::zone::entry::Kind;
use crate::zone::origin::LOCAL_NODE;

impl<'a> View<'a> {
    /// The addresses that a server answers with.
    pub(super) fn of_server(&self, row: &Server) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
        let serves = |address: IpAddr| row.belonging != Belonging::Removed && self.domain.serves_server(address);
        (row.v4.filter(|v4| serves((*v4).into())), row.v6.filter(|v6| serves((*v6).into())))
    }

    /// Whether who is in a range that some row names may ask: it is nobody's on the internet, or configured on this host.
    fn is_let_in(&self, range: &IpNet) -> bool {
        let mut configured = self.settings.ranges.iter().chain(&self.settings.own_addresses);
        scope::is_private(range) || configured.any(|own| own.contains(range))
    }

    /// Who has `{label}.node`: of ids that differ only in case the first in key order, but none that is removed before
    /// one that is not.
    pub(super) fn holder(&self, label: &Arc<str>) -> Option<&'a Server> {
        let servers = &self.facts.servers;
        let rows = servers.index().label(label).iter().filter_map(|id| servers.rows().at(*id));
        let first = |(key, row): &(&'a Key, &'a Server)| (row.belonging == Belonging::Removed, *key);
        rows.min_by_key(first).map(|(_, row)| row)
    }
}

impl Draft<'_> {
    /// `local.node`, also while its server has no row, and the lists of everything.
    pub(super) fn fixed(&mut self) {
        let view = self.view;
        for range in view.domain.ranges().iter().filter(|range| !view.is_let_in(range)) {
            self.problem(Table::Metadata, "cluster_cidr", &Fault::PublicRange { range: *range });
        }
        let row = view.facts.servers.get(&view.settings.server);
        let (v4, v6) = row.map_or((None, None), |row| view.of_server(row));
        self.put(LOCAL_NODE, Kind::Plain, |out| addresses(out, v4.into_iter(), v6.into_iter(), view.settings.ttl));
        self.put(b"\x04node", Kind::Plain, |_| {});
        self.put(b"\x05_apps", Kind::Apps, |_| {});
        self.put(b"\x0a_instances", Kind::Instances, |_| {});
    }

    /// `{server}.node`, and whose addresses these are.
    pub(super) fn server(&mut self, id: &str) {
        let view = self.view;
        let Some(row) = view.facts.servers.get(id) else { return };
        for address in scope::addresses(row).filter(|address| !view.domain.serves_server(*address)) {
            self.problem(Table::Servers, &row.id, &Fault::Outside { address });
        }
        if let Some(subnet) = row.subnet.filter(|subnet| !view.is_let_in(subnet)) {
            self.problem(Table::Servers, &row.id, &Fault::Public { subnet });
        }
        let Some(label) = &row.label else { return };
        if let Some(holder) = view.holder(label).filter(|holder| holder.id != row.id) {
            // The row of a removed server stays behind, and has no answer that could be missed.
            if row.belonging != Belonging::Removed {
                let fault = Fault::Taken { name: format!("{label}.node"), by: crate::row::quote(&holder.id) };
                self.problem(Table::Servers, &row.id, &fault);
            }
            return;
        }
        // A label and `node` fit below any origin.
        let Ok(name) = view.domain.relative(&[label, "node"]) else { return };
        let (v4, v6) = view.of_server(row);
        for address in v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6)) {
            self.own(address, Rank::Server, &name);
        }
        self.put(&name, Kind::Plain, |out| addresses(out, v4.into_iter(), v6.into_iter(), view.settings.ttl));
    }
}
