//! Room for connections: how many are served at once, and which one makes way for the next.
//!
//! Opening a connection costs a client nothing. So at the bound one without a request is closed and not the newest left
//! waiting: those that only sit there cannot keep those out that ask. The one that has been quiet for longest goes, whether
//! it ever asked for something or not; a newcomer has as long to ask as it takes that many others to come. But while half of
//! all places are held by those that never asked, the first of them goes: a client that keeps its connection does not lose
//! it to a crowd that says nothing.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// A bounded number of places, and who of those that have one asks for nothing.
#[derive(Debug)]
pub(super) struct Room {
    places: Arc<Semaphore>,
    /// As many as this never asked: then one of them makes way.
    half: usize,
    quiet: Mutex<Quiet>,
    turned_quiet: Notify,
    closed: Counter,
}

/// Connections without a request, by the turn at which they became quiet.
#[derive(Debug, Default)]
struct Quiet {
    turns: u64,
    never_asked: BTreeMap<u64, CancellationToken>,
    asked: BTreeMap<u64, CancellationToken>,
}

/// Since when a connection is quiet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// It never had a request.
    FromTheStart(u64),
    /// Since its last request ended.
    Since(u64),
}

/// Whether a connection was asked to make way for the one that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    None,
    One,
}

/// A connection's place, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    room: Arc<Room>,
    state: Mutex<Requests>,
    make_way: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

/// What a connection is doing.
#[derive(Debug)]
enum Requests {
    /// None is running since this turn.
    Quiet(Turn),
    /// So many are running.
    Running(usize),
}

impl Room {
    /// `closed` counts those that made way.
    pub(super) fn new(places: usize, closed: Counter) -> Arc<Self> {
        let half = (places / 2).max(1);
        let places = Arc::new(Semaphore::new(places));
        Arc::new(Self { places, half, quiet: Mutex::default(), turned_quiet: Notify::new(), closed })
    }

    /// A place for one more. Where there is none, a quiet connection is asked to make way; while none is quiet, this waits
    /// until one is, or ends. Cancel-safe: what was asked to make way leaves its place to the next.
    pub(super) async fn enter(self: &Arc<Self>) -> Place {
        let mut asked = Asked::None;
        loop {
            if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
                return self.place(permit);
            }
            let mut turned_quiet = pin!(self.turned_quiet.notified());
            // Before it is looked for, so that none that turns quiet meanwhile is missed.
            turned_quiet.as_mut().enable();
            if asked == Asked::None {
                asked = self.ask_quietest();
            }
            tokio::select! {
                permit = Arc::clone(&self.places).acquire_owned() => {
                    return self.place(permit.expect("never closed"));
                }
                // One goes for one that comes: who was asked leaves within the time that it is given.
                () = turned_quiet, if asked == Asked::None => {}
            }
        }
    }

    fn place(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Place {
        let make_way = CancellationToken::new();
        let turn = self.quieten(Turn::FromTheStart, make_way.clone());
        Place { room: Arc::clone(self), state: Mutex::new(Requests::Quiet(turn)), make_way, _permit: permit }
    }

    fn ask_quietest(&self) -> Asked {
        let Some(make_way) = self.lock().next(self.half) else { return Asked::None };
        self.closed.inc();
        make_way.cancel();
        Asked::One
    }

    fn quieten(&self, turn: fn(u64) -> Turn, make_way: CancellationToken) -> Turn {
        let mut quiet = self.lock();
        quiet.turns += 1;
        let turn = turn(quiet.turns);
        // Who was asked already leaves, and is not asked for another.
        if !make_way.is_cancelled() {
            match turn {
                Turn::FromTheStart(at) => quiet.never_asked.insert(at, make_way),
                Turn::Since(at) => quiet.asked.insert(at, make_way),
            };
        }
        turn
    }

    fn wake(&self, turn: Turn) {
        let mut quiet = self.lock();
        match turn {
            Turn::FromTheStart(at) => quiet.never_asked.remove(&at),
            Turn::Since(at) => quiet.asked.remove(&at),
        };
    }

    fn lock(&self) -> MutexGuard<'_, Quiet> {
        // Held for insertions and removals only, which leave it whole.
        self.quiet.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Quiet {
    /// Takes out the one that makes way next.
    fn next(&mut self, half: usize) -> Option<CancellationToken> {
        let first = |quiet: &BTreeMap<u64, _>| quiet.keys().next().copied();
        let never_asked_first = match (first(&self.never_asked), first(&self.asked)) {
            (Some(never), Some(asked)) => never < asked || self.never_asked.len() >= half,
            (_, None) => true,
            (None, Some(_)) => false,
        };
        let from = if never_asked_first { &mut self.never_asked } else { &mut self.asked };
        from.pop_first().map(|(_, make_way)| make_way)
    }
}

impl Place {
    /// Cancelled when somebody else needs the place more.
    pub(super) fn make_way(&self) -> &CancellationToken {
        &self.make_way
    }

    /// A request begins.
    pub(super) fn begin(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = match *state {
            Requests::Quiet(turn) => {
                self.room.wake(turn);
                Requests::Running(1)
            }
            Requests::Running(count) => Requests::Running(count + 1),
        };
    }

    /// A request ends.
    pub(super) fn end(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match *state {
            Requests::Running(count) if count > 1 => *state = Requests::Running(count - 1),
            Requests::Running(_) => {
                *state = Requests::Quiet(self.room.quieten(Turn::Since, self.make_way.clone()));
                self.room.turned_quiet.notify_waiters();
            }
            Requests::Quiet(_) => {}
        }
    }

    /// Whether no request is running.
    pub(super) fn is_quiet(&self) -> bool {
        matches!(*self.state.lock().unwrap_or_else(PoisonError::into_inner), Requests::Quiet(_))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Requests::Quiet(turn) = *self.state.get_mut().unwrap_or_else(PoisonError::into_inner) {
            self.room.wake(turn);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn the_one_that_was_quiet_for_longest_makes_way() {
        let closed = Counter::default();
        let room = Room::new(3, closed.clone());
        let (first, second, busy) = (room.enter().await, room.enter().await, room.enter().await);
        first.begin();
        first.begin();
        busy.begin();
        first.end();
        assert!(!first.is_quiet(), "one of its two requests goes on");
        first.end();
        assert!(first.is_quiet());
        assert_eq!(closed.get(), 0, "nobody made way while there was room");

        let mut third = pin!(room.enter());
        assert!(third.as_mut().now_or_never().is_none());
        let told = [&first, &second, &busy].map(|place| place.make_way().is_cancelled());
        assert_eq!(told, [false, true, false], "the second never asked for anything, and the last is at work");
        drop(second);
        let third = third.await;
        third.begin();
        first.begin();

        let mut fourth = pin!(room.enter());
        assert!(fourth.as_mut().now_or_never().is_none(), "all are at work");
        busy.end();
        assert!(fourth.as_mut().now_or_never().is_none());
        assert!(busy.make_way().is_cancelled(), "asked as soon as it was quiet");
        drop(busy);
        let fourth = fourth.await;
        assert_eq!(closed.get(), 2);

        // The fourth is the newest, and the only one that never asked: that is as many as half of three.
        third.end();
        let mut fifth = pin!(room.enter());
        assert!(fifth.as_mut().now_or_never().is_none());
        assert_eq!((fourth.make_way().is_cancelled(), third.make_way().is_cancelled()), (true, false));
    }

    /// A place whose connection asked once.
    async fn kept(room: &Arc<Room>) -> Place {
        let place = room.enter().await;
        place.begin();
        place.end();
        place
    }

    /// Enters, while whoever is asked to make way does: returns the places that are left.
    fn squeeze(room: &Arc<Room>, mut places: Vec<Place>) -> Vec<Place> {
        let mut entering = pin!(room.enter());
        let place = entering.as_mut().now_or_never().or_else(|| {
            places.retain(|place| !place.make_way().is_cancelled());
            entering.now_or_never()
        });
        places.push(place.expect("somebody made way"));
        places
    }

    #[tokio::test]
    async fn newcomers_do_not_share_one_place_while_all_others_are_kept_and_quiet() {
        let closed = Counter::default();
        let room = Room::new(8, closed.clone());
        let mut places = Vec::new();
        for _ in 0..8 {
            places.push(kept(&room).await);
        }
        let first_kept = places[0].make_way().clone();
        let mut newcomers = Vec::new();
        for _ in 0..4 {
            places = squeeze(&room, places);
            newcomers.push(places.last().unwrap().make_way().clone());
        }
        let told: Vec<_> = newcomers.iter().map(CancellationToken::is_cancelled).collect();
        assert_eq!(told, [false; 4], "each has its own place to ask from");
        assert_eq!((closed.get(), first_kept.is_cancelled()), (4, true), "the oldest of the quiet ones went");
        // A crowd that says nothing takes no more than half from those that are kept.
        for _ in 0..20 {
            places = squeeze(&room, places);
        }
        let left =
            places.iter().filter(|place| matches!(*place.state.lock().unwrap(), Requests::Quiet(Turn::Since(_))));
        assert_eq!((left.count(), closed.get()), (4, 24));
        assert!(newcomers.iter().all(CancellationToken::is_cancelled), "the first newcomers had their time");
    }
}
