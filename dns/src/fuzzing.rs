//! The decoders of what strangers send, and of zone files, as the fuzzer calls them, each with what must hold of whatever it accepts.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crate::answer::{self, Asked, Outcome, Rcode, Transport, answer};
use crate::config::Config;
use crate::cookie::Cookies;
use crate::facts::Facts;
use crate::forward;
use crate::name::{LABEL_MAX, NAME_MAX};
use crate::zone::fixed::{FileState, Fixed, zone_of};
use crate::zone::{Settings, Zone};
use crate::zonefile::Reader;

/// A decoder, and the name of its corpus.
pub type Target = (&'static str, fn(&[u8]));

/// Every one, by the name of its corpus below `fuzz/corpus`.
pub const TARGETS: &[Target] =
    &[("forwarded", forward::fuzzing::forwarded), ("query", answer::fuzzing::query), ("zone", zone)];

/// A zone file: each record has a sound owner, and a zone that is accepted has an answer, never a denial, for each of its
/// records.
fn zone(bytes: &[u8]) {
    let mut records = Vec::new();
    let mut reader = Reader::of(bytes);
    loop {
        match reader.next() {
            Ok(Some(record)) => {
                assert!(is_name(record.owner), "an owner that is no name: {:?}", record.owner);
                assert!(record.rdata.len() <= usize::from(u16::MAX));
                records.push((record.owner.to_vec(), record.rtype));
            }
            Ok(None) => break,
            Err(fault) => {
                // Whoever consumes it shows it.
                assert!(!fault.to_string().is_empty());
                return;
            }
        }
    }
    let Ok(zone) = zone_of(&mut Reader::of(bytes), &|_| false) else { return };
    let origin = zone.origin().to_vec();
    let fixed = Fixed::new(vec![FileState { path: "zone".into(), zone: Some(Arc::new(zone)), fault: None }]);
    let config = Config { zones: Vec::new(), ..Config::new("fuzz") };
    let zone = Zone::build(&Facts::default(), &Settings::from(&config), 0).with_fixed(&fixed);
    let mut out = Vec::new();
    let cookies = Cookies::new([7; 16]);
    for (owner, rtype) in records.iter().filter(|(owner, _)| owner.to_ascii_lowercase().ends_with(&origin)) {
        let query = [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], &owner[..], &rtype.to_be_bytes(), &[0, 1]].concat();
        let source = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let asked = Asked { query: &query, transport: Transport::Tcp, source, turn: 1, cookies };
        match answer(&zone, &asked, &mut out) {
            Outcome::Answer(tally) | Outcome::Onward(tally) => {
                assert!(tally.rcode != Rcode::NxDomain, "{owner:?} {rtype} is denied");
            }
            // It only ends like the zone's name.
            Outcome::Foreign(_) => {}
            Outcome::Drop => panic!("a query is dropped"),
        }
        assert!(out.len() <= usize::from(u16::MAX));
    }
}

fn is_name(wire: &[u8]) -> bool {
    let mut at = 0;
    while let Some(length) = wire.get(at).map(|length| usize::from(*length)) {
        match length {
            0 => return at + 1 == wire.len() && wire.len() <= NAME_MAX,
            1..=LABEL_MAX => at += 1 + length,
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn what_the_fuzzer_found_is_survived() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        for (name, target) in super::TARGETS {
            let inputs = std::fs::read_dir(corpus.join(name)).unwrap();
            let ran = inputs.map(|input| target(&std::fs::read(input.unwrap().path()).unwrap())).count();
            assert!(ran > 0, "the corpus of {name} is empty");
        }
    }
}
