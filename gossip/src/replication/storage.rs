//! What replication asks of a store. A trait, so that the shell can be tried against one in memory that fails on demand.

use std::collections::BTreeSet;
use std::sync::Arc;

use kith_gossip_proto::agreement::Fingerprint;
use kith_gossip_proto::buckets::Bucket;
use kith_gossip_proto::frame::{Answered, PulledRow};
use kith_gossip_proto::{Day, Hlc, NodeId, Past, Purged, Vector, Version};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};

use crate::store::{
    ApplyError, Collected, Commit, CopyError, Cure, Due, Heard, Highest, Incoming, InstallError, Known, Looked, Met,
    Pace, QueryError, Renounced, Repaired, Store, StoreCopy, Survey,
};

/// What the store says next of its commits.
#[derive(Debug)]
pub(crate) enum Next {
    /// One SQLite transaction: the own versions in it, and the heads after it. Synced.
    Commit { versions: Vec<Arc<Version>>, heads: Arc<Vector> },
    /// Some were missed.
    Lagged,
    /// There are no more: the store was closed.
    Closed,
}

/// The commits of a store, in order.
pub(crate) trait Commits: Send + 'static {
    /// The next one. Cancel-safe.
    fn next(&mut self) -> impl Future<Output = Next> + Send;
}

/// A store, by a handle that is cheap to clone.
pub(crate) trait Storage: Clone + Send + Sync + 'static {
    type Commits: Commits;

    /// Which store this is, as hellos say it.
    fn past(&self) -> Past;

    /// What the store of that node is to this one.
    fn meet(&self, node: &NodeId, past: Past) -> impl Future<Output = Result<Met, QueryError>> + Send;

    /// Gives up the site but for what this start began with, or does not believe that it must.
    fn begin_again(&self, boot: u64) -> impl Future<Output = Result<Option<Renounced>, ApplyError>> + Send;

    /// The applied and synced heads.
    fn heads(&self) -> Vector;

    /// The latest reading of its clock.
    fn held(&self) -> Hlc;

    /// Where its clock may be ahead of that, it stamps from it.
    fn correct_clock(&self, highest: Option<Highest>);

    /// Peers leave out what is older than this day, and so do we.
    fn compare_from(&self, day: Day);

    /// What it holds, in numbers that belong together.
    fn fingerprint(&self) -> Fingerprint;

    /// Looks through all rows. What is wrong with them, those hear of who follow [`Storage::looks`].
    fn look(&self, pace: Pace) -> impl Future<Output = Result<(), QueryError>> + Send;

    /// What was found when rows were last looked at.
    fn looks(&self) -> watch::Receiver<Option<Arc<Looked>>>;

    /// Looks through all rows, to compare them with another store's.
    fn survey(&self) -> impl Future<Output = Result<Survey, QueryError>> + Send;

    /// Puts damaged rows right; returns the synced heads.
    fn repair(&self, cure: Cure) -> impl Future<Output = Result<Repaired, ApplyError>> + Send;

    /// All commits from now on.
    fn commits(&self) -> Self::Commits;

    /// Applies versions in order, skipping what is not next or not covered; returns the synced heads.
    fn apply(&self, versions: Vec<Version>) -> impl Future<Output = Result<Vector, ApplyError>> + Send;

    /// What is left of tombstones that were purged.
    fn purged(&self) -> Arc<Purged>;

    /// Takes note of which nodes were heard of; returns which are known.
    fn heard(&self, heard: Heard) -> impl Future<Output = Result<Known, ApplyError>> + Send;

    /// Finds tombstones that these heads cover, made before this reading.
    fn due(&self, covered: Vector, before: Hlc) -> impl Future<Output = Result<Due, QueryError>> + Send;

    /// Forgets them; returns how many there were.
    fn purge(&self, due: Due) -> impl Future<Output = Result<u64, ApplyError>> + Send;

    /// Joins the answer to a pull in one transaction; returns the synced heads.
    fn join(&self, rows: Vec<PulledRow>, answered: Answered)
    -> impl Future<Output = Result<Vector, ApplyError>> + Send;

    /// Ends the store, whose next start begins anew from the peers.
    fn begin_anew(&self);

    /// Begins the answer to a pull, with all rows of these buckets besides.
    fn collect(
        &self,
        above: Vector,
        buckets: BTreeSet<Bucket>,
    ) -> impl Future<Output = Result<Collected, QueryError>> + Send;

    /// A copy of all of it, for a peer.
    fn copy(&self) -> impl Future<Output = Result<StoreCopy, CopyError>> + Send;

    /// A file for the copy of a peer's.
    fn receive(&self) -> std::io::Result<Incoming>;

    /// Gives up the store's site but for its versions that are below what peers refuse, and no later than `latest`. None
    /// where nothing that they refuse is of a site that the store has, or had.
    fn renounce(
        &self,
        refused: Vector,
        latest: Hlc,
    ) -> impl Future<Output = Result<Option<Renounced>, ApplyError>> + Send;

    /// Takes over what was received, if no stamp in it is later than `latest`, in one transaction; returns the synced
    /// heads.
    fn install(&self, incoming: Incoming, latest: Hlc) -> impl Future<Output = Result<Vector, InstallError>> + Send;
}

impl Storage for Store {
    type Commits = broadcast::Receiver<Arc<Commit>>;

    fn past(&self) -> Past {
        Self::past(self)
    }

    fn meet(&self, node: &NodeId, past: Past) -> impl Future<Output = Result<Met, QueryError>> + Send {
        Self::meet(self, node, past)
    }

    fn begin_again(&self, boot: u64) -> impl Future<Output = Result<Option<Renounced>, ApplyError>> + Send {
        Self::begin_again(self, boot)
    }

    fn heads(&self) -> Vector {
        Vector::clone(&self.state().heads)
    }

    fn held(&self) -> Hlc {
        self.state().hlc
    }

    fn correct_clock(&self, highest: Option<Highest>) {
        Self::correct_clock(self, highest);
    }

    fn compare_from(&self, day: Day) {
        Self::compare_from(self, day);
    }

    fn fingerprint(&self) -> Fingerprint {
        Self::fingerprint(self)
    }

    async fn look(&self, pace: Pace) -> Result<(), QueryError> {
        self.verify(pace).await.map(drop)
    }

    fn looks(&self) -> watch::Receiver<Option<Arc<Looked>>> {
        Self::looks(self)
    }

    fn survey(&self) -> impl Future<Output = Result<Survey, QueryError>> + Send {
        Self::survey(self)
    }

    fn repair(&self, cure: Cure) -> impl Future<Output = Result<Repaired, ApplyError>> + Send {
        Self::repair(self, cure)
    }

    fn commits(&self) -> Self::Commits {
        Self::commits(self)
    }

    fn apply(&self, versions: Vec<Version>) -> impl Future<Output = Result<Vector, ApplyError>> + Send {
        Self::apply(self, versions)
    }

    fn purged(&self) -> Arc<Purged> {
        Arc::clone(&self.state().purged)
    }

    fn heard(&self, heard: Heard) -> impl Future<Output = Result<Known, ApplyError>> + Send {
        Self::heard(self, heard)
    }

    fn due(&self, covered: Vector, before: Hlc) -> impl Future<Output = Result<Due, QueryError>> + Send {
        Self::due(self, covered, before)
    }

    fn purge(&self, due: Due) -> impl Future<Output = Result<u64, ApplyError>> + Send {
        Self::purge(self, due)
    }

    fn join(
        &self,
        rows: Vec<PulledRow>,
        answered: Answered,
    ) -> impl Future<Output = Result<Vector, ApplyError>> + Send {
        Self::join(self, rows, answered)
    }

    fn begin_anew(&self) {
        Self::begin_anew(self);
    }

    fn collect(
        &self,
        above: Vector,
        buckets: BTreeSet<Bucket>,
    ) -> impl Future<Output = Result<Collected, QueryError>> + Send {
        self.collect_with(above, buckets)
    }

    fn copy(&self) -> impl Future<Output = Result<StoreCopy, CopyError>> + Send {
        Self::copy(self)
    }

    fn receive(&self) -> std::io::Result<Incoming> {
        Self::receive(self)
    }

    fn renounce(
        &self,
        refused: Vector,
        latest: Hlc,
    ) -> impl Future<Output = Result<Option<Renounced>, ApplyError>> + Send {
        self.renounce_later(refused, latest)
    }

    fn install(&self, incoming: Incoming, latest: Hlc) -> impl Future<Output = Result<Vector, InstallError>> + Send {
        Self::install(self, incoming, latest)
    }
}

impl Commits for broadcast::Receiver<Arc<Commit>> {
    async fn next(&mut self) -> Next {
        match self.recv().await {
            Ok(commit) => Next::Commit { versions: commit.versions.clone(), heads: Arc::clone(&commit.heads) },
            Err(RecvError::Lagged(_)) => Next::Lagged,
            Err(RecvError::Closed) => Next::Closed,
        }
    }
}
