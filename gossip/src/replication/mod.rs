//! The shell around the replica.
