//! How many questions may wait for upstreams: in all, and of one source, so that neither a dead upstream nor one
//! client takes everything. Pure.

use std::collections::HashMap;
use std::net::IpAddr;

/// Questions that wait at one time. At the bound the next is told SERVFAIL at once; each holds a task and some 2 KiB.
const SEATS: usize = 1024;
/// Of one source. A container that resolves more names than this at once is in a loop.
const PER_SOURCE: usize = 64;

/// The seats taken.
#[derive(Debug, Default)]
pub(crate) struct Seats {
    taken: usize,
    sources: HashMap<IpAddr, usize>,
}

/// Whether there is a seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seat {
    Taken,
    None,
}

impl Seats {
    /// Takes one. Who gets none leaves no trace.
    pub(crate) fn enter(&mut self, source: IpAddr) -> Seat {
        let own = self.sources.get(&source).copied().unwrap_or(0);
        if self.taken >= SEATS || own >= PER_SOURCE {
            return Seat::None;
        }
        self.taken += 1;
        self.sources.insert(source, own + 1);
        Seat::Taken
    }

    /// Gives one back.
    pub(crate) fn leave(&mut self, source: IpAddr) {
        if let Some(own) = self.sources.get_mut(&source) {
            *own -= 1;
            self.taken -= 1;
            if *own == 0 {
                self.sources.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_has_64_seats_and_all_have_1024() {
        let ip = |source: u16| IpAddr::from([10, 0, (source >> 8) as u8, source as u8]);
        let mut seats = Seats::default();
        assert!((0..64).all(|_| seats.enter(ip(0)) == Seat::Taken));
        assert_eq!(seats.enter(ip(0)), Seat::None);
        assert!((0..960).all(|n| seats.enter(ip(1 + n)) == Seat::Taken));
        assert_eq!(seats.enter(ip(2000)), Seat::None);
        seats.leave(ip(0));
        assert_eq!(seats.enter(ip(2000)), Seat::Taken);
        (0..63).for_each(|_| seats.leave(ip(0)));
        (0..960).for_each(|n| seats.leave(ip(1 + n)));
        seats.leave(ip(2000));
        assert!(seats.sources.is_empty());
        assert_eq!(seats.taken, 0);
    }
}
