//! What a damaged store puts in a row's place: what a sound peer holds, and of its own only what the peer cannot know.
//!
//! An ordinary join would not do. Damage has equal stamps and other values, or stamps that nobody gave, and a join may
//! take it for the greater. But where the peer's heads cover a stamp, the peer holds what became of it, and nothing else
//! can be true.

use crate::{Row, Stamp, Vector};

/// The row that a damaged store keeps. `ours` is none where it cannot be read, or is not what was written.
pub fn proven(ours: Option<Row>, theirs: Option<Row>, our_heads: &Vector, their_heads: &Vector) -> Option<Row> {
    let unknown = |stamp: Stamp| {
        let head = |heads: &Vector| heads.head(stamp.site);
        stamp.version > head(their_heads) && stamp.version <= head(our_heads)
    };
    let Some(mut ours) = ours else { return theirs };
    let Some(mut theirs) = theirs else {
        // Tombstones are purged on each node at its own time; a life that the peer has not heard of is ours to tell.
        return Some(ours).filter(|ours| !ours.is_alive() || unknown(ours.rs));
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
