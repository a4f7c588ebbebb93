//! The answerer: a zone and a query in, the bytes of the reply out. Pure; it allocates nothing once `out` has grown.
//!
//! The rules that resolvers in containers need are these: the same rcode for every type of a name, SOA on every
//! negative, the question copied byte by byte, never silent to a sane query, never longer than the transport takes.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub(crate) mod message;
mod records;

use std::net::IpAddr;

pub use crate::cookie::Cookies;
pub(crate) use crate::cookie::Proof;
use crate::forward::Special;
use crate::query::{self, Edns, Padding, QName, Query, Reject};
use crate::zone::{By, Found, Freshness, IN, Listed, Name, Origin, Owner, RR_HEAD, Tail, Zone, rtype};
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
/// Aliases followed for one answer. Longer chains are mistakes, and a circle ends here with what was found.
const ALIASES_MAX: usize = 8;

/// What a query came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams: 512 bytes, or what EDNS asks for up to 1232.
    Udp,
    /// A stream: answers are whole.
    Tcp,
    /// A stream that nobody else can read: answers are whole, and hide their length from who counts bytes, if asked to
    /// (RFC 8467). By the others that would only be longer.
    Tls,
}

impl Transport {
    /// In one word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
            Transport::Tls => "tls",
        }
    }
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
    /// What cookies are made and checked by.
    pub cookies: Cookies,
}

impl Asked<'_> {
    /// Most bytes of the reply to `query`, which is this one parsed.
    pub(crate) fn size(&self, query: &Query<'_>) -> usize {
        match (self.transport, &query.edns) {
            (Transport::Tcp | Transport::Tls, _) => TCP_MAX,
            (Transport::Udp, None) => usize::from(UDP_MAX),
            (Transport::Udp, Some(Edns { payload, .. })) => usize::from((*payload).clamp(UDP_MAX, PAYLOAD)),
        }
    }

    /// The OPT of the reply to `query`, which is this one parsed, from this server.
    pub(crate) fn opt<'s>(&self, query: &Query<'_>, server: &'s str, ede: Option<Ede>) -> Option<Opt<'s>> {
        let edns = query.edns.as_ref()?;
        let (cookie, _) = self.cookies.reply(edns.cookie, self.source);
        let opt = Opt::of(edns, server, ede).with(cookie);
        Some(match (self.transport, edns.padding) {
            (Transport::Tls, Padding::Asked) => opt.padded(),
            (Transport::Tls, Padding::NotAsked) | (Transport::Udp | Transport::Tcp, _) => opt,
        })
    }
}

/// What became of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// `out` has the reply.
    Answer(Tally),
    /// A name in no zone of ours. `out` has what a server without forwarding sends, REFUSED or a denial; one that
    /// forwards for this client sends its own instead.
    Foreign(Tally),
    /// A name of ours that leads to one in no zone of ours. `out` has the reply of a server without forwarding; one that
    /// forwards for this client adds what stands there.
    Onward(Tally),
    /// Nothing is to be sent, and `out` is empty.
    Drop,
}

/// What became of a query that is answered only if that takes no time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtOnce {
    /// It is answered.
    Done(Outcome),
    /// A list is to be made first, and `out` is empty.
    Unmade(Listed),
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

/// Answers one query into `out`, which is emptied first. A list that it asks for is made on the way.
pub fn answer(zone: &Zone, asked: &Asked<'_>, out: &mut Vec<u8>) -> Outcome {
    loop {
        match answer_at_once(zone, asked, out) {
            AtOnce::Done(outcome) => return outcome,
            AtOnce::Unmade(list) => zone.make(list),
        }
    }
}

/// The same, unless a list is to be made.
pub(crate) fn answer_at_once(zone: &Zone, asked: &Asked<'_>, out: &mut Vec<u8>) -> AtOnce {
    out.clear();
    let query = match query::parse(asked.query) {
        Ok(query) => query,
        Err(Reject::Drop) => return AtOnce::Done(Outcome::Drop),
        Err(Reject::Reply(head, rcode)) => {
            message::bare(out, head, rcode);
            return AtOnce::Done(Outcome::Answer(Tally { owner: Owner::Nobody, qtype: 0, rcode }));
        }
    };
    let done = Reply { zone, asked, query: &query }.answer(out);
    if let AtOnce::Unmade(_) = done {
        out.clear();
    }
    done
}

/// Says that a query cannot be answered at this moment, because too many others wait; `None` if it is no query.
pub(crate) fn overloaded(zone: &Zone, asked: &Asked<'_>, out: &mut Vec<u8>) -> Option<Tally> {
    let query = query::parse(asked.query).ok()?;
    let rcode = Rcode::ServFail;
    Reply { zone, asked, query: &query }.without_records(out, rcode, Some(Ede::NetworkError));
    Some(Tally { owner: Owner::Nobody, qtype: query.qtype, rcode })
}

/// What answering for one name came to.
#[derive(Debug, Clone, Copy)]
enum End {
    Code(Rcode),
    /// An alias, whose target stands at this offset.
    Alias(usize),
    /// Somebody else is to be asked.
    Referral,
    /// An alias, whose target is somebody else's.
    Away,
    /// A list is to be made first.
    Unmade(Listed),
}

/// Says nothing but that the answer is to be asked for by TCP; `None` if it is no query.
pub(crate) fn cut(zone: &Zone, asked: &Asked<'_>, out: &mut Vec<u8>) -> Option<Tally> {
    let query = query::parse(asked.query).ok()?;
    let reply = Reply { zone, asked, query: &query };
    let opt = reply.opt(None);
    let mut message = Message::new(out, &query, reply.size(), opt.as_ref());
    message.truncate();
    message.finish(query.head, Rcode::NoError, Authority::None, opt.as_ref());
    Some(Tally { owner: Owner::Nobody, qtype: query.qtype, rcode: Rcode::NoError })
}

/// Whether who asks has proved by a cookie to be where it asks from.
pub(crate) fn proof(asked: &Asked<'_>) -> Proof {
    let edns = query::parse(asked.query).ok().and_then(|query| query.edns);
    edns.map_or(Proof::Nothing, |edns| asked.cookies.reply(edns.cookie, asked.source).1)
}

/// One reply being made.
struct Reply<'a> {
    zone: &'a Zone,
    asked: &'a Asked<'a>,
    query: &'a Query<'a>,
}

impl<'a> Reply<'a> {
    fn answer(&self, out: &mut Vec<u8>) -> AtOnce {
        let plain = |out: &mut Vec<u8>, rcode| {
            self.without_records(out, rcode, None);
            AtOnce::Done(Outcome::Answer(Tally { owner: Owner::Nobody, qtype: self.query.qtype, rcode }))
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
                return AtOnce::Done(Outcome::Answer(Tally { owner: Owner::Nobody, qtype: self.query.qtype, rcode }));
            }
            _ => return plain(out, Rcode::Refused),
        }
        match self.zone.find(self.query.name.wire(), self.query.name.labels()) {
            Found::Foreign => {
                let rcode = self.foreign(out);
                AtOnce::Done(Outcome::Foreign(Tally { owner: Owner::Nobody, qtype: self.query.qtype, rcode }))
            }
            Found::Own { origin, name, by } => {
                let (rcode, end) = self.own(out, origin, &name, by);
                let tally = Tally { owner: origin.owner(), qtype: self.query.qtype, rcode };
                match end {
                    End::Unmade(list) => AtOnce::Unmade(list),
                    End::Away if self.query.head.wants_recursion() => AtOnce::Done(Outcome::Onward(tally)),
                    End::Code(_) | End::Alias(_) | End::Referral | End::Away => AtOnce::Done(Outcome::Answer(tally)),
                }
            }
        }
    }

    /// What a server says that does not forward. Programs in containers ask for a name of one label as it stands before
    /// they complete it, and take anything but a denial for trouble; a server of files alone has none of those.
    fn foreign(&self, out: &mut Vec<u8>) -> Rcode {
        match Special::alone(self.query).filter(|_| self.zone.has_names()) {
            Some(special) => special.answer(self.query, self.size(), self.opt(None).as_ref(), out),
            None => {
                self.without_records(out, Rcode::Refused, None);
                Rcode::Refused
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
    fn own(&self, out: &mut Vec<u8>, origin: &Origin, name: &Name<'_>, by: By) -> (Rcode, End) {
        let alias = matches!(name, Name::Fixed(node) if node.set(rtype::CNAME).is_some());
        let stale = match (self.zone.freshness(), name) {
            (Freshness::Loading, _) if by == By::Facts => {
                self.without_records(out, Rcode::ServFail, Some(Ede::NotReady));
                return (Rcode::ServFail, End::Code(Rcode::ServFail));
            }
            (Freshness::Loading | Freshness::Current, _) => None,
            // What stands in a file does not age; what an alias leads to may.
            (Freshness::Stale, _) if by == By::File && !alias => None,
            (Freshness::Stale, Name::Missing) => Some(Ede::StaleNxDomain),
            (Freshness::Stale, _) => Some(Ede::StaleAnswer),
        };
        let opt = self.opt(stale);
        let mut message = Message::new(out, self.query, self.size(), opt.as_ref());
        let mut end = self.stands(&mut message, &self.query.name, origin, name);
        for _ in 0..ALIASES_MAX {
            let End::Alias(target) = end else { break };
            end = self.follow(&mut message, target);
        }
        // A referral is not our word; one that an alias leads to does not change whose word the alias is (RFC 1035 §4.1.1).
        let (rcode, authority) = match end {
            End::Code(rcode) => (rcode, Authority::Ours),
            End::Alias(_) | End::Away | End::Unmade(_) => (Rcode::NoError, Authority::Ours),
            End::Referral if alias => (Rcode::NoError, Authority::Ours),
            End::Referral => (Rcode::NoError, Authority::None),
        };
        message.finish(self.query.head, rcode, authority, opt.as_ref());
        (rcode, end)
    }

    /// Answers with what stands at a name, which is the one that the message is about.
    fn stands(&self, message: &mut Message<'_>, qname: &QName, origin: &Origin, name: &Name<'_>) -> End {
        let before = message.position();
        match name {
            Name::Apex(fixed) => self.apex(message, qname, origin, *fixed),
            Name::Node(node) => self.node(message, origin, node),
            Name::Fixed(node) => {
                if let Some(target) = self.fixed(message, origin, *node) {
                    return End::Alias(target);
                }
            }
            Name::Cut(node, at) => return self.refer(message, qname, *node, *at, origin),
            Name::Nearest { endpoints, count } => {
                // Not rotated: the order is the answer.
                self.endpoints(message, endpoints.ttl(), 0, endpoints.nearest(*count));
            }
            Name::Unmade(list) => return End::Unmade(*list),
            Name::Empty | Name::Missing => {}
        }
        if message.position() == before
            && !message.is_truncated()
            && let Some(soa) = origin.soa()
        {
            // By it a cache knows how long there is nothing (RFC 2308).
            self.soa(message, Section::Authority, qname, origin, soa.negative());
        }
        match name {
            Name::Missing => End::Code(Rcode::NxDomain),
            _ => End::Code(Rcode::NoError),
        }
    }

    /// Goes on with the target of an alias that stands at this offset of the message. A target that is not ours is the
    /// asker's to find, or that of who forwards for it.
    fn follow(&self, message: &mut Message<'_>, target: usize) -> End {
        let done = End::Code(Rcode::NoError);
        let Some((qname, _)) = QName::parse(message.written(target)) else { return done };
        if target > POINTER_MAX || message.is_truncated() {
            return done;
        }
        match self.zone.find(qname.wire(), qname.labels()) {
            Found::Foreign => End::Away,
            Found::Own { by: By::Facts, .. } if self.zone.freshness() == Freshness::Loading => {
                End::Code(Rcode::ServFail)
            }
            Found::Own { origin, name, .. } => {
                message.turn_to(target as u16);
                self.stands(message, &qname, origin, &name)
            }
        }
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
        self.asked.opt(self.query, self.zone.server(), ede)
    }

    /// Most bytes of this reply.
    fn size(&self) -> usize {
        self.asked.size(self.query)
    }
}

#[cfg(test)]
mod tests;
