//! Kith's presence: who is online, asked of any node, answered from memory.
//!
//! [`core`] is all that is decided, pure: sessions, their merge, who is heard, what nodes tell each other.

pub mod core;
