//! The last zone as bytes, so that a start without the store has something to answer with.
//!
//! ```text
//! "kithzone"  version (4)  length (4) and JSON: whose zone it is, servers, regions
//! length (8) and entries of names   length (8) and entries of addresses   checksum of all before (8)
//! ```
//! Numbers are in the order of this machine: another kind of machine reads another version. Whatever is not exactly what
//! this release writes for this configuration is refused whole: no zone is better than half of one.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::build::Domain;
use super::entry::{Entries, Entry};
use super::fixed::Fixed;
use super::list::Lists;
use super::shard::Shards;
use super::{Contents, Settings, Zone};
use crate::access::Access;
use crate::facts::Freshness;
use crate::feed::{Member, MemberState};

const MAGIC: &[u8; 8] = b"kithzone";
/// Counts the forms of the file. A form is read by the releases that write it.
const VERSION: u32 = 1;

/// A zone as it was written.
#[derive(Debug)]
pub(crate) struct Saved {
    pub(crate) zone: Zone,
    /// What was known of servers, silent ones among them.
    pub(crate) members: Vec<Member>,
    pub(crate) written: SystemTime,
}

/// Why bytes are not a zone of ours.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SavedError {
    #[error("not a zone that this release wrote")]
    Foreign,
    #[error("cut off or damaged")]
    Damaged,
    #[error("of another server, or for other zones")]
    Other,
}

/// Everything but the entries.
#[derive(Serialize, Deserialize)]
struct About {
    server: String,
    zones: Vec<String>,
    ranges: Vec<String>,
    generation: u64,
    written_s: u64,
    regions: Vec<String>,
    here: Vec<std::net::IpAddr>,
    #[serde(default)]
    subnets: Vec<String>,
    members: Vec<Heard>,
}

#[derive(Serialize, Deserialize)]
struct Heard {
    server: String,
    state: State,
    boot_id: String,
    rtt_us: Option<u64>,
}

#[derive(Serialize, Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum State {
    Up,
    Silent,
    Removed,
}

impl Zone {
    /// Writes the zone.
    pub(crate) fn write(&self, settings: &Settings, now: SystemTime, out: impl Write) -> io::Result<()> {
        let contents = &*self.contents;
        let about = About {
            server: contents.server.to_string(),
            zones: settings.zones.iter().map(ToString::to_string).collect(),
            ranges: contents.ranges.iter().map(ToString::to_string).collect(),
            generation: contents.generation,
            written_s: now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |age| age.as_secs()),
            regions: contents.regions.iter().map(|region| String::from_utf8_lossy(region).into_owned()).collect(),
            here: contents.here.iter().copied().collect(),
            subnets: contents.subnets.networks().map(|net| net.to_string()).collect(),
            members: contents.members.iter().map(Heard::from).collect(),
        };
        let about = serde_json::to_vec(&about)?;
        let mut out = Summed { out, sum: Xxh3::new() };
        out.write_all(MAGIC)?;
        out.write_all(&VERSION.to_ne_bytes())?;
        out.write_all(&u32::try_from(about.len()).map_err(io::Error::other)?.to_ne_bytes())?;
        out.write_all(&about)?;
        for shards in [&contents.names, &contents.pointers] {
            let length: usize = shards.iter().map(|entry| entry.bytes.len()).sum();
            out.write_all(&(length as u64).to_ne_bytes())?;
            for entry in shards.iter() {
                out.write_all(entry.bytes)?;
            }
        }
        let sum = out.sum.digest();
        out.out.write_all(&sum.to_ne_bytes())?;
        out.out.flush()
    }

    /// Reads a zone that was written for these settings. It is stale: nobody knows what happened since.
    pub(crate) fn read(bytes: &[u8], settings: &Settings) -> Result<Saved, SavedError> {
        let mut rest = bytes.strip_prefix(MAGIC).ok_or(SavedError::Foreign)?;
        if take(&mut rest, 4)? != VERSION.to_ne_bytes() {
            return Err(SavedError::Foreign);
        }
        let (body, sum) = bytes.split_last_chunk::<8>().ok_or(SavedError::Damaged)?;
        if xxh3_64(body).to_ne_bytes() != *sum {
            return Err(SavedError::Damaged);
        }
        let length = take(&mut rest, 4)?.try_into().map(u32::from_ne_bytes).map_err(|_| SavedError::Damaged)?;
        let about: About =
            serde_json::from_slice(take(&mut rest, u64::from(length))?).map_err(|_| SavedError::Damaged)?;
        let zones: Vec<String> = settings.zones.iter().map(ToString::to_string).collect();
        let ranges: Result<Vec<IpNet>, _> = about.ranges.iter().map(|range| range.parse()).collect();
        let ranges = ranges.map_err(|_| SavedError::Damaged)?;
        let of_store = settings.ranges.is_empty() || settings.ranges == ranges;
        if about.server != settings.server || about.zones != zones || !of_store {
            return Err(SavedError::Other);
        }
        let names = shards(&mut rest)?;
        let pointers = shards(&mut rest)?;
        Ok(about.saved(&Domain::new(settings, ranges), settings, (names, pointers)))
    }
}

impl About {
    fn saved(self, domain: &Domain, settings: &Settings, (names, pointers): (Shards, Shards)) -> Saved {
        let members: Vec<Member> = self.members.into_iter().map(Member::from).collect();
        let contents = Contents {
            server: self.server.into(),
            generation: self.generation,
            ttl: settings.ttl,
            ranges: domain.ranges().into(),
            origins: domain.origins(),
            names,
            pointers,
            lists: Lists::default(),
            regions: Arc::new(self.regions.into_iter().map(|region| region.into_bytes().into()).collect()),
            here: Arc::new(self.here.into_iter().collect()),
            subnets: Arc::new(Access::new(self.subnets.iter().filter_map(|net| net.parse().ok()))),
            members: members.clone().into(),
            problems: Arc::new([]),
            problem_count: 0,
            clashes: Arc::new([]),
        };
        let written = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(self.written_s));
        Saved {
            zone: Zone {
                contents: Arc::new(contents),
                fixed: Fixed::default(),
                freshness: Freshness::Stale,
                routes: Arc::clone(&settings.routes),
            },
            members,
            written: written.unwrap_or(SystemTime::UNIX_EPOCH),
        }
    }
}

impl From<&Member> for Heard {
    fn from(member: &Member) -> Self {
        let state = match member.state {
            MemberState::Up => State::Up,
            MemberState::Silent => State::Silent,
            MemberState::Removed => State::Removed,
        };
        let rtt_us = member.rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX));
        Self { server: member.server.clone(), state, boot_id: member.boot_id.clone(), rtt_us }
    }
}

impl From<Heard> for Member {
    fn from(heard: Heard) -> Self {
        let state = match heard.state {
            State::Up => MemberState::Up,
            State::Silent => MemberState::Silent,
            State::Removed => MemberState::Removed,
        };
        let rtt = heard.rtt_us.map(Duration::from_micros);
        Self { server: heard.server, state, boot_id: heard.boot_id, heard: None, rtt }
    }
}

/// Reads the entries of one table.
fn shards(rest: &mut &[u8]) -> Result<Shards, SavedError> {
    let length = take(rest, 8)?.try_into().map(u64::from_ne_bytes).map_err(|_| SavedError::Damaged)?;
    let entries = Entries::read(take(rest, length)?).ok_or(SavedError::Damaged)?;
    let mut shards = Shards::default();
    shards.replace(&[], |_: &Entry<'_>| false, &entries);
    Ok(shards)
}

fn take<'a>(rest: &mut &'a [u8], length: u64) -> Result<&'a [u8], SavedError> {
    let length = usize::try_from(length).map_err(|_| SavedError::Damaged)?;
    let (taken, left) = rest.split_at_checked(length).ok_or(SavedError::Damaged)?;
    *rest = left;
    Ok(taken)
}

/// Writes, and sums what was written.
struct Summed<W> {
    out: W,
    sum: Xxh3,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.sum.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::{Asked, Transport, answer};
    use crate::config::Config;
    use crate::feed::Event;
    use crate::testing::{addresses, config, container, member, nats, server, service, snapshot, zone_of};

    fn settings() -> Settings {
        Settings::from(&config())
    }

    fn written() -> (Zone, Vec<u8>) {
        let mut events = snapshot([
            server("s1").set("wireguard_ip", "10.210.1.1").set("region", "ams"),
            server("s2").set("wireguard_ip", "10.210.2.1"),
            service("casa", "api").set("ports", r#"[{"name":"http","port":80}]"#),
            container("aa", "casa/api", "10.210.128.1").set("instance_id", "one"),
            container("ab", "casa/api", "10.210.128.2").set("server_id", "s2").set("ip6", "fd00:210::2"),
            nats("n1", "nats", "10.210.1.1").set("role", "center").set("client_port", 4222),
        ]);
        events.push(Event::Member(member("s2", MemberState::Silent)));
        let zone = zone_of(events);
        let mut bytes = Vec::new();
        zone.write(&settings(), SystemTime::UNIX_EPOCH + Duration::from_secs(77), &mut bytes).unwrap();
        (zone, bytes)
    }

    #[test]
    fn what_was_written_is_read_with_every_name_and_is_stale() {
        let (zone, bytes) = written();
        let saved = Zone::read(&bytes, &settings()).unwrap();
        assert_eq!(saved.zone.freshness(), Freshness::Stale);
        assert_eq!((saved.zone.names(), saved.zone.pointers()), (zone.names(), zone.pointers()));
        assert_eq!(saved.zone.generation(), zone.generation());
        for (mine, theirs) in [
            (&zone.contents.names, &saved.zone.contents.names),
            (&zone.contents.pointers, &saved.zone.contents.pointers),
        ] {
            for entry in mine.iter() {
                assert_eq!(format!("{:?}", mine.get(entry.name)), format!("{:?}", theirs.get(entry.name)));
            }
        }
        assert_eq!(zone.contents.regions, saved.zone.contents.regions);
        assert_eq!(zone.contents.here, saved.zone.contents.here);
        assert_eq!(saved.members, [member("s2", MemberState::Silent)]);
        assert_eq!(saved.written, SystemTime::UNIX_EPOCH + Duration::from_secs(77));
        assert_eq!(addresses(&saved.zone, "casa-api.internal"), "10.210.128.1", "who was silent is");
    }

    #[test]
    fn a_byte_cut_or_changed_anywhere_refuses_all_of_it() {
        let (_, bytes) = written();
        for at in 0..bytes.len() {
            assert!(Zone::read(&bytes[..at], &settings()).is_err(), "cut at {at}");
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x10;
            assert!(Zone::read(&bytes, &settings()).is_err(), "changed at {at}");
        }
    }

    /// A sum can be right and the entries wrong all the same, as another release would write them.
    #[test]
    fn entries_that_are_none_are_refused_whatever_the_sum_says() {
        let (_, mut bytes) = written();
        bytes.truncate(bytes.len() - 8);
        let read = |bytes: &[u8]| {
            let all = [bytes, &xxh3_64(bytes).to_ne_bytes()[..]].concat();
            Zone::read(&all, &settings()).map(|saved| {
                for entry in saved.zone.contents.names.iter() {
                    for rtype in [33, 255] {
                        ask(&saved.zone, entry.name, rtype);
                    }
                }
            })
        };
        assert_eq!(read(&bytes), Ok(()));
        let about = u32::from_ne_bytes(bytes[12..16].try_into().unwrap());
        for at in (16 + about as usize..bytes.len()).step_by(7) {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0xff;
            // Nothing panics; what is read may be other names than were written.
            let outcome = read(&bytes);
            assert!(matches!(outcome, Ok(()) | Err(SavedError::Damaged)), "{at}: {outcome:?}");
        }
    }

    /// As a packet, since these names may be such that no other codec writes them.
    fn ask(zone: &Zone, relative: &[u8], rtype: u8) {
        let query = [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], relative, b"\x08internal\0", &[0, rtype, 0, 1]].concat();
        let source = std::net::Ipv4Addr::LOCALHOST.into();
        let asked =
            Asked { query: &query, transport: Transport::Tcp, source, turn: 1, cookies: crate::testing::COOKIES };
        answer(zone, &asked, &mut Vec::new());
    }

    #[test]
    fn another_servers_zone_or_one_for_other_zones_is_refused() {
        let (_, bytes) = written();
        let other = |config: Config| Zone::read(&bytes, &Settings::from(&config)).map(drop);
        assert_eq!(other(Config { server: "s2".into(), ..config() }), Err(SavedError::Other));
        assert_eq!(other(Config { zones: vec!["corp".parse().unwrap()], ..config() }), Err(SavedError::Other));
        assert_eq!(other(Config { ranges: vec!["10.0.0.0/8".parse().unwrap()], ..config() }), Err(SavedError::Other));
        assert_eq!(Zone::read(b"something else", &settings()).map(drop), Err(SavedError::Foreign));
    }
}
