//! The store, seen from outside: SQL in, versions and rows out.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod rig;

mod anew;
mod capture;
mod clocks;
mod copy;
mod crash;
mod damage;
mod days;
mod group;
mod meet;
mod merge;
mod open;
mod purge;
mod query;
mod renounce;
mod restore;
mod schema;
