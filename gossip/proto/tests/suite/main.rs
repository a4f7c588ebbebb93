//! What holds for every history, every frame and every schedule: laws, wire, model, replica, simulator.

mod arbitrary;
mod laws;
mod model;
mod replica;
mod simulator;
mod wire;
