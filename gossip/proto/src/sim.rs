//! Whole clusters in one thread, from one number.
//!
//! Nodes are a [`Replica`](crate::Replica) and a [`Store`](crate::model::Store) each; between them are streams, gossip and
//! time, all simulated. A run has two phases. In the first, faults strike that the seed has drawn: frames lost with their
//! stream or dropped by a full queue, duplicated and delayed, streams reset and ends that notice late, one-way cuts and
//! partitions, stores that are slow or full, crashes and restarts (where durability is normal with the loss of what was
//! acknowledged and not yet synced), clocks that differ by up to a minute, and where that is asked for rows that change behind
//! their store's back, tombstones that are purged within seconds, disks that are set back, and one clock that is a day ahead for a
//! while or for ever.
//! In the second everything heals, and within a bound all nodes must have the same heads, rows, log and digest, hold every
//! acknowledged transaction, and be what the fold of the history says.
//! At every instant: no torn transaction, no half row, equal heads have equal digests, nobody holds a stamp of the clock that
//! is ahead but its own node, and no deadline lies in the past.
//!
//! Time is a number that jumps to the next event. Every frame is encoded and decoded on its way. Equal seeds give equal
//! runs on one release of this code: nothing here reads a clock, an address or a hash map.

use std::fmt;
use std::time::Duration;

use crate::replica::Sizes;

mod check;
mod clock;
mod damage;
mod faults;
mod gossip;
mod link;
mod pull;
mod purge;
mod setback;
mod store;
pub mod wide;
mod workload;
mod world;

use world::World;

/// What to simulate.
#[derive(Clone, Debug)]
pub struct Config {
    /// How many nodes.
    pub nodes: usize,
    /// How many of them make a tree: few, for a small cluster to have one.
    pub sizes: Sizes,
    /// How long faults strike and transactions are committed, in simulated time.
    pub chaos: Duration,
    /// How long after that all must be equal, in simulated time.
    pub settle: Duration,
    /// How long to look on after that: nothing may happen but what happens in a cluster at rest.
    pub rest: Duration,
    /// How long tombstones are kept, if they are purged at all: short, so that nodes are away for longer within a run.
    pub window: Option<Duration>,
    /// Whether rows change behind the stores' backs.
    pub damage: Damage,
    /// Whether a wall clock is wrong by far.
    pub wall: Wall,
    /// Whether disks are set back to what was on them before.
    pub disks: Disks,
    /// A rule to break, to see that the simulation notices.
    pub sabotage: Option<Sabotage>,
    /// Whether to write down what happens.
    pub trace: Trace,
}

/// Whether rows change behind the stores' backs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// No disk does that.
    None,
    /// Some do, while faults strike.
    Some,
}

/// Whether a wall clock is wrong by far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wall {
    /// They all agree, more or less.
    InStep,
    /// One node's goes a day ahead, now and then or from the start, and is set before the end or never.
    OneAhead,
}

/// Whether disks are set back to what was on them before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disks {
    /// They hold what was written.
    Stay,
    /// Some are, as with a snapshot of a machine, while faults strike.
    SetBack,
}

/// Whether events are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// No: most runs succeed.
    Off,
    /// Yes: for [`Failure::trace`].
    On,
}

/// A rule that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Versions are applied as they come, whatever they need.
    ApplyAtOnce,
    /// An answer holds what one site wrote, not all that is above the vector.
    PullBySite,
    /// An answer is joined in two transactions.
    JoinInParts,
    /// What is not synced yet is told to peers, and sent to who pulls.
    PublishBeforeSync,
    /// Heads are told before they are stored.
    TellBeforeStored,
    /// Rows are joined with those of a node that was away for too long, and its versions are taken.
    JoinWhoWasAway,
    /// Tombstones are purged as soon as all have applied them, whatever else is under way, and what changes them is taken.
    PurgeAtOnce,
    /// What may change rows whose deletion was purged is taken.
    TakeForgotten,
    /// A node that takes rows does not learn which causal lengths were purged.
    ForgetLengths,
    /// A store that holds damaged rows answers pulls with them.
    SendDamaged,
    /// A damaged store joins what a sound one holds.
    RepairByJoin,
    /// A damaged store takes what a sound one holds, and nothing else.
    RepairWholesale,
    /// An answer is joined whatever its stamps.
    JoinFuture,
    /// A node that is told of stamps from the future does not give up its site.
    KeepFuture,
    /// A node that is told that another store has written its site does not give it up.
    KeepSite,
    /// A node takes what peers hold of its own site and it has not written.
    TakeBack,
}

/// A run in which everything held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How long after the healing all were equal, in simulated time.
    pub settled_after: Duration,
    /// Events that were simulated.
    pub events: u64,
    /// Transactions that were acknowledged.
    pub commits: u64,
    /// Of these, how many a power cut took before they were synced.
    pub lost: u64,
    /// Pulls that were asked for.
    pub pulls: u64,
    /// Of these, how many while the cluster was at rest.
    pub pulls_at_rest: u64,
    /// Snapshots that arrived whole.
    pub snapshots: u64,
    /// Nodes that went down.
    pub crashes: u64,
    /// Streams that broke.
    pub breaks: u64,
    /// Versions that a store failed to apply when they were handed to it.
    pub failed_applies: u64,
    /// Rows that changed behind a store's back.
    pub hurt: u64,
    /// Repairs of damaged stores.
    pub repairs: u64,
    /// Tombstones that were purged.
    pub purged: u64,
    /// Nodes that began anew after they were away for too long.
    pub anew: u64,
    /// Versions that they alone had.
    pub replayed: u64,
    /// Sites that were given up because their stamps were from the future.
    pub renounced: u64,
    /// Rows that were stamped anew then.
    pub restamped: u64,
    /// Disks that were set back.
    pub set_back: u64,
    /// Sites that were given up because another store had written them.
    pub forked: u64,
}

/// A run in which something did not.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The run's seed.
    pub seed: u64,
    /// When, in simulated time.
    pub at: Duration,
    /// What did not hold.
    pub what: String,
    /// What happened before it, one event a line, where [`Trace::On`] was asked for.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "seed {} fails at {:?}: {}", self.seed, self.at, self.what)?;
        write!(f, "with its trace: KITH_SIM_SEED={} cargo nextest run -p kith-gossip-proto replay", self.seed)
    }
}

impl std::error::Error for Failure {}

/// Runs a cluster from a seed.
pub fn run(seed: u64, config: &Config) -> Result<Report, Failure> {
    World::new(seed, config).run()
}
