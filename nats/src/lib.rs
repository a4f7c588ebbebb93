//! Kith's runner of NATS: a real nats-server as a child process, one cluster per region, found by DNS and nothing else.
//!
//! ```text
//! DNS ─► peers (a set with a memory) ─► shape ─► configuration file ─► class of the change ─► nothing, reload, restart
//!         resolve: asks   keep: last good   pure      pure: text            pure                supervise: the child
//! ```
//!
//! [`config`] is what the runner is told, [`lock`] what keeps a second one away, [`identity`] what it is once and for all, [`memory`] what it may use, [`binary`] what it runs.
//! [`nats`] is the runner, and [`status`] what it shows. [`follow`] is the seam: to its left is what nats-server is to be configured with
//! ([`discovery`], which joins [`resolve`], [`peers`], [`shape`], [`render`] and [`change`]; [`turn`] lets it restart when no other
//! server does), to its right the process:
//! `server` keeps it running with what `supervise` knows of processes, asks it by `monitor`, and writes what it finds onto `board`, by which
//! `health` answers.

pub mod binary;
pub mod config;
pub mod identity;
pub mod lock;
pub mod memory;
pub mod name;

pub mod nats;
pub mod status;

pub mod resolve;

pub mod peers;

pub mod shape;

pub mod render;

pub mod change;

pub mod discovery;

pub mod group;

pub mod turn;

pub mod control;

pub mod standing;

pub mod grow;

pub mod external;

mod mend;
mod removal;
mod roll;
mod shown;

pub mod follow;

mod beside;
mod board;
mod health;
mod monitor;
mod server;
mod supervise;
mod trouble;

mod blocking;
mod chain;
mod retry;
mod secret;

#[cfg(test)]
mod logged;

pub use config::Config;
pub use identity::Identity;
pub use nats::{BuildError, Nats, RunError};
pub use status::{Status, StatusHandle};
