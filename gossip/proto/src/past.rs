//! Whether a site is still written by the store that wrote it before.
//!
//! A store's numbers mean one thing only as long as one store gives them out, one start after the other. A disk that is set
//! back to an earlier state, or copied, breaks that: two stores, one after the other or at the same time, write different
//! versions under one number. They cannot see it themselves; who has met the other one can:
//!
//! - Each start has a number (`boot`) and a random `nonce`, and a peer remembers the last one it has met. An earlier start,
//!   or one with this number and another nonce, is of another store.
//! - A later start says what it began with: the `head` of its site. Who holds something of that site above it, written
//!   before this start wrote its `first`, holds what this store has never known.
//!
//! - And what of its own site somebody has applied above all that it has, it has not written: nobody hears of more than is
//!   synced. That it sees itself, also where nothing is left of what others hold above the head that it began with; so it
//!   takes none of that before it has given up its site, or nothing would be left to see.
//!
//! Such a store is *forked*, and goes on under another site.

use crate::{Hlc, SiteId, Stamp, Vector};

/// One start of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// How often the store was opened.
    pub boot: u64,
    /// Drawn at this start.
    pub nonce: u64,
}

/// What a node says of its site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    /// The site.
    pub site: SiteId,
    /// This start.
    pub start: Start,
    /// The site's last version when it began.
    pub head: u64,
    /// When it wrote its first version, if it has.
    pub first: Option<Hlc>,
}

/// How a start stands to the last one that was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meeting {
    /// It is the same.
    Again,
    /// It is a later one, or the first: a fork if something is held that it [cannot know](Past::cannot_know).
    Later,
    /// It is an earlier one, or another of the same number.
    Forked,
}

impl Past {
    /// How this start stands to the last one of the site that was met.
    pub fn meet(&self, known: Option<Start>) -> Meeting {
        match known {
            Some(known) if known == self.start => Meeting::Again,
            Some(known) if known.boot >= self.start.boot => Meeting::Forked,
            Some(_) | None => Meeting::Later,
        }
    }

    /// Whether a stamp that somebody holds is of the site, and neither from what this start began with nor from what it
    /// wrote.
    pub fn cannot_know(&self, stamp: Stamp) -> bool {
        stamp.site == self.site && stamp.version > self.head && self.first.is_none_or(|first| stamp.hlc < first)
    }
}

/// Whether whoever has applied `theirs` has met another store of `site` than one that has applied `ours` and writes that site.
pub fn is_outgrown(site: SiteId, ours: &Vector, theirs: &Vector) -> bool {
    theirs.head(site) > ours.head(site)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn past(boot: u64, nonce: u64, first: Option<Hlc>) -> Past {
        Past { site: SiteId::new([1; 16]), start: Start { boot, nonce }, head: 7, first }
    }

    #[test]
    fn an_earlier_start_or_another_of_the_same_number_is_a_fork() {
        let known = Start { boot: 3, nonce: 9 };
        assert_eq!(past(3, 9, None).meet(None), Meeting::Later);
        assert_eq!(past(3, 9, None).meet(Some(known)), Meeting::Again);
        assert_eq!(past(4, 1, None).meet(Some(known)), Meeting::Later);
        assert_eq!(past(3, 1, None).meet(Some(known)), Meeting::Forked);
        assert_eq!(past(2, 9, None).meet(Some(known)), Meeting::Forked);
    }

    #[test]
    fn what_lies_above_the_start_and_before_its_first_version_it_cannot_know() {
        let stamp = |site, version, ms| Stamp { hlc: Hlc::from_ms(ms), site: SiteId::new([site; 16]), version, seq: 0 };
        let wrote = past(3, 9, Some(Hlc::from_ms(50)));
        assert!(wrote.cannot_know(stamp(1, 8, 49)));
        assert!(!wrote.cannot_know(stamp(1, 8, 50)), "it wrote that itself");
        assert!(!wrote.cannot_know(stamp(1, 7, 49)), "it began with that");
        assert!(!wrote.cannot_know(stamp(2, 8, 49)), "another site's");
        assert!(past(3, 9, None).cannot_know(stamp(1, 8, 99)), "it has written nothing");
    }
}
