//! The changes of one query as all its readers follow them: made once, shared, kept for a while.
//!
//! A batch is what one look at the query found: the events of one or more whole commits, rendered once into one buffer.
//! Readers hold a position, not a queue, so that a hundred readers cost a hundred positions. A reader that falls behind is
//! cut off rather than waited for or stored for.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Marks;
use super::line;
use super::rows::Difference;

/// Changes kept for those who attach again. The last batch is kept whole even if it is larger.
pub(super) const KEPT_CHANGES: u64 = 10_000;
/// Bytes kept for those who attach again, so that large rows do not fill the memory with 10,000 changes.
const KEPT_BYTES: usize = 16 << 20;
/// How many bytes of *further* batches may wait behind the one that a reader is being given: the size of one commit, which
/// no reader chose, never counts.
const BEHIND_BYTES: usize = 8 << 20;
/// How long a reader may leave events unread.
const BEHIND_TIME: Duration = Duration::from_secs(30);

/// What one look found.
#[derive(Debug)]
pub(super) struct Batch {
    first: u64,
    /// Where the line of each change ends in `lines`. Behind the last of them is the mark of the commit.
    ends: Vec<usize>,
    lines: Bytes,
    at: Instant,
}

/// The changes and their readers.
#[derive(Debug)]
pub(super) struct Feed {
    state: Mutex<State>,
    /// Raised whenever there is more to read or the feed ends.
    more: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    batches: VecDeque<Arc<Batch>>,
    bytes: usize,
    last: u64,
    readers: BTreeMap<u64, Position>,
    next_reader: u64,
    idle_since: Instant,
    ended: Option<Bytes>,
    cut: u64,
}

#[derive(Debug)]
struct Position {
    next: u64,
    moved: Instant,
    cut: Cut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    No,
    Slow,
}

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// After the last change there is.
    Now,
    /// After this change.
    After(u64),
}

/// Why changes after a position cannot be given.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AttachError {
    /// The query has ended; it must be asked anew.
    Ended,
    /// The changes between are gone, or never were.
    OutOfReach { min: u64 },
}

/// What a reader gets next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Whole lines.
    Lines(Bytes),
    /// The last line: the reader was too slow, or the query ended.
    Last(Bytes),
}

/// One reader. Leaves when dropped.
#[derive(Debug)]
pub(super) struct Reader {
    feed: Arc<Feed>,
    id: u64,
    more: watch::Receiver<()>,
    marks: Marks,
}

impl Batch {
    fn last(&self) -> u64 {
        self.first + self.ends.len() as u64 - 1
    }

    /// The lines from change `next` on.
    fn from(&self, next: u64, marks: Marks) -> Bytes {
        let skipped = usize::try_from(next.saturating_sub(self.first)).unwrap_or(usize::MAX).min(self.ends.len());
        let start = if skipped == 0 { 0 } else { self.ends[skipped - 1] };
        let end = match marks {
            Marks::Sent => self.lines.len(),
            Marks::Omitted => self.ends.last().copied().unwrap_or_default(),
        };
        self.lines.slice(start..end)
    }
}

impl Feed {
    pub(super) fn new() -> Self {
        let state = State {
            batches: VecDeque::new(),
            bytes: 0,
            last: 0,
            readers: BTreeMap::new(),
            next_reader: 0,
            idle_since: Instant::now(),
            ended: None,
            cut: 0,
        };
        Self { state: Mutex::new(state), more: watch::Sender::new(()) }
    }

    /// Numbers the differences and hands them to everyone. Returns how many there were.
    pub(super) fn publish(&self, differences: &[Difference]) -> u64 {
        if differences.is_empty() {
            return 0;
        }
        let mut state = self.lock();
        let first = state.last + 1;
        let mut lines = Vec::with_capacity(48 + differences.iter().map(|d| d.cells.len() + 48).sum::<usize>());
        let mut ends = Vec::with_capacity(differences.len());
        for (change, difference) in (first..).zip(differences) {
            line::push_change(&mut lines, difference.kind, difference.row, &difference.cells, change);
            ends.push(lines.len());
        }
        line::push_commit(&mut lines, state.last + differences.len() as u64);
        let batch = Batch { first, ends, lines: lines.into(), at: Instant::now() };
        state.last = batch.last();
        state.bytes += batch.lines.len();
        state.batches.push_back(Arc::new(batch));
        state.cut_the_slow();
        state.forget();
        drop(state);
        self.more.send_replace(());
        differences.len() as u64
    }

    /// Ends the feed: every reader gets what is left, then this line. Only the first reason counts.
    pub(super) fn end(&self, reason: &str) {
        self.lock().ended.get_or_insert_with(|| line::error(reason));
        self.more.send_replace(());
    }

    /// A reader of what comes after `start`, and the id of that change.
    pub(super) fn attach(self: &Arc<Self>, start: Start) -> Result<(Reader, u64), AttachError> {
        let mut state = self.lock();
        if state.ended.is_some() {
            return Err(AttachError::Ended);
        }
        let after = match start {
            Start::Now => state.last,
            Start::After(change) => change,
        };
        let min = state.batches.front().map_or(state.last, |batch| batch.first - 1);
        if after < min || after > state.last {
            return Err(AttachError::OutOfReach { min });
        }
        let id = state.next_reader;
        state.next_reader += 1;
        state.readers.insert(id, Position { next: after + 1, moved: Instant::now(), cut: Cut::No });
        Ok((Reader { feed: Arc::clone(self), id, more: self.more.subscribe(), marks: Marks::Omitted }, after))
    }

    /// How many readers there are that keep up.
    pub(super) fn readers(&self) -> usize {
        self.lock().listening()
    }

    /// How much memory the changes take that are kept.
    pub(super) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// How many readers were cut off.
    pub(super) fn cut(&self) -> u64 {
        self.lock().cut
    }

    /// Since when nobody listens; `None` while somebody does.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let state = self.lock();
        (state.listening() == 0).then_some(state.idle_since)
    }

    /// Completes when a reader may have come or gone, or more is there to read.
    pub(super) fn watch(&self) -> watch::Receiver<()> {
        self.more.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing between lock and unlock leaves the state half changed if it panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn listening(&self) -> usize {
        self.readers.values().filter(|position| position.cut == Cut::No).count()
    }

    /// The first batch that holds a change from `next` on.
    fn unread(&self, next: u64) -> usize {
        self.batches.partition_point(|batch| batch.last() < next)
    }

    fn cut_the_slow(&mut self) {
        let now = Instant::now();
        let mut readers = std::mem::take(&mut self.readers);
        for position in readers.values_mut().filter(|position| position.cut == Cut::No) {
            let at = self.unread(position.next);
            let Some(unread) = self.batches.get(at) else { continue };
            let behind: usize = self.batches.range(at + 1..).map(|batch| batch.lines.len()).sum();
            if behind > BEHIND_BYTES || now - unread.at.max(position.moved) > BEHIND_TIME {
                position.cut = Cut::Slow;
                self.cut += 1;
                self.idle_since = now;
            }
        }
        self.readers = readers;
    }

    fn forget(&mut self) {
        let needed = self.readers.values().filter(|p| p.cut == Cut::No).map(|p| p.next).min().unwrap_or(u64::MAX);
        while self.batches.len() > 1 {
            let front = &self.batches[0];
            let enough = self.last - front.last() >= KEPT_CHANGES || self.bytes > KEPT_BYTES;
            if !enough || front.last() >= needed {
                return;
            }
            self.bytes -= front.lines.len();
            self.batches.pop_front();
        }
    }
}

impl Reader {
    /// Whether it is told where commits end.
    pub(super) fn marks(&self) -> Marks {
        self.marks
    }

    /// The same reader, with or without marks.
    pub(super) fn with(mut self, marks: Marks) -> Reader {
        self.marks = marks;
        self
    }

    /// Whether what it has been given ends with a commit.
    pub(super) fn is_between_commits(&self) -> bool {
        let state = self.feed.lock();
        let next = state.readers.get(&self.id).expect("a reader leaves only when dropped").next;
        state.batches.get(state.unread(next)).is_none_or(|batch| batch.first == next)
    }

    /// Waits for more. Cancel-safe: nothing is taken before it is returned.
    pub(super) async fn next(&mut self) -> Next {
        loop {
            if let Some(next) = self.take() {
                return next;
            }
            if self.more.changed().await.is_err() {
                return Next::Last(line::error("the subscription ended"));
            }
        }
    }

    /// What is there already.
    pub(super) fn take(&mut self) -> Option<Next> {
        self.more.mark_unchanged();
        let mut state = self.feed.lock();
        let now = Instant::now();
        let position = state.readers.get(&self.id).expect("a reader leaves only when dropped");
        let (next, moved, cut) = (position.next, position.moved, position.cut);
        let unread = state.batches.get(state.unread(next)).cloned();
        let late = unread.as_ref().is_some_and(|batch| now - batch.at.max(moved) > BEHIND_TIME);
        if cut == Cut::Slow || late {
            return Some(Next::Last(line::error(
                "slow consumer: more than 8 MiB or 30 s behind; read faster, or attach again from the last change",
            )));
        }
        let Some(batch) = unread else { return state.ended.clone().map(Next::Last) };
        let position = state.readers.get_mut(&self.id).expect("looked up above, under the same lock");
        position.next = batch.last() + 1;
        position.moved = now;
        Some(Next::Lines(batch.from(next, self.marks)))
    }

    /// Says that the reader is alive and still busy with what it took.
    pub(super) fn progress(&self) {
        if let Some(position) = self.feed.lock().readers.get_mut(&self.id) {
            position.moved = Instant::now();
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.feed.lock();
        state.readers.remove(&self.id);
        state.idle_since = Instant::now();
        drop(state);
        self.feed.more.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::super::line::ChangeKind;
    use super::*;

    fn inserts(count: u64, size: usize) -> Vec<Difference> {
        let insert = |row| Difference { kind: ChangeKind::Insert, row, cells: "x".repeat(size).into() };
        (0..count).map(insert).collect()
    }

    fn lines(next: Option<Next>) -> usize {
        match next {
            Some(Next::Lines(bytes)) => bytes.iter().filter(|b| **b == b'\n').count(),
            other => panic!("expected lines, got {other:?}"),
        }
    }

    fn is_slow(next: Option<Next>) -> bool {
        matches!(next, Some(Next::Last(line)) if line.starts_with(b"{\"error\":\"slow consumer"))
    }

    #[tokio::test]
    async fn changes_after_a_position_are_given_again() {
        let feed = Arc::new(Feed::new());
        feed.publish(&inserts(3, 1));
        feed.publish(&inserts(2, 1));
        let mut reader = feed.attach(Start::After(1)).unwrap().0;
        assert_eq!((lines(reader.take()), lines(reader.take()), reader.take()), (2, 2, None));
        let mut marked = feed.attach(Start::After(1)).unwrap().0.with(Marks::Sent);
        assert_eq!((lines(marked.take()), lines(marked.take()), marked.take()), (3, 3, None));
        assert_eq!(feed.attach(Start::After(6)).unwrap_err(), AttachError::OutOfReach { min: 0 });
        assert!(feed.attach(Start::After(5)).is_ok());
    }

    #[tokio::test]
    async fn ten_thousand_changes_and_always_the_last_commit_are_kept() {
        let feed = Arc::new(Feed::new());
        for _ in 0..13 {
            feed.publish(&inserts(1_000, 1));
        }
        assert_eq!(feed.attach(Start::After(2_999)).unwrap_err(), AttachError::OutOfReach { min: 3_000 });
        assert!(feed.attach(Start::After(3_000)).is_ok());
        feed.publish(&inserts(25_000, 1));
        assert_eq!(feed.attach(Start::After(12_999)).unwrap_err(), AttachError::OutOfReach { min: 13_000 });
        assert_eq!(lines(feed.attach(Start::After(13_000)).unwrap().0.take()), 25_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_thirty_seconds_behind_is_cut_and_others_are_not() {
        let feed = Arc::new(Feed::new());
        let (mut slow, mut quick) = (feed.attach(Start::Now).unwrap().0, feed.attach(Start::Now).unwrap().0);
        feed.publish(&inserts(1, 1));
        assert_eq!(lines(quick.take()), 1);
        tokio::time::advance(Duration::from_secs(31)).await;
        feed.publish(&inserts(1, 1));
        assert_eq!(feed.readers(), 1);
        assert!(is_slow(slow.take()));
        assert_eq!(lines(quick.take()), 1);
        assert_eq!(feed.cut(), 1);
    }

    #[tokio::test]
    async fn a_reader_is_cut_for_eight_mebibytes_but_never_for_one_commit() {
        let feed = Arc::new(Feed::new());
        let mut reader = feed.attach(Start::Now).unwrap().0;
        feed.publish(&inserts(10, 2 << 20));
        assert_eq!(lines(reader.take()), 10);
        feed.publish(&inserts(1, 1));
        feed.publish(&inserts(4, 2 << 20));
        assert!(is_slow(reader.take()), "8 MiB and a few bytes wait behind the first batch");
    }

    #[tokio::test]
    async fn the_end_comes_after_what_is_left() {
        let feed = Arc::new(Feed::new());
        let mut reader = feed.attach(Start::Now).unwrap().0;
        feed.publish(&inserts(1, 1));
        feed.end("first");
        feed.end("second");
        assert_eq!(lines(reader.take()), 1);
        assert_eq!(reader.next().await, Next::Last(line::error("first")));
        assert_eq!(feed.attach(Start::Now).unwrap_err(), AttachError::Ended);
    }

    #[tokio::test]
    async fn nobody_listens_after_the_last_reader_left() {
        let feed = Arc::new(Feed::new());
        let reader = feed.attach(Start::Now).unwrap().0;
        assert_eq!(feed.idle_since(), None);
        drop(reader);
        assert!(feed.idle_since().is_some());
    }
}
