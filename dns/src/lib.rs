//! Kith's DNS: every server of the fleet answers for all of it, from what the store told it last.
//!
//! ```text
//! feed (rows, members) ─► facts ─► zone (immutable) ─► ArcSwap ─► answer ─► UDP, TCP
//!        follow: one writer            pure                     pure        server
//! ```
//!
//! Reading order is the life of one fact. [`feed`] is the contract with whoever reads the store; this crate links
//! neither store nor HTTP. `row` decodes untyped cells and refuses what cannot be served, by name. `facts` mirrors the
//! tables and says which of them are loading, current or lost. [`zone`] turns facts into an immutable [`zone::Zone`]:
//! a pure function, so every naming and selection rule is tested without a socket. [`answer`] turns a query and a zone
//! into bytes: pure as well, never panicking, never longer than the transport allows. `follow` is the one writer that
//! swaps zones, `keep` has the last one on disk for the next start; [`forward`] asks others about what is not ours;
//! `server` is the thin shell of sockets; [`status`] is what all of it shows, [`tap`] shows answers while they are given, and
//! [`explain()`] tells why a name answers what it does.
//!
//! Invariants: an answer takes no lock and asks nobody; absence of news removes nothing (a lost feed freezes the zone
//! and marks it stale); a bad row is left out, counted and named, and never stops the rest; own zones are never
//! forwarded.

pub mod config;
pub mod feed;
pub mod name;

mod access;
mod facts;
mod row;
mod zonefile;

pub mod zone;

pub mod answer;
mod cookie;
mod query;

pub mod explain;
pub mod forward;

mod dns;
mod files;
mod follow;
mod keep;
mod seats;
mod server;
pub mod status;
pub mod tap;
pub mod top;
mod watch;

pub use config::{Config, Tls, Ttl};
pub use dns::{BuildError, Dns, RunError};
pub use explain::{Explanation, explain};
pub use name::{ZoneName, rcode_name, rtype_name};
pub use server::TlsError;
pub use status::{Status, StatusHandle};
pub use zonefile::Fault;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;

#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(not(test), allow(dead_code, reason = "the fuzzer needs a part of it"))]
#[allow(clippy::unwrap_used, reason = "a test's functions are tests as well")]
mod testing;
