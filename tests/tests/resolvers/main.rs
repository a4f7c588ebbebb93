//! The resolvers that containers bring along, and those that stand between a container and us, each asking a real `kith agent`
//! by its own rules: what they ask is theirs, and what they must get is the same.

mod between;
mod host;
mod own;
mod programs;
mod questions;
