//! The peers of this server's WireGuard interface: who the others are, and what is behind each.
//!
//! ```text
//!  rows, peer cache, interface ─► judge (pure): who is a peer ─► plan (pure): what is to be done
//! ```
//!
//! Absence takes nothing away: a row that is gone or wrong, and a store that is empty, old or away, leave every tunnel as it was. A
//! peer goes because an operator removed its server, or because its server has another key.

#![expect(dead_code, reason = "judged and planned before there is an interface to apply it to")]

mod cache;
mod judge;
mod key;
mod mesh;
mod plan;
mod row;

pub use mesh::MeshRange;
