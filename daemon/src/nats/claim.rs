//! Whose the row of nats-server is, as far as it was ever ours: pure.
//!
//! ```text
//!            the row is another's            we have written it, or were given it
//!   Ours ───────────────────────► taken ────────────────────────────────────────► Ours
//!                                  │  ▲ it is nobody's, or the runner says nothing: stays
//!                                  └──┘
//! ```

/// What is known of the row.
#[derive(Debug, Default)]
pub(super) struct Claim {
    /// The name under which we had a row last.
    had: Option<String>,
    /// The server that has taken it, until it is ours again.
    taken: Option<String>,
}

/// Whose the row of a name is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Holder {
    /// Ours.
    Us,
    /// This server's.
    Other(String),
    /// There is none.
    Nobody,
}

/// A change that somebody has to know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// Another server has taken it.
    Taken,
    /// It is ours again.
    Regained,
}

impl Claim {
    /// Whether we had the row of this name: another server's was then taken from us.
    pub(super) fn had(&self, id: &str) -> bool {
        self.had.as_deref() == Some(id)
    }

    /// Who has taken it.
    pub(super) fn taken(&self) -> Option<&str> {
        self.taken.as_deref()
    }

    /// Notes whose it is; says so when that changes. A row that is nobody's is not ours before it is written.
    pub(super) fn note(&mut self, id: &str, holder: Holder) -> Option<Told> {
        let had = self.had(id);
        if !had {
            // Another store: nobody has taken its row from us.
            self.taken = None;
        }
        match holder {
            Holder::Us => {
                self.had = Some(id.to_owned());
                self.taken.take().map(|_| Told::Regained)
            }
            Holder::Other(by) if had => {
                let before = self.taken.replace(by);
                (before != self.taken).then_some(Told::Taken)
            }
            Holder::Other(_) | Holder::Nobody => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other(by: &str) -> Holder {
        Holder::Other(by.to_owned())
    }

    #[test]
    fn a_row_that_another_takes_is_told_once_and_is_ours_again_when_it_is_written() {
        let mut claim = Claim::default();
        assert_eq!(claim.note("n1", Holder::Nobody), None);
        assert_eq!(claim.note("n1", Holder::Us), None);
        assert_eq!(claim.note("n1", other("two")), Some(Told::Taken));
        assert_eq!(claim.note("n1", other("two")), None);
        assert_eq!(claim.note("n1", other("three")), Some(Told::Taken));
        assert_eq!(claim.note("n1", Holder::Nobody), None, "the other's is gone, and ours not there yet");
        assert_eq!(claim.taken(), Some("three"));
        assert_eq!(claim.note("n1", Holder::Us), Some(Told::Regained));
        assert_eq!((claim.note("n1", Holder::Us), claim.taken()), (None, None));
    }

    #[test]
    fn a_row_that_we_never_had_was_not_taken_from_us() {
        let mut claim = Claim::default();
        assert_eq!(claim.note("n1", other("two")), None, "a disk that was moved here");
        assert_eq!(claim.note("n1", Holder::Us), None);
        assert_eq!(claim.note("n1", other("two")), Some(Told::Taken));
        assert_eq!((claim.note("n2", Holder::Nobody), claim.taken()), (None, None), "another store");
        assert_eq!(claim.note("n2", Holder::Us), None);
    }
}
