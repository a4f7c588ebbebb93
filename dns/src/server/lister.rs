//! Lists of everything, made beside the workers: at a million names one takes some 10 ms, in which a worker would answer two thousand
//! questions.

use std::panic::resume_unwind;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::slow::{Question, Replied};
use crate::answer::{self, Outcome, message};
use crate::forward::{Forwarder, Front, Recursion};
use crate::status::Published;
use crate::tap::Basis;

/// Answers questions whose list is not made yet.
#[derive(Debug, Clone)]
pub(crate) struct Lister {
    published: Arc<ArcSwap<Published>>,
    front: Option<Arc<Front>>,
    /// One at a time: who waits finds the list made, unless the zone is another by then.
    turn: Arc<Semaphore>,
}

impl Lister {
    /// One for this zone, beside who forwards, if anybody does.
    pub(crate) fn new(published: &Arc<ArcSwap<Published>>, forwarder: Option<&Forwarder>) -> Self {
        let front = forwarder.map(Forwarder::front);
        Self { published: Arc::clone(published), front, turn: Arc::new(Semaphore::new(1)) }
    }

    /// Answers one.
    pub(crate) async fn answer(self, question: Question) -> Option<Replied> {
        let _turn = self.turn.acquire().await.ok()?;
        let (published, front) = (self.published.load_full(), self.front.clone());
        let answered = spawn_blocking(move || {
            let (asked, zone, mut reply) = (question.asked(), &published.zone, Vec::new());
            let outcome = answer::answer(zone, &asked, &mut reply);
            if front.is_some_and(|front| front.recursion(zone, asked.source) == Recursion::Available) {
                message::set_recursion_available(&mut reply);
            }
            (outcome, reply)
        });
        match answered.await {
            Ok((Outcome::Answer(tally) | Outcome::Foreign(tally) | Outcome::Onward(tally), reply)) => {
                Some(Replied { reply, tally, from: Basis::Rows })
            }
            Ok((Outcome::Drop, _)) => None,
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            // The runtime ends.
            Err(_) => None,
        }
    }
}
