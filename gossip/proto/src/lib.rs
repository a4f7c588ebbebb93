//! Kith's replication, pure: clock, stamps, merge, wire format, state machine, simulator.
