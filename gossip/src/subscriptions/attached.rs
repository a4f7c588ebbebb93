//! What one listener reads: first the rows as they are, then every change, until one of the two has enough.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use uuid::Uuid;

use super::Marks;
use super::feed::{Next, Reader};
use super::line;
use super::live::Snapshot;

/// Lines are gathered into pieces of about this size where that delays none of them. A longer line is a piece of its own.
const PIECE_BYTES: usize = 16 << 10;

/// A listener's stream.
#[derive(Debug)]
pub struct Attached {
    id: Uuid,
    hash: u64,
    /// Lines to come before anything else.
    head: VecDeque<Bytes>,
    rows: std::vec::IntoIter<(u64, Bytes)>,
    /// Lines to come after the rows.
    end_of_rows: Option<Bytes>,
    /// The rest of a batch too large for one piece.
    rest: Bytes,
    reader: Option<Reader>,
}

impl Attached {
    pub(super) fn with_rows(id: Uuid, hash: u64, columns: &[String], snapshot: Snapshot, time: Duration) -> Self {
        Self {
            head: VecDeque::from([line::columns(columns)]),
            rows: snapshot.rows.into_iter(),
            end_of_rows: Some(line::end_of_rows(time, snapshot.change, snapshot.reader.marks())),
            reader: Some(snapshot.reader),
            ..Self::empty(id, hash)
        }
    }

    pub(super) fn following(id: Uuid, hash: u64, reader: Reader) -> Self {
        Self { reader: Some(reader), ..Self::empty(id, hash) }
    }

    /// What comes after change `from`. That a commit ends there is said again: the mark may have been lost with the connection.
    pub(super) fn resumed(id: Uuid, hash: u64, reader: Reader, from: u64) -> Self {
        let mut head = VecDeque::new();
        if reader.marks() == Marks::Sent && reader.is_between_commits() {
            let mut mark = Vec::new();
            line::push_commit(&mut mark, from);
            head.push_back(mark.into());
        }
        Self { head, ..Self::following(id, hash, reader) }
    }

    pub(super) fn out_of_reach(id: Uuid, hash: u64, from: u64, min: u64) -> Self {
        let message = format!("changes after {from} are not kept: subscribe anew, min change id: {min}");
        Self { head: VecDeque::from([line::error(&message)]), ..Self::empty(id, hash) }
    }

    fn empty(id: Uuid, hash: u64) -> Self {
        Self {
            id,
            hash,
            head: VecDeque::new(),
            rows: Vec::new().into_iter(),
            end_of_rows: None,
            rest: Bytes::new(),
            reader: None,
        }
    }

    /// The query's id: who comes back names it.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Equal for equal queries.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The next piece: some whole lines, so that another may follow at any time. `None` at the end. Cancel-safe: nothing is taken
    /// before it is returned.
    pub async fn next(&mut self) -> Option<Bytes> {
        if let Some(piece) = self.ready() {
            return Some(piece);
        }
        let next = self.reader.as_mut()?.next().await;
        Some(self.first_of(next))
    }

    /// What needs no waiting.
    fn ready(&mut self) -> Option<Bytes> {
        if !self.rest.is_empty() {
            if let Some(reader) = &self.reader {
                reader.progress();
            }
            return Some(split_piece(&mut self.rest));
        }
        self.snapshot_piece()
    }

    fn snapshot_piece(&mut self) -> Option<Bytes> {
        if self.head.is_empty() && self.end_of_rows.is_none() {
            return None;
        }
        let mut piece = Vec::with_capacity(PIECE_BYTES.min(256 + self.rows.len() * 64));
        self.head.drain(..).for_each(|line| piece.extend_from_slice(&line));
        while piece.len() < PIECE_BYTES {
            let Some((id, cells)) = self.rows.next() else {
                if let Some(end) = self.end_of_rows.take() {
                    piece.extend_from_slice(&end);
                }
                break;
            };
            line::push_row(&mut piece, id, &cells);
        }
        if let Some(reader) = &self.reader {
            reader.progress();
        }
        Some(piece.into())
    }

    fn first_of(&mut self, next: Next) -> Bytes {
        let mut lines = match next {
            Next::Lines(lines) => lines,
            Next::Last(line) => {
                self.reader = None;
                return line;
            }
        };
        if lines.len() > PIECE_BYTES {
            let first = split_piece(&mut lines);
            self.rest = lines;
            return first;
        }
        self.and_more(lines)
    }

    /// Small batches that are there already travel in one piece.
    fn and_more(&mut self, first: Bytes) -> Bytes {
        let mut piece: Option<BytesMut> = None;
        while piece.as_ref().map_or(first.len(), BytesMut::len) < PIECE_BYTES {
            match self.reader.as_mut().and_then(Reader::take) {
                Some(Next::Lines(more)) => {
                    piece.get_or_insert_with(|| BytesMut::from(&first[..])).extend_from_slice(&more);
                }
                Some(Next::Last(line)) => {
                    self.reader = None;
                    piece.get_or_insert_with(|| BytesMut::from(&first[..])).extend_from_slice(&line);
                    break;
                }
                None => break,
            }
        }
        piece.map_or(first, BytesMut::freeze)
    }
}

/// Takes whole lines off the front: what fits a piece, but at least one.
fn split_piece(lines: &mut Bytes) -> Bytes {
    let fits = lines.len().min(PIECE_BYTES);
    let is_end = |byte: &u8| *byte == b'\n';
    let last = lines[..fits].iter().rposition(is_end);
    let end = last.or_else(|| lines[fits..].iter().position(is_end).map(|beyond| fits + beyond));
    lines.split_to(end.map_or(lines.len(), |end| end + 1))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::feed::{Feed, Start};
    use super::super::line::ChangeKind;
    use super::super::rows::Difference;
    use super::*;

    #[tokio::test]
    async fn a_large_batch_comes_in_pieces_of_whole_lines() {
        let feed = Arc::new(Feed::new());
        let (reader, _) = feed.attach(Start::Now).unwrap();
        let mut attached = Attached::following(Uuid::nil(), 0, reader);
        // Two that share a piece, one that does not fit behind them, one that no piece holds, and a short one.
        let sizes = [5_000, 6_000, 7_000, 3 * PIECE_BYTES, 10];
        let insert = |size| Difference { kind: ChangeKind::Insert, row: 1, cells: "x".repeat(size).into() };
        feed.publish(&sizes.map(insert));
        feed.end("over");
        let mut counts = Vec::new();
        while let Some(piece) = attached.next().await {
            assert!(piece.ends_with(b"}\n"), "a piece of {} bytes ends within a line", piece.len());
            counts.push(piece.iter().filter(|byte| **byte == b'\n').count());
        }
        assert_eq!(counts, [2, 1, 1, 1, 1]);
    }
}
