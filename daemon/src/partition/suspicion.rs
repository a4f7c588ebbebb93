//! Whether it may be us who are cut off, and who is heard: cells that [`Partitions`](super::Partitions) writes, and whoever destroys reads.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::wake::Wake;

/// What is thought of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Suspicion {
    /// It is not known, or not yet: to be treated as suspected.
    Unknown,
    /// More than half of the servers are heard, ourselves counted.
    Clear,
    /// Half of them or more are missing.
    Suspected,
}

/// The cell. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Partition {
    suspicion: Arc<Mutex<Suspicion>>,
    heard: Arc<Mutex<Arc<BTreeSet<String>>>>,
    wakes: Arc<[Wake]>,
}

impl Suspicion {
    /// The word in status.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Suspicion::Unknown => "unknown",
            Suspicion::Clear => "clear",
            Suspicion::Suspected => "suspected",
        }
    }
}

impl Partition {
    /// Not known yet. Each change wakes these.
    pub(crate) fn new(wakes: impl IntoIterator<Item = Wake>) -> Partition {
        let wakes: Vec<Wake> = wakes.into_iter().collect();
        Partition { suspicion: Arc::new(Mutex::new(Suspicion::Unknown)), heard: Arc::default(), wakes: wakes.into() }
    }

    /// What is thought.
    pub(crate) fn suspicion(&self) -> Suspicion {
        *self.suspicion.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The servers that gossip hears, by whatever way; nobody while the store is away.
    pub(crate) fn heard(&self) -> Arc<BTreeSet<String>> {
        Arc::clone(&self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says who is heard.
    pub(super) fn hears(&self, servers: BTreeSet<String>) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(servers);
    }

    /// Says what is thought. Only who looks at the members knows.
    pub(super) fn set(&self, suspicion: Suspicion) {
        let mut now = self.suspicion.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *now, suspicion) != suspicion {
            self.wakes.iter().for_each(Wake::poke);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_change_wakes_who_waits_for_it_and_the_same_again_does_not() {
        let wake = Wake::default();
        let partition = Partition::new([wake.clone()]);
        let seen = partition.clone();
        let poked = || tokio::time::timeout(Duration::from_secs(1), wake.poked());
        partition.set(Suspicion::Unknown);
        assert!(poked().await.is_err());
        partition.set(Suspicion::Suspected);
        assert!(poked().await.is_ok());
        assert_eq!(seen.suspicion(), Suspicion::Suspected);
    }
}
