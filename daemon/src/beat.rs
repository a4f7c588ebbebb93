//! Beats: each loop stamps one, and a loop that stamps none for 30 s is stuck.
//!
//! A stuck loop holds on to its thread, so no task can be trusted to notice: a plain thread looks. It says which loops are
//! stuck and at what, and leaves it to the binary to end the process; the service manager starts it again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Longest time without a beat. A pass is cut off before ([`PASS`](crate::driver::PASS)), so only a thread that does not
/// return gets here.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
/// How often is looked.
const LOOK: Duration = Duration::from_secs(1);

/// The beat of one loop.
#[derive(Debug)]
pub(crate) struct Beat {
    name: &'static str,
    last: Mutex<(Instant, Doing)>,
}

/// What a loop does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doing {
    /// It waits for a wake or its period.
    Waiting,
    /// It looks.
    Observing,
    /// It plans.
    Planning,
    /// It applies a step.
    Applying,
}

/// A loop without a beat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// Whose loop it is.
    pub name: &'static str,
    /// Since when.
    pub silent: Duration,
    /// What it did last: waiting, observing, planning or applying.
    pub at: &'static str,
}

impl Beat {
    /// The beat of the loop of this name, stamped.
    pub(crate) fn new(name: &'static str) -> Arc<Beat> {
        Arc::new(Beat { name, last: Mutex::new((Instant::now(), Doing::Waiting)) })
    }

    /// Says that the loop lives, and what it does from here on.
    pub(crate) fn stamp(&self, doing: Doing) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = (Instant::now(), doing);
    }

    /// Whether it is stuck. Time before `since` is not counted.
    fn stuck(&self, since: Instant, now: Instant, limit: Duration) -> Option<Stuck> {
        let (last, doing) = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let silent = now.saturating_duration_since(last.max(since));
        let at = match doing {
            Doing::Waiting => "waiting",
            Doing::Observing => "observing",
            Doing::Planning => "planning",
            Doing::Applying => "applying",
        };
        (silent >= limit).then_some(Stuck { name: self.name, silent, at })
    }
}

/// The thread that looks. It ends, and is joined, when this is dropped.
#[derive(Debug)]
pub(crate) struct Watchdog {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Watches these loops; `stuck` is told of those without a beat for `limit`, once.
    pub(crate) fn start(
        beats: Vec<Arc<Beat>>,
        limit: Duration,
        stuck: impl FnOnce(Vec<Stuck>) + Send + 'static,
    ) -> std::io::Result<Watchdog> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::Builder::new().name("daemon-watchdog".to_owned()).spawn(move || {
            let mut looks = Looks::new(Instant::now());
            while !stopped.load(Ordering::Acquire) {
                let found = looks.look(&beats, Instant::now(), limit);
                if !found.is_empty() {
                    return stuck(found);
                }
                thread::park_timeout(LOOK.min(limit));
            }
        })?;
        Ok(Watchdog { stop, thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic of the watchdog has been reported by its own hook.
            drop(thread.join());
        }
    }
}

/// When it was looked. A process that was frozen finds all beats old when it goes on: what passed while nobody looked is
/// not counted.
#[derive(Debug)]
struct Looks {
    since: Instant,
    last: Instant,
}

impl Looks {
    fn new(now: Instant) -> Looks {
        Looks { since: now, last: now }
    }

    fn look(&mut self, beats: &[Arc<Beat>], now: Instant, limit: Duration) -> Vec<Stuck> {
        if now.saturating_duration_since(self.last) > LOOK * 5 {
            self.since = now;
        }
        self.last = now;
        beats.iter().filter_map(|beat| beat.stuck(self.since, now, limit)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_loop_without_a_beat_is_found_and_a_frozen_process_is_not() {
        let beat = Beat::new("containers");
        beat.stamp(Doing::Applying);
        let start = Instant::now();
        let beats = [beat];
        let mut looks = Looks::new(start);
        let mut look = |seconds: u64| looks.look(&beats, start + Duration::from_secs(seconds), LIMIT).len();
        assert_eq!((0..30).map(&mut look).sum::<usize>(), 0);
        assert_eq!(look(31), 1);
        // Frozen for two minutes, and a moment later.
        assert_eq!(look(151), 0);
        assert_eq!((152..181).map(&mut look).sum::<usize>(), 0);
        assert_eq!(look(181), 1);
    }

    #[test]
    fn the_watchdog_says_who_is_stuck_at_what() {
        let (sender, stuck) = mpsc::channel();
        let beat = Beat::new("peers");
        beat.stamp(Doing::Observing);
        let tell = move |found| sender.send(found).expect("the test listens");
        let watchdog = Watchdog::start(vec![beat], Duration::from_millis(20), tell).unwrap();
        let found = stuck.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(matches!(found[..], [Stuck { name: "peers", at: "observing", .. }]), "{found:?}");
        drop(watchdog);
    }

    #[test]
    fn a_watchdog_that_is_dropped_is_joined() {
        let (sender, stuck) = mpsc::channel::<Vec<Stuck>>();
        let tell = move |found| sender.send(found).expect("nobody is stuck");
        drop(Watchdog::start(vec![Beat::new("peers")], LIMIT, tell).unwrap());
        assert_eq!(stuck.recv(), Err(mpsc::RecvError));
    }
}
