//! Names that are not ours: asked for elsewhere, checked, kept, and given to whoever may ask.
//!
//! ```text
//! question ─► route ─► kept answer? ─► seat ─► flight (one for each question) ─► group of upstreams ─► exchange
//!              pure       cache: pure                                                                     │
//! reply  ◄──────────────── entry ◄─────────────────────────────────────── clean, rebind: pure ◄───────────┘
//! ```
//!
//! A worker looks into its own table first; what is not there comes here, the slow path, where all answers are kept
//! behind a lock that no worker takes.
//!
//! hickory-proto judges every answer before it is kept. hickory-resolver does not do the asking: its pool makes errors
//! of NXDOMAIN and NODATA, which lose the aliases before them; its sockets are not connected, so that an upstream that is
//! gone is noticed by silence only; 0x20 does not reach questions that carry DO or CD; and it counts nothing by
//! upstream. What is here instead is one exchange over a datagram, a stream or TLS.
//!
//! Invariants: one question is asked once at a time, however many wait for it, so that a question of ours that comes
//! back to us waits for itself and asks nobody; nothing here delays an answer from a zone of ours; after 2 s there is an
//! answer, if only SERVFAIL.

mod cache;
mod clean;
mod count;
mod engine;
mod entry;
mod exchange;
mod flight;
mod front;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod group;
mod onward;
mod rebind;
mod resolv;
mod route;
mod servers;
mod settings;
mod special;
mod table;
mod wire;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::Access;
use crate::answer::message::{self, Authority, Ede, Message};
use crate::answer::{Asked, Tally, Transport};
use crate::config::Config;
use crate::query::{self, Query, Rcode};
use crate::seats::Seats;
use crate::status::Published;
use crate::tap::Basis;
use crate::zone::{Found, Owner, Zone};
use cache::{Cache, Key};
use count::{Counts, TableCounts, count};
pub use count::{ForwardStatus, UpstreamStatus};
pub(crate) use engine::Engine;
use entry::{Age, Entry};
use exchange::Trust;
use flight::Flight;
pub(crate) use front::{Front, Recursion};
use group::Group;
use onward::Begun;
use rebind::Guard;
use route::Route;
pub(crate) use route::Routes;
use servers::{Own, Servers};
pub use settings::{By, Domain, Forwarding, Rebind, RebindError, Upstream, UpstreamError, Upstreams};
pub(crate) use special::Special;
pub(crate) use table::Table;
use table::{AHEAD_MAX, FILL_MAX, Fill};

/// Questions that wait at one time. At the bound the next is told SERVFAIL at once; each holds a task and some 2 KiB.
const SEATS: usize = 1024;
/// Of one source. A container that resolves more names than this at once is in a loop.
const PER_SOURCE: usize = 64;

/// Forwards; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Forwarder(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    server: Arc<str>,
    routes: Arc<Routes>,
    /// By place in the routes.
    domains: Vec<Option<Servers>>,
    default: Servers,
    own: Own,
    front: Arc<Front>,
    /// The zone, which knows the ranges of the cluster's servers.
    published: Arc<ArcSwap<Published>>,
    guard: Guard,
    /// What does not deny anything.
    open: Guard,
    cache: Mutex<Cache>,
    flights: Mutex<HashMap<Arc<[u8]>, Flight>>,
    seats: Seats,
    /// Room for questions that are asked ahead of time.
    ahead: Arc<Semaphore>,
    fills: Vec<mpsc::Sender<Fill>>,
    counts: Counts,
    tables: Vec<Arc<TableCounts>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Where a question goes, and what its answer may not point at.
struct Course {
    group: Arc<Group>,
    guard: Guard,
}

impl Forwarder {
    /// A forwarder for a server that listens on these addresses, with a table for each of so many workers. `None` where
    /// nothing is to be forwarded.
    pub(crate) fn new(
        config: &Config,
        (routes, published, access): (Arc<Routes>, &Arc<ArcSwap<Published>>, &Arc<ArcSwap<Access>>),
        listen: &[SocketAddr],
        workers: usize,
    ) -> Option<(Self, (Engine, Vec<Table>))> {
        let forward = &config.forward;
        if forward.is_refused() {
            return None;
        }
        let own = Own::new(listen, Trust::new(forward.trusted.clone()));
        let servers = |domain: &Domain| (!domain.servers.is_empty()).then(|| Servers::these(&domain.servers, &own));
        let (ahead_in, ahead) = mpsc::channel(AHEAD_MAX);
        let (fills_in, fills): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::channel(FILL_MAX)).unzip();
        let tables: Vec<Arc<TableCounts>> = (0..workers).map(|_| Arc::default()).collect();
        // Half for all answers, half for what the workers have at hand of them.
        let half = forward.cache_bytes / 2;
        let shared = Shared {
            server: config.server.as_str().into(),
            front: Arc::new(Front::new(config, Arc::clone(&routes), access)),
            published: Arc::clone(published),
            routes,
            domains: forward.domains.iter().map(servers).collect(),
            default: Servers::new(&forward.upstreams, &own),
            own,
            guard: match forward.rebind {
                Rebind::Cluster => Guard::cluster(&config.ranges),
                Rebind::Private => Guard::private(&config.ranges),
            },
            open: Guard::default(),
            cache: Mutex::new(Cache::new(half)),
            flights: Mutex::default(),
            seats: Seats::new(SEATS, PER_SOURCE),
            ahead: Arc::new(Semaphore::new(flight::PREFETCHES_MAX)),
            fills: fills_in,
            counts: Counts::default(),
            tables: tables.clone(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        let table = |(fills, counts)| Table {
            server: Arc::clone(&shared.server),
            front: Arc::clone(&shared.front),
            cache: Cache::new(half / workers.max(1)),
            now: Instant::now(),
            fills,
            ahead: ahead_in.clone(),
            counts,
        };
        let tables = fills.into_iter().zip(tables).map(table).collect();
        let forwarder = Self(Arc::new(shared));
        Some((forwarder.clone(), (Engine::new(forwarder, ahead), tables)))
    }

    /// What of it a worker or a connection decides by itself.
    pub(crate) fn front(&self) -> Arc<Front> {
        Arc::clone(&self.0.front)
    }

    /// Answers into `out` a question about a name that is not ours or, where `begun` has aliases, about one of ours that
    /// leads to one that is not. `begun` is the reply of who does not forward. `worker` is the one whose table is to have
    /// the answer. `None`: nothing is to be sent.
    pub(crate) async fn answer(
        &self,
        asked: &Asked<'_>,
        begun: &[u8],
        worker: Option<usize>,
        out: &mut Vec<u8>,
    ) -> Option<(Tally, Basis)> {
        let query = query::parse(asked.query).ok()?;
        let published = self.0.published.load_full();
        let zone = &published.zone;
        let recursion = self.0.front.recursion(zone, asked.source);
        let (rcode, from) = match (Begun::read(begun, &query), recursion) {
            (Some(aliases), Recursion::Available) => self.go_on(asked, &query, (&aliases, begun), out).await,
            (Some(_), Recursion::None) => {
                // What a server says that does not forward.
                out.extend_from_slice(begun);
                (Rcode::NoError, Basis::Nothing)
            }
            (None, Recursion::Available) => self.reply(asked, &query, worker, out).await,
            (None, Recursion::None) => {
                count(&self.0.counts.refused);
                (self.say(asked, &query, Rcode::Refused, Some(Ede::Prohibited), out), Basis::Nothing)
            }
        };
        if recursion == Recursion::Available {
            message::set_recursion_available(out);
        }
        Some((Tally { owner: owner(zone, &query), qtype: query.qtype, rcode }, from))
    }

    /// Answers what anything is forwarded for.
    async fn reply(
        &self,
        asked: &Asked<'_>,
        query: &Query<'_>,
        worker: Option<usize>,
        out: &mut Vec<u8>,
    ) -> (Rcode, Basis) {
        let shared = &*self.0;
        let source = asked.source.to_canonical();
        let by_us = |rcode, ede, out: &mut Vec<u8>| (self.say(asked, query, rcode, ede, out), Basis::Nothing);
        let course = match shared.course(query) {
            Ok(Some(course)) => course,
            Ok(None) => return by_us(Rcode::Refused, None, out),
            Err(special) => {
                let opt = asked.opt(query, &shared.server, None);
                return (special.answer(query, asked.size(query), opt.as_ref(), out), Basis::Nothing);
            }
        };
        let key = Key::of(query);
        let now = Instant::now();
        let kept = lock(&shared.cache).fresh(key.bytes(), now).map(|(entry, age)| (Arc::clone(entry), age));
        if let Some((entry, age)) = kept {
            count(&shared.counts.hits);
            if age == Age::Nearing {
                self.ahead(&key, query, course);
            }
            return (self.give(&entry, asked, query, (&key, worker), out), Basis::Kept);
        }
        // Who does not want recursion wants what is kept (RFC 1034 §4.3.1).
        if !query.head.wants_recursion() {
            return by_us(Rcode::Refused, None, out);
        }
        let Some(seat) = shared.seats.enter(source) else {
            count(&shared.counts.turned_away);
            return by_us(Rcode::ServFail, Some(Ede::NetworkError), out);
        };
        count(&shared.counts.misses);
        let mut flight = self.board(&key, query, course);
        if flight.is_echo(query) {
            count(&shared.counts.loops);
            return by_us(Rcode::ServFail, Some(Ede::NetworkError), out);
        }
        let landed = flight.landed.wait_for(Option::is_some).await.ok().and_then(|landed| landed.clone());
        drop(seat);
        match landed {
            Some(entry) => (self.give(&entry, asked, query, (&key, worker), out), Basis::Forward),
            // The part is being stopped.
            None => by_us(Rcode::ServFail, None, out),
        }
    }

    /// Answers with our aliases and with what stands at their end.
    async fn go_on(
        &self,
        asked: &Asked<'_>,
        query: &Query<'_>,
        (aliases, begun): (&Begun<'_>, &[u8]),
        out: &mut Vec<u8>,
    ) -> (Rcode, Basis) {
        let packet = aliases.question(query);
        // As by a stream: nothing is cut that is to be put together.
        let of_target = Asked { query: &packet, transport: Transport::Tcp, ..*asked };
        let (rcode, from) = match query::parse(&packet) {
            Ok(target) => self.reply(&of_target, &target, None, out).await,
            Err(_) => (Rcode::ServFail, Basis::Nothing),
        };
        if rcode == Rcode::Refused {
            // What a server says that does not forward such names.
            out.clear();
            out.extend_from_slice(begun);
            return (Rcode::NoError, from);
        }
        let entry = aliases.with(out, rcode, query);
        match entry.filter(|_| matches!(rcode, Rcode::NoError | Rcode::NxDomain)) {
            Some(entry) => {
                let opt = asked.opt(query, &self.0.server, entry.ede());
                entry.write(query, asked.size(query), opt.as_ref(), Instant::now(), out);
                message::set_authoritative(out);
                (rcode, from)
            }
            None => (self.say(asked, query, Rcode::ServFail, Some(Ede::NetworkError), out), from),
        }
    }

    /// Gives an answer, also to the worker that passed on the question.
    fn give(
        &self,
        entry: &Arc<Entry>,
        asked: &Asked<'_>,
        query: &Query<'_>,
        (key, worker): (&Key, Option<usize>),
        out: &mut Vec<u8>,
    ) -> Rcode {
        if entry.is_stale() {
            count(&self.0.counts.stale);
        }
        if let Some(fill) = worker.and_then(|worker| self.0.fills.get(worker))
            && entry.is_lasting()
        {
            // A full queue costs the next one this way again.
            fill.try_send((key.bytes().into(), Arc::clone(entry))).ok();
        }
        let opt = asked.opt(query, &self.0.server, entry.ede());
        entry.write(query, asked.size(query), opt.as_ref(), Instant::now(), out);
        entry.rcode()
    }

    /// A reply without records.
    fn say(&self, asked: &Asked<'_>, query: &Query<'_>, rcode: Rcode, ede: Option<Ede>, out: &mut Vec<u8>) -> Rcode {
        let opt = asked.opt(query, &self.0.server, ede);
        let message = Message::new(out, query, asked.size(query), opt.as_ref());
        message.finish(query.head, rcode, Authority::None, opt.as_ref());
        rcode
    }
}

impl Shared {
    /// Where a question goes; `None` if nobody is asked about such names.
    fn course(&self, query: &Query<'_>) -> Result<Option<Course>, Special> {
        let (servers, guard) = match self.routes.foreign(query) {
            Route::Special(special) => return Err(special),
            Route::Domain(place) => (self.domains[place].as_ref().unwrap_or(&self.default), &self.open),
            Route::Upstreams | Route::Own => (&self.default, &self.guard),
        };
        let group = servers.group(&self.own);
        Ok(group.map(|group| Course { group, guard: guard.with(self.published.load().zone.subnets()) }))
    }
}

/// Whose name a question is about.
fn owner(zone: &Zone, query: &Query<'_>) -> Owner {
    match zone.find(query.name.wire(), query.name.labels()) {
        Found::Own { origin, .. } => origin.owner(),
        Found::Foreign => Owner::Nobody,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
