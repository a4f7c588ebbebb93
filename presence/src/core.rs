//! Presence, pure: what is said of users, how it merges, who is heard, and what nodes tell each other.
//!
//! ```text
//!  writes ─► plan ─► (the shell makes it durable) ─► commit ─► users ─► what a reader sees
//!  heartbeats, time ─► sessions end ─────────────────────┘  ▲
//!  changes, beats, answers of other nodes ─► hear ──────────┘ └─► events, changes to publish
//! ```
//!
//! Absent here, on purpose: NATS, HTTP, sockets, files, any clock, any randomness. Time comes in as [`Now`]; what is to be
//! stored, published and shown comes out of [`Board`].
//!
//! Reading order: words ([`id`], [`status`], [`version`]), facts ([`fact`]), the merge ([`user`]), who is heard
//! ([`sight`]), the sessions of this node ([`owner`]), what nodes say ([`says`]), and all of it together ([`board`]).

pub mod id;
pub mod status;
pub mod version;

pub mod fact;
pub mod user;

pub mod sight;

pub mod owner;
pub mod tail;

pub mod peer;
pub mod says;

pub mod board;
pub mod events;

#[cfg(test)]
mod board_test;
#[cfg(test)]
mod laws;
#[cfg(test)]
mod sim;

use std::time::Duration;

pub use board::{Board, Plan, Refusal, Write};
pub use events::Event;
pub use fact::{Explicit, Fact, Life, Session, State};
pub use id::{SessionName, UserId};
pub use says::Says;
pub use sight::{Heard, Sight};
pub use status::{Message, Status, Ttl};
pub use user::{Effective, User};
pub use version::Version;

/// The time, as it comes in with everything that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// On this node's monotonic clock. Everything that ends, ends by it.
    pub mono: Duration,
    /// Milliseconds since 1970 on the wall clock. Shown, put into stamps, and compared with nothing.
    pub wall_ms: u64,
}
