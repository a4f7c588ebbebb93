//! What nodes say to each other: wire version 1.
//!
//! On a stream a frame is its length (4 bytes, big-endian, of what follows), its kind (1 byte) and its body, a record per
//! item as [`codec`](crate) says. A kind that is not known is skipped, so a later release can add kinds.
//!
//! | kind | frame | where |
//! |---|---|---|
//! | 1 | [`Hello`] | first in both directions of the stream on which versions are pushed |
//! | 2 | versions | pushed as they commit |
//! | 3 | heads | the sender's applied-and-synced vector: whole after [`Hello`], then what rose |
//! | 4 | pull | first and only frame of a pull's asker: its heads, and what it has purged |
//! | 5 | rows | the answer, in parts |
//! | 6 | pulled | the end of the answer: the answerer's heads, and what it has purged; without it the parts are thrown away |
//! | 7 | refused | instead of any answer, with a reason for people |
//! | 9 | forked | instead of a hello, or after it: another store has written your site |
//! | 18 | needs snapshot | instead of an answer: too much is missing for one, take a snapshot |
//! | 19 | snapshot | a store snapshot begins: how many bytes come |
//! | 20 | chunk | some of these, in order; without any, before it begins: the sender is still copying its store |
//! | 21 | snapshot end | the hash of all of them: without it they are thrown away |
//! | 13 | graft | beside heads: push these sites' versions to me, from these numbers on |
//! | 14 | prune | beside heads: do not push these sites' versions to me |
//! | 22 | compare | first frame on a pull's stream: the digests of your buckets |
//! | 23 | buckets | the answer: the answerer's heads, and the digests at these; before it, chunks without bytes while they are made |
//! | 24 | repair | first frame on a pull's stream: all that is above these heads, and all rows of these buckets |
//! | 8 | clock | beside heads: what the sender's clock shows |
//! | 10 | from the future | beside heads: these sites' versions, from these numbers on, are refused for their stamps |
//! | 11, 12, 15-17, 25-31 | | kept for later |

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::buckets::{BUCKETS, Bucket, Buckets};
use crate::codec::{DecodeError, Decoder, Encoder};
use crate::past::{Past, Start};
use crate::version::Life;
use crate::{Cell, Change, Digest, Hlc, Key, Name, NodeId, Row, SiteId, Stamp, Value, Vector, Version};

mod pull;

use pull::{get_answered, get_question, put_answered, put_question};

pub use pull::{Answered, Question};

/// The wire version this release speaks; [`Hello`] carries it.
pub const WIRE_VERSION: u32 = 1;

/// The most bytes of one frame, kind and body. A transaction is at most 1 MiB of values; names, stamps and the rest of a
/// batch fit in what is left. A longer frame ends the stream it comes on.
pub const FRAME_MAX: usize = 8 << 20;

/// A message between two nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Who I am.
    Hello(Hello),
    /// Versions, those of one site in order. Shared: a version goes to every peer, and may hold a megabyte.
    Versions(Vec<Arc<Version>>),
    /// My applied-and-synced heads: all of them at first, then those that rose.
    Heads(Vector),
    /// Send me all that is missing here.
    Pull(Question),
    /// Whole rows that carry a stamp above the asked heads, all from one read snapshot.
    Rows(Vec<PulledRow>),
    /// The end of an answer: what the answerer had in that snapshot.
    Pulled(Answered),
    /// What was asked is refused, with the reason.
    Refused(String),
    /// You are not, or not alone, the store that wrote this site: what you say of it is not taken. You had better count
    /// your starts from this number on.
    Forked(SiteId, u64),
    /// So much is missing that the asker had better take a snapshot of the whole store.
    NeedsSnapshot,
    /// A snapshot of the sender's store begins; it has so many bytes.
    Snapshot(u64),
    /// The next bytes of a snapshot.
    Chunk(Arc<[u8]>),
    /// The end of a snapshot: xxh3-128 of all its bytes. It guards against faults of memory and disks on the way.
    SnapshotEnd(u128),
    /// Push these sites' versions to me, beginning with these: by site the first version that is wanted.
    Graft(Vector),
    /// Do not push these sites' versions to me: they come another way.
    Prune(Vec<SiteId>),
    /// Look through all your rows, and send me the digests of their buckets.
    Compare,
    /// The sender's heads, and the digests of its buckets in the same read snapshot.
    Buckets(Vector, Buckets),
    /// Send me all that is above these heads, as for a pull, and all rows of these buckets besides.
    Repair(Vector, Vec<Bucket>),
    /// My wall clock in milliseconds since 1970, as [`Hello`] says it at the beginning.
    Clock(u64),
    /// What you sent of these sites, from these versions on, I refuse: its stamps are far ahead of the clocks that I know.
    FromFuture(Vector),
    /// A kind of a later release. Skipped.
    Unknown(u8),
}

/// The first frame in each direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// [`WIRE_VERSION`] of the sender. The lower one is spoken.
    pub wire: u32,
    /// The sender, as in its certificate.
    pub node: NodeId,
    /// The sender's label in gossip: an address by form, unique per node, that nobody dials.
    pub label: String,
    /// The sender's store.
    pub past: Past,
    /// The sender's wall clock in milliseconds since 1970, for the median that future stamps are measured against.
    pub wall_ms: u64,
}

/// A row as a store holds it, for a peer that pulls. A row too big for one frame comes in several, each with some of its
/// cells: joined, they are the row again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PulledRow {
    /// The row's table.
    pub table: Name,
    /// The row's primary key.
    pub key: Key,
    /// All of its state.
    pub row: Row,
}

/// About the bytes of one part of an answer: enough to fill a link, little beside what else a node holds.
pub const PART_BYTES: usize = 256 << 10;

/// Packs rows into frames of about `part_bytes` each. Cells of one row that are more than that together go into several,
/// since a row may grow beyond any frame: columns written one by one, or by several sites at once. One cell is at most a
/// transaction, which fits.
pub fn row_frames(rows: impl IntoIterator<Item = PulledRow>, part_bytes: usize) -> Vec<Frame> {
    let mut frames = Vec::new();
    let (mut part, mut bytes) = (Vec::new(), 0);
    for piece in rows.into_iter().flat_map(|row| row.split(part_bytes)) {
        let size = piece.size();
        if bytes + size > part_bytes && !part.is_empty() {
            frames.push(Frame::Rows(std::mem::take(&mut part)));
            bytes = 0;
        }
        bytes += size;
        part.push(piece);
    }
    if !part.is_empty() {
        frames.push(Frame::Rows(part));
    }
    frames
}

impl PulledRow {
    /// No less than the bytes it takes in a frame, but for names and sites, which a frame writes once.
    fn size(&self) -> usize {
        let cells = self.row.cells.values().map(cell_size).sum::<usize>();
        ROW_LEAST + 3 * WIDEST + self.key.as_bytes().len() + cells
    }

    fn split(self, part_bytes: usize) -> Vec<Self> {
        if self.size() <= part_bytes {
            return vec![self];
        }
        let Self { table, key, row: Row { cl, rs, cells } } = self;
        let empty = Self { table, key, row: Row { cl, rs, cells: BTreeMap::new() } };
        let room = part_bytes.saturating_sub(empty.size());
        let mut pieces = vec![empty.clone()];
        let mut left = room;
        for (column, cell) in cells {
            let size = cell_size(&cell);
            if size > left && pieces.last().is_some_and(|piece| !piece.row.cells.is_empty()) {
                pieces.push(empty.clone());
                left = room;
            }
            left = left.saturating_sub(size);
            if let Some(piece) = pieces.last_mut() {
                piece.row.cells.insert(column, cell);
            }
        }
        pieces
    }
}

/// A cell with its stamp, which the other cells of its row may not share.
fn cell_size(cell: &Cell) -> usize {
    let value = match &cell.value {
        Value::Null | Value::Integer(_) | Value::Real(_) => 0,
        Value::Text(bytes) | Value::Blob(bytes) => bytes.len(),
    };
    STAMP_LEAST + 4 * WIDEST + value
}

impl Frame {
    fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => 1,
            Self::Versions(_) => 2,
            Self::Heads(_) => 3,
            Self::Pull(_) => 4,
            Self::Rows(_) => 5,
            Self::Pulled(_) => 6,
            Self::Refused(_) => 7,
            Self::Forked(..) => 9,
            Self::NeedsSnapshot => 18,
            Self::Snapshot(_) => 19,
            Self::Chunk(_) => 20,
            Self::SnapshotEnd(_) => 21,
            Self::Graft(_) => 13,
            Self::Prune(_) => 14,
            Self::Compare => 22,
            Self::Buckets(..) => 23,
            Self::Repair(..) => 24,
            Self::Clock(_) => 8,
            Self::FromFuture(_) => 10,
            Self::Unknown(kind) => *kind,
        }
    }

    /// Kind and body; the length before them is the stream's business.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.u8(self.kind());
        match self {
            Self::Hello(hello) => out.record(|out| put_hello(out, hello)),
            Self::Versions(versions) => {
                out.varint(versions.len() as u64);
                versions.iter().for_each(|version| out.record(|out| put_version(out, version)));
            }
            Self::Heads(vector) | Self::Graft(vector) | Self::FromFuture(vector) => put_vector(&mut out, vector),
            Self::Pull(question) => put_question(&mut out, question),
            Self::Pulled(answered) => put_answered(&mut out, answered),
            Self::Rows(rows) => {
                out.varint(rows.len() as u64);
                rows.iter().for_each(|row| out.record(|out| put_row(out, row)));
            }
            Self::Refused(reason) => out.bytes(reason.as_bytes()),
            Self::Forked(site, boot) => {
                out.site(*site);
                out.varint(*boot);
            }
            Self::Snapshot(number) | Self::Clock(number) => out.varint(*number),
            Self::Chunk(bytes) => out.bytes(bytes),
            Self::SnapshotEnd(hash) => put_u128(&mut out, *hash),
            Self::Buckets(heads, buckets) => {
                put_vector(&mut out, heads);
                buckets.iter().for_each(|digest| put_u128(&mut out, digest.to_bits()));
            }
            Self::Repair(above, buckets) => {
                put_vector(&mut out, above);
                out.varint(buckets.len() as u64);
                buckets.iter().for_each(|bucket| out.varint(u64::from(bucket.number())));
            }
            Self::Prune(sites) => {
                out.varint(sites.len() as u64);
                sites.iter().for_each(|&site| out.site(site));
            }
            Self::NeedsSnapshot | Self::Compare | Self::Unknown(_) => {}
        }
        out.finish()
    }

    /// Reads kind and body. What comes after the known fields is a later release's and is left alone.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > FRAME_MAX {
            return Err(DecodeError::TooLarge("frame"));
        }
        let mut body = Decoder::new(bytes);
        Ok(match body.u8()? {
            1 => Self::Hello(body.record(get_hello)?),
            2 => Self::Versions(body.list(VERSION_LEAST, |item| item.record(get_version).map(Arc::new))?),
            3 => Self::Heads(get_vector(&mut body)?),
            4 => Self::Pull(get_question(&mut body)?),
            5 => Self::Rows(body.list(ROW_LEAST, |item| item.record(get_row))?),
            6 => Self::Pulled(get_answered(&mut body)?),
            7 => Self::Refused(body.text("reason")?.to_owned()),
            9 => Self::Forked(body.site()?, body.ordinal()?),
            18 => Self::NeedsSnapshot,
            19 => Self::Snapshot(body.varint()?),
            20 => Self::Chunk(body.bytes()?.into()),
            21 => Self::SnapshotEnd(get_u128(&mut body)?),
            13 => Self::Graft(get_vector(&mut body)?),
            14 => Self::Prune(body.list(1, Decoder::site)?),
            22 => Self::Compare,
            23 => Self::Buckets(get_vector(&mut body)?, get_buckets(&mut body)?),
            24 => Self::Repair(get_vector(&mut body)?, body.list(1, get_bucket)?),
            8 => Self::Clock(body.varint()?),
            10 => Self::FromFuture(get_vector(&mut body)?),
            kind => Self::Unknown(kind),
        })
    }
}

// The least bytes that an item of a list takes, its length included; what counts of such items are checked against.
/// The most bytes of a number.
const WIDEST: usize = 10;
/// Hlc, references to site, version and seq.
const STAMP_LEAST: usize = 8 + 3;
/// Length, reference to a site, number, hlc, count.
const VERSION_LEAST: usize = 1 + 2 + 8 + 1;
/// Length, reference to a table, length and least key, causal length, life, count.
const CHANGE_LEAST: usize = 1 + 1 + 4 + 1 + 1 + 1;
/// Length, reference to a table, length and least key, causal length, a list of one stamp, reference to it, count.
const ROW_LEAST: usize = 1 + 1 + 4 + 1 + 1 + STAMP_LEAST + 1 + 1;

fn put_hello(out: &mut Encoder, hello: &Hello) {
    out.varint(u64::from(hello.wire));
    out.bytes(hello.node.as_str().as_bytes());
    out.bytes(hello.label.as_bytes());
    let Past { site, start, head, first } = hello.past;
    out.site(site);
    out.varint(start.boot);
    out.u64(start.nonce);
    out.varint(hello.wall_ms);
    out.varint(head);
    out.u64(first.unwrap_or(Hlc::ZERO).to_bits());
}

fn get_hello(body: &mut Decoder<'_>) -> Result<Hello, DecodeError> {
    let wire = body.u32()?;
    let node = body.text("node")?.parse().map_err(|_| DecodeError::Invalid("node"))?;
    let label = body.text("label")?.to_owned();
    let (site, start) = (body.site()?, Start { boot: body.ordinal()?, nonce: body.u64()? });
    let wall_ms = body.varint()?;
    let (head, first) = (body.number()?, Some(body.hlc()?).filter(|&first| first > Hlc::ZERO));
    Ok(Hello { wire, node, label, past: Past { site, start, head, first }, wall_ms })
}

fn put_vector(out: &mut Encoder, vector: &Vector) {
    out.varint(vector.len() as u64);
    for (site, version) in vector.iter() {
        out.site(site);
        out.varint(version);
    }
}

fn get_vector(body: &mut Decoder<'_>) -> Result<Vector, DecodeError> {
    let mut vector = Vector::default();
    // A reference to a site and a number of one digit.
    for _ in 0..body.count(2)? {
        vector.raise(body.site()?, body.ordinal()?);
    }
    Ok(vector)
}

fn put_u128(out: &mut Encoder, number: u128) {
    out.u64(number as u64);
    out.u64((number >> 64) as u64);
}

fn get_u128(body: &mut Decoder<'_>) -> Result<u128, DecodeError> {
    Ok(u128::from(body.u64()?) | u128::from(body.u64()?) << 64)
}

fn get_buckets(body: &mut Decoder<'_>) -> Result<Buckets, DecodeError> {
    let digests = (0..BUCKETS).map(|_| get_u128(body).map(Digest::from_bits)).collect::<Result<_, _>>()?;
    Buckets::new(digests).ok_or(DecodeError::Invalid("buckets"))
}

fn get_bucket(body: &mut Decoder<'_>) -> Result<Bucket, DecodeError> {
    Bucket::new(body.varint()?).ok_or(DecodeError::Invalid("bucket"))
}

fn put_stamp(out: &mut Encoder, stamp: Stamp) {
    out.u64(stamp.hlc.to_bits());
    out.site(stamp.site);
    out.varint(stamp.version);
    out.varint(u64::from(stamp.seq));
}

fn get_stamp(body: &mut Decoder<'_>) -> Result<Stamp, DecodeError> {
    Ok(Stamp { hlc: body.hlc()?, site: body.site()?, version: body.ordinal()?, seq: body.u32()? })
}

fn get_key(body: &mut Decoder<'_>) -> Result<Key, DecodeError> {
    let bytes = Some(body.bytes()?).filter(|bytes| !bytes.is_empty()).ok_or(DecodeError::Invalid("key"))?;
    Key::from_bytes(bytes).map_err(|_| DecodeError::Invalid("key"))
}

fn put_version(out: &mut Encoder, version: &Version) {
    out.site(version.site);
    out.varint(version.version);
    out.u64(version.hlc.to_bits());
    out.varint(version.changes.len() as u64);
    version.changes.iter().for_each(|change| out.record(|out| put_change(out, change)));
}

fn get_version(body: &mut Decoder<'_>) -> Result<Version, DecodeError> {
    let version = Version {
        site: body.site()?,
        version: body.ordinal()?,
        hlc: body.hlc()?,
        changes: body.list(CHANGE_LEAST, |item| item.record(get_change))?,
    };
    // What needs the future would wait for ever, and what needs itself would show half a row.
    let backwards = |change: &Change| match change.life {
        Life::Changed => true,
        Life::Since(rs) => rs.site != version.site || rs.version < version.version,
    };
    if version.changes.iter().all(backwards) { Ok(version) } else { Err(DecodeError::Invalid("update before its row")) }
}

fn put_change(out: &mut Encoder, change: &Change) {
    out.name(&change.table);
    out.bytes(change.key.as_bytes());
    out.varint(change.cl);
    match change.life {
        Life::Changed => out.u8(0),
        Life::Since(rs) => {
            out.u8(1);
            put_stamp(out, rs);
        }
    }
    out.varint(change.cells.len() as u64);
    for (column, value) in &change.cells {
        out.name(column);
        out.value(value);
    }
}

fn get_change(body: &mut Decoder<'_>) -> Result<Change, DecodeError> {
    let (table, key, cl) = (body.name()?, get_key(body)?, body.length()?);
    let life = match body.u8()? {
        0 => Life::Changed,
        1 => Life::Since(get_stamp(body)?),
        _ => return Err(DecodeError::Tag("life")),
    };
    let cells = body.columns(Decoder::value)?;
    let alive = check_life(cl, &cells)?;
    if !alive && life != Life::Changed {
        return Err(DecodeError::Invalid("update of a deleted row"));
    }
    Ok(Change { table, key, cl, life, cells })
}

/// Stamps are written once a row and cells refer to them by position: most rows have one or two.
fn put_row(out: &mut Encoder, pulled: &PulledRow) {
    let stamps = pulled.row.stamps();
    let position = |stamp: Stamp| stamps.partition_point(|&s| s < stamp) as u64;
    out.name(&pulled.table);
    out.bytes(pulled.key.as_bytes());
    out.varint(pulled.row.cl);
    out.varint(stamps.len() as u64);
    stamps.iter().for_each(|&stamp| put_stamp(out, stamp));
    out.varint(position(pulled.row.rs));
    out.varint(pulled.row.cells.len() as u64);
    for (column, cell) in &pulled.row.cells {
        out.name(column);
        out.varint(position(cell.stamp));
        out.value(&cell.value);
    }
}

fn get_row(body: &mut Decoder<'_>) -> Result<PulledRow, DecodeError> {
    let (table, key, cl) = (body.name()?, get_key(body)?, body.length()?);
    let stamps = body.list(STAMP_LEAST, get_stamp)?;
    let stamp = |body: &mut Decoder<'_>| {
        let position = usize::try_from(body.varint()?).map_err(|_| DecodeError::Overflow)?;
        stamps.get(position).copied().ok_or(DecodeError::Invalid("reference to a stamp"))
    };
    let rs = stamp(body)?;
    let cells = body.columns(|cell| Ok(Cell { stamp: stamp(cell)?, value: cell.value()? }))?;
    check_life(cl, &cells)?;
    Ok(PulledRow { table, key, row: Row { cl, rs, cells } })
}

/// Whether the row is alive. A deleted one has no cells.
fn check_life<T>(cl: u64, cells: &BTreeMap<Name, T>) -> Result<bool, DecodeError> {
    let alive = cl % 2 == 1;
    if !alive && !cells.is_empty() { Err(DecodeError::Invalid("causal length")) } else { Ok(alive) }
}
