//! Whether a peer that has applied the same versions holds the same rows.
//!
//! Digests can be compared at equal vectors only, and vectors are equal only when nothing is under way; so what the last
//! comparison said stands until the next one. Nodes with equal vectors and other digests cannot both be sound; but for
//! tombstones of days that one of them has begun to purge, which are left out on both sides.

use std::time::Duration;

use crate::{Day, Digest};

/// How long digests may differ before a node looks through its own rows. One comparison would do; this gives a peer that is
/// about to be restored, or that restarts, the time for it.
pub const DIFFERS_FOR: Duration = Duration::from_secs(30);

/// A store in three numbers: the hash of its vector, and the digest of its rows at that vector, with its tombstones from
/// some day on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// The hash of the vector.
    pub vector: u64,
    /// The first day whose tombstones are in the digest.
    pub floor: Day,
    /// The digest at that vector.
    pub digest: Digest,
}

/// What the comparisons with one peer have said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Agreement {
    /// There was none yet.
    #[default]
    Unknown,
    /// The rows are the same.
    Equal,
    /// They are not, in every comparison since then.
    Differs {
        /// By this node's monotonic clock.
        since: Duration,
    },
}

impl Agreement {
    /// Compares, if that can be done, at the time `now`.
    pub fn compare(&mut self, ours: Fingerprint, theirs: Fingerprint, now: Duration) {
        if (ours.vector, ours.floor) != (theirs.vector, theirs.floor) {
            return;
        }
        *self = match *self {
            _ if ours.digest == theirs.digest => Self::Equal,
            Self::Differs { since } => Self::Differs { since },
            Self::Unknown | Self::Equal => Self::Differs { since: now },
        };
    }

    /// How long the rows have differed.
    pub fn differs_for(self, now: Duration) -> Option<Duration> {
        match self {
            Self::Differs { since } => Some(now.saturating_sub(since)),
            Self::Unknown | Self::Equal => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_equal_vectors_are_compared_and_a_difference_lasts_until_an_equality() {
        let (at, second) = (
            |vector, bits| Fingerprint { vector, floor: Day(1), digest: Digest::from_bits(bits) },
            Duration::from_secs,
        );
        let mut agreement = Agreement::default();
        agreement.compare(at(1, 1), at(2, 2), second(1));
        assert_eq!(agreement, Agreement::Unknown);
        agreement.compare(at(2, 1), at(2, 2), second(2));
        agreement.compare(at(3, 5), at(3, 6), second(3));
        agreement.compare(at(3, 5), at(4, 5), second(4));
        assert_eq!(agreement.differs_for(second(9)), Some(second(7)));
        // Of other days.
        agreement.compare(at(4, 5), Fingerprint { floor: Day(2), ..at(4, 5) }, second(9));
        assert_eq!(agreement.differs_for(second(9)), Some(second(7)));
        agreement.compare(at(4, 5), at(4, 5), second(10));
        assert_eq!((agreement, agreement.differs_for(second(11))), (Agreement::Equal, None));
    }
}
