//! Logs: to stderr, as text or JSON, without colour.

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

use crate::exit::{Exit, Failure};

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    // Not doc comments: they would make every `--help` twice as long.
    Text,
    Json,
}

/// Starts logging. `filter` is a level, or a level per module: `info`, `warn,kith_dns=debug`.
pub(crate) fn start(filter: &str, format: Format) -> Result<(), Failure> {
    let filter = EnvFilter::builder()
        .parse(filter)
        .map_err(|e| Failure::new(Exit::Config, e).context(format!("`{filter}` is not a log filter")))
        .map_err(|failure| failure.hint("give a level (error, warn, info, debug, trace), or warn,kith_dns=debug"))?;
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let started = match format {
        Format::Text => tracing_subscriber::registry().with(filter).with(lines).try_init(),
        Format::Json => tracing_subscriber::registry().with(filter).with(lines.json().flatten_event(true)).try_init(),
    };
    started.map_err(|e| Failure::new(Exit::Software, e).context("cannot start logging"))
}
