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
//!    ├── what it was due for is taken back, or mended by another's       │ for ten minutes: the roll stops there;
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
/// How many looks a lease that was had for regions alone is kept to see whether nats-server hears of them: the server before has only just got
/// well, and what it tells of them arrives within a second or two.
const HEARS: u32 = 10;
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
    /// Whether there are regions that it has not heard of, and would know after a start.
    fn lacks_regions(&self) -> impl Future<Output = bool> + Send;
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
    /// Regions are in DNS that no gateway leads to, and that a start would know. Void where another server's restart has mended it first.
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
    Wanting { wish: watch::Sender<Wish>, granted: oneshot::Receiver<Verdict> },
}

/// What a restart is for: one of both, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wish {
    /// A configuration, which may be taken back: in words.
    change: Option<String>,
    /// An order, which is not; one for regions may be void when the turn comes.
    order: Option<Reason>,
}

/// What came of waiting for the turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is this server's.
    Granted,
    /// It was wished for regions alone, of which nats-server has heard meanwhile.
    Void,
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
                        if let Some(change) = self.want(Wish::of_change(what)) {
                            return change;
                        }
                    }
                    Change::TakenBack => self.forget(),
                    other @ (Change::Start | Change::Reload { .. }) => return other,
                },
                verdict = verdict(&mut self.phase) => {
                    if let Some(change) = self.decide(verdict) {
                        return change;
                    }
                }
                Some(order) = self.orders.recv() => match order {
                    Order::Restart(reason) => {
                        if let Some(change) = self.want(Wish::of_order(reason)) {
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
        if let Phase::Wanting { wish: before, .. } = &self.phase {
            before.send_modify(|before| before.add(wish));
            return None;
        }
        let Some((lease, own)) = self.keeper.turn() else { return Some(wish.into_change()) };
        let (grant, granted) = oneshot::channel();
        let (successor, next) = mpsc::channel(1);
        let (wish, wished) = watch::channel(wish);
        let waiting = Waiting { grant: Some(grant), wished, says: self.says.clone() };
        let before = self.last.replace(successor);
        self.tasks.spawn(turn(lease, own, waiting, before, next).in_current_span());
        self.phase = Phase::Wanting { wish, granted };
        None
    }

    /// Waits no longer, if it was for a configuration alone.
    fn forget(&mut self) {
        let Phase::Wanting { wish, .. } = &self.phase else { return };
        let mut what = None;
        wish.send_modify(|wish| what = wish.change.take());
        let is_ordered = wish.borrow().order.is_some();
        if !is_ordered {
            tracing::info!(what, "the change that a restart was due for is taken back");
            self.phase = Phase::Idle;
        }
    }

    /// Waits no longer; a restart if it is still due. A task that failed has said nothing.
    fn decide(&mut self, verdict: Option<(Verdict, Wish)>) -> Option<Change> {
        self.phase = Phase::Idle;
        match verdict? {
            (Verdict::Granted, wish) => Some(wish.into_change()),
            (Verdict::Void, wish) if wish.is_for_regions() => {
                tracing::info!("nats-server has heard of all regions meanwhile: it is not restarted");
                None
            }
            // Something else became due in the same moment.
            (Verdict::Void, wish) => self.want(wish),
        }
    }
}

impl Wish {
    fn of_change(what: String) -> Self {
        Self { change: Some(what), order: None }
    }

    fn of_order(reason: Reason) -> Self {
        Self { change: None, order: Some(reason) }
    }

    /// Has it be for `other` as well. Of two orders the first stays, unless it may be void.
    fn add(&mut self, other: Wish) {
        self.change = other.change.or(self.change.take());
        if let None | Some(Reason::Regions) = self.order {
            self.order = other.order.or(self.order);
        }
    }

    /// Whether it is void once nats-server has heard of all regions.
    fn is_for_regions(&self) -> bool {
        self.change.is_none() && self.order == Some(Reason::Regions)
    }

    fn into_change(self) -> Change {
        let what = match (self.order, self.change) {
            (Some(Reason::Operator), _) => "an operator's order".to_owned(),
            (Some(Reason::Store), _) => "nats-server cannot write its streams until it is started again".to_owned(),
            (Some(Reason::Regions) | None, Some(what)) => what,
            (Some(Reason::Regions) | None, None) => "regions are in DNS that it has not heard of".to_owned(),
        };
        Change::Restart { what }
    }
}

/// Waits for the verdict, and what was wished for by then. None: the task ended without one.
async fn verdict(phase: &mut Phase) -> Option<(Verdict, Wish)> {
    match phase {
        Phase::Idle => std::future::pending().await,
        Phase::Wanting { wish, granted } => granted.await.ok().map(|verdict| (verdict, wish.borrow().clone())),
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
