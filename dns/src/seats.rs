//! Places of which there are so many: in all, and for one source, so that no single client takes them all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// All places of one kind; cheap to clone, and the same ones then.
#[derive(Debug, Clone)]
pub(crate) struct Seats(Arc<Hall>);

#[derive(Debug)]
struct Hall {
    all: usize,
    of_source: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    sources: HashMap<IpAddr, usize>,
}

/// A place taken, given back when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    hall: Arc<Hall>,
    source: IpAddr,
}

impl Seats {
    /// So many, of which one source has at most so many.
    pub(crate) fn new(all: usize, of_source: usize) -> Self {
        Self(Arc::new(Hall { all, of_source, taken: Mutex::default() }))
    }

    /// Takes one. Who gets none leaves no trace, since nothing would ever remove it.
    pub(crate) fn enter(&self, source: IpAddr) -> Option<Seat> {
        let hall = &self.0;
        let mut taken = hall.taken();
        let own = taken.sources.get(&source).copied().unwrap_or(0);
        if taken.all >= hall.all || own >= hall.of_source {
            return None;
        }
        taken.all += 1;
        taken.sources.insert(source, own + 1);
        Some(Seat { hall: Arc::clone(hall), source })
    }
}

impl Hall {
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.hall.taken();
        taken.all -= 1;
        if let Some(own) = taken.sources.get_mut(&self.source) {
            *own -= 1;
            if *own == 0 {
                taken.sources.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_so_many_for_a_source_and_for_all_and_who_gets_none_leaves_no_trace() {
        let ip = |source: u8| IpAddr::from([10, 0, 0, source]);
        let seats = Seats::new(6, 4);
        let mut taken: Vec<Seat> = (0..4).filter_map(|_| seats.enter(ip(0))).collect();
        assert_eq!(taken.len(), 4);
        assert!(seats.enter(ip(0)).is_none());
        taken.extend((1..3).filter_map(|n| seats.clone().enter(ip(n))));
        assert_eq!(taken.len(), 6);
        assert!(seats.enter(ip(3)).is_none());
        taken.remove(0);
        assert!(seats.enter(ip(3)).is_some());
        drop(taken);
        assert!(seats.0.taken().sources.is_empty());
        assert_eq!(seats.0.taken().all, 0);
    }
}
