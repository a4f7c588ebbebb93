//! What the tests of the whole tree stand on.
//!
//! - [`cost`] says what a process costs, and [`load`] asks a name server at a pace: benchmarks are made of them.
//! - [`fetched`] is what setup has fetched for them from elsewhere.
//! - [`lab`] runs real `kith` processes on loopback: certificates, configuration files, readiness, kill, restart.
//! - [`skip`] is how a test says that it could not run here, so that the closing summary can count it.
//! - [`tidy`] holds the rules of the tree that no compiler or lint knows.
//! - [`verify`] writes, reads and follows while faults run, and says which promises held; `kith-verify` is its program.
//!
//! Nothing here is shipped, and no other crate depends on this one.

pub mod cost;
pub mod fetched;
pub mod lab;
pub mod load;
pub mod skip;
pub mod tidy;
pub mod verify;
