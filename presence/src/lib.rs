//! Kith's presence: who is online, asked of any node, answered from memory.
//!
//! ```text
//!   clients ─► api ─► desk ─► board (core, pure) ─► shown ─► api ─► clients
//!                      │  ▲                          hub ─► streams, sockets
//!                      ▼  │
//!                     link: own log, other nodes, the center's bucket (NATS)
//! ```
//!
//! [`core`] is all that is decided, pure. `desk` is the one task that owns the board; `shown` is what readers see, and `hub`
//! who follows whom. `api` is the HTTP API, `auth` says who may write. `journal` is what the desk needs of a log, and `link`
//! what gives it that, and other nodes. `tls` is the certificate. [`Presence`] puts it together.
//!
//! It knows nothing of the store or of DNS: other nodes are whoever is heard on the nats-server that it was given.

pub mod config;
pub mod core;

mod presence;

mod api;
mod auth;
mod clock;
mod desk;
mod hub;
mod journal;
mod link;
mod shown;
mod tls;

pub use api::Rates;
pub use auth::{AuthConfig, KeyError, KeySource, SignError, Writes, sign};
pub use config::{Config, Nats, Page, Role, Server, TlsFiles};
pub use link::LinkError;
pub use presence::{BuildError, Presence, RunError};
