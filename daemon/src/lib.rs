//! Kith's reconcilers: what a server says of itself and of its containers, kept true in the store.
//!
//! ```text
//!  store, Docker, files ─► observe ─► plan (pure) ─► apply ─► store, files
//!            ▲                             now                  │
//!            └──────────── driver: on a wake, and on a period ◄─┘
//! ```
//!
//! Each concern is a `Reconciler` in a module of its own: it looks at everything, plans purely, and
//! applies what it planned, one idempotent step after the other. `driver` runs it; what woke it is not looked at, so that
//! a lost wake costs a period and nothing else. `beat` finds a loop that is stuck. `own` is what this server's
//! reconcilers together say of its own row, and `heartbeat` keeps that row as they say. [`status`] is what all of it shows.
//!
//! Rows are read and written by the store's HTTP API only (`store`): neither SQLite nor the gossip library is linked, so
//! a restart of the store leaves this crate's work untouched.
//!
//! Ages are counted on our monotonic clock, from the moment *we* saw a change; wall time ([`clock`]) is written into rows for
//! people, and is compared with nothing.

pub mod clock;
pub mod config;
pub mod setup;

mod daemon;
pub mod status;

mod beat;
mod driver;
mod error;
mod file;
mod retry;
mod wake;

mod own;
mod store;

mod heartbeat;

mod containers;
mod docker;
mod health;

mod nats;

mod bridge;
mod firewall;

mod endpoints;
mod peers;
mod wireguard;

mod partition;
mod public;
mod store_health;
mod sweep;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;

pub use beat::Stuck;
pub use bridge::INTERFACE;
pub use clock::{Clock, Now};
pub use config::{Config, Network, Public};
pub use daemon::{BuildError, Daemon, Host, RunError};
pub use peers::MeshRange;
pub use public::Source;
pub use status::{Status, StatusHandle};
