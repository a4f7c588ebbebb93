//! One turn as it runs: from the wish to the server that is well again, or to the turn after.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::{Attempt, HEARS, LONGEST, LOOKS, Lease, LeaseError, Own, RENEWAL, Successor, TRIES, TTL, Verdict, Wish};

/// What a restart waits for where nats-server cannot be told from the next.
const SILENT: &str = "a restart waits: nats-server does not answer";

/// A lease that is ours.
#[derive(Clone, Copy, Debug)]
struct Held {
    revision: u64,
    /// When it was asked for: its time begins when the bucket hears of it, no sooner.
    asked: Instant,
}

impl Held {
    fn is_over(&self) -> bool {
        Instant::now() >= self.asked + TTL
    }
}

/// A restart that is looked after.
#[derive(Debug)]
pub(super) struct Restart {
    held: Held,
    /// The process that there was.
    before: String,
    /// How long at most.
    end: Instant,
}

impl Restart {
    fn of(before: String, held: Held) -> Self {
        Self { held, before, end: Instant::now() + LONGEST }
    }
}

/// Whoever waits for a turn; nobody after the grant, or when it is not wanted any more.
pub(super) struct Waiting {
    pub(super) grant: Option<oneshot::Sender<Verdict>>,
    /// What for.
    pub(super) wished: watch::Receiver<Wish>,
    pub(super) says: watch::Sender<Option<Arc<str>>>,
}

impl Waiting {
    /// Waits until nobody waits any more.
    async fn given_up(&mut self) {
        match &mut self.grant {
            Some(grant) => grant.closed().await,
            None => std::future::pending().await,
        }
    }

    fn forget(&mut self) {
        self.grant = None;
        self.says.send_replace(None);
    }

    /// Whether somebody still waited.
    fn grant(&mut self) -> bool {
        self.says.send_replace(None);
        let granted = self.grant.take().is_some_and(|grant| grant.send(Verdict::Granted).is_ok());
        if granted {
            tracing::info!("it is this server's turn to restart");
        }
        granted
    }

    /// There is nothing left to wait for.
    fn void(&mut self) {
        self.says.send_replace(None);
        if self.grant.take().is_some_and(|grant| grant.send(Verdict::Void).is_err()) {
            tracing::debug!("a turn that nobody waits for any more is given back");
        }
    }
}

/// What of a restart that was looked after.
enum Kept {
    /// The server is well.
    Well,
    /// It answers, as this process, and is to be restarted once more.
    Again(String),
    /// The lease is lost, or left to go away by itself.
    Over,
    /// Another turn looks after it.
    Handed(oneshot::Sender<Restart>),
}

/// One turn, from the wish to the end. What the turn before still holds goes over to this one, also where the wish is given up: a server
/// that is away has its lease renewed by somebody until it is back.
pub(super) async fn turn(
    mut lease: impl Lease,
    own: impl Own,
    mut waiting: Waiting,
    before: Option<Successor>,
    mut next: mpsc::Receiver<oneshot::Sender<Restart>>,
) {
    let mut holds = handed(before).await;
    loop {
        let mut restart = match holds.take() {
            Some(restart) => restart,
            None => match granted_anew(&mut lease, &own, &mut waiting).await {
                Some(restart) => restart,
                None => return,
            },
        };
        match kept(&mut lease, &own, &mut restart, &mut waiting, &mut next).await {
            Kept::Well => return give_back(&mut lease, restart.held).await,
            Kept::Over => {}
            Kept::Handed(to) => {
                // Whoever asked for it waits for it, unless all end.
                drop(to.send(restart));
                return;
            }
            Kept::Again(_) if is_void(&own, &waiting.wished).await => {
                waiting.void();
                holds = Some(restart);
            }
            Kept::Again(process) => {
                own.step_down().await;
                // Where that took longer than a lease holds, it is taken anew.
                if !restart.held.is_over() {
                    if waiting.grant() {
                        restart = Restart::of(process, restart.held);
                    }
                    holds = Some(restart);
                }
            }
        }
    }
}

/// What the turn before holds, once it is asked for it or has ended.
async fn handed(before: Option<Successor>) -> Option<Restart> {
    let (to, from) = oneshot::channel();
    before?.try_send(to).ok()?;
    from.await.ok()
}

/// Takes the lease, and gives the turn to whoever waits. None if nobody does any more.
async fn granted_anew(lease: &mut impl Lease, own: &impl Own, waiting: &mut Waiting) -> Option<Restart> {
    waiting.grant.as_ref()?;
    let (says, wished) = (waiting.says.clone(), waiting.wished.clone());
    let mut had = None;
    let taken = tokio::select! {
        biased;
        // A lease that was asked for and not answered yet goes away by itself.
        () = waiting.given_up() => None,
        taken = ready(lease, own, &wished, &says, &mut had) => Some(taken),
    };
    let Some((held, before, verdict)) = taken else {
        waiting.forget();
        // The process has ended by itself before it was told to, as one does that crashes.
        if let Some(held) = had.filter(|held| !held.is_over()) {
            give_back(lease, held).await;
        }
        return None;
    };
    if verdict == Verdict::Granted && waiting.grant() {
        return Some(Restart::of(before, held));
    }
    give_back(lease, held).await;
    waiting.void();
    None
}

/// Has the turn, and the server ready for its end, if it is to end. What it has is in `had` for who drops the wait.
async fn ready(
    lease: &mut impl Lease,
    own: &impl Own,
    wished: &watch::Receiver<Wish>,
    says: &watch::Sender<Option<Arc<str>>>,
    had: &mut Option<Held>,
) -> (Held, String, Verdict) {
    loop {
        let (held, before) = taken(lease, own, says).await;
        *had = Some(held);
        if is_void(own, wished).await {
            return (held, before, Verdict::Void);
        }
        own.step_down().await;
        // Where that took longer than a lease holds, the turn may be another's by now.
        if !held.is_over() {
            return (held, before, Verdict::Granted);
        }
    }
}

/// Whether nothing is left to restart for: all servers of a region miss the same regions, and the restart of one has the others hear of them.
async fn is_void(own: &impl Own, wished: &watch::Receiver<Wish>) -> bool {
    for _ in 0..HEARS {
        let is_for_regions = wished.borrow().is_for_regions();
        if !is_for_regions {
            return false;
        }
        if !own.lacks_regions().await {
            return true;
        }
        tokio::time::sleep(LOOKS).await;
    }
    false
}

/// Takes it when it can be had, and says what it waits for. The process is known before: only then is another told from
/// it, and the lease not given back while the old one still ends.
async fn taken(lease: &mut impl Lease, own: &impl Own, says: &watch::Sender<Option<Arc<str>>>) -> (Held, String) {
    loop {
        let asked = Instant::now();
        let waits: String = match own.process().await {
            None => SILENT.to_owned(),
            Some(before) => match lease.take().await {
                Ok(Attempt::Mine(revision)) => return (Held { revision, asked }, before),
                Ok(Attempt::Held(who)) => format!("a restart waits: it is the turn of {who}"),
                Err(error) => format!("a restart waits: {error}"),
            },
        };
        say(says, &waits);
        tokio::time::sleep(TRIES).await;
    }
}

/// Says what a restart waits for.
fn say(says: &watch::Sender<Option<Arc<str>>>, waits: &str) {
    says.send_if_modified(|said| {
        if said.as_deref() == Some(waits) {
            return false;
        }
        tracing::info!(reason = waits, "nats-server is to be restarted, and waits for its turn");
        *said = Some(Arc::from(waits));
        true
    });
}

/// Renews it until the server is well again, or answers and is to be restarted once more.
async fn kept(
    lease: &mut impl Lease,
    own: &impl Own,
    restart: &mut Restart,
    waiting: &mut Waiting,
    next: &mut mpsc::Receiver<oneshot::Sender<Restart>>,
) -> Kept {
    let mut renewal = restart.held.asked + RENEWAL;
    let mut looks = tokio::time::interval(LOOKS);
    loop {
        // Times and ticks that are dropped come again; a channel keeps what is not received, and that its other end is gone.
        tokio::select! {
            () = tokio::time::sleep_until(renewal) => match renewed(lease, restart.held).await {
                Ok(held) => (restart.held, renewal) = (held, held.asked + RENEWAL),
                Err(LeaseError::Lost) => {
                    tracing::warn!("the lease of a restart went to somebody else before the server was well");
                    return Kept::Over;
                }
                Err(error) => {
                    tracing::warn!(%error, "the lease of a restart is not renewed, and is tried again");
                    renewal = Instant::now() + TRIES;
                }
            },
            _ = looks.tick() => match own.process().await {
                Some(process) if process != restart.before => {
                    if waiting.grant.is_some() {
                        return Kept::Again(process);
                    }
                    if own.well().await {
                        tracing::info!("nats-server is well again after its restart");
                        return Kept::Well;
                    }
                }
                None if waiting.grant.is_some() => say(&waiting.says, SILENT),
                Some(_) | None => {}
            },
            () = waiting.given_up() => waiting.forget(),
            Some(to) = next.recv() => return Kept::Handed(to),
        }
        if restart.held.is_over() {
            tracing::warn!("the lease of a restart is over before the server was well: it could not be renewed");
            return Kept::Over;
        }
        if Instant::now() >= restart.end {
            tracing::error!(
                "nats-server is not well ten minutes after its restart; the lease is left to end by itself"
            );
            return Kept::Over;
        }
    }
}

/// Has it go on. A renewal that was heard, and whose answer was lost, has given it another revision than the one we know: it is
/// still ours if the bucket says so.
async fn renewed(lease: &mut impl Lease, held: Held) -> Result<Held, LeaseError> {
    let asked = Instant::now();
    let revision = match lease.renew(held.revision).await {
        Err(LeaseError::Lost) => match lease.take().await? {
            Attempt::Mine(revision) => revision,
            Attempt::Held(_) => return Err(LeaseError::Lost),
        },
        answered => answered?,
    };
    Ok(Held { revision, asked })
}

async fn give_back(lease: &mut impl Lease, held: Held) {
    if let Err(error) = lease.release(held.revision).await {
        tracing::warn!(%error, "the lease of a restart is not given back, and ends by itself");
    }
}
