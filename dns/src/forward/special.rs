//! Names that no upstream is asked about: they mean something on this host or in this network only, and asking tells
//! strangers of it (RFC 6303, RFC 6761, RFC 7686). A configured domain or a zone of ours of that name goes first.

use std::sync::LazyLock;

use super::route::is_within;
use crate::answer::message::{Authority, Message, Opt, Record, Room, Section};
use crate::config::Ttl;
use crate::name;
use crate::query::{self, Query, Rcode};
use crate::zone::{RR_HEAD, Tail, rtype};

/// One of these domains, by its place in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Special(usize);

/// What is known of a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Every name is this host itself (RFC 6761 §6.3).
    Localhost,
    /// The host itself by address: its one name is `localhost`.
    Loopback,
    /// It exists and has nothing below.
    Empty,
    /// Not even the domain itself exists.
    Missing,
    /// Below it there is no name of one label that has addresses.
    Root,
}

/// Types by which resolvers find their way from the root down and check signatures: a question for one of them is about
/// a top-level domain, and from no program that completes names.
const OF_DELEGATIONS: [u16; 8] = [rtype::NS, rtype::SOA, rtype::DS, 46, 47, 48, 50, 51];
/// Five seconds, as all that is denied below our own zones.
const ALONE_TTL: u32 = 5;
/// Three hours, as RFC 6303 §3 has it.
const TTL: u32 = 10_800;

/// Those that are few; [`DOMAINS`] adds the ranges.
const NAMED: [(&str, Kind); 16] = [
    ("localhost", Kind::Localhost),
    ("invalid", Kind::Missing),
    ("test", Kind::Missing),
    ("onion", Kind::Missing),
    ("1.0.0.127.in-addr.arpa", Kind::Loopback),
    ("127.in-addr.arpa", Kind::Empty),
    ("0.in-addr.arpa", Kind::Empty),
    ("10.in-addr.arpa", Kind::Empty),
    ("168.192.in-addr.arpa", Kind::Empty),
    ("254.169.in-addr.arpa", Kind::Empty),
    ("2.0.192.in-addr.arpa", Kind::Empty),
    ("100.51.198.in-addr.arpa", Kind::Empty),
    ("113.0.203.in-addr.arpa", Kind::Empty),
    ("255.255.255.255.in-addr.arpa", Kind::Empty),
    ("d.f.ip6.arpa", Kind::Empty),
    ("8.b.d.0.1.0.0.2.ip6.arpa", Kind::Empty),
];

/// All, on the wire; of two that a name is in, the longer stands first.
static DOMAINS: LazyLock<Vec<(Box<[u8]>, Kind)>> = LazyLock::new(|| {
    let zeros = "0.".repeat(31);
    let mut all: Vec<(String, Kind)> = NAMED.map(|(name, kind)| (name.to_owned(), kind)).into();
    all.extend((16..32).map(|part| (format!("{part}.172.in-addr.arpa"), Kind::Empty)));
    all.extend(["8", "9", "a", "b"].map(|part| (format!("{part}.e.f.ip6.arpa"), Kind::Empty)));
    all.extend(
        [("1", Kind::Loopback), ("0", Kind::Empty)].map(|(last, kind)| (format!("{last}.{zeros}ip6.arpa"), kind)),
    );
    // In it is every name: the last.
    all.push((String::new(), Kind::Root));
    let wire = |name: &str| {
        if name.is_empty() {
            return [0].into();
        }
        let labels: Vec<&str> = name.split('.').collect();
        [&*name::relative(&labels).expect("short names"), &[0]].concat().into()
    };
    all.iter().map(|(name, kind)| (wire(name), *kind)).collect()
});

impl Special {
    /// The one that this name is in.
    pub(crate) fn of(name: &[u8], labels: &[u8]) -> Option<Self> {
        let (_, few) = DOMAINS.split_last()?;
        few.iter().position(|(domain, _)| is_within(name, labels, domain)).map(Self)
    }

    /// For a name of one label that nothing else claims: no such name has addresses, upstreams need not learn which
    /// ones are tried here, and the answer must not depend on theirs. Resolvers that check signatures are none of those
    /// who try; they are told the truth.
    pub(crate) fn alone(query: &Query<'_>) -> Option<Self> {
        let checks = query.head.checking_disabled != 0 || query.edns.is_some_and(|edns| edns.dnssec_ok != 0);
        let alone = query.name.labels().len() == 1 && !checks && !OF_DELEGATIONS.contains(&query.qtype);
        alone.then(|| Self(DOMAINS.len() - 1))
    }

    /// The answer, of at most `size` bytes.
    pub(crate) fn answer(self, query: &Query<'_>, size: usize, opt: Option<&Opt<'_>>, out: &mut Vec<u8>) -> Rcode {
        let (domain, kind) = &DOMAINS[self.0];
        let at_apex = query.name.wire().len() == domain.len();
        let mut message = Message::new(out, query, size, opt);
        let ttl = match kind {
            Kind::Root => ALONE_TTL,
            Kind::Localhost | Kind::Loopback | Kind::Empty | Kind::Missing => TTL,
        };
        let ttl = Ttl::from_secs(i64::from(ttl)).unwrap_or(Ttl::MAX);
        let wanted = |rtype: u16| query.qtype == rtype || query.qtype == rtype::ANY;
        let before = message.position();
        // A record of this size fits into the smallest message, next to any question and OPT.
        let add = |message: &mut Message<'_>, rtype, rdata: &[u8]| {
            let record = Record::<{ RR_HEAD + 16 }>::new(rtype, ttl, rdata);
            message.push(Section::Answer, record.bytes(), Tail::Whole, &[]);
        };
        match kind {
            Kind::Localhost if wanted(rtype::A) => add(&mut message, rtype::A, &[127, 0, 0, 1]),
            Kind::Localhost if wanted(rtype::AAAA) => {
                add(&mut message, rtype::AAAA, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            }
            Kind::Loopback if at_apex && wanted(rtype::PTR) => add(&mut message, rtype::PTR, b"\x09localhost\0"),
            Kind::Empty | Kind::Localhost | Kind::Loopback if at_apex && query.qtype == rtype::NS => {
                add(&mut message, rtype::NS, b"\x09localhost\0");
            }
            Kind::Empty | Kind::Localhost | Kind::Loopback if at_apex && query.qtype == rtype::SOA => {
                soa(domain, &mut message, Section::Answer, query, ttl);
            }
            Kind::Empty | Kind::Localhost | Kind::Loopback | Kind::Missing | Kind::Root => {}
        }
        let rcode = match kind {
            Kind::Localhost => Rcode::NoError,
            Kind::Loopback | Kind::Empty if at_apex => Rcode::NoError,
            Kind::Loopback | Kind::Empty | Kind::Missing | Kind::Root => Rcode::NxDomain,
        };
        if message.position() == before {
            soa(domain, &mut message, Section::Authority, query, ttl);
        }
        message.finish(query.head, rcode, Authority::Ours, opt);
        rcode
    }
}

/// SOA of the domain: its own name is the server's, and nobody is responsible (RFC 6303 §3).
fn soa(domain: &[u8], message: &mut Message<'_>, section: Section, query: &Query<'_>, ttl: Ttl) {
    let apex = query::HEADER + query.name.wire().len() - domain.len();
    let apex = (0xc000 | apex as u16).to_be_bytes();
    let mut rdata = [0; 38];
    rdata[..2].copy_from_slice(&apex);
    rdata[2..18].copy_from_slice(b"\x06nobody\x07invalid\0");
    for (index, number) in [1, 3600, 1200, 604_800, ttl.as_secs()].into_iter().enumerate() {
        rdata[18 + 4 * index..22 + 4 * index].copy_from_slice(&u32::to_be_bytes(number));
    }
    let record = Record::<{ RR_HEAD + 38 }>::new(rtype::SOA, ttl, &rdata);
    let start = message.position();
    if message.push(section, record.bytes(), Tail::Whole, &[]) == Room::Left {
        message.point(start, 0x3fff & u16::from_be_bytes(apex));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{decode, query as question, text};

    fn ask(name: &str, rtype: &str) -> String {
        let message = question(name, rtype).to_vec().unwrap();
        let query = query::parse(&message).unwrap();
        let Some(special) = Special::of(query.name.wire(), query.name.labels()) else { return "forwarded".to_owned() };
        let mut out = Vec::new();
        special.answer(&query, 512, None, &mut out);
        text(&decode(&out))
    }

    #[test]
    fn localhost_is_this_host_whatever_stands_before_it() {
        insta::assert_snapshot!(
            ["localhost A", "api.localhost AAAA", "localhost MX", "1.0.0.127.in-addr.arpa PTR", "invalid A", "a.onion AAAA"]
                .map(|question| {
                    let (name, rtype) = question.split_once(' ').unwrap();
                    format!("{question}: {}", ask(name, rtype))
                })
                .join("\n"),
            @r"
            localhost A: No Error AA
              localhost. 10800 IN A 127.0.0.1
            api.localhost AAAA: No Error AA
              api.localhost. 10800 IN AAAA ::1
            localhost MX: No Error AA
              authority: localhost. 10800 IN SOA localhost. nobody.invalid. 1 3600 1200 604800 10800
            1.0.0.127.in-addr.arpa PTR: No Error AA
              1.0.0.127.in-addr.arpa. 10800 IN PTR localhost.
            invalid A: Non-Existent Domain AA
              authority: invalid. 10800 IN SOA invalid. nobody.invalid. 1 3600 1200 604800 10800
            a.onion AAAA: Non-Existent Domain AA
              authority: onion. 10800 IN SOA onion. nobody.invalid. 1 3600 1200 604800 10800
            "
        );
    }

    #[test]
    fn reverse_names_of_private_ranges_stay_here() {
        let zeros = "0.".repeat(31);
        for name in [
            "1.2.3.10.in-addr.arpa".to_owned(),
            "1.0.16.172.in-addr.arpa".to_owned(),
            "1.0.31.172.in-addr.arpa".to_owned(),
            "9.1.168.192.in-addr.arpa".to_owned(),
            format!("1.{zeros}d.f.ip6.arpa"),
            format!("0.{zeros}ip6.arpa"),
            "1.a.e.f.ip6.arpa".to_owned(),
        ] {
            assert!(ask(&name, "PTR").contains("SOA"), "{name}: {}", ask(&name, "PTR"));
        }
        for name in
            ["1.0.15.172.in-addr.arpa", "1.0.32.172.in-addr.arpa", "1.1.1.1.in-addr.arpa", "e.f.ip6.arpa", "arpa"]
        {
            assert_eq!(ask(name, "PTR"), "forwarded", "{name}");
        }
    }
}
