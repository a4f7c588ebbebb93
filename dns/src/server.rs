//! Sockets: datagrams and streams, bound early, served until told to stop. All that is decided about a query is decided
//! by the answerer; what is here moves bytes and keeps limits.

mod batch;
mod bind;
mod tcp;
mod worker;

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use crate::answer::{Asked, Outcome, Transport, answer};
use crate::status::{Counters, Published};

pub(crate) use bind::{Bound, bind};
pub(crate) use tcp::serve as serve_tcp;
pub(crate) use worker::Worker;

/// What a listener answers with.
#[derive(Debug, Clone)]
pub(crate) struct Desk {
    published: Arc<ArcSwap<Published>>,
    all: Arc<[Counters]>,
    mine: usize,
}

/// Whether there is something to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    Send,
    Nothing,
}

impl Desk {
    /// The desk of the listener whose counters are the ones at `mine`.
    pub(crate) fn new(published: Arc<ArcSwap<Published>>, all: Arc<[Counters]>, mine: usize) -> Self {
        Self { published, all, mine }
    }

    /// The zone to answer from, for one query or one batch of them.
    fn published(&self) -> Guard<Arc<Published>> {
        self.published.load()
    }

    /// Answers one query into `out`.
    fn answer(
        &self,
        published: &Published,
        query: &[u8],
        transport: Transport,
        source: SocketAddr,
        turn: u32,
        out: &mut Vec<u8>,
    ) -> Reply {
        let asked = Asked { query, transport, source: source.ip(), turn };
        match answer(&published.zone, &asked, out) {
            // Names that are not ours are refused while nothing forwards them.
            Outcome::Answer(tally) | Outcome::Foreign(tally) => {
                self.counters().count(&tally);
                Reply::Send
            }
            Outcome::Drop => {
                self.counters().add(|counters| &counters.dropped, 1);
                Reply::Nothing
            }
        }
    }

    fn counters(&self) -> &Counters {
        &self.all[self.mine]
    }
}
