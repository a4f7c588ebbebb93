//! What a node keeps of the tombstones that it has purged, and what that says of a peer.
//!
//! A tombstone tells whoever missed a deletion that there was one. It is purged days later, when every node that was
//! heard of since has applied it. Whoever was away for longer must not be joined with: where others have nothing any
//! more, its old row would be a new one. No clock says who that is: it is whoever has not applied all that was purged
//! ([`away`]). It begins anew, with the rows of a peer.
//!
//! ```text
//! deleted ── 7 days, applied by all that are known ──► purged: no row, no tombstone; its version is in `through`,
//!                                                     its causal length in `lengths`, its day below `floor`
//! ```

use std::collections::BTreeMap;

use crate::{Day, Name, Stamp, Vector};

/// What is left of purged tombstones. Grows by joins, like all that nodes tell each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Per site, the last version that a purged tombstone was of: heads that cover this have applied them all.
    pub through: Vector,
    /// Per table, the greatest causal length. A key without state may have had it, so it is inserted above it: at an
    /// equal or lower one the insert would lose against the tombstone that some other node still has.
    pub lengths: BTreeMap<Name, u64>,
    /// The first day of which nothing was purged. Tombstones of earlier days are no longer compared.
    pub floor: Day,
}

impl Purged {
    /// Takes note of a tombstone that goes.
    pub fn note(&mut self, table: &Name, cl: u64, rs: Stamp) {
        self.through.raise(rs.site, rs.version);
        self.raise_length(table, cl);
        self.floor = self.floor.max(Day::of(rs.hlc).next());
    }

    /// The least upper bound of both.
    pub fn join(&mut self, other: &Self) {
        self.through.join(&other.through);
        other.lengths.iter().for_each(|(table, &cl)| self.raise_length(table, cl));
        self.floor = self.floor.max(other.floor);
    }

    /// The causal length that a key of this table may have had, of which nothing is known.
    pub fn length(&self, table: &Name) -> u64 {
        self.lengths.get(table).copied().unwrap_or(0)
    }

    fn raise_length(&mut self, table: &Name, cl: u64) {
        match self.lengths.get_mut(table) {
            Some(length) => *length = cl.max(*length),
            None => drop(self.lengths.insert(table.clone(), cl)),
        }
    }
}

/// Which of two nodes has missed deletions that the other has purged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Away {
    /// None: their rows join.
    Nobody,
    /// We have: our rows are given up for the peer's.
    We,
    /// The peer has: it gets our rows, and we take nothing of its.
    They,
}

/// Compares two nodes by their heads and what they have purged. Both come to the same result.
///
/// Two parts of a cluster that did not hear of each other for long enough have both missed something. Then the greater
/// hash stays: it could be any order, as long as all nodes of both parts see the same one, since each step raises it.
pub fn away(our_heads: &Vector, our_purged: &Vector, their_heads: &Vector, their_purged: &Vector) -> Away {
    let missed = |heads: &Vector, purged: &Vector| !heads.is_empty() && !heads.covers(purged);
    match (missed(our_heads, their_purged), missed(their_heads, our_purged)) {
        (false, false) => Away::Nobody,
        (true, false) => Away::We,
        (false, true) => Away::They,
        // Of what both have purged neither can have what the other has not.
        (true, true) if our_purged == their_purged => Away::Nobody,
        (true, true) if our_purged.hash() < their_purged.hash() => Away::We,
        (true, true) => Away::They,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Hlc, SiteId};

    fn heads(heads: &[(u8, u64)]) -> Vector {
        heads.iter().map(|&(site, head)| (SiteId::new([site; 16]), head)).collect()
    }

    #[test]
    fn whoever_has_not_applied_what_was_purged_was_away() {
        let (up, old, purged, none) = (heads(&[(1, 9), (2, 5)]), heads(&[(1, 3)]), heads(&[(1, 4)]), heads(&[]));
        assert_eq!(away(&up, &purged, &old, &none), Away::They);
        assert_eq!(away(&old, &none, &up, &purged), Away::We);
        assert_eq!(away(&up, &purged, &up, &none), Away::Nobody);
        // Who has nothing has nothing that could come back.
        assert_eq!(away(&up, &purged, &none, &none), Away::Nobody);
    }

    #[test]
    fn of_two_that_missed_something_one_gives_way_and_both_know_which() {
        let (a, b) = ((heads(&[(1, 9)]), heads(&[(1, 8)])), (heads(&[(2, 9)]), heads(&[(2, 8)])));
        let both = [away(&a.0, &a.1, &b.0, &b.1), away(&b.0, &b.1, &a.0, &a.1)];
        assert!(both == [Away::We, Away::They] || both == [Away::They, Away::We], "{both:?}");
        assert_eq!(away(&a.0, &b.1, &a.0, &b.1), Away::Nobody, "what nobody can have applied keeps nobody apart");
    }

    #[test]
    fn what_goes_is_noted_by_site_table_and_day() {
        let site = SiteId::new([1; 16]);
        let stamp = |days: u64, version| Stamp { hlc: Hlc::from_ms(days * 86_400_000), site, version, seq: 0 };
        let (mut purged, mut other) = (Purged::default(), Purged::default());
        purged.note(&"t".into(), 4, stamp(9, 7));
        purged.note(&"t".into(), 2, stamp(3, 6));
        other.note(&"u".into(), 2, stamp(5, 8));
        purged.join(&other);
        assert_eq!((&purged.through, purged.floor), (&heads(&[(1, 8)]), Day(10)));
        assert_eq!(["t", "u", "v"].map(|table| purged.length(&table.into())), [4, 2, 0]);
    }

    #[test]
    fn a_length_that_leaves_no_room_for_another_life_is_refused() {
        let answered = |length: u64| {
            let purged = Purged { lengths: [("t".into(), length)].into(), ..Purged::default() };
            let frame = crate::Frame::Pulled(crate::frame::Answered { heads: heads(&[(1, 1)]), purged });
            crate::Frame::decode(&frame.encode())
        };
        assert!(answered(1 << 40).is_ok());
        assert!(answered(i64::MAX.cast_unsigned()).is_err());
    }
}
