//! What an alias of ours leads to where that is somebody else's name: our aliases, and behind them what stands there.
//! Pure.
//!
//! A chain is as long as the answerer follows ours and as an upstream's answer may be, and never comes back: an upstream
//! that leads to a name of ours has said all itself.

use std::time::Duration;

use super::entry::{Body, Entry};
use super::wire::{Name, Reader, Record, Writer};
use crate::answer::message::Ede;
use crate::query::{HEADER, Query, Rcode};
use crate::zone::{IN, rtype};

/// A reply from a zone of ours, which ends with an alias.
pub(super) struct Begun<'a> {
    aliases: Vec<Record<'a>>,
    target: Name,
    /// What was said of them.
    ede: Option<Ede>,
}

impl<'a> Begun<'a> {
    /// Reads the reply to `query`; `None` where it has no alias, and nothing else is to be done but to ask for the name.
    pub(super) fn read(reply: &'a [u8], query: &Query<'_>) -> Option<Self> {
        let ([aliases, _], ede) = sections(reply, query.question)?;
        let target = aliases.last().filter(|last| last.rtype == rtype::CNAME)?.target()?;
        Some(Self { aliases, target, ede })
    }

    /// The question for what stands at the target.
    pub(super) fn question(&self, query: &Query<'_>) -> Vec<u8> {
        let mut message = Vec::with_capacity(HEADER + self.target.bytes().len() + 15);
        message.extend_from_slice(&query.head.id);
        message.extend_from_slice(&[query.head.copied, query.head.checking_disabled]);
        message.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(query.edns.is_some())]);
        message.extend_from_slice(self.target.bytes());
        for number in [query.qtype, IN] {
            message.extend_from_slice(&number.to_be_bytes());
        }
        // Only with it the reply has room for what is to be said of it.
        if let Some(edns) = &query.edns {
            message.push(0);
            for number in [rtype::OPT, u16::MAX, 0, edns.dnssec_ok, 0] {
                message.extend_from_slice(&number.to_be_bytes());
            }
        }
        message
    }

    /// The answer to `query`, of our aliases and of the reply to [`Begun::question`]; `None` if it is no message.
    pub(super) fn with(&self, reply: &[u8], rcode: Rcode, query: &Query<'_>) -> Option<Entry> {
        let question = reply.get(HEADER..HEADER + self.target.bytes().len() + 4)?;
        let ([answers, authorities], ede) = sections(reply, question)?;
        let (name, fixed) = query.question.split_at(query.question.len() - 4);
        let mut writer = Writer::new(&[&*name.to_ascii_lowercase(), fixed].concat());
        for record in self.aliases.iter().chain(&answers).chain(&authorities) {
            writer.record(record, record.ttl)?;
        }
        let counts = [(self.aliases.len() + answers.len()) as u16, authorities.len() as u16];
        let (message, base, marks) = writer.finish(counts)?;
        let body = Body { rcode, ede: self.ede.or(ede), counts, records: message[base..].into(), marks };
        Some(Entry::new(body, Duration::ZERO))
    }
}

/// The answer and the authority section of a reply to this question, and what it says of itself.
fn sections<'a>(reply: &'a [u8], question: &[u8]) -> Option<([Vec<Record<'a>>; 2], Option<Ede>)> {
    let header = reply.get(..HEADER)?;
    let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let mut reader = Reader::new(reply, HEADER + question.len());
    let mut read = |count| (0..count).map(|_| reader.record()).collect::<Option<Vec<_>>>();
    let (answers, authorities, additionals) = (read(count(6))?, read(count(8))?, read(count(10))?);
    let ede = additionals.iter().find(|record| record.rtype == rtype::OPT).and_then(|opt| Ede::read(opt.rdata()));
    Some(([answers, authorities], ede))
}
