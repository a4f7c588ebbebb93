//! Room for connections: how many are served at once, and which one makes way for the next.
//!
//! Opening a connection costs a client nothing. So at the bound one without a request is closed and not the newest left
//! waiting: those that only sit there cannot keep those out that ask. First go those that never asked for anything, then those
//! that have been quiet for longest: a client that keeps its connection does not lose it to a crowd that says nothing.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// A bounded number of places, and who of those that have one asks for nothing.
#[derive(Debug)]
pub(super) struct Room {
    places: Arc<Semaphore>,
    quiet: Mutex<Quiet>,
    turned_quiet: Notify,
    closed: Counter,
}

/// Connections without a request, in the order in which they make way.
#[derive(Debug, Default)]
struct Quiet {
    turns: u64,
    connections: BTreeMap<Turn, CancellationToken>,
}

/// Since when a connection is quiet. Ordered: the first makes way first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    /// It never had a request.
    FromTheStart(u64),
    /// Since its last request ended.
    Since(u64),
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
        let places = Arc::new(Semaphore::new(places));
        Arc::new(Self { places, quiet: Mutex::default(), turned_quiet: Notify::new(), closed })
    }

    /// A place for one more. Where there is none, the quietest connection is asked to make way; while none is quiet, this
    /// waits until one is, or ends. Cancel-safe: what was asked to make way leaves its place to the next.
    pub(super) async fn enter(self: &Arc<Self>) -> Place {
        loop {
            if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
                return self.place(permit);
            }
            let mut turned_quiet = pin!(self.turned_quiet.notified());
            // Before it is looked for, so that none that turns quiet meanwhile is missed.
            turned_quiet.as_mut().enable();
            self.close_quietest();
            tokio::select! {
                permit = Arc::clone(&self.places).acquire_owned() => {
                    return self.place(permit.expect("never closed"));
                }
                () = turned_quiet => {}
            }
        }
    }

    fn place(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Place {
        let make_way = CancellationToken::new();
        let turn = self.quieten(Turn::FromTheStart, make_way.clone());
        Place { room: Arc::clone(self), state: Mutex::new(Requests::Quiet(turn)), make_way, _permit: permit }
    }

    fn close_quietest(&self) {
        let quietest = self.quiet.lock().unwrap_or_else(PoisonError::into_inner).connections.pop_first();
        if let Some((_, make_way)) = quietest {
            self.closed.inc();
            make_way.cancel();
        }
    }

    fn quieten(&self, turn: fn(u64) -> Turn, make_way: CancellationToken) -> Turn {
        let mut quiet = self.quiet.lock().unwrap_or_else(PoisonError::into_inner);
        quiet.turns += 1;
        let turn = turn(quiet.turns);
        quiet.connections.insert(turn, make_way);
        turn
    }

    fn wake(&self, turn: Turn) {
        self.quiet.lock().unwrap_or_else(PoisonError::into_inner).connections.remove(&turn);
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

        // The fourth is the newest, and the only one that never asked.
        third.end();
        let mut fifth = pin!(room.enter());
        assert!(fifth.as_mut().now_or_never().is_none());
        assert_eq!((fourth.make_way().is_cancelled(), third.make_way().is_cancelled()), (true, false));
    }
}
