//! Which of all that could answer a name does: the longest suffix decides. Pure.
//!
//! Candidates are static zones, our own zones, and configured domains, in this order where two have the same length;
//! then the names that no upstream is to be asked about; then the upstreams.

use super::special::Special;
use crate::name::ZoneName;
use crate::query::Query;

/// Who answers a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// A zone of ours.
    Own,
    /// The servers of the configured domain with this place.
    Domain(usize),
    /// We, by rule.
    Special(Special),
    /// The upstreams.
    Upstreams,
}

/// The configured domains.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    /// The longest first.
    domains: Box<[(Box<[u8]>, usize)]>,
}

impl Routes {
    /// Of these domains; a domain's place is that in the list.
    pub(crate) fn new<'a>(domains: impl Iterator<Item = &'a ZoneName>) -> Self {
        let mut domains: Vec<(Box<[u8]>, usize)> =
            domains.enumerate().map(|(place, domain)| (domain.wire().into(), place)).collect();
        domains.sort_by_key(|(wire, place)| (std::cmp::Reverse(wire.len()), *place));
        Self { domains: domains.into() }
    }

    /// Who answers this name, lower-cased with its closing zero. `own` is the length on the wire of the longest zone of
    /// ours that it is in, if it is in any.
    pub(crate) fn route(&self, name: &[u8], labels: &[u8], own: Option<usize>) -> Route {
        let domain = self.domain(name, labels);
        match (own, domain) {
            (Some(own), _) if !self.takes(name, labels, own) => Route::Own,
            (_, Some(place)) => Route::Domain(place),
            (Some(_), None) => Route::Own,
            (None, None) => Special::of(name, labels).map_or(Route::Upstreams, Route::Special),
        }
    }

    /// Who answers this question, whose name is in no zone of ours or taken from it by a domain.
    pub(crate) fn foreign(&self, query: &Query<'_>) -> Route {
        match self.route(query.name.wire(), query.name.labels(), None) {
            Route::Upstreams => Special::alone(query).map_or(Route::Upstreams, Route::Special),
            route => route,
        }
    }

    /// Whether a domain takes this name from a zone of ours of this length.
    pub(crate) fn takes(&self, name: &[u8], labels: &[u8], own: usize) -> bool {
        let longer = self.domains.iter().take_while(|(domain, _)| domain.len() > own);
        longer.into_iter().any(|(domain, _)| is_within(name, labels, domain))
    }

    /// The longest domain that the name is in.
    fn domain(&self, name: &[u8], labels: &[u8]) -> Option<usize> {
        self.domains.iter().find(|(domain, _)| is_within(name, labels, domain)).map(|(_, place)| *place)
    }
}

/// Whether a name is at or below a domain: a suffix that begins where a label does.
pub(super) fn is_within(name: &[u8], labels: &[u8], domain: &[u8]) -> bool {
    let Some(at) = name.len().checked_sub(domain.len()) else { return false };
    // The root has no label, and everything is in it.
    name.ends_with(domain) && (at + 1 == name.len() || labels.iter().any(|label| usize::from(*label) == at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::wire;

    fn route(domains: &[&str], own: &[&str], name: &str) -> Route {
        let domains: Vec<ZoneName> = domains.iter().map(|domain| domain.parse().unwrap()).collect();
        let (name, labels) = wire(name);
        let own = own.iter().map(|zone| wire(zone).0).filter(|zone| is_within(&name, &labels, zone));
        Routes::new(domains.iter()).route(&name, &labels, own.map(|zone| zone.len()).max())
    }

    #[test]
    fn the_longest_suffix_decides() {
        let domains = ["corp.example", "lab.corp.example", "google.internal", "168.192.in-addr.arpa"];
        let own = ["internal", "static.corp.example"];
        for (name, expected) in [
            ("api.internal", Route::Own),
            ("internal", Route::Own),
            ("metadata.google.internal", Route::Domain(2)),
            ("google.internal", Route::Domain(2)),
            // Not at a label's beginning.
            ("agoogle.internal", Route::Own),
            ("www.corp.example", Route::Domain(0)),
            ("a.lab.corp.example", Route::Domain(1)),
            ("a.static.corp.example", Route::Own),
            ("corp.example.org", Route::Upstreams),
            ("5.1.168.192.in-addr.arpa", Route::Domain(3)),
            ("example.org", Route::Upstreams),
            (".", Route::Upstreams),
        ] {
            assert_eq!(route(&domains, &own, name), expected, "{name}");
        }
    }

    #[test]
    fn a_zone_of_ours_wins_over_a_domain_of_the_same_name() {
        assert_eq!(route(&["internal"], &["internal"], "a.internal"), Route::Own);
    }

    #[test]
    fn what_no_upstream_is_asked_about_comes_before_the_upstreams_only() {
        assert_eq!(route(&[], &[], "localhost"), Route::Special(Special::of(&wire("localhost").0, &[0]).unwrap()));
        assert_eq!(route(&["localhost"], &[], "localhost"), Route::Domain(0));
        assert_eq!(route(&[], &["localhost"], "localhost"), Route::Own);
    }
}
