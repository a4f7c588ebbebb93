//! What is kept of upstreams' answers, golden; and, whatever they send, what holds of what is given on.

use std::str::FromStr as _;
use std::time::Instant;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType, rdata};
use proptest::prelude::*;

use super::super::fuzzing;
use super::*;
use crate::answer::message::Opt;
use crate::query;
use crate::testing::{decode, text};

/// An upstream's answer to a question, in three sections of records as in a zone file.
fn upstream(question: &str, rcode: ResponseCode, sections: [&[&str]; 3]) -> Message {
    let (name, rtype) = question.split_once(' ').unwrap();
    let mut message = Message::new(0x1234, MessageType::Response, OpCode::Query);
    message.metadata.recursion_available = true;
    message.metadata.response_code = rcode;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::from_str(rtype).unwrap()));
    let read = |text: &&str| record(text);
    message.add_answers(sections[0].iter().map(read));
    message.add_authorities(sections[1].iter().map(read));
    message.add_additionals(sections[2].iter().map(read));
    message
}

/// `name ttl type data`.
fn record(text: &str) -> Record {
    let mut words = text.splitn(4, ' ');
    let mut word = || words.next().unwrap();
    let (name, ttl, rtype, data) = (word(), word(), word(), word());
    let data = match rtype {
        // The codec reads no such data from text.
        "TYPE39" => RData::Unknown {
            code: RecordType::from(39),
            rdata: rdata::NULL::with(
                Name::from_ascii(data)
                    .unwrap()
                    .iter()
                    .fold(Vec::new(), |wire, label| [&wire, &[label.len() as u8][..], label].concat())
                    .into_iter()
                    .chain([0])
                    .collect(),
            ),
        },
        "TYPE46" => RData::Unknown {
            code: RecordType::from(46),
            rdata: rdata::NULL::with(data.parse::<u16>().unwrap().to_be_bytes().into_iter().chain([7; 20]).collect()),
        },
        "TYPE47" => {
            RData::Unknown { code: RecordType::from(47), rdata: rdata::NULL::with(b"\x01a\0\0\x01\x40".to_vec()) }
        }
        rtype => RData::try_from_str(RecordType::from_str(rtype).unwrap(), data).unwrap(),
    };
    Record::from_rdata(Name::from_ascii(name).unwrap(), ttl.parse().unwrap(), data)
}

/// Whether DNSSEC was asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dnssec {
    Asked,
    Not,
}

fn cleaned(message: &Message, dnssec: Dnssec) -> Cleaned {
    let bytes = message.to_vec().unwrap();
    let question = query::QName::parse(&bytes[HEADER..]).unwrap().0.wire().len() + 4;
    let sent =
        Sent { id: [0x12, 0x34], question: &bytes[HEADER..HEADER + question], dnssec_ok: dnssec == Dnssec::Asked };
    assert_eq!(matches(&bytes, &sent), Match::Yes);
    clean(&bytes, &sent, &Guard::cluster(&["10.210.0.0/16".parse().unwrap()]))
}

/// What a client gets that asks over TCP, and how long it is kept.
fn given_as(message: &Message, dnssec: Dnssec) -> String {
    let (entry, denied) = match cleaned(message, dnssec) {
        Cleaned::Answer(entry, denied) => (entry, denied),
        other => return format!("{other:?}"),
    };
    let mut asked = Message::new(7, MessageType::Query, OpCode::Query);
    asked.add_query(message.queries[0].clone());
    let mut edns = Edns::new();
    edns.set_dnssec_ok(dnssec == Dnssec::Asked);
    asked.set_edns(edns);
    let asked = asked.to_vec().unwrap();
    let mut out = Vec::new();
    let life = entry.life();
    let query = query::parse(&asked).unwrap();
    let opt = query.edns.as_ref().map(|edns| Opt::of(edns, "s1", entry.ede()));
    entry.write(&query, 65_535, opt.as_ref(), Instant::now(), &mut out);
    let denied = if denied > 0 { format!(", {denied} denied") } else { String::new() };
    format!("{} ({}s{denied})", text(&decode(&out)), life.as_secs())
}

fn given(question: &str, rcode: ResponseCode, sections: [&[&str]; 3]) -> String {
    given_as(&upstream(question, rcode, sections), Dnssec::Not)
}

const SOA: &str = "example. 7200 SOA ns.example. admin.example. 5 3600 600 86400 900";

#[test]
fn an_answer_is_the_chain_from_the_question_and_nothing_else() {
    insta::assert_snapshot!(given(
        "www.example A",
        ResponseCode::NoError,
        [
            &[
                "bank.test. 600 A 192.0.2.66",
                "cdn.example. 30 A 192.0.2.1",
                "www.example. 300 CNAME edge.example.",
                "edge.example. 60 CNAME cdn.example.",
                "cdn.example. 30 A 192.0.2.2",
                "cdn.example. 30 AAAA 2001:db8::1",
                "other.example. 60 A 192.0.2.67",
            ],
            &["example. 900 NS ns.example.", SOA],
            &["ns.example. 900 A 192.0.2.53"],
        ],
    ), @r"
    No Error RA
      www.example. 300 IN CNAME edge.example.
      edge.example. 60 IN CNAME cdn.example.
      cdn.example. 30 IN A 192.0.2.1
      cdn.example. 30 IN A 192.0.2.2 (30s)
    ");
}

#[test]
fn nothing_is_told_with_the_soa_of_a_domain_that_the_name_is_in() {
    let nothing = |rcode, authority: &str| given("a.b.example A", rcode, [&[], &[authority], &[]]);
    insta::assert_snapshot!(
        [
            nothing(ResponseCode::NXDomain, SOA),
            nothing(ResponseCode::NoError, SOA),
            nothing(ResponseCode::NXDomain, "other. 7200 SOA ns.other. admin.other. 5 3600 600 86400 900"),
            nothing(ResponseCode::NoError, "example. 7200 NS ns.example."),
            given("a.example A", ResponseCode::NXDomain, [&["a.example. 20 CNAME b.example."], &[SOA], &[]]),
        ]
        .join("\n"),
        @r"
    Non-Existent Domain RA
      authority: example. 900 IN SOA ns.example. admin.example. 5 3600 600 86400 900 (900s)
    No Error RA
      authority: example. 900 IN SOA ns.example. admin.example. 5 3600 600 86400 900 (900s)
    Non-Existent Domain RA (1s)
    Failed(Refused)
    Non-Existent Domain RA
      a.example. 20 IN CNAME b.example.
      authority: example. 900 IN SOA ns.example. admin.example. 5 3600 600 86400 900 (20s)
    "
    );
}

#[test]
fn what_points_into_the_cluster_is_dropped() {
    insta::assert_snapshot!(
        [
            given("a.example A", ResponseCode::NoError, [&["a.example. 9 A 10.210.0.7", "a.example. 9 A 192.0.2.1"], &[], &[]]),
            given("a.example A", ResponseCode::NoError, [&["a.example. 9 CNAME b.example.", "b.example. 8 A 127.0.0.1"], &[], &[]]),
            given("a.example AAAA", ResponseCode::NoError, [&["a.example. 9 AAAA ::ffff:10.210.0.7"], &[], &[]]),
        ]
        .join("\n"),
        @r"
    No Error RA
      a.example. 9 IN A 192.0.2.1 (9s, 1 denied)
    No Error RA
      a.example. 9 IN CNAME b.example. (8s, 1 denied)
    No Error RA (9s, 1 denied)
    "
    );
}

#[test]
fn signatures_and_denials_go_to_whom_they_mean_something() {
    let signed = upstream(
        "www.example A",
        ResponseCode::NoError,
        [
            &[
                "example. 300 TYPE39 example.org.",
                "example. 300 TYPE46 39",
                "www.example. 300 CNAME www.example.org.",
                "www.example.org. 60 A 192.0.2.1",
                "www.example.org. 60 TYPE46 1",
                "www.example.org. 60 TYPE46 28",
            ],
            &["x.example.org. 60 TYPE47 -", "x.example.org. 60 TYPE46 47"],
            &[],
        ],
    );
    let denied = upstream(
        "www.example A",
        ResponseCode::NXDomain,
        [&[], &[SOA, "example. 60 TYPE46 6", "a.example. 60 TYPE47 -", "a.other. 60 TYPE47 -"], &[]],
    );
    insta::assert_snapshot!(
        [given_as(&signed, Dnssec::Not), given_as(&signed, Dnssec::Asked), given_as(&denied, Dnssec::Not), given_as(&denied, Dnssec::Asked)].join("\n"),
        @r"
    No Error RA
      www.example. 300 IN CNAME www.example.org.
      www.example.org. 60 IN A 192.0.2.1 (60s)
    No Error RA
      example. 300 IN DNAME B2V4YW1wbGUDb3JnAA==
      example. 300 IN RRSIG ACcHBwcHBwcHBwcHBwcHBwcHBwcHBw==
      www.example. 300 IN CNAME www.example.org.
      www.example.org. 60 IN A 192.0.2.1
      www.example.org. 60 IN RRSIG AAEHBwcHBwcHBwcHBwcHBwcHBwcHBw==
      authority: x.example.org. 60 IN NSEC AWEAAAFA
      authority: x.example.org. 60 IN RRSIG AC8HBwcHBwcHBwcHBwcHBwcHBwcHBw== (60s)
    Non-Existent Domain RA
      authority: example. 900 IN SOA ns.example. admin.example. 5 3600 600 86400 900 (900s)
    Non-Existent Domain RA
      authority: example. 900 IN SOA ns.example. admin.example. 5 3600 600 86400 900
      authority: example. 60 IN RRSIG AAYHBwcHBwcHBwcHBwcHBwcHBwcHBw==
      authority: a.example. 60 IN NSEC AWEAAAFA (60s)
    "
    );
}

#[test]
fn who_refuses_refers_or_goes_in_circles_has_not_answered() {
    let failed = |rcode, answers: &[&str], authority: &[&str]| given("a.example A", rcode, [answers, authority, &[]]);
    let circle = ["a.example. 9 CNAME b.example.", "b.example. 9 CNAME a.example."];
    for (said, expected) in [
        (failed(ResponseCode::ServFail, &[], &[]), Failed::ServFail),
        (failed(ResponseCode::Refused, &[], &[]), Failed::Refused),
        (failed(ResponseCode::FormErr, &[], &[]), Failed::NotUnderstood),
        (failed(ResponseCode::NoError, &[], &["example. 9 NS ns.example."]), Failed::Refused),
        (failed(ResponseCode::NoError, &circle, &[]), Failed::Malformed),
    ] {
        assert_eq!(said, format!("{:?}", Cleaned::Failed(expected)));
    }
}

#[test]
fn only_what_has_the_id_and_the_question_is_an_answer() {
    let message = upstream("wWw.example A", ResponseCode::NoError, [&[], &[], &[]]);
    let bytes = message.to_vec().unwrap();
    let question = bytes[HEADER..].to_vec();
    let sent = Sent { id: [0x12, 0x34], question: &question, dnssec_ok: false };
    let changed = |at: usize, to: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = to;
        matches(&bytes, &sent)
    };
    assert_eq!(matches(&bytes, &sent), Match::Yes);
    assert_eq!(changed(0, 0), Match::No, "another id");
    assert_eq!(changed(2, 0), Match::No, "a query");
    assert_eq!(changed(HEADER + 1, b'W'), Match::OtherCase);
    assert_eq!(changed(HEADER + 1, b'x'), Match::No, "another name");
    assert_eq!(changed(bytes.len() - 3, 28), Match::No, "another type");
    assert_eq!(matches(&bytes[..11], &sent), Match::No);
}

proptest! {
    /// Bytes at random, and whole messages with some bytes changed.
    #[test]
    fn what_is_given_on_can_be_read_and_is_never_too_long(
        rtype in prop_oneof![Just("A"), Just("MX"), Just("SOA"), Just("HTTPS"), Just("ANY"), Just("SRV"), Just("NAPTR")],
        changes in proptest::collection::vec((0_usize..400, any::<u8>()), 0..6),
        tail in proptest::collection::vec(any::<u8>(), 0..3),
        flags in any::<u8>(),
    ) {
        let sections: [&[&str]; 3] = [
            &[
                "www.example. 300 CNAME edge.example.",
                "edge.example. 60 A 192.0.2.1",
                "edge.example. 60 MX 10 mail.edge.example.",
                "edge.example. 60 SRV 1 2 3 mail.example.",
                "edge.example. 60 HTTPS 1 . alpn=h2 ipv4hint=192.0.2.1",
                "edge.example. 60 NAPTR 1 2 \"a\" \"b\" \"c\" x.example.",
                "edge.example. 60 TXT text",
                "example. 300 TYPE39 example.org.",
                "edge.example. 60 TYPE46 1",
            ],
            &[SOA, "a.example. 60 TYPE47 -"],
            &["ns.example. 900 A 192.0.2.53"],
        ];
        let mut bytes = upstream(&format!("www.example {rtype}"), ResponseCode::NoError, sections).to_vec().unwrap();
        // The question stands, as the shell has seen to.
        for (at, to) in changes {
            if let Some(byte) = bytes.get_mut(HEADER + 17 + at) {
                *byte = to;
            }
        }
        bytes.extend(tail);
        fuzzing::forwarded(&[&[flags][..], &bytes].concat());
    }
}
