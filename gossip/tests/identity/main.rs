//! Who may belong: joining, renewing, removing, with real handshakes and a clock that is turned by hand.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod cluster;
mod door;
mod joining;
mod removal;
mod renewal;
