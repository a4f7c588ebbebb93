//! The wire: flags, sizes, EDNS, refusals, and bytes of any kind.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use proptest::prelude::*;

use super::{Asked, Outcome, Rcode, Transport, answer};
use crate::config::Config;
use crate::facts::Facts;
use crate::feed::Event;
use crate::testing::{
    COOKIES, ELSEWHERE, Row, ask, ask_as, config, container, decode, dig, nats, query, server, service, snapshot, text,
    zone, zone_of,
};
use crate::zone::{Freshness, Settings, Zone};

/// A service with so many instances, and one of each other thing.
fn rows(instances: usize) -> Vec<Row> {
    let mut rows = vec![
        server("s1").set("wireguard_ip", "10.210.1.1").set("region", "ams"),
        service("casa", "api").set("ports", r#"[{"name":"http","port":80}]"#),
        nats("n1", "nats", "10.210.1.1").set("client_port", 4222),
    ];
    rows.extend((0..instances).map(|n| {
        let row = container(&format!("{n:012x}"), "casa/api", &format!("10.210.128.{n}"));
        row.set("instance_id", format!("i{n}").as_str())
    }));
    rows
}

fn raw(zone: &Zone, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let mut out = vec![0xee; 3];
    let source: IpAddr = ELSEWHERE.parse().unwrap();
    match answer(zone, &Asked { query, transport, source, turn: 3, cookies: COOKIES }, &mut out) {
        Outcome::Answer(_) | Outcome::Foreign(_) | Outcome::Onward(_) => Some(out),
        Outcome::Drop => {
            assert!(out.is_empty());
            None
        }
    }
}

fn with_edns(mut message: Message, change: impl FnOnce(&mut Edns)) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    change(&mut edns);
    message.set_edns(edns);
    message
}

#[test]
fn id_flags_and_question_are_copied_byte_by_byte() {
    let zone = zone(rows(1));
    let mut wire = query("cAsA-aPi.InTeRnAl", "A").to_vec().unwrap();
    // RD, AD, CD and the reserved bit.
    wire[2] = 0x01;
    wire[3] = 0x70;
    let reply = raw(&zone, &wire, Transport::Udp).unwrap();
    assert_eq!(reply[..2], wire[..2]);
    assert_eq!(reply[2], 0x85, "QR, AA, RD");
    assert_eq!(reply[3], 0x10, "CD alone: no RA, no AD, no Z, NOERROR");
    assert_eq!(reply[12..wire.len()], wire[12..]);
    assert_eq!(reply[wire.len()..wire.len() + 2], [0xc0, 0x0c], "the owner is the question");
    wire[2] = 0;
    assert_eq!(raw(&zone, &wire, Transport::Udp).unwrap()[2], 0x84);
}

#[test]
fn records_rotate_from_query_to_query() {
    let zone = zone(rows(3));
    let wire = query("casa-api.internal", "A").to_vec().unwrap();
    let first = |turn| ask_as(&zone, &wire, Transport::Udp, ELSEWHERE, turn).answers[0].data.to_string();
    assert_eq!(
        [first(0), first(1), first(2), first(3)],
        ["10.210.128.0", "10.210.128.1", "10.210.128.2", "10.210.128.0"]
    );
    let srv = query("_http._tcp.casa-api.internal", "SRV").to_vec().unwrap();
    let target = |turn| ask_as(&zone, &srv, Transport::Udp, ELSEWHERE, turn).answers[0].data.to_string();
    assert_ne!(target(0), target(1));
}

#[test]
fn an_answer_that_does_not_fit_is_cut_at_a_whole_record() {
    let zone = zone(rows(60));
    let plain = query("casa-api.internal", "A");
    let size = |message: &Message, transport| {
        let wire = raw(&zone, &message.to_vec().unwrap(), transport).unwrap();
        let parsed = Message::from_vec(&wire).unwrap();
        (wire.len(), parsed.answers.len(), parsed.metadata.truncation)
    };
    assert_eq!(size(&plain, Transport::Udp), (12 + 23 + 29 * 16, 29, true));
    assert_eq!(size(&plain, Transport::Tcp), (12 + 23 + 60 * 16, 60, false));
    let asks = |payload| with_edns(plain.clone(), |edns| _ = edns.set_max_payload(payload));
    assert_eq!(size(&asks(1232), Transport::Udp), (12 + 23 + 60 * 16 + 11, 60, false));
    assert_eq!(size(&asks(65535), Transport::Udp), (12 + 23 + 60 * 16 + 11, 60, false));
    for small in [0, 100, 512] {
        assert_eq!(size(&asks(small), Transport::Udp), (12 + 23 + 29 * 16 + 11, 29, true));
    }
}

#[test]
fn a_text_too_long_for_a_datagram_is_left_to_tcp() {
    let zone = zone(rows(200));
    let list = with_edns(query("_instances.internal", "TXT"), |_| {});
    let by_udp = ask_as(&zone, &list.to_vec().unwrap(), Transport::Udp, ELSEWHERE, 0);
    assert!(by_udp.metadata.truncation && by_udp.answers.is_empty() && by_udp.authorities.is_empty());
    let by_tcp = ask(&zone, &list);
    assert!(!by_tcp.metadata.truncation && by_tcp.answers.len() == 1);
}

#[test]
fn additional_addresses_are_dropped_before_answers_and_without_tc() {
    let zone = zone(rows(12));
    let wire = query("_http._tcp.casa-api.internal", "SRV").to_vec().unwrap();
    let small = ask_as(&zone, &wire, Transport::Udp, ELSEWHERE, 0);
    assert!(small.metadata.truncation && small.additionals.is_empty());
    let whole = ask(&zone, &query("_http._tcp.casa-api.internal", "SRV"));
    assert_eq!((whole.answers.len(), whole.additionals.len()), (12, 12));
    let some = self::zone(rows(7));
    let part = ask_as(&some, &wire, Transport::Udp, ELSEWHERE, 0);
    assert_eq!((part.metadata.truncation, part.answers.len()), (false, 7));
    assert!((1..7).contains(&part.additionals.len()), "{}", part.additionals.len());
}

#[test]
fn edns_is_answered_only_when_asked_and_nothing_unknown_is_echoed() {
    let zone = zone(rows(1));
    let plain = query("casa-api.internal", "A");
    assert!(ask(&zone, &plain).edns.is_none());
    let asked = with_edns(plain.clone(), |edns| {
        edns.set_dnssec_ok(true);
        edns.options_mut().insert(EdnsOption::Unknown(100, vec![1]));
        edns.options_mut().insert(EdnsOption::Unknown(200, b"abcdefgh".to_vec()));
    });
    let edns = ask(&zone, &asked).edns.unwrap();
    assert_eq!((edns.version(), edns.max_payload(), edns.flags().dnssec_ok), (0, 1232, true));
    assert!(edns.options().options.is_empty());
    for (name, rtype) in [("nope.internal", "A"), ("www.example.com", "A"), ("casa-api.internal", "AXFR")] {
        assert!(ask(&zone, &with_edns(query(name, rtype), |_| {})).edns.is_some(), "{name} {rtype}");
    }
}

#[test]
fn a_cookie_is_answered_with_one_that_counts_and_none_is_required() {
    let zone = zone(rows(100));
    let with = |cookie: &[u8]| {
        let option = EdnsOption::Unknown(10, cookie.to_vec());
        with_edns(query("casa-api.internal", "A"), |edns| edns.options_mut().insert(option))
    };
    let cookie = |reply: &Message| match reply.edns.as_ref()?.option(EdnsCode::Cookie)? {
        EdnsOption::Unknown(10, cookie) => Some(cookie.clone()),
        _ => None,
    };
    let given = cookie(&ask(&zone, &with(b"12345678"))).expect("a cookie");
    assert_eq!((given.len(), &given[..8]), (24, &b"12345678"[..]));
    // Good ones, wrong ones and those of other makers: answered alike, within the size that was asked for.
    for sent in [&given[..], b"12345678wrongwrongwrong!", b"12345678another maker's cookie"] {
        let reply = raw(&zone, &with(sent).to_vec().unwrap(), Transport::Udp).unwrap();
        let reply_message = decode(&reply);
        assert_eq!(cookie(&reply_message), Some(given.clone()));
        assert!(reply.len() <= 1232 && reply_message.metadata.truncation && reply_message.answers.len() > 60);
    }
    for length in [0, 7, 9, 15, 41] {
        let reply = raw(&zone, &with(&vec![1; length]).to_vec().unwrap(), Transport::Udp).unwrap();
        assert_eq!(reply[3] & 15, 1, "FORMERR for {length} bytes");
    }
}

#[test]
fn nsid_names_the_server() {
    let zone = zone(rows(1));
    let mut wire = with_edns(query("casa-api.internal", "A"), |_| {}).to_vec().unwrap();
    let end = wire.len();
    wire[end - 1] = 4;
    wire.extend([0, 3, 0, 0]);
    let edns = ask_as(&zone, &wire, Transport::Udp, ELSEWHERE, 0).edns.unwrap();
    assert!(edns.option(EdnsCode::NSID).is_some(), "{edns:?}");
    let reply = raw(&zone, &wire, Transport::Udp).unwrap();
    assert!(reply.ends_with(&[0, 3, 0, 2, b's', b'1']));
}

#[test]
fn an_unknown_version_of_edns_is_badvers() {
    let zone = zone(rows(1));
    let asked = with_edns(query("casa-api.internal", "A"), |edns| _ = edns.set_version(1));
    let reply = ask(&zone, &asked);
    // 16 is BADVERS in OPT (RFC 6891 §9) and BADSIG in TSIG: the codec's name is the other one.
    assert_eq!(u16::from(reply.metadata.response_code), 16);
    assert_eq!(reply.edns.unwrap().version(), 0);
    assert!(reply.answers.is_empty());
}

#[test]
fn what_is_no_plain_query_gets_its_code() {
    let zone = zone(rows(1));
    let wire = query("casa-api.internal", "A").to_vec().unwrap();
    let code = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut wire = wire.clone();
        change(&mut wire);
        raw(&zone, &wire, Transport::Udp).map(|reply| {
            assert_eq!(reply[..2], wire[..2]);
            Message::from_vec(&reply).expect("parses").metadata.response_code.to_string()
        })
    };
    let some = |text: &str| Some(text.to_owned());
    for opcode in [1, 2, 3, 6, 7, 15] {
        assert_eq!(code(&|wire| wire[2] = opcode << 3), some("Not Implemented"), "opcode {opcode}");
    }
    assert_eq!(code(&|wire| wire[2] = 4 << 3), some("Query Refused"), "NOTIFY");
    assert_eq!(code(&|wire| wire[2] = 5 << 3), some("Query Refused"), "UPDATE");
    assert_eq!(code(&|wire| wire[2] |= 0x80), None, "a response");
    assert_eq!(code(&|wire| wire.truncate(11)), None, "no header");
    assert_eq!(code(&|wire| wire[5] = 0), some("Form Error"), "no question");
    assert_eq!(code(&|wire| wire[5] = 2), some("Form Error"), "two questions");
    assert_eq!(code(&|wire| wire[11] = 1), some("Form Error"), "a record that is not there");
    assert_eq!(code(&|wire| wire.push(0)), some("Form Error"), "bytes behind the message");
    assert_eq!(code(&|wire| wire[12] = 0xc0), some("Form Error"), "a compressed question");
    assert_eq!(code(&|wire| wire[12] = 0x41), some("Form Error"), "a label type of old");
    let end = wire.len();
    let class = |class: u8| move |wire: &mut Vec<u8>| wire[end - 1] = class;
    for other in [0, 3, 4, 254, 255] {
        assert_eq!(code(&class(other)), some("Query Refused"), "class {other}");
    }
    let rtype = |rtype: u8| move |wire: &mut Vec<u8>| wire[end - 3] = rtype;
    for (number, wanted) in
        [(251, "Query Refused"), (252, "Query Refused"), (41, "Form Error"), (250, "Not Implemented"), (0, "No Error")]
    {
        assert_eq!(code(&rtype(number)), some(wanted), "type {number}");
    }
    for cut in 13..end {
        assert_eq!(code(&|wire| wire.truncate(cut)), some("Form Error"), "cut at {cut}");
    }
}

#[test]
fn opt_is_alone_and_whole() {
    let zone = zone(rows(1));
    let base = with_edns(query("casa-api.internal", "A"), |_| {}).to_vec().unwrap();
    let opt = base[base.len() - 11..].to_vec();
    let code = |wire: &[u8]| raw(&zone, wire, Transport::Udp).unwrap()[3] & 15;
    assert_eq!(code(&base), Rcode::NoError as u8);
    let mut two = [&base[..], &opt].concat();
    two[11] = 2;
    assert_eq!(code(&two), Rcode::FormErr as u8, "two OPT");
    let mut long = base.clone();
    *long.last_mut().unwrap() = 9;
    assert_eq!(code(&long), Rcode::FormErr as u8, "RDLENGTH beyond the end");
    let mut option = [&base[..], &[0, 3, 1, 0, b'x']].concat();
    option[base.len() - 1] = 5;
    assert_eq!(code(&option), Rcode::FormErr as u8, "an option beyond RDLENGTH");
}

#[test]
fn any_is_one_rrset() {
    let zone = zone(rows(2));
    insta::assert_snapshot!(dig(&zone, &[
        ("casa-api.internal", "ANY"),
        ("peers.casa-api.internal", "ANY"),
        ("internal", "ANY"),
        ("nope.internal", "ANY"),
    ]), @r#"
    casa-api.internal ANY: No Error AA
      casa-api.internal. 5 IN A 10.210.128.0
      casa-api.internal. 5 IN A 10.210.128.1
    peers.casa-api.internal ANY: No Error AA
      peers.casa-api.internal. 5 IN A 10.210.128.0
      peers.casa-api.internal. 5 IN A 10.210.128.1
    internal ANY: No Error AA
      internal. 5 IN SOA internal. nobody.invalid. 7 3600 600 86400 5
    nope.internal ANY: Non-Existent Domain AA
      authority: internal. 5 IN SOA internal. nobody.invalid. 7 3600 600 86400 5
    "#);
}

#[test]
fn class_chaos_tells_version_and_server() {
    let zone = zone(rows(1));
    let ch = |name: &str, rtype: &str| {
        let mut wire = query(name, rtype).to_vec().unwrap();
        *wire.last_mut().unwrap() = 3;
        format!("{name} {}", text(&ask_as(&zone, &wire, Transport::Udp, ELSEWHERE, 0)))
    };
    insta::assert_snapshot!(
        [ch("version.bind", "TXT"), ch("ID.server", "TXT"), ch("id.server", "A"), ch("casa-api.internal", "A")].join("\n"), @r#"
    version.bind No Error AA
      version.bind. 0 CH TXT kith 0.1.0
    ID.server No Error AA
      ID.server. 0 CH TXT s1
    id.server No Error AA
    casa-api.internal Query Refused
    "#);
}

#[test]
fn labels_of_any_bytes_and_names_of_any_length_do_not_exist() {
    let zone = zone(rows(1));
    let ask = |labels: &[&[u8]]| {
        let mut wire = query(".", "A").to_vec().unwrap();
        let name: Vec<u8> = labels.iter().flat_map(|label| [&[label.len() as u8][..], label].concat()).collect();
        wire.splice(12..12, name);
        let reply = raw(&zone, &wire, Transport::Udp).unwrap();
        assert!(reply.len() <= 512);
        if reply[3] & 15 != Rcode::FormErr as u8 {
            assert_eq!(reply[12..wire.len()], wire[12..]);
            Message::from_vec(&reply).expect("parses");
        }
        reply[3] & 15
    };
    assert_eq!(ask(&[b"\0.\xff \\\"", b"internal"]), Rcode::NxDomain as u8);
    let long = [b'y'; 63];
    assert_eq!(ask(&[&long, b"internal"]), Rcode::NxDomain as u8);
    // 255 bytes with the closing zero: the longest there is.
    assert_eq!(ask(&[&long, &long, &long, &long[..52], b"internal"]), Rcode::NxDomain as u8);
    assert_eq!(ask(&[&long, &long, &long, &long[..53], b"internal"]), Rcode::FormErr as u8);
    assert_eq!(ask(&[&long, &long, &long, &long, &long]), Rcode::FormErr as u8);
    assert_eq!(ask(&[&b"x"[..]; 127]), Rcode::Refused as u8, "as many labels as a name can have");
    assert_eq!(ask(&[&b"x"[..]; 128]), Rcode::FormErr as u8);
}

#[test]
fn a_name_of_one_label_is_denied_where_containers_ask_and_refused_by_a_server_of_files() {
    let denied = "Non-Existent Domain AA\n  authority: . 5 IN SOA . nobody.invalid. 1 3600 1200 604800 5";
    let zone = zone_of([]);
    for rtype in ["A", "AAAA", "TXT", "HTTPS", "ANY", "TYPE65280"] {
        assert_eq!(text(&ask(&zone, &query("api", rtype))), denied, "{rtype}");
    }
    for (name, rtype) in [("com", "NS"), ("com", "DS"), (".", "NS"), ("www.example.com", "A")] {
        assert_eq!(text(&ask(&zone, &query(name, rtype))), "Query Refused", "{name} {rtype}");
    }
    let config = Config { zones: Vec::new(), ..config() };
    let zone = Zone::build(&Facts::default(), &Settings::from(&config), 0);
    assert_eq!(text(&ask(&zone, &query("api", "A"))), "Query Refused");
}

#[test]
fn before_the_first_zone_own_names_fail_and_foreign_ones_are_refused() {
    let zone = zone_of([]);
    assert_eq!(zone.freshness(), Freshness::Loading);
    for name in ["casa-api.internal", "internal", "1.128.210.10.in-addr.arpa"] {
        let reply = ask(&zone, &with_edns(query(name, "A"), |_| {}));
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail, "{name}");
        assert_eq!(ede(&reply), Some(14));
        assert!(!reply.metadata.authoritative);
    }
    assert_eq!(ask(&zone, &query("www.example.com", "A")).metadata.response_code, ResponseCode::Refused);
}

#[test]
fn a_stale_zone_answers_as_before_and_says_so() {
    let mut events = snapshot(rows(1));
    events.push(Event::FeedLost);
    let zone = zone_of(events);
    let asked = |name: &str| ask(&zone, &with_edns(query(name, "A"), |_| {}));
    let reply = asked("casa-api.internal");
    assert_eq!((reply.answers.len(), ede(&reply)), (1, Some(3)));
    let reply = asked("nope.internal");
    assert_eq!((reply.metadata.response_code, ede(&reply)), (ResponseCode::NXDomain, Some(19)));
    assert_eq!(ede(&asked("www.example.com")), None);
    assert!(ask(&zone, &query("casa-api.internal", "A")).edns.is_none(), "no OPT where none was asked");
}

fn ede(message: &Message) -> Option<u16> {
    let edns = message.edns.as_ref()?;
    match edns.option(EdnsCode::from(15))? {
        EdnsOption::Unknown(15, bytes) => Some(u16::from_be_bytes([bytes[0], bytes[1]])),
        _ => None,
    }
}

/// Every kind of answer that there is, as the seed of mutations.
fn seeds() -> Vec<Vec<u8>> {
    let names = [
        ("casa-api.internal", "A"),
        ("casa-api.internal", "AAAA"),
        ("_http._tcp.casa-api.internal", "SRV"),
        ("peers.casa-api.internal", "ANY"),
        ("top3.nearest.of.casa-api.internal", "A"),
        ("_instances.internal", "TXT"),
        ("1.128.210.10.in-addr.arpa", "PTR"),
        ("internal", "NS"),
        ("nope.internal", "A"),
    ];
    let plain = names.iter().map(|(name, rtype)| query(name, rtype));
    plain.flat_map(|message| [message.to_vec().unwrap(), with_edns(message, |_| {}).to_vec().unwrap()]).collect()
}

/// What holds of every reply.
fn check(zone: &Zone, wire: &[u8], transport: Transport) -> Result<(), TestCaseError> {
    let Some(reply) = raw(zone, wire, transport) else {
        prop_assert!(wire.len() < 12 || wire[2] & 0x80 != 0, "a query was dropped");
        return Ok(());
    };
    let limit = if transport == Transport::Tcp { 65_535 } else { 1232 };
    prop_assert!(reply.len() <= limit);
    prop_assert_eq!(&reply[..2], &wire[..2]);
    prop_assert!(reply[2] & 0x80 != 0);
    let parsed = decode(&reply);
    if parsed.edns.is_none() && transport == Transport::Udp {
        prop_assert!(reply.len() <= 512);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_answered_or_dropped(wire in prop::collection::vec(any::<u8>(), 0..400), tcp in any::<bool>()) {
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        check(&ZONE, &wire, transport)?;
    }

    #[test]
    fn any_mutation_of_a_query_is_answered_or_dropped(
        seed in 0..18_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        tcp in any::<bool>(),
    ) {
        let mut wire = seeds().swap_remove(seed);
        for (index, byte) in changes {
            let at = index.index(wire.len());
            wire[at] = byte;
        }
        if let Some(cut) = cut {
            wire.truncate(cut.index(wire.len()));
        }
        check(&ZONE, &wire, if tcp { Transport::Tcp } else { Transport::Udp })?;
    }
}

static ZONE: std::sync::LazyLock<Zone> = std::sync::LazyLock::new(|| zone(rows(120)));
