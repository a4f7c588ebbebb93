//! What a damaged store puts in a row's place: what a sound peer holds, and of its own only what the peer cannot know.
//!
//! An ordinary join would not do. Damage has equal stamps and other values, or stamps that nobody gave, and a join may
//! take it for the greater. But where the peer's heads cover a stamp, the peer holds what became of it, and nothing else
//! can be true. What they do not cover nobody can prove wrong: it may be the only copy of what was acknowledged.

use crate::{Row, Stamp, Vector};

/// Whether a row is what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seal {
    /// As far as anybody can tell.
    Whole,
    /// It is not.
    Broken,
}

/// The row that a damaged store keeps. `ours` is none where there is none that can be read.
pub fn proven(ours: Option<(Row, Seal)>, theirs: Option<Row>, our_heads: &Vector, their_heads: &Vector) -> Option<Row> {
    let unknown = |stamp: Stamp| {
        let head = |heads: &Vector| heads.head(stamp.site);
        stamp.version > head(their_heads) && stamp.version <= head(our_heads)
    };
    let Some((mut ours, seal)) = ours else { return theirs };
    let Some(mut theirs) = theirs else {
        // Tombstones are purged on each node at its own time; a life that the peer has not heard of is ours to tell.
        let tombstone = !ours.is_alive() && seal == Seal::Whole;
        return Some(ours).filter(|ours| tombstone || unknown(ours.rs));
    };
    if !unknown(ours.rs) {
        if ours.cl != theirs.cl {
            return Some(theirs);
        }
        ours.rs = theirs.rs;
    }
    ours.cells.retain(|_, cell| unknown(cell.stamp));
    theirs.join(ours);
    Some(theirs)
}
