//! What is served: addresses, zones, and how long a name may be.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::name::{self, NAME_MAX, NameError};
use crate::zone::origin::Origin;
use crate::zone::{Settings, reverse};

/// Where management addresses are: `fdcc` and 14 bytes of the key's hash.
pub(super) const MANAGEMENT: IpNet =
    IpNet::V6(ipnet::Ipv6Net::new_assert(Ipv6Addr::new(0xfdcc, 0, 0, 0, 0, 0, 0, 0), 16));

/// What follows from the settings and the cluster's ranges alone.
#[derive(Debug)]
pub(in crate::zone) struct Domain {
    ranges: Vec<IpNet>,
    own_addresses: Vec<IpNet>,
    origins: Arc<[Origin]>,
    /// The reverse zones, without their closing zeros.
    reverse: Vec<Box<[u8]>>,
    /// Longest relative name, so that with the longest origin it is still a name.
    room: usize,
}

impl Domain {
    pub(in crate::zone) fn new(settings: &Settings, ranges: Vec<IpNet>) -> Self {
        let zones = reverse_zones(&ranges);
        let reverse = match settings.zones.first() {
            Some(_) => zones.iter().map(|zone| zone[..zone.len() - 1].into()).collect(),
            None => Vec::new(),
        };
        let longest = settings.zones.iter().map(|zone| zone.wire().len()).max().unwrap_or(1);
        Self {
            ranges,
            own_addresses: settings.own_addresses.clone(),
            origins: origins(settings, &zones),
            reverse,
            room: NAME_MAX - longest,
        }
    }

    pub(in crate::zone) fn ranges(&self) -> &[IpNet] {
        &self.ranges
    }

    pub(in crate::zone) fn origins(&self) -> Arc<[Origin]> {
        Arc::clone(&self.origins)
    }

    /// Whether an address may be served: inside the cluster's ranges, or one of this development cluster's own.
    pub(super) fn serves(&self, address: IpAddr) -> bool {
        self.ranges.iter().chain(&self.own_addresses).any(|range| range.contains(&address))
    }

    /// Whether an address may be served as a server's: that, or a management address.
    pub(super) fn serves_server(&self, address: IpAddr) -> bool {
        MANAGEMENT.contains(&address) || self.serves(address)
    }

    /// A relative name of these labels, if it fits below every origin.
    pub(super) fn relative(&self, labels: &[&str]) -> Result<Box<[u8]>, NameError> {
        let name = name::relative(labels)?;
        if name.len() > self.room { Err(NameError::LongName(name.len())) } else { Ok(name) }
    }

    /// The reverse name of an address, if it is in a zone of ours.
    pub(super) fn pointer(&self, address: IpAddr) -> Option<Box<[u8]>> {
        let name = reverse::name(address);
        self.zone_of(&name).is_some().then_some(name)
    }

    /// The names above an address, inside its zone.
    pub(super) fn above_pointer(&self, name: &[u8], out: &mut dyn FnMut(&[u8])) {
        let Some(zone) = self.zone_of(name) else { return };
        let mut rest = name;
        while let Some((_, parent)) = name::split_first(rest).filter(|(_, parent)| parent.len() > zone.len()) {
            out(parent);
            rest = parent;
        }
    }

    fn zone_of(&self, name: &[u8]) -> Option<&[u8]> {
        self.reverse.iter().map(|zone| &**zone).find(|zone| name.ends_with(zone))
    }
}

/// The reverse zones of these ranges, and the one that is served whatever the ranges.
pub(crate) fn reverse_zones(ranges: &[IpNet]) -> BTreeSet<Vec<u8>> {
    ranges.iter().chain([&MANAGEMENT]).flat_map(|range| reverse::zones(*range)).collect()
}

fn origins(settings: &Settings, reverse: &BTreeSet<Vec<u8>>) -> Arc<[Origin]> {
    let Settings { ttl, negative_ttl, .. } = *settings;
    let Some(first) = settings.zones.first() else { return Arc::new([]) };
    let forward = settings.zones.iter().enumerate();
    let mut origins: Vec<Origin> =
        forward.map(|(place, zone)| Origin::forward(place, zone.wire(), ttl, negative_ttl)).collect();
    origins.extend(reverse.iter().map(|zone| Origin::reverse(zone, first.wire(), ttl, negative_ttl)));
    // The longest first: of two zones that hold a name, the longer one answers it.
    origins.sort_by(|a, b| (b.wire().len(), a.wire()).cmp(&(a.wire().len(), b.wire())));
    origins.dedup_by(|a, b| a.wire() == b.wire());
    origins.into()
}
