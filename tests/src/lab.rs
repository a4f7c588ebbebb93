//! The lab: real `kith` processes on loopback, seen only from outside, as their users see them.
//!
//! A [`Lab`] is a cluster of `kith agent` processes: it makes the cluster's certificate authority, writes each node's
//! configuration, and hands out [`Node`]s that can be started, killed, stopped and asked. A [`Dev`] is one `kith dev`, a [`Browser`] a real one.
//! [`Run`] is any other command that ends by itself. A [`Fleet`] is a cluster over [`Links`], a [`Mesh`] one with tunnels; a [`Disk`] can lose power;
//! [`Tampering`] makes syncs fail. An [`Upstream`] answers for foreign names. A [`ScriptedDocker`] runs what the test says, a [`Dockerd`] is a real one.
//! A [`Runner`] is one `kith nats`. [`Hosts`] are whole servers, each with an /etc, a Docker and a power switch; [`Casa`] is a cluster of them.
//!
//! Rules of the house: every process is ended by its own id when its value is dropped; files live in a temporary folder;
//! nothing but loopback, and the namespaces of a [`Links`], is touched; waiting is for a condition, with a bound that says what was last seen ([`eventually`]).
//! A failed test prints the end of every node's log.

mod agree;
mod authority;
mod binary;
mod browser;
mod casa;
mod dev;
mod disk;
mod docker;
mod dockerd;
mod fleet;
mod host;
mod http;
mod image;
mod links;
mod mesh;
mod names;
mod nats;
mod node;
mod process;
mod resolve;
mod runner;
mod syscalls;
mod upstream;
mod wait;

pub use agree::agree;
pub use authority::Authority;
pub use binary::{Background, Run, kith};
pub use browser::Browser;
pub use casa::Casa;
pub use dev::Dev;
pub use disk::Disk;
pub use docker::ScriptedDocker;
pub use dockerd::Dockerd;
pub use fleet::Fleet;
pub use host::{Host, Hosts};
pub use http::{Api, Reply};
pub use links::Links;
pub use mesh::{Mesh, Pings};
pub use names::{Maker, NameServer};
pub use nats::{NatsServer, nats_address, nats_check};
pub use node::{Addresses, Lab, Node};
pub use process::Process;
pub use resolve::{Answer, exchange, resolve};
pub use runner::Runner;
pub use syscalls::{Syncs, Tampering};
pub use upstream::Upstream;
pub use wait::eventually;
