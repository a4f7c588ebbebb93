//! A typed client of the store's HTTP API: statements in, typed answers and live streams out.
//!
//! A [`Client`] is made from an [`Endpoint`] (`http://host:port` or `unix:/path`) and is cheap to clone. Its one-shot
//! calls ([`Client::execute`], [`Client::query`], …) make one attempt and return: whether a write may be repeated is
//! for the caller to know. Its streams ([`Client::subscribe`], [`Client::watch_members`]) live on: they reconnect with
//! backoff, resume where they stopped, say [`Event::Lost`] when the store is away and [`Event::Reset`] when what the
//! consumer holds must be forgotten, and end only on an error that trying again cannot cure. A hole in the change ids
//! is such an error: a mirror that drifts in silence is worse than one that stops.
//!
//! Read in this order: [`endpoint`], [`value`], [`statement`], [`error`], then [`client`], and [`follow`] for the
//! streams, of which [`subscription`] and [`members`] are the two kinds.
//!
//! This crate reads no database and knows no table. It links neither SQLite nor the gossip library.

pub mod client;
pub mod endpoint;
pub mod error;
pub mod follow;
pub mod members;
pub mod query;
pub mod statement;
pub mod subscription;
pub mod updates;
pub mod value;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;

mod body;
mod ndjson;
mod retry;

pub use client::Client;
pub use endpoint::{Endpoint, Token};
pub use error::Error;
pub use statement::{Params, Statement};
pub use subscription::{Event, Subscription};
pub use value::Value;
