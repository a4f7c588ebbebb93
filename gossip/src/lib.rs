//! The replicated store of Kith: stock SQLite with a CRDT layer, kept equal on all nodes by gossip, read and followed
//! over an HTTP API.
//!
//! Reading order: [`config`] says what may be set; [`store`] holds the rows and captures what changes; [`subscriptions`]
//! turns commits into events; [`identity`], [`net`], [`membership`] and [`replication`] keep stores equal; [`api`] serves
//! it all; [`gossip`] is the whole: build it, run it. This crate knows no DNS, no WireGuard and no container.

pub mod config;

pub mod store;

pub mod subscriptions;

pub mod identity;
pub mod membership;
pub mod net;
pub mod replication;

pub mod api;

pub mod gossip;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;

mod chain;
mod retry;

pub use config::Config;
pub use gossip::{Addrs, BuildError, Gossip, RunError, Status, StatusHandle};
pub use identity::{DevAuthority, Identity};
