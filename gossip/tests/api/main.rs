//! The HTTP API over real sockets, as its clients meet it: bodies, status codes, streams, limits, shutdown, hostility.

#![allow(clippy::unwrap_used, reason = "the lint knows test functions, not what they call")]

mod server;

mod access;
mod hostile;
mod members;
mod statements;
mod streams;
mod transport;
