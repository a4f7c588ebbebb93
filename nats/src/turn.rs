//! Whose turn it is to restart: never two servers at once, so that a stream of three replicas always has two of them.
//!
//! A claim that is only told around is not a lock, so the turn is a lease: a key of a replicated bucket, taken by
//! compare-and-swap, that goes away by itself if its holder does.
//!
//! ```text
//!               Restart is due                 lease taken           the runner restarts it
//!  Idle ───────────────────────────► Wanting ───────────────► Mine ─────────────────────────► well ──► Idle
//!    ▲                                  │ held by another, no leader,    │ renewed every 30 s through another server;
//!    │                                  │ no bucket: waits, and says so  │ a server that does not get well keeps it
//!    ├── what it was due for is taken back                               │ for ten minutes: the roll stops there;
//!    │                                                                   │ one that is due again has it for that too
//!    └──── the process was started again in the meantime, by whomever ◄──┘
//! ```
//! Whether it is ours is known until its time is over, counted from before the last renewal that was answered; of one that was not
//! answered nobody knows whether it was heard, so that afterwards the bucket is asked whose it is.
//!
//! It stands between the runner and whoever follows DNS, and lets all but restarts pass.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::Instrument as _;

use crate::follow::{Change, Follow, FollowError, Prepared, Reloaded};

mod course;
mod nats;
mod own;
#[cfg(test)]
mod tests;

pub(crate) use nats::Shown;
pub use nats::{Access, NatsLease, User};
pub use own::OwnServer;

use course::{Restart, Waiting, turn};

/// How long a lease holds without being renewed. A restart takes about a minute; a holder that is gone blocks nobody for
/// longer than two.
pub const TTL: Duration = Duration::from_secs(120);
/// How often it is renewed; one that fails is tried again every [`TRIES`].
const RENEWAL: Duration = Duration::from_secs(30);
/// How often it is tried to be had. Servers of a roll come one after the other, so nobody is in a hurry.
const TRIES: Duration = Duration::from_secs(2);
/// How often it is looked whether the server is well again.
const LOOKS: Duration = Duration::from_secs(1);
/// How long a server that does not get well keeps the others from restarting, so that somebody can look at it.
const LONGEST: Duration = Duration::from_secs(600);
/// Orders that wait.
const ORDERS: usize = 4;

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It is ours, at this revision.
    Mine(u64),
    /// Somebody else has it.
    Held(String),
}

/// Why there is no lease.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// No server answers.
    #[error("no nats-server answers: {0}")]
    Unreachable(String),
    /// There is no leader of JetStream, or no bucket and none can be made.
    #[error("JetStream has no lease to give: {0}")]
    Unavailable(String),
    /// It was ours, and is not any more.
    #[error("the lease is lost")]
    Lost,
}

/// Who gives leases. Tests have one of their own.
pub trait Lease: Send + 'static {
    /// Takes it if it is free, or ours already.
    fn take(&mut self) -> impl Future<Output = Result<Attempt, LeaseError>> + Send;
    /// Has it go on; its next revision.
    fn renew(&mut self, revision: u64) -> impl Future<Output = Result<u64, LeaseError>> + Send;
    /// Gives it back.
    fn release(&mut self, revision: u64) -> impl Future<Output = Result<(), LeaseError>> + Send;
}

/// The server whose turn it is.
pub trait Own: Send + Sync + 'static {
    /// Stands for the process that runs: another one, another text. None while none answers.
    fn process(&self) -> impl Future<Output = Option<String>> + Send;
    /// Whether it is well: it has caught up with all others.
    fn well(&self) -> impl Future<Output = bool> + Send;
    /// Has it give up the leadership of JetStream, if it has it. It gives up that of streams by itself when it ends.
    fn step_down(&self) -> impl Future<Output = ()> + Send;
}

/// A restart that is due whatever the configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// When it is this server's turn.
    Restart(Reason),
    /// At once, whatever the others do: an operator's.
    RestartWithoutLease,
}

/// Why it is ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// An operator says so.
    Operator,
    /// nats-server has given up writing, and its disk has room again.
    Store,
    /// Regions are in DNS that no gateway leads to, and that a start would know.
    Regions,
}

/// Takes turns.
pub struct Turn<F, K> {
    inner: F,
    keeper: K,
    phase: Phase,
    says: watch::Sender<Option<Arc<str>>>,
    orders: mpsc::Receiver<Order>,
    tasks: JoinSet<()>,
    /// Where the last turn is asked for the lease that it may still hold.
    last: Option<Successor>,
}

/// Takes who is to have the lease after a turn. One for each turn, which has one at most.
type Successor = mpsc::Sender<oneshot::Sender<Restart>>;

/// Makes what a turn needs.
pub trait Keeper: Send + 'static {
    /// Who gives leases.
    type Lease: Lease;
    /// The server.
    type Own: Own;
    /// Those of the next turn; none if nobody else depends on this server.
    fn turn(&self) -> Option<(Self::Lease, Self::Own)>;
}

/// The phases in which the runner can be told something; what comes after is the task's alone.
enum Phase {
    Idle,
    Wanting { wish: Wish, granted: oneshot::Receiver<()> },
}

/// What a restart is for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wish {
    /// A configuration, which may be taken back: in words.
    Change(String),
    /// An order, which is not.
    Order(Reason),
}

/// The other ends of a [`Turn`].
pub struct Ends {
    /// What it waits for, in one line; none when it does not.
    pub waits: watch::Receiver<Option<Arc<str>>>,
    /// An operator's, and the runner's own.
    pub orders: mpsc::Sender<Order>,
}

impl<F: Follow, K: Keeper> Turn<F, K> {
    /// Between the runner and `inner`.
    pub fn new(inner: F, keeper: K) -> (Self, Ends) {
        let (says, waits) = watch::channel(None);
        let (orders_in, orders) = mpsc::channel(ORDERS);
        let turn = Self { inner, keeper, phase: Phase::Idle, says, orders, tasks: JoinSet::new(), last: None };
        (turn, Ends { waits, orders: orders_in })
    }

    async fn next(&mut self) -> Change {
        loop {
            // Each arm keeps what it found in `self` before the next await: a channel what is not received, the phase a
            // grant. A task that ended is reaped.
            tokio::select! {
                change = self.inner.changed() => match change {
                    Change::Restart { what } => {
                        if let Some(change) = self.want(Wish::Change(what)) {
                            return change;
                        }
                    }
                    Change::TakenBack => self.forget(),
                    other @ (Change::Start | Change::Reload { .. }) => return other,
                },
                wish = granted(&mut self.phase) => {
                    self.phase = Phase::Idle;
                    if let Some(wish) = wish {
                        return wish.into_change();
                    }
                }
                Some(order) = self.orders.recv() => match order {
                    Order::Restart(reason) => {
                        if let Some(change) = self.want(Wish::Order(reason)) {
                            return change;
                        }
                    }
                    Order::RestartWithoutLease => {
                        self.phase = Phase::Idle;
                        return Change::Restart { what: "an operator's order, without a lease".to_owned() };
                    }
                },
                Some(ended) = self.tasks.join_next() => if let Err(error) = ended {
                    tracing::error!(%error, "a turn failed");
                }
            }
        }
    }

    /// Begins to wait for the turn; a restart at once if there is nobody to wait for.
    fn want(&mut self, wish: Wish) -> Option<Change> {
        if let Phase::Wanting { wish: before, .. } = &mut self.phase {
            // A restart that was ordered is due whatever becomes of the configuration.
            if let Wish::Change(_) = before {
                *before = wish;
            }
            return None;
        }
        let Some((lease, own)) = self.keeper.turn() else { return Some(wish.into_change()) };
        let (grant, granted) = oneshot::channel();
        let (successor, next) = mpsc::channel(1);
        let waiting = Waiting { grant: Some(grant), says: self.says.clone() };
        let before = self.last.replace(successor);
        self.tasks.spawn(turn(lease, own, waiting, before, next).in_current_span());
        self.phase = Phase::Wanting { wish, granted };
        None
    }

    /// Waits no longer, if it was for a configuration.
    fn forget(&mut self) {
        if let Phase::Wanting { wish: Wish::Change(what), .. } = &self.phase {
            tracing::info!(what, "the change that a restart was due for is taken back");
            self.phase = Phase::Idle;
        }
    }
}

impl Wish {
    fn into_change(self) -> Change {
        let what = match self {
            Wish::Change(what) => what,
            Wish::Order(Reason::Operator) => "an operator's order".to_owned(),
            Wish::Order(Reason::Regions) => "regions are in DNS that it has not heard of".to_owned(),
            Wish::Order(Reason::Store) => "nats-server cannot write its streams until it is started again".to_owned(),
        };
        Change::Restart { what }
    }
}

/// Waits for the grant. None: the task ended without one.
async fn granted(phase: &mut Phase) -> Option<Wish> {
    match phase {
        Phase::Idle => std::future::pending().await,
        Phase::Wanting { wish, granted } => granted.await.ok().map(|()| wish.clone()),
    }
}

impl<F: Follow, K: Keeper> Follow for Turn<F, K> {
    fn before_start(&mut self) -> BoxFuture<'_, Result<Prepared, FollowError>> {
        // It starts with all that is wanted, for whatever reason: there is nothing left to wait for. The task of a turn
        // that was granted sees another process, and ends by itself.
        self.phase = Phase::Idle;
        self.inner.before_start()
    }

    fn changed(&mut self) -> BoxFuture<'_, Change> {
        self.next().boxed()
    }

    fn reloaded(&mut self, outcome: Reloaded) -> BoxFuture<'_, ()> {
        self.inner.reloaded(outcome)
    }
}
