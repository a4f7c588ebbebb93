//! One node: its parts, built in order, each kept running, stopped in reverse order.
//!
//! Parts do not know each other. DNS is joined to the store by the HTTP API over the Unix socket, in one process as in
//! two, so a store that restarts leaves DNS answering.

use std::time::Duration;

use futures_util::future::select_all;
use kith_gossip_client::Client;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::exit::{Exit, Failure};
use crate::parts::{Built, Part, PartState, keep, report};

/// How long all parts may take to stop. Two seconds are promised for the process, which has more to close than its parts.
const STOP: Duration = Duration::from_millis(1_600);
/// What of it is kept for each part whose turn is still to come.
const KEPT_BACK: Duration = Duration::from_millis(250);

/// A node whose parts are built.
pub(crate) struct Agent {
    parts: Vec<(Box<dyn Part>, Built)>,
    /// Where the parts' states are reported, if anywhere.
    client: Option<Client>,
}

/// A part that is being kept running.
struct Kept {
    name: &'static str,
    stop: CancellationToken,
    /// How long it may take to stop, if it says so itself.
    within: Option<Duration>,
    /// Holds one task.
    task: JoinSet<Result<(), Failure>>,
    state: watch::Receiver<PartState>,
}

impl Agent {
    /// Builds the parts in this order. The first that cannot be built ends it: at the start, a wrong address or file is
    /// for a person to put right, not for a loop.
    pub(crate) async fn build(parts: Vec<Box<dyn Part>>, client: Option<Client>) -> Result<Agent, Failure> {
        let mut built = Vec::new();
        for mut part in parts {
            let first = part.build().await?;
            for (what, addr) in &first.listens {
                tracing::info!(part = part.name(), what, addr, "listening");
            }
            built.push((part, first));
        }
        Ok(Agent { parts: built, client })
    }

    /// Where everything listens: what, and its address.
    pub(crate) fn listens(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.parts.iter().flat_map(|(_, built)| &built.listens).map(|(what, addr)| (*what, addr.as_str()))
    }

    /// Runs until the token is cancelled, or until a part is given up while none other runs. Then everything is stopped.
    pub(crate) async fn run(self, token: CancellationToken) -> Result<(), Failure> {
        let mut kept = Kept::start(self.parts);
        let mut reporter = JoinSet::new();
        if let Some(client) = self.client {
            let states: Vec<_> = kept.iter().map(|kept| (kept.name, kept.state.clone())).collect();
            let parts = move || states.iter().map(|(name, state)| (*name, json!(*state.borrow()))).collect();
            reporter.spawn(report(client, "parts", parts, token.child_token()).in_current_span());
        }
        let mut result = Ok(());
        // Dropping the wait for the parts' ends loses none of them: they stay in their sets.
        tokio::select! {
            () = token.cancelled() => {}
            ((name, ended), _, _) = select_all(kept.iter_mut().map(|kept| Box::pin(kept.ended()))) => {
                result = outcome(name, ended);
            }
        }
        reporter.shutdown().await;
        result.and(stop_all(kept).await)
    }
}

impl Kept {
    /// Starts the parts. Each knows how the others are.
    fn start(parts: Vec<(Box<dyn Part>, Built)>) -> Vec<Kept> {
        let (senders, states): (Vec<_>, Vec<_>) = parts.iter().map(|_| watch::channel(PartState::started())).unzip();
        let mut kept = Vec::new();
        for (at, ((part, first), sender)) in parts.into_iter().zip(senders).enumerate() {
            let (name, stop, within) = (part.name(), CancellationToken::new(), part.stops_within());
            let others = states.iter().enumerate().filter(|(other, _)| *other != at);
            let others = others.map(|(_, state)| state.clone()).collect();
            let mut task = JoinSet::new();
            task.spawn(keep(part, first, stop.clone(), sender, others).in_current_span());
            kept.push(Kept { name, stop, within, task, state: states[at].clone() });
        }
        kept
    }

    /// Waits until the part is no longer kept.
    async fn ended(&mut self) -> (&'static str, Option<Result<Result<(), Failure>, JoinError>>) {
        (self.name, self.task.join_next().await)
    }
}

/// Stops the parts, the last one first, each after the one that may need it is gone.
async fn stop_all(mut kept: Vec<Kept>) -> Result<(), Failure> {
    let mut deadline = Instant::now() + STOP;
    let mut result = Ok(());
    while let Some(mut last) = kept.pop() {
        last.stop.cancel();
        let others = u32::try_from(kept.len()).unwrap_or(u32::MAX);
        let begun = Instant::now();
        let until = last.within.map_or(deadline - KEPT_BACK * others, |within| begun + within);
        let ended = timeout_at(until, last.task.join_next()).await;
        if last.within.is_some() {
            // What it took is not taken from the others.
            deadline += begun.elapsed();
        }
        let stopped = match ended {
            Ok(ended) => outcome(last.name, ended),
            Err(_) => {
                // It may hold on to its thread: it is told to go and not waited for beyond the deadline.
                last.task.abort_all();
                let gone = timeout(KEPT_BACK, last.task.join_next()).await.is_ok();
                tracing::error!(part = last.name, gone, "part did not stop in time");
                Err(Failure::message(Exit::Software, format!("{} could not be stopped in time", last.name)))
            }
        };
        tracing::info!(part = last.name, "stopped");
        result = result.and(stopped);
    }
    result
}

/// How the task that kept a part ended. `None`: that was told before.
fn outcome(name: &str, ended: Option<Result<Result<(), Failure>, JoinError>>) -> Result<(), Failure> {
    match ended {
        None => Ok(()),
        Some(Ok(result)) => result,
        Some(Err(error)) => Err(Failure::new(Exit::Software, error).context(format!("the keeper of {name} failed"))),
    }
}

#[cfg(test)]
mod tests;
