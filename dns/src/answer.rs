//! The answerer: a zone and a query in, the bytes of the reply out. Pure; it allocates nothing once `out` has grown.
//!
//! The rules that resolvers in containers need are these: the same rcode for every type of a name, SOA on every
//! negative, the question copied byte by byte, never silent to a sane query, never longer than the transport takes.

mod message;

use std::net::IpAddr;

use crate::config::Ttl;
use crate::query::{self, Edns, Query, Reject};
use crate::zone::{
    Endpoint, Endpoints, Found, Freshness, IN, LOCAL_NODE, Name, Node, Origin, Owner, Place, RR_HEAD, RR_LENGTH,
    RRSET_MAX, RRset, Tail, Zone, rtype,
};
use message::{Authority, Ede, Message, Opt, PAYLOAD, Record, Room, Section};

pub use crate::query::Rcode;

/// Class CH, in which servers tell of themselves.
const CHAOS: u16 = 3;
/// Longest datagram without EDNS (RFC 1035 §4.2.1).
const UDP_MAX: u16 = 512;
/// Longest message over TCP.
const TCP_MAX: usize = 65_535;
/// Highest offset that a compression pointer reaches (RFC 1035 §4.1.4).
const POINTER_MAX: usize = 0x3fff;

/// What a query came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams: 512 bytes, or what EDNS asks for up to 1232.
    Udp,
    /// A stream: answers are whole.
    Tcp,
}

/// One query, with where it came from.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The message.
    pub query: &'a [u8],
    /// What it came by.
    pub transport: Transport,
    /// Who asks.
    pub source: IpAddr,
    /// Any number that differs from query to query: which record comes first.
    pub turn: u32,
}

/// What became of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// `out` has the reply.
    Answer(Tally),
    /// A name in no zone of ours. `out` has the REFUSED that a server without forwarding sends; one that forwards
    /// for this client sends its own instead.
    Foreign(Tally),
    /// Nothing is to be sent, and `out` is empty.
    Drop,
}

/// What is counted of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Whose name was asked.
    pub(crate) owner: Owner,
    /// Type asked for.
    pub(crate) qtype: u16,
    /// Code given.
    pub(crate) rcode: Rcode,
}

/// Answers one query into `out`, which is emptied first.
pub fn answer(zone: &Zone, asked: &Asked<'_>, out: &mut Vec<u8>) -> Outcome {
    out.clear();
    let query = match query::parse(asked.query) {
        Ok(query) => query,
        Err(Reject::Drop) => return Outcome::Drop,
        Err(Reject::Reply(head, rcode)) => {
            message::bare(out, head, rcode);
            return Outcome::Answer(Tally { owner: Owner::Nobody, qtype: 0, rcode });
        }
    };
    Reply { zone, asked, query: &query }.answer(out)
}

/// Says that a query cannot be answered at this moment, because too many others wait; `None` if it is no query.
pub(crate) fn overloaded(zone: &Zone, asked: &Asked<'_>, out: &mut Vec<u8>) -> Option<Tally> {
    let query = query::parse(asked.query).ok()?;
    let rcode = Rcode::ServFail;
    Reply { zone, asked, query: &query }.without_records(out, rcode, Some(Ede::NetworkError));
    Some(Tally { owner: Owner::Nobody, qtype: query.qtype, rcode })
}

/// One reply being made.
struct Reply<'a> {
    zone: &'a Zone,
    asked: &'a Asked<'a>,
    query: &'a Query<'a>,
}

impl<'a> Reply<'a> {
    fn answer(&self, out: &mut Vec<u8>) -> Outcome {
        let plain = |out: &mut Vec<u8>, rcode| {
            self.without_records(out, rcode, None);
            Outcome::Answer(Tally { owner: Owner::Nobody, qtype: self.query.qtype, rcode })
        };
        if self.query.edns.as_ref().is_some_and(|edns| edns.version > 0) {
            return plain(out, Rcode::BadVers);
        }
        match self.query.qtype {
            rtype::AXFR | rtype::IXFR => return plain(out, Rcode::Refused),
            rtype::OPT => return plain(out, Rcode::FormErr),
            rtype::TKEY | rtype::TSIG | rtype::MAILA | rtype::MAILB => return plain(out, Rcode::NotImp),
            _ => {}
        }
        match self.query.qclass {
            IN => {}
            CHAOS => {
                let rcode = self.chaos(out);
                return Outcome::Answer(Tally { owner: Owner::Nobody, qtype: self.query.qtype, rcode });
            }
            _ => return plain(out, Rcode::Refused),
        }
        match self.zone.find(self.query.name.wire(), self.query.name.labels()) {
            Found::Foreign => {
                self.without_records(out, Rcode::Refused, None);
                Outcome::Foreign(Tally { owner: Owner::Nobody, qtype: self.query.qtype, rcode: Rcode::Refused })
            }
            Found::Own { origin, name } => {
                let rcode = self.own(out, origin, &name);
                Outcome::Answer(Tally { owner: origin.owner(), qtype: self.query.qtype, rcode })
            }
        }
    }

    /// A reply of header, question and OPT.
    fn without_records(&self, out: &mut Vec<u8>, rcode: Rcode, ede: Option<Ede>) {
        let opt = self.opt(ede);
        let message = Message::new(out, self.query, self.size(), opt.as_ref());
        message.finish(self.query.head, rcode, Authority::None, opt.as_ref());
    }

    /// The answer from a zone of ours.
    fn own(&self, out: &mut Vec<u8>, origin: &Origin, name: &Name<'_>) -> Rcode {
        let stale = match (self.zone.freshness(), name) {
            (Freshness::Loading, _) => {
                self.without_records(out, Rcode::ServFail, Some(Ede::NotReady));
                return Rcode::ServFail;
            }
            (Freshness::Current, _) => None,
            (Freshness::Stale, Name::Missing) => Some(Ede::StaleNxDomain),
            (Freshness::Stale, _) => Some(Ede::StaleAnswer),
        };
        let rcode = match name {
            Name::Missing => Rcode::NxDomain,
            Name::Apex | Name::Node(_) | Name::Nearest { .. } | Name::Empty => Rcode::NoError,
        };
        let opt = self.opt(stale);
        let mut message = Message::new(out, self.query, self.size(), opt.as_ref());
        let before = message.position();
        match name {
            Name::Apex => self.apex(&mut message, origin),
            Name::Node(node) => self.node(&mut message, origin, node),
            Name::Nearest { endpoints, count } => {
                // Not rotated: the order is the answer.
                self.endpoints(&mut message, endpoints.ttl(), 0, endpoints.iter().take(*count));
            }
            Name::Empty | Name::Missing => {}
        }
        if message.position() == before && !message.is_truncated() {
            self.negative(&mut message, origin);
        }
        message.finish(self.query.head, rcode, Authority::Ours, opt.as_ref());
        rcode
    }

    fn apex(&self, message: &mut Message<'_>, origin: &Origin) {
        match self.query.qtype {
            rtype::SOA | rtype::ANY => self.soa(message, Section::Answer, origin),
            rtype::NS => {
                let record = Record::<{ RR_HEAD + 255 }>::new(rtype::NS, origin.ttl(), origin.name_server());
                let at = message.position();
                if self.push(message, record.bytes(), Tail::Whole, origin) == Room::Left {
                    self.glue(message, at + RR_HEAD, LOCAL_NODE);
                }
            }
            _ => {}
        }
    }

    fn node(&self, message: &mut Message<'_>, origin: &Origin, node: &Node<'_>) {
        match node {
            Node::Plain(sets) | Node::App(sets) => {
                let wanted = sets.iter().find(|set| self.query.qtype == set.rtype || self.query.qtype == rtype::ANY);
                if let Some(set) = wanted {
                    self.set(message, origin, &set);
                }
            }
            Node::Peers(endpoints) => self.peers(message, endpoints),
            // A list is found as the set it is.
            Node::Nearest(_) | Node::List(_) => {}
        }
    }

    fn set(&self, message: &mut Message<'_>, origin: &Origin, set: &RRset<'_>) {
        let from = message.position();
        for record in set.rotated(self.asked.turn) {
            if self.push(message, record, set.tail, origin) == Room::None {
                return;
            }
        }
        if set.rtype == rtype::SRV {
            self.targets(message, from, origin);
        }
    }

    /// The addresses of the SRV records written from `from` on, as far as there is room (RFC 2782).
    fn targets(&self, message: &mut Message<'_>, from: usize, origin: &Origin) {
        let end = message.position();
        let mut at = from;
        while at < end {
            let written = message.written(at);
            let length = usize::from(u16::from_be_bytes([written[RR_LENGTH], written[RR_LENGTH + 1]]));
            // Priority, weight and port stand before the target.
            let target = &written[RR_HEAD + 6..RR_HEAD + length];
            let mut relative = [0; 255];
            let len = target.len() - origin.wire().len();
            relative[..len].copy_from_slice(&target[..len]);
            self.glue(message, at + RR_HEAD + 6, &relative[..len]);
            at += RR_HEAD + length;
        }
    }

    /// The addresses of the relative name that stands at offset `at`: whole sets or nothing, and TC stays clear, since
    /// whoever misses them can ask (RFC 2181 §9).
    fn glue(&self, message: &mut Message<'_>, at: usize, relative: &[u8]) {
        let Some(Node::Plain(sets)) = self.zone.node(relative) else { return };
        if at > POINTER_MAX {
            return;
        }
        for set in sets.iter().filter(|set| matches!(set.rtype, rtype::A | rtype::AAAA)) {
            if message.fits(set.wire().len()) == Room::None {
                return;
            }
            for record in set.rotated(self.asked.turn) {
                let start = message.position();
                if message.push(Section::Additional, record, Tail::Whole, &[]) == Room::Left {
                    message.point(start, at as u16);
                }
            }
        }
    }

    /// All instances but the asker's own: the one that has the source's address; for a source on this host, those that
    /// run on this server.
    fn peers(&self, message: &mut Message<'_>, endpoints: &Endpoints<'_>) {
        let source = self.asked.source.to_canonical();
        let is = |one: &Endpoint| one.v4.map(IpAddr::V4) == Some(source) || one.v6.map(IpAddr::V6) == Some(source);
        let known = endpoints.iter().any(|one| is(&one));
        let here = !known && self.zone.is_here(source);
        let own = move |one: &Endpoint| is(one) || (here && one.place == Place::Here);
        self.endpoints(message, endpoints.ttl(), self.asked.turn, endpoints.iter().filter(|one| !own(one)));
    }

    /// The addresses of the asked type that these have, beginning with the one that `turn` points at.
    fn endpoints(&self, message: &mut Message<'_>, ttl: Ttl, turn: u32, list: impl Iterator<Item = Endpoint> + Clone) {
        let wanted = match self.query.qtype {
            rtype::ANY if list.clone().any(|one| one.v4.is_some()) => rtype::A,
            rtype::ANY => rtype::AAAA,
            other => other,
        };
        let addresses = list.filter_map(|one| match wanted {
            rtype::A => one.v4.map(IpAddr::V4),
            rtype::AAAA => one.v6.map(IpAddr::V6),
            _ => None,
        });
        let count = addresses.clone().count();
        let first = turn as usize % count.max(1);
        let turned = addresses.clone().skip(first).chain(addresses.take(first));
        for address in turned.take(RRSET_MAX) {
            let record: Record<{ RR_HEAD + 16 }> = match address {
                IpAddr::V4(v4) => Record::new(rtype::A, ttl, &v4.octets()),
                IpAddr::V6(v6) => Record::new(rtype::AAAA, ttl, &v6.octets()),
            };
            if message.push(Section::Answer, record.bytes(), Tail::Whole, &[]) == Room::None {
                message.truncate();
                return;
            }
        }
    }

    /// SOA in authority, by which a cache knows how long there is nothing (RFC 2308).
    fn negative(&self, message: &mut Message<'_>, origin: &Origin) {
        self.soa(message, Section::Authority, origin);
    }

    fn soa(&self, message: &mut Message<'_>, section: Section, origin: &Origin) {
        let apex = query::HEADER + self.query.name.wire().len() - origin.wire().len();
        let apex = (0xc000 | apex as u16).to_be_bytes();
        let record: Record<{ RR_HEAD + 38 }> =
            Record::new(rtype::SOA, origin.negative_ttl(), &origin.soa(apex, self.zone.serial()));
        let record = record.owned_by(apex);
        if message.push(section, record.bytes(), Tail::Whole, &[]) == Room::None {
            message.truncate();
        }
    }

    /// Appends an answer, or says TC.
    fn push(&self, message: &mut Message<'_>, record: &[u8], tail: Tail, origin: &Origin) -> Room {
        let room = message.push(Section::Answer, record, tail, origin.wire());
        if room == Room::None {
            message.truncate();
        }
        room
    }

    /// `version.bind` and `id.server`, with their older and newer twins, as TXT of class CH.
    fn chaos(&self, out: &mut Vec<u8>) -> Rcode {
        let text = match self.query.name.wire() {
            b"\x07version\x04bind\0" | b"\x07version\x06server\0" => concat!("kith ", env!("CARGO_PKG_VERSION")),
            b"\x02id\x06server\0" | b"\x08hostname\x04bind\0" => self.zone.server(),
            _ => {
                self.without_records(out, Rcode::Refused, None);
                return Rcode::Refused;
            }
        };
        let opt = self.opt(None);
        let mut message = Message::new(out, self.query, self.size(), opt.as_ref());
        if matches!(self.query.qtype, rtype::TXT | rtype::ANY) {
            let text = &text.as_bytes()[..text.len().min(255)];
            let rdata = [&[text.len() as u8], text].concat();
            let record: Record<{ RR_HEAD + 256 }> = Record::of_class(CHAOS, rtype::TXT, 0, &rdata);
            if message.push(Section::Answer, record.bytes(), Tail::Whole, &[]) == Room::None {
                message.truncate();
            }
        }
        message.finish(self.query.head, Rcode::NoError, Authority::Ours, opt.as_ref());
        Rcode::NoError
    }

    fn opt(&self, ede: Option<Ede>) -> Option<Opt<'a>> {
        self.query.edns.as_ref().map(|edns| Opt::of(edns, self.zone.server(), ede))
    }

    /// Most bytes of this reply.
    fn size(&self) -> usize {
        match (self.asked.transport, &self.query.edns) {
            (Transport::Tcp, _) => TCP_MAX,
            (Transport::Udp, None) => usize::from(UDP_MAX),
            (Transport::Udp, Some(Edns { payload, .. })) => usize::from((*payload).clamp(UDP_MAX, PAYLOAD)),
        }
    }
}

#[cfg(test)]
mod tests;
