//! Whose clock is believed, and how far.
//!
//! Stamps of different hosts are compared for ever, so a clock far ahead has the last word on every row it touches, and drags
//! the hybrid clocks of all who take its stamps along with it. Therefore a stamp far ahead of the **median** of this node's
//! clock and those of the peers that have a stream with it is from the future, and not taken. A clock behind harms nobody: a
//! hybrid clock follows what it has seen.
//!
//! Clocks are told, and carried on by our own monotonic time: that a wall clock jumps is seen in the next reading of it,
//! and changes nothing of what is known of the others.
//!
//! Of an even number of clocks the slower of the two in the middle is the median. So two nodes go by the slower of their
//! clocks, whichever of them is wrong: nobody can tell, and a slow clock costs nothing but that a new node which has it
//! takes no rows until it is set.
//!
//! But a node gives up stamps of its own only where the faster of the two says that they are from the future: it would lose
//! more by that than by waiting.
//!
//! What a store holds already is believed, too: where most clocks were ahead for a while and went back, all stamps go on
//! from there until the clocks have reached them, rather than nobody taking anything from anybody. But only what no clock
//! known here would let in says that clocks went back; it is taken once, as the reading of a clock that goes on at the pace
//! of ours until the store holds nothing of the kind any more. Were the bound to follow whatever is held, stamps at the very
//! edge of it, each taken, would carry it up without end.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::frame::PulledRow;
use crate::version::Life;
use crate::{Hlc, NodeId, Stamp, Version};

/// How far ahead of the median a stamp may be, in milliseconds. Far more than clocks that are kept in step at all ever
/// differ, and little enough for what it costs: so long a write of the one may win against later writes of others.
pub const FUTURE_MS: u64 = 60_000;

/// How far ahead of the median a node's own clock may be before it stamps from the median instead. Half of what the others
/// bear, since their median may be less than ours by what frames take, and by whom of us hears whom.
pub const CORRECTED_MS: u64 = 30_000;

/// How often clocks are told to peers: what jumps is known for what it is before a minute's worth of stamps is written.
pub const TELL_EVERY: Duration = Duration::from_secs(10);

/// This node's clock and its peers', each as the reading it showed, or will have shown, at our time zero, in milliseconds
/// since 1970.
#[derive(Clone, Debug, Default)]
pub struct Clocks {
    own: Option<i64>,
    peers: BTreeMap<NodeId, i64>,
    /// The clocks from before they went back, by what the store holds of them.
    before: Option<i64>,
    /// Follows from `peers`. None while there are none.
    around: Option<Around>,
}

/// The peers' clocks that stand on both sides of the median's place: with one more clock, it is that one between them.
#[derive(Clone, Copy, Debug)]
struct Around {
    low: Option<i64>,
    high: i64,
    /// The same for the faster of two in the middle: with one more clock, it is that one, if it is not below this.
    faster: i64,
    fastest: Option<i64>,
}

impl Clocks {
    /// This host's clock shows `wall_ms` at the time `now`.
    pub fn read(&mut self, wall_ms: u64, now: Duration) {
        self.own = Some(at_zero(wall_ms, now));
    }

    /// A peer says that its clock shows `wall_ms`.
    pub fn hear(&mut self, peer: &NodeId, wall_ms: u64, now: Duration) {
        self.peers.insert(peer.clone(), at_zero(wall_ms, now));
        self.around = Around::of(&self.peers);
    }

    /// No stream joins us with the peer any more.
    pub fn forget(&mut self, peer: &NodeId) {
        if self.peers.remove(peer).is_some() {
            self.around = Around::of(&self.peers);
        }
    }

    /// The stamps that our own store holds reach up to `held` at the time `now`.
    ///
    /// What is taken as clocks that went back is in memory only. A node that is started again while its store still holds
    /// what they let in takes that anew, by the last of what is held by then: stamps that came in since then at the edge of
    /// the bound move it once more, by [`FUTURE_MS`] at most for each start.
    pub fn hold(&mut self, held: Hlc, now: Duration) {
        let Some(median) = self.median(now) else { return };
        if held.ms() <= median.saturating_add(FUTURE_MS) {
            self.before = None;
        } else {
            // What is held later was let in by this.
            self.before.get_or_insert(at_zero(held.ms(), now));
        }
    }

    /// The greatest reading that is not from the future at the time `now`. Before our own clock was read, nothing is.
    pub fn latest(&self, now: Duration) -> Hlc {
        let Some(median) = self.median(now) else { return Hlc::MAX };
        let believed = self.before.map_or(median, |before| median.max(reading(before, now)));
        Hlc::from_ms(believed.saturating_add(FUTURE_MS))
    }

    /// What the median of the clocks shows at the time `now`.
    fn median(&self, now: Duration) -> Option<u64> {
        let own = self.own?;
        Some(reading(self.around.map_or(own, |around| around.median(own)), now))
    }

    /// The most that the median can be, whatever our own clock shows, as the reading at our time zero. None without peers.
    pub fn highest(&self) -> Option<i64> {
        self.around.map(|around| around.high)
    }

    /// Where most clocks, and not only half of them, say that `held`, the latest reading of our own store, is from the
    /// future: the latest that it should be. What peers refuse of us is then to be stamped anew, with no more than that.
    pub fn disowned(&self, held: Hlc, now: Duration) -> Option<Hlc> {
        let median = reading(self.around?.faster_median(self.own?), now);
        (held.ms() > median.saturating_add(FUTURE_MS)).then(|| Hlc::from_ms(median.saturating_add(CORRECTED_MS)))
    }

    /// How far our clock is ahead of that, if so far that it is corrected.
    pub fn ahead(&self) -> Option<Duration> {
        let ahead = self.own?.checked_sub(self.highest()?)?;
        let ahead = u64::try_from(ahead).ok().filter(|&ahead| ahead > CORRECTED_MS)?;
        Some(Duration::from_millis(ahead))
    }

    /// How far a peer's clock is ahead of ours, in milliseconds; negative where it is behind.
    pub fn offset_ms(&self, peer: &NodeId) -> Option<i64> {
        Some(self.peers.get(peer)?.saturating_sub(self.own?))
    }
}

impl Around {
    fn of(peers: &BTreeMap<NodeId, i64>) -> Option<Self> {
        let mut clocks: Vec<_> = peers.values().copied().collect();
        clocks.sort_unstable();
        let middle = clocks.len() / 2;
        let low = middle.checked_sub(1).and_then(|below| clocks.get(below)).copied();
        let faster = clocks.len().div_ceil(2);
        Some(Self {
            low,
            high: *clocks.get(middle)?,
            faster: *clocks.get(faster.saturating_sub(1))?,
            fastest: clocks.get(faster).copied(),
        })
    }

    fn median(self, own: i64) -> i64 {
        own.max(self.low.unwrap_or(i64::MIN)).min(self.high)
    }

    fn faster_median(self, own: i64) -> i64 {
        own.max(self.faster).min(self.fastest.unwrap_or(i64::MAX))
    }
}

/// What a node stamps from while its own clock shows `wall_ms`, and the median is `highest` at most.
pub fn stamped_from(wall_ms: u64, highest: Option<u64>) -> u64 {
    match highest {
        Some(highest) if wall_ms > highest.saturating_add(CORRECTED_MS) => highest,
        Some(_) | None => wall_ms,
    }
}

/// What a clock that showed this at time zero shows at the time `now`, in milliseconds since 1970.
pub fn reading(at_zero: i64, now: Duration) -> u64 {
    at_zero.saturating_add(millis(now)).max(0).cast_unsigned()
}

/// A stamp of these rows that is later than `latest`, if there is one. An answer that holds it is refused whole.
pub fn from_the_future(rows: &[PulledRow], latest: Hlc) -> Option<Stamp> {
    let of_row = |row: &PulledRow| {
        let cells = row.row.cells.values().map(|cell| cell.stamp);
        cells.chain([row.row.rs]).find(|stamp| stamp.hlc > latest)
    };
    rows.iter().find_map(of_row)
}

/// The latest reading that a version would bring into a store.
pub fn newest(version: &Version) -> Hlc {
    let named = version.changes.iter().map(|change| match change.life {
        Life::Changed => version.hlc,
        Life::Since(rs) => rs.hlc,
    });
    named.fold(version.hlc, Hlc::max)
}

/// A clock may show anything; one beyond the end of time shows the end of time.
fn at_zero(wall_ms: u64, now: Duration) -> i64 {
    i64::try_from(wall_ms).unwrap_or(i64::MAX).saturating_sub(millis(now))
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
