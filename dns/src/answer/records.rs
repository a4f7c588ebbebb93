//! What stands at a name, written as records: sets of rows and files, those that depend on who asks, the names of others'
//! servers, and the addresses that go along.

use std::net::IpAddr;

use super::message::{Message, Record, Room, Section};
use super::{End, POINTER_MAX, Reply};
use crate::config::Ttl;
use crate::query::{QName, Rcode};
use crate::zone::fixed::FixedNode;
use crate::zone::{
    Endpoint, Endpoints, Found, Name, Node, Origin, Owner, Place, RR_HEAD, RR_LENGTH, RRSET_MAX, RRset, Soa, Tail,
    rtype,
};

/// The serial number of an SOA, counted from its end: five numbers of four bytes.
const SOA_SERIAL: usize = 20;

impl Reply<'_> {
    pub(super) fn apex(&self, message: &mut Message<'_>, qname: &QName, origin: &Origin, fixed: Option<FixedNode<'_>>) {
        match (self.query.qtype, origin.soa(), origin.name_server()) {
            (rtype::SOA | rtype::ANY, Some(soa), _) => {
                self.soa(message, Section::Answer, qname, origin, soa.answer());
            }
            (rtype::NS, _, Some(server)) => {
                let record = Record::<{ RR_HEAD + 255 }>::new(rtype::NS, origin.ttl(), server);
                let from = message.position();
                if self.push(message, record.bytes(), Tail::Whole, origin) == Room::Left {
                    self.targets(message, from, rtype::NS, Repeats::Never);
                }
            }
            _ => {
                if let Some(node) = fixed {
                    self.fixed(message, origin, node);
                }
            }
        }
    }

    pub(super) fn node(&self, message: &mut Message<'_>, origin: &Origin, node: &Node<'_>) {
        match node {
            Node::Plain(sets) | Node::App(sets) => {
                let wanted = sets.iter().find(|set| self.query.qtype == set.rtype || self.query.qtype == rtype::ANY);
                if let Some(set) = wanted {
                    self.set(message, origin, &set, Repeats::Never);
                }
            }
            Node::Peers(endpoints) => self.peers(message, endpoints),
            // A list is found as the set it is.
            Node::Nearest(_) | Node::List(_) => {}
        }
    }

    fn set(&self, message: &mut Message<'_>, origin: &Origin, set: &RRset<'_>, repeats: Repeats) {
        let from = message.position();
        for record in set.rotated(self.asked.turn) {
            if self.push(message, record, set.tail, origin) == Room::None {
                return;
            }
        }
        self.targets(message, from, set.rtype, repeats);
    }

    /// Answers from a file: the set that is asked for, or the alias that stands for all of them. Of an alias, returns where
    /// its target stands.
    pub(super) fn fixed(&self, message: &mut Message<'_>, origin: &Origin, node: FixedNode<'_>) -> Option<usize> {
        let wanted = node.sets().find(|set| self.query.qtype == set.rtype || self.query.qtype == rtype::ANY);
        if let Some(set) = wanted {
            self.set(message, origin, &set, Repeats::Perhaps);
            return None;
        }
        let alias = node.set(rtype::CNAME)?;
        let target = message.position() + RR_HEAD;
        self.set(message, origin, &alias, Repeats::Perhaps);
        (!message.is_truncated()).then_some(target)
    }

    /// Names who answers for a name that belongs to somebody else (RFC 1034 §4.3.2 step 3b). Whether there is a DS is ours
    /// to say, at the name where the other zone begins (RFC 4035 §3.1.4.1).
    pub(super) fn refer(
        &self,
        message: &mut Message<'_>,
        qname: &QName,
        node: FixedNode<'_>,
        at: usize,
        origin: &Origin,
    ) -> End {
        if at == 0 && self.query.qtype == rtype::DS {
            match (node.set(rtype::DS), origin.soa()) {
                (Some(set), _) => self.set(message, origin, &set, Repeats::Perhaps),
                (None, Some(soa)) => self.soa(message, Section::Authority, qname, origin, soa.negative()),
                (None, None) => {}
            }
            return End::Code(Rcode::NoError);
        }
        let (before, from) = (message.subject(), message.position());
        message.turn_to(before + at as u16);
        for record in node.set(rtype::NS).iter().flat_map(|set| set.rotated(self.asked.turn)) {
            if message.push(Section::Authority, record, Tail::Whole, &[]) == Room::None {
                message.truncate();
            }
        }
        self.targets(message, from, rtype::NS, Repeats::Perhaps);
        message.turn_to(before);
        End::Referral
    }

    /// The addresses of the names that the records written from `from` on point to, as far as there is room (RFC 2782).
    fn targets(&self, message: &mut Message<'_>, from: usize, rtype: u16, repeats: Repeats) {
        // What stands before the name in the RDATA.
        let skip = match rtype {
            rtype::NS => 0,
            rtype::MX => 2,
            rtype::SRV => 6,
            _ => return,
        };
        let end = message.position();
        let mut at = from;
        while at < end {
            let target = at + RR_HEAD + skip;
            if repeats == Repeats::Never || !repeated(message.written(from), at - from, skip) {
                self.glue(message, target);
            }
            at += record_length(message.written(at));
        }
    }

    /// The addresses of the name that stands at offset `at`, as far as they are ours to tell.
    fn glue(&self, message: &mut Message<'_>, at: usize) {
        let Some((qname, _)) = QName::parse(message.written(at)) else { return };
        if at > POINTER_MAX {
            return;
        }
        match self.zone.find(qname.wire(), qname.labels()) {
            Found::Own { name: Name::Node(Node::Plain(sets) | Node::App(sets)), .. } => {
                self.addresses(message, at, sets.iter());
            }
            Found::Own { name: Name::Fixed(node) | Name::Apex(Some(node)), .. } => {
                self.addresses(message, at, node.sets());
            }
            Found::Own { name: Name::Cut(..), .. } => {
                if let Some(node) = self.zone.glue(qname.wire()) {
                    self.addresses(message, at, node.sets());
                }
            }
            Found::Own { .. } | Found::Foreign => {}
        }
    }

    /// Addresses of the name at offset `at`: whole sets or nothing, and TC stays clear, since whoever misses them can ask
    /// (RFC 2181 §9).
    fn addresses<'s>(&self, message: &mut Message<'_>, at: usize, sets: impl Iterator<Item = RRset<'s>>) {
        for set in sets.filter(|set| matches!(set.rtype, rtype::A | rtype::AAAA)) {
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
        let own = move |one: &Endpoint| {
            is(one)
                || match one.place {
                    Place::Here => here,
                    Place::Elsewhere => false,
                    Place::Again => !here,
                }
        };
        self.endpoints(message, endpoints.ttl(), self.asked.turn, endpoints.iter().filter(|one| !own(one)));
    }

    /// The addresses of the asked type that these have, beginning with the one that `turn` points at.
    pub(super) fn endpoints(
        &self,
        message: &mut Message<'_>,
        ttl: Ttl,
        turn: u32,
        list: impl Iterator<Item = Endpoint> + Clone,
    ) {
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

    /// Appends the SOA of the zone that the name is in, with pointers to where the zone's own name stands.
    pub(super) fn soa(
        &self,
        message: &mut Message<'_>,
        section: Section,
        qname: &QName,
        origin: &Origin,
        record: &[u8],
    ) {
        let start = message.position();
        if message.push(section, record, Tail::Whole, &[]) == Room::None {
            message.truncate();
            return;
        }
        let apex = message.subject() + (qname.wire().len() - origin.wire().len()) as u16;
        for at in origin.soa().map_or(&[][..], Soa::pointers) {
            message.point(start + usize::from(*at), apex);
        }
        if origin.owner() != Owner::File {
            message.put(start + record.len() - SOA_SERIAL, self.zone.serial());
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
}

/// Whether several records of one set may point to one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeats {
    Never,
    Perhaps,
}

/// Bytes of the record that `wire` begins with, whose owner is a pointer.
fn record_length(wire: &[u8]) -> usize {
    RR_HEAD + usize::from(u16::from_be_bytes([wire[RR_LENGTH], wire[RR_LENGTH + 1]]))
}

/// Whether a record before the one at `at` points to the same name.
fn repeated(records: &[u8], at: usize, skip: usize) -> bool {
    fn target(record: &[u8], skip: usize) -> &[u8] {
        &record[RR_HEAD + skip..record_length(record)]
    }
    let mut before = 0;
    while before < at {
        if target(&records[before..], skip).eq_ignore_ascii_case(target(&records[at..], skip)) {
            return true;
        }
        before += record_length(&records[before..]);
    }
    false
}
