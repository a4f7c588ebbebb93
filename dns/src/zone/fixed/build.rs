//! From the records of a file to a zone that can be served: what belongs together, and what may not stand together.
//!
//! Records come in any order, so they are gathered by name first, one behind the other in one piece of memory, each with
//! the place of the one before it; then each name is sorted, checked and written into the table once.

use std::hash::BuildHasher as _;
use std::path::Path;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::table::{Full, TableBuilder};
use super::{FixedZone, Forms};
use crate::name;
use crate::zone::origin::{Origin, Soa};
use crate::zone::records::{RR_HEAD, push_record, rtype};
use crate::zonefile::{Fault, Place, Reader, Record, Source};

/// Most bytes of an RRset: what a message of 65,535 holds beside header, question, OPT and an alias before it.
const RRSET_BYTES_MAX: usize = 64_000;
/// Most notes kept; beyond, they are only counted.
const NOTES_MAX: usize = 100;
const FULL: &str = "more than 4 GiB of records: divide the zone";
/// Bytes before the RDATA of a gathered record.
const HEAD: usize = 20;

/// Records of one file, by name.
struct Gathered {
    /// Of each name: a length byte, the lower-cased name without closing zero.
    names: Vec<u8>,
    /// Offsets into `owners`.
    slots: HashTable<u32>,
    owners: Vec<Owner>,
    records: Vec<u8>,
    hash: RandomState,
}

#[derive(Clone, Copy)]
struct Owner {
    name: u32,
    /// One more than the offset of its last record; 0 for none.
    last: u32,
}

/// A record as it was gathered.
#[derive(Clone, Copy)]
struct Line<'a> {
    rtype: u16,
    ttl: u32,
    rdata: &'a [u8],
    place: Place,
}

/// Which names a file may leave without an SOA: those of zones that are served anyway.
pub(crate) type Ours<'a> = &'a dyn Fn(&[u8]) -> bool;

/// Reads a file and makes a zone of it; also says which files that took.
pub(crate) fn load(path: &Path, ours: Ours<'_>) -> (Vec<Source>, Result<FixedZone, Fault>) {
    let mut reader = Reader::open(path);
    let zone = zone_of(&mut reader, ours);
    (reader.files().to_vec(), zone)
}

/// Makes a zone of what a reader finds.
pub(crate) fn zone_of(reader: &mut Reader, ours: Ours<'_>) -> Result<FixedZone, Fault> {
    let mut gathered = Gathered::new();
    let mut soa: Option<(Box<[u8]>, Place)> = None;
    while let Some(record) = reader.next()? {
        if record.rtype == rtype::SOA {
            let place = record.place;
            let again = soa.replace((record.owner.to_ascii_lowercase().into(), place));
            if again.is_some() {
                return Err(reader.fault(place, "a second SOA: a zone has one, and a file one zone"));
            }
        }
        let place = record.place;
        if gathered.add(&record).is_err() {
            return Err(reader.fault(place, FULL));
        }
    }
    let reader = &*reader;
    let whole = |reason: &str| reader.fault(Place { file: 0, line: 0 }, reason);
    let origin = match (&soa, reader.first_origin()) {
        (Some((owner, _)), _) => owner.clone(),
        (None, Some(origin)) if ours(origin) => origin.into(),
        (None, Some(origin)) => {
            let name = name::text(&origin[..origin.len() - 1]);
            let reason = format!(
                "{name} has no SOA: a zone of its own begins with one; only a zone that is served anyway needs none"
            );
            return Err(whole(&reason));
        }
        (None, None) => {
            return Err(whole("neither an SOA nor $ORIGIN says which zone this is: begin with one of them"));
        }
    };
    Freezing { gathered: &gathered, origin: &origin, reader, notes: Vec::new(), note_count: 0 }.freeze()
}

impl Gathered {
    fn new() -> Self {
        Self {
            names: Vec::new(),
            slots: HashTable::new(),
            owners: Vec::new(),
            records: Vec::new(),
            hash: RandomState::default(),
        }
    }

    fn add(&mut self, record: &Record<'_>) -> Result<(), Full> {
        let mut lower = [0; crate::name::NAME_MAX];
        let name = &mut lower[..record.owner.len() - 1];
        name.copy_from_slice(&record.owner[..record.owner.len() - 1]);
        name.make_ascii_lowercase();
        let owner = self.owner(name)?;
        let last = u32::try_from(self.records.len() + 1).map_err(|_| Full)?;
        let before = std::mem::replace(&mut self.owners[owner as usize].last, last);
        let out = &mut self.records;
        out.extend_from_slice(&before.to_le_bytes());
        out.extend_from_slice(&record.rtype.to_le_bytes());
        out.extend_from_slice(&record.place.file.to_le_bytes());
        out.extend_from_slice(&record.place.line.to_le_bytes());
        out.extend_from_slice(&record.ttl.to_le_bytes());
        out.extend_from_slice(&(record.rdata.len() as u32).to_le_bytes());
        out.extend_from_slice(record.rdata);
        Ok(())
    }

    /// The place of a name among the owners.
    fn owner(&mut self, name: &[u8]) -> Result<u32, Full> {
        let Self { names, slots, owners, hash, .. } = self;
        let hash_of = |owner: &u32| hash.hash_one(name_at(names, owners[*owner as usize]));
        let key = hash.hash_one(name);
        if let Some(owner) = slots.find(key, |owner| name_at(names, owners[*owner as usize]) == name) {
            return Ok(*owner);
        }
        let owner = u32::try_from(owners.len()).map_err(|_| Full)?;
        slots.insert_unique(key, owner, hash_of);
        owners.push(Owner { name: u32::try_from(names.len()).map_err(|_| Full)?, last: 0 });
        names.push(name.len() as u8);
        names.extend_from_slice(name);
        Ok(owner)
    }

    /// The records of an owner, the last one first.
    fn lines(&self, owner: Owner) -> impl Iterator<Item = Line<'_>> {
        let mut next = owner.last;
        std::iter::from_fn(move || {
            let at = next.checked_sub(1)? as usize;
            let (head, rest) = self.records[at..].split_first_chunk::<HEAD>()?;
            let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
            let half = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
            next = word(0);
            let place = Place { file: half(6), line: word(8) };
            Some(Line { rtype: half(4), ttl: word(12), rdata: &rest[..word(16) as usize], place })
        })
    }
}

fn name_at(names: &[u8], owner: Owner) -> &[u8] {
    let at = owner.name as usize;
    &names[at + 1..][..usize::from(names[at])]
}

/// A zone being made of what was gathered.
struct Freezing<'a> {
    gathered: &'a Gathered,
    /// With its closing zero.
    origin: &'a [u8],
    reader: &'a Reader,
    /// What is served otherwise than it is written, or not at all.
    notes: Vec<Fault>,
    note_count: usize,
}

impl<'a> Freezing<'a> {
    fn freeze(mut self) -> Result<FixedZone, Fault> {
        let gathered = self.gathered;
        let room = gathered.names.len() + gathered.records.len();
        let mut table = TableBuilder::with_capacity(gathered.owners.len() + 1, room);
        let mut soa = None;
        let mut forms = Forms::default();
        let mut lines = Vec::new();
        for owner in &gathered.owners {
            let full = name_at(&gathered.names, *owner);
            lines.clear();
            lines.extend(gathered.lines(*owner));
            let Some(name) = within(full, self.origin) else {
                for line in lines.iter().rev() {
                    self.note(line.place, format!("{} is outside of the zone, left out", name::text(full)));
                }
                continue;
            };
            if let Some(at) = lines.iter().position(|line| line.rtype == rtype::SOA) {
                let line = lines.swap_remove(at);
                soa = Some(Soa::read(self.origin, line.rdata, line.ttl).ok_or_else(|| self.fault(line, "no SOA"))?);
            }
            forms.cuts |= !name.is_empty() && lines.iter().any(|line| line.rtype == rtype::NS);
            forms.wildcards |= name.starts_with(b"\x01*");
            self.node(&mut table, name, &mut lines)?;
        }
        self.non_terminals(&mut table)?;
        Ok(FixedZone {
            origin: Origin::fixed(self.origin, soa),
            table: table.finish(),
            forms,
            notes: self.notes.into(),
            note_count: self.note_count,
        })
    }

    /// Puts one name with its records into the table.
    fn node(&mut self, table: &mut TableBuilder, name: &[u8], lines: &mut Vec<Line<'a>>) -> Result<(), Fault> {
        lines.sort_by(|a, b| (a.rtype, a.rdata, a.place.line).cmp(&(b.rtype, b.rdata, b.place.line)));
        self.alias(lines)?;
        let entry = table.name(name).map_err(|Full| self.full())?;
        for set in lines.chunk_by(|a, b| a.rtype == b.rtype) {
            let Some(first) = set.first() else { continue };
            let ttl = set.iter().map(|line| line.ttl).min().unwrap_or(first.ttl);
            if let Some(longer) = set.iter().find(|line| line.ttl != ttl) {
                // RFC 2181 §5.2: an RRset has one TTL.
                let note =
                    format!("TTL {} in a set of records that also has {ttl}: {ttl} is served for all", longer.ttl);
                self.note(longer.place, note);
            }
            let mut kept: Vec<&[u8]> = Vec::with_capacity(set.len());
            for line in set {
                if kept.last() == Some(&line.rdata) {
                    self.note(line.place, String::from("the same record stands twice, served once"));
                } else {
                    kept.push(line.rdata);
                }
            }
            let bytes: usize = kept.iter().map(|rdata| RR_HEAD + rdata.len()).sum();
            if bytes > RRSET_BYTES_MAX {
                let reason = format!(
                    "the records of this name and type take {bytes} bytes, where a message holds {RRSET_BYTES_MAX}"
                );
                return Err(self.fault(*first, reason));
            }
            table.set(&entry, first.rtype, kept.len() as u16, |out| {
                kept.iter().for_each(|rdata| push_record(out, first.rtype, ttl, rdata));
            });
        }
        Ok(())
    }

    /// An alias stands alone (RFC 1034 §3.6.2, RFC 2181 §10.1).
    fn alias(&self, lines: &[Line<'a>]) -> Result<(), Fault> {
        let Some(alias) = lines.iter().find(|line| line.rtype == rtype::CNAME) else { return Ok(()) };
        let other = lines.iter().find(|line| line.rtype != rtype::CNAME || line.rdata != alias.rdata);
        other.map_or(Ok(()), |other| {
            let with =
                format!("a CNAME beside the record on line {}: an alias stands alone at its name", other.place.line);
            Err(self.fault(*alias, with))
        })
    }

    /// The names that exist because others stand below them, the zone's own among them (RFC 4592 §2.2.2).
    fn non_terminals(&self, table: &mut TableBuilder) -> Result<(), Fault> {
        let gathered = self.gathered;
        if !table.contains(&[]) {
            table.name(&[]).map_err(|Full| self.full())?;
        }
        for owner in &gathered.owners {
            let mut rest = within(name_at(&gathered.names, *owner), self.origin).unwrap_or_default();
            while let Some((_, parent)) = name::split_first(rest) {
                if table.contains(parent) {
                    break;
                }
                table.name(parent).map_err(|Full| self.full())?;
                rest = parent;
            }
        }
        Ok(())
    }

    fn note(&mut self, place: Place, text: String) {
        self.note_count += 1;
        if self.notes.len() < NOTES_MAX {
            self.notes.push(self.reader.fault(place, text));
        }
    }

    fn fault(&self, line: Line<'_>, reason: impl Into<String>) -> Fault {
        self.reader.fault(line.place, reason)
    }

    fn full(&self) -> Fault {
        self.reader.fault(Place { file: 0, line: 0 }, FULL)
    }
}

/// What stands before the origin, if the name is in the zone.
fn within<'n>(full: &'n [u8], origin: &[u8]) -> Option<&'n [u8]> {
    let origin = &origin[..origin.len() - 1];
    let at = full.len().checked_sub(origin.len()).filter(|_| full.ends_with(origin))?;
    let mut rest = full;
    // The origin begins where a label does.
    while rest.len() > full.len() - at {
        rest = name::split_first(rest)?.1;
    }
    (rest.len() == full.len() - at).then_some(&full[..at])
}
