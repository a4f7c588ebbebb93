//! What the nodes of a cluster say to each other and how they merge it, without anything that does it.
//!
//! A **site** (one store's identity) commits **versions**: transactions, numbered without holes. Every cell a version
//! writes carries its **stamp**. Rows merge by [`Row::join`], a join of lattices, so that any order, duplication or
//! grouping of deliveries ends in the same rows. Each site's versions are applied strictly in order, so all that a node
//! knows is one [`Vector`] of integers. Versions are pushed as they commit; whoever is behind pulls state *by vector*.
//!
//! Absent here, on purpose: sockets, files, SQL, any clock, any source of randomness, any map whose order is not its
//! keys'. Time and seeds come in as arguments; frames, versions to apply and deadlines come out ([`Replica`]).
//!
//! Reading order: the words ([`id`], [`clock`], [`stamp`], [`value`], [`key`]), the lattice ([`row`]), what is said
//! ([`version`], [`vector`], [`digest`], [`digests`], [`purged`], [`frame`]), whose clock is believed ([`clocks`]), and who
//! says it when ([`replica`]). With the feature `sim`, for tests: a store in memory (`model`) and whole clusters in one
//! thread (`sim`).

pub mod id;

pub mod clock;
pub mod stamp;
pub mod value;

pub mod key;

pub mod row;
pub mod vector;
pub mod version;

pub mod agreement;
pub mod buckets;
pub mod clocks;
pub mod digest;
pub mod digests;
pub mod past;
pub mod purged;
pub mod repair;
pub mod replay;
pub mod retry;
pub mod soundness;

mod codec;
pub mod frame;

pub mod replica;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(any(test, feature = "sim"))]
pub mod model;
#[cfg(any(test, feature = "sim"))]
pub mod sim;

pub use clock::{Hlc, HybridClock};
pub use codec::DecodeError;
pub use digest::Digest;
pub use digests::{Day, Digests, Part};
pub use frame::Frame;
pub use id::{Name, NodeId, SiteId};
pub use key::Key;
pub use past::{Meeting, Past, Start};
pub use purged::Purged;
pub use replay::Replay;
pub use replica::Replica;
pub use row::{Cell, Row};
pub use stamp::Stamp;
pub use value::Value;
pub use vector::Vector;
pub use version::{Change, Version};
