//! Processes that are kept running: a pure [`machine`] that says what to do, and one thin [`process`] that does it.
//!
//! [`spawner`] starts them so that none outlives the runner, [`leftover`] ends what outlived one that was killed, [`lines`] reads what
//! they write, [`said`] what nats-server means by it.

pub(crate) mod leftover;
pub(crate) mod lines;
pub(crate) mod machine;
pub(crate) mod process;
pub(crate) mod said;
pub(crate) mod spawner;

pub(crate) use machine::{Phase, Report, Signal, Stop};
pub(crate) use process::{Event, Process};
pub(crate) use spawner::Spawner;
