//! The commands that ask and end, or follow what a server says.

mod backup;
mod config;
mod exec;
mod members;
mod pages;
mod ps;
mod query;
mod resolve;
mod schema;
mod server;
mod setup;
mod status;
mod sweep;
mod table;
mod top;
mod uninstall;
mod value;
mod watch;
mod why;

pub(crate) use backup::{backup, restore, store};
pub(crate) use config::{load, run as config};
pub(crate) use exec::run as exec;
pub(crate) use members::run as members;
pub(crate) use pages::{completions, man};
pub(crate) use ps::run as ps;
pub(crate) use query::run as query;
pub(crate) use resolve::run as resolve;
pub(crate) use schema::run as schema;
pub(crate) use server::run as server;
pub(crate) use setup::run as setup;
pub(crate) use status::run as status;
pub(crate) use sweep::run as sweep;
pub(crate) use top::{top, trace};
pub(crate) use uninstall::run as uninstall;
pub(crate) use watch::run as watch;
pub(crate) use why::run as why;
