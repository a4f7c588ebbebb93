//! What holds for every history, every frame and every schedule: laws, wire, model, replica, simulator.

#![allow(clippy::unwrap_used, reason = "the lint knows test functions, not what they call")]

mod arbitrary;
mod clocks;
mod digest;
mod fuzzing;
mod laws;
mod model;
mod repair;
mod replica;
mod simulator;
mod wide;
mod wire;
