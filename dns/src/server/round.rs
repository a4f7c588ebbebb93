//! One round of a worker: what is decided about each datagram before it is read.

use std::time::{Duration, Instant};

use super::limit::{Limit, Limiter, is_private};
use super::{Desk, Reply};
use crate::access::Access;
use crate::answer::{self, Asked, Proof};
use crate::status::Published;
use crate::tap::{Basis, Given, Watched};

/// What holds for one batch.
pub(super) struct Round<'b> {
    pub(super) desk: &'b Desk,
    pub(super) published: &'b Published,
    pub(super) access: &'b Access,
    pub(super) limiter: &'b mut Option<Limiter>,
    /// Since the worker began.
    pub(super) elapsed: Duration,
    pub(super) sight: Option<Sight>,
}

/// Those who look at this batch, and which of its datagrams stands for all in a sample.
pub(super) struct Sight {
    watched: Watched,
    together: u32,
    chosen: u32,
    place: u32,
}

impl Sight {
    /// Of a batch of so many, by any number; `None` while nobody looks.
    pub(super) fn of(desk: &Desk, together: usize, any: u32) -> Option<Self> {
        let watched = desk.tap.watched()?;
        let together = u32::try_from(together).unwrap_or(u32::MAX).max(1);
        Some(Self { watched, together, chosen: any % together, place: 0 })
    }
}

impl Round<'_> {
    /// Answers one datagram, if it is to be answered.
    pub(super) fn answer(&mut self, asked: &Asked<'_>, out: &mut Vec<u8>) -> Reply {
        if !self.desk.hears(self.access, &self.published.zone, asked.source) {
            self.desk.counters().add(|counters| &counters.denied, 1);
            return Reply::Nothing;
        }
        match self.limit(asked) {
            Limit::Pass => self.desk.answer(self.published, asked, out),
            Limit::Drop => {
                self.desk.counters().add(|counters| &counters.limited, 1);
                Reply::Nothing
            }
            Limit::Cut => {
                let Some(tally) = answer::cut(&self.published.zone, asked, out) else { return Reply::Nothing };
                self.desk.counters().add(|counters| &counters.limited_cut, 1);
                self.desk.counters().count(&tally);
                Reply::Send
            }
        }
    }

    /// Shows what became of a datagram that came to be answered at `begun`.
    pub(super) fn show(
        &mut self,
        asked: &Asked<'_>,
        (reply, out): (Reply, &[u8]),
        from: Option<Basis>,
        begun: Instant,
    ) {
        let Some(sight) = &mut self.sight else { return };
        let weight = if sight.place == sight.chosen { sight.together } else { 0 };
        sight.place += 1;
        if reply == Reply::Send {
            let Asked { query, source, transport, .. } = *asked;
            let took = begun.elapsed();
            let given = Given { query, reply: out, source, transport, from, took, weight };
            sight.watched.show(&self.published.zone, given);
        }
    }

    fn limit(&mut self, asked: &Asked<'_>) -> Limit {
        match self.limiter {
            Some(limiter) if !is_private(asked.source) && answer::proof(asked) == Proof::Nothing => {
                limiter.take(asked.source, u64::try_from(self.elapsed.as_nanos()).unwrap_or(u64::MAX))
            }
            _ => Limit::Pass,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::atomic::Ordering::Relaxed;

    use hickory_proto::op::Message;
    use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};

    use super::*;
    use crate::answer::Transport;
    use crate::testing::{self, query};

    /// Asks at one moment with no more than one answer a second, from each of these sources, with this cookie.
    fn replies(desk: &Desk, sources: &[&str], cookie: Option<&[u8]>) -> Vec<Option<Message>> {
        let mut message = query("casa-api.internal", "A");
        if let Some(cookie) = cookie {
            let edns = message.edns.get_or_insert_default();
            edns.options_mut().insert(EdnsOption::Unknown(10, cookie.into()));
        }
        let wire = message.to_vec().unwrap();
        let (published, access) = (desk.published(), desk.access.load());
        let mut limiter = desk.rate.map(Limiter::new);
        let elapsed = Duration::from_secs(1);
        let mut round =
            Round { desk, published: &published, access: &access, limiter: &mut limiter, elapsed, sight: None };
        let ask = |source: &&str| {
            let source: IpAddr = source.parse().unwrap();
            let (transport, cookies) = (Transport::Udp, testing::COOKIES);
            let mut out = Vec::new();
            let reply = round.answer(&Asked { query: &wire, transport, source, turn: 0, cookies }, &mut out);
            (reply == Reply::Send).then(|| testing::decode(&out))
        };
        sources.iter().map(ask).collect()
    }

    fn said(reply: &Option<Message>) -> &'static str {
        match reply {
            None => "nothing",
            Some(reply) if reply.metadata.truncation => "cut",
            Some(reply) => {
                if reply.answers.len() == 1 {
                    "answer"
                } else {
                    "no answer"
                }
            }
        }
    }

    #[test]
    fn over_the_rate_answers_are_cut_or_dropped_but_not_to_private_networks() {
        let desk = testing::desk(["0.0.0.0/0"], 1);
        let public: Vec<_> = replies(&desk, &["192.0.2.1"; 5], None).iter().map(said).collect();
        assert_eq!(public, ["answer", "cut", "nothing", "cut", "nothing"]);
        let private: Vec<_> = replies(&desk, &["10.210.3.4"; 3], None).iter().map(said).collect();
        assert_eq!(private, ["answer"; 3]);
        let counters = &desk.all[desk.mine];
        assert_eq!((counters.limited.load(Relaxed), counters.limited_cut.load(Relaxed)), (2, 2));
    }

    #[test]
    fn who_brings_back_the_cookie_it_was_given_is_not_limited() {
        let desk = testing::desk(["0.0.0.0/0"], 1);
        let first = replies(&desk, &["192.0.2.1"; 2], Some(b"12345678"));
        assert_eq!(first.iter().map(said).collect::<Vec<_>>(), ["answer", "cut"]);
        for reply in first.into_iter().flatten() {
            let Some(EdnsOption::Unknown(10, cookie)) = reply.edns.unwrap().option(EdnsCode::Cookie).cloned() else {
                panic!("no cookie")
            };
            assert_eq!(cookie[..8], *b"12345678");
            let again = replies(&desk, &["192.0.2.1"; 3], Some(&cookie));
            assert_eq!(again.iter().map(said).collect::<Vec<_>>(), ["answer"; 3]);
            let stolen = replies(&desk, &["192.0.2.2"; 3], Some(&cookie));
            assert_eq!(stolen.iter().map(said).collect::<Vec<_>>(), ["answer", "cut", "nothing"]);
        }
    }

    #[test]
    fn who_may_not_ask_is_not_heard() {
        let desk = testing::desk(["10.0.0.0/8"], 1);
        let replies = replies(&desk, &["10.1.2.3", "192.0.2.1", "fd00::1"], None);
        assert_eq!(replies.iter().map(said).collect::<Vec<_>>(), ["answer", "nothing", "nothing"]);
        assert_eq!(desk.all[desk.mine].denied.load(Relaxed), 2);
    }
}
