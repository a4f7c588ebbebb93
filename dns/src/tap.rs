//! What is answered, shown to who asks to see it while it happens.
//!
//! While nobody looks, a worker reads one flag for each batch. While somebody does, it writes what it answered into a
//! bounded queue for each who looks, and never waits: what finds no room is counted and lost. Workers take no lock.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::mpsc;

use crate::answer::Transport;
use crate::name;
use crate::query::{self, Query};
use crate::zone::{By, Found, Zone};

/// Who may look at once. Each costs every answer a comparison.
const FOLLOWERS_MAX: usize = 16;
/// Answers that wait to be looked at, of each who looks.
const WAITING_MAX: usize = 4096;

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The name, lower-cased.
    pub name: String,
    /// The zone of ours that it is in, or `.`.
    pub zone: String,
    /// Number of the type asked for.
    pub qtype: u16,
    /// Number of the code given, without what OPT adds to it.
    pub rcode: u8,
    /// Who asked.
    pub source: IpAddr,
    /// By what.
    pub transport: Transport,
    /// What the answer was taken from.
    pub from: Basis,
    /// How long it took, without sending it.
    pub took: Duration,
    /// How many answers this one stands for.
    pub weight: u32,
}

/// What an answer was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// The cluster's rows.
    Rows,
    /// A zone file.
    File,
    /// An answer of somebody else, kept at hand.
    Kept,
    /// Somebody else, who was asked.
    Forward,
    /// Nothing: the name is nobody's here.
    Nothing,
}

impl Basis {
    /// In one word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Basis::Rows => "rows",
            Basis::File => "file",
            Basis::Kept => "kept",
            Basis::Forward => "forward",
            Basis::Nothing => "nothing",
        }
    }
}

/// Which answers somebody wants to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// All to this name and names below it; lower-cased wire form.
    Below(Box<[u8]>),
    /// One of those that come together, for all of them.
    Sample,
}

impl Wanted {
    /// All to this name and below it. `None`: it is no name.
    #[must_use]
    pub fn below(text: &str) -> Option<Self> {
        let text = text.trim_end_matches('.');
        let mut wire = Vec::new();
        for label in text.split('.').filter(|_| !text.is_empty()) {
            if label.is_empty() || label.len() > name::LABEL_MAX {
                return None;
            }
            wire.push(label.len() as u8);
            wire.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
        }
        wire.push(0);
        (wire.len() <= name::NAME_MAX).then(|| Wanted::Below(wire.into()))
    }

    fn has(&self, query: &Query<'_>) -> bool {
        match self {
            Wanted::Sample => true,
            Wanted::Below(suffix) => {
                let wire = query.name.wire();
                wire.len().checked_sub(suffix.len()).is_some_and(|at| {
                    let begins = |label: &u8| usize::from(*label) == at;
                    wire.ends_with(suffix) && (at + 1 == wire.len() || query.name.labels().iter().any(begins))
                })
            }
        }
    }
}

/// Too many look already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{FOLLOWERS_MAX} look at answers already")]
pub struct TooMany;

/// Where answers can be looked at; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tap(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    is_on: AtomicBool,
    followers: ArcSwap<Vec<Follower>>,
}

#[derive(Debug, Clone)]
struct Follower {
    wanted: Wanted,
    seen: mpsc::Sender<Seen>,
    lost: Arc<AtomicU64>,
}

/// The answers that somebody looks at, until dropped.
#[derive(Debug)]
pub struct Following {
    tap: Tap,
    seen: mpsc::Receiver<Seen>,
    lost: Arc<AtomicU64>,
}

/// Those who look, for one batch of answers.
pub(crate) struct Watched(Guard<Arc<Vec<Follower>>>);

/// One answer as whoever gave it knows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Given<'a> {
    pub(crate) query: &'a [u8],
    pub(crate) reply: &'a [u8],
    pub(crate) source: IpAddr,
    pub(crate) transport: Transport,
    /// `None`: by what the zone says.
    pub(crate) from: Option<Basis>,
    pub(crate) took: Duration,
    /// How many it stands for in a sample; 0: it is not in it.
    pub(crate) weight: u32,
}

impl Tap {
    /// Looks at answers from now on.
    ///
    /// # Errors
    /// When too many look already.
    pub fn follow(&self, wanted: Wanted) -> Result<Following, TooMany> {
        let (sender, seen) = mpsc::channel(WAITING_MAX);
        let lost = Arc::<AtomicU64>::default();
        let follower = Follower { wanted, seen: sender, lost: Arc::clone(&lost) };
        let before = self.0.followers.rcu(|all| {
            let room = all.len() < FOLLOWERS_MAX;
            let mut all = Vec::clone(all);
            all.extend(room.then(|| follower.clone()));
            all
        });
        if before.len() >= FOLLOWERS_MAX {
            return Err(TooMany);
        }
        self.0.is_on.store(true, Ordering::Relaxed);
        Ok(Following { tap: self.clone(), seen, lost })
    }

    /// Who looks, if anybody does.
    pub(crate) fn watched(&self) -> Option<Watched> {
        self.0.is_on.load(Ordering::Relaxed).then(|| Watched(self.0.followers.load()))
    }
}

impl Following {
    /// The next answer.
    pub async fn next(&mut self) -> Option<Seen> {
        self.seen.recv().await
    }

    /// How many were lost for want of room since this was last asked.
    pub fn lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.tap.0.followers.rcu(|all| {
            let others = all.iter().filter(|one| !Arc::ptr_eq(&one.lost, &self.lost));
            others.cloned().collect::<Vec<_>>()
        });
        // Whoever begins to look at this moment sets the flag after it is in the list, which is read after the flag
        // is cleared: at worst it stays set for nobody.
        self.tap.0.is_on.store(false, Ordering::SeqCst);
        if !self.tap.0.followers.load().is_empty() {
            self.tap.0.is_on.store(true, Ordering::SeqCst);
        }
    }
}

impl Watched {
    /// Shows an answer to who wants to see it.
    pub(crate) fn show(&self, zone: &Zone, given: Given<'_>) {
        let Ok(query) = query::parse(given.query) else { return };
        let mut seen = None;
        for follower in self.0.iter() {
            let weight = match follower.wanted {
                Wanted::Sample => given.weight,
                Wanted::Below(_) => 1,
            };
            if weight == 0 || !follower.wanted.has(&query) {
                continue;
            }
            let seen = seen.get_or_insert_with(|| describe(zone, &query, given));
            if follower.seen.try_send(Seen { weight, ..seen.clone() }).is_err() {
                follower.lost.fetch_add(u64::from(weight), Ordering::Relaxed);
            }
        }
    }
}

fn describe(zone: &Zone, query: &Query<'_>, given: Given<'_>) -> Seen {
    let Given { reply, source, transport, from, took, weight, .. } = given;
    let (apex, by) = match zone.find(query.name.wire(), query.name.labels()) {
        Found::Own { origin, by, .. } => (text(origin.wire()), if by == By::File { Basis::File } else { Basis::Rows }),
        Found::Foreign => (".".to_owned(), Basis::Nothing),
    };
    let rcode = reply.get(3).map_or(0, |flags| flags & 15);
    let (name, from) = (text(query.name.wire()), from.unwrap_or(by));
    Seen { name, zone: apex, qtype: query.qtype, rcode, source, transport, from, took, weight }
}

/// A name with its closing zero, as people write it.
fn text(wire: &[u8]) -> String {
    match wire.split_last() {
        Some((_, relative)) if !relative.is_empty() => name::text(relative),
        _ => ".".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn shown(tap: &Tap, name: &str, weight: u32) {
        let zone = testing::zone([testing::service("casa", "api")]);
        let query = testing::query(name, "A").to_vec().unwrap();
        let given = Given {
            query: &query,
            reply: &[0, 0, 0x84, 3],
            source: IpAddr::from([10, 0, 0, 1]),
            transport: Transport::Udp,
            from: None,
            took: Duration::from_micros(3),
            weight,
        };
        tap.watched().into_iter().for_each(|watched| watched.show(&zone, given));
    }

    fn names(following: &mut Following) -> Vec<String> {
        std::iter::from_fn(|| following.seen.try_recv().ok()).map(|seen| seen.name).collect()
    }

    #[test]
    fn who_looks_sees_the_name_and_those_below_it_and_nothing_else() {
        let tap = Tap::default();
        assert!(tap.watched().is_none(), "while nobody looks");
        let mut below = tap.follow(Wanted::below("API.internal.").unwrap()).unwrap();
        let mut sample = tap.follow(Wanted::Sample).unwrap();
        shown(&tap, "x.Api.internal.", 4);
        shown(&tap, "api.internal.", 0);
        shown(&tap, "otherapi.internal.", 2);
        assert_eq!(names(&mut below), ["x.api.internal", "api.internal"]);
        assert_eq!(names(&mut sample), ["x.api.internal", "otherapi.internal"]);
        drop(below);
        assert!(tap.watched().is_some());
        shown(&tap, "casa-api.internal.", 3);
        let seen = sample.seen.try_recv().unwrap();
        assert_eq!((seen.zone.as_str(), seen.from, seen.rcode, seen.weight), ("internal", Basis::Rows, 3, 3));
        drop(sample);
        assert!(tap.watched().is_none());
    }

    #[test]
    fn who_does_not_keep_up_loses_and_is_told_how_much() {
        let tap = Tap::default();
        let following = tap.follow(Wanted::Sample).unwrap();
        for _ in 0..WAITING_MAX + 3 {
            shown(&tap, "a.example.", 2);
        }
        assert_eq!((following.lost(), following.lost()), (6, 0));
        let others: Vec<_> = (1..FOLLOWERS_MAX).map(|_| tap.follow(Wanted::Sample).unwrap()).collect();
        assert_eq!(tap.follow(Wanted::Sample).unwrap_err(), TooMany);
        drop(others);
    }

    #[test]
    fn a_suffix_is_a_name() {
        assert_eq!(Wanted::below("."), Some(Wanted::Below([0].into())));
        assert_eq!(Wanted::below("a..b"), None);
        assert_eq!(Wanted::below(&"a".repeat(64)), None);
        assert_eq!(Wanted::below(&"a.".repeat(128)), None);
    }
}
