//! The rows, each a module: what it does, and what it must be.

mod center;
mod expiry;
mod flood;
mod following;
mod kept;
mod rates;
mod remote;
mod users;

use std::str::FromStr;
use std::time::Duration;

use super::figures::Row;
use super::stage::Stage;

/// Which rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Users,
    Reads,
    Writes,
    Kept,
    Events,
    Streams,
    Sockets,
    Flood,
    Center,
    Expiry,
}

/// How much of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Whether they are those of the targets.
    pub(crate) scale: Scale,
    /// How long requests go on.
    pub(crate) time: Duration,
    /// Users that are online.
    pub(crate) users: usize,
    pub(crate) streams: usize,
    pub(crate) sockets: usize,
    /// Connections at once that do nothing.
    pub(crate) connections: usize,
    /// Changes a second, while they are followed.
    pub(crate) changes: usize,
    /// How long the center is away.
    pub(crate) away: Duration,
    /// Seconds after which sessions end together.
    pub(crate) ttl: u64,
}

/// Whether what is measured is to be compared with a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    Whole,
    Small,
}

impl Sizes {
    /// Those of the targets.
    pub(crate) fn whole() -> Self {
        Self {
            scale: Scale::Whole,
            time: Duration::from_secs(10),
            users: 100_000,
            streams: 15_000,
            sockets: 1_000,
            // As many as a client of the same limit, 20,000, can open.
            connections: 19_800,
            changes: 1_000,
            away: Duration::from_secs(12),
            ttl: 60,
        }
    }

    /// To see that all of it works, with a debug build too.
    pub(crate) fn small() -> Self {
        Self {
            scale: Scale::Small,
            time: Duration::from_secs(1),
            users: 1_000,
            streams: 100,
            sockets: 10,
            connections: 200,
            changes: 100,
            away: Duration::from_secs(2),
            ttl: 5,
        }
    }
}

impl Name {
    /// In an order in which each finds what those before it leave.
    pub(crate) const ALL: [Self; 10] = [
        Self::Users,
        Self::Reads,
        Self::Writes,
        Self::Kept,
        Self::Events,
        Self::Streams,
        Self::Sockets,
        Self::Flood,
        Self::Center,
        Self::Expiry,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::Reads => "reads",
            Self::Writes => "writes",
            Self::Kept => "kept",
            Self::Events => "events",
            Self::Streams => "streams",
            Self::Sockets => "sockets",
            Self::Flood => "flood",
            Self::Center => "center",
            Self::Expiry => "expiry",
        }
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|name| name.as_str() == text);
        known.ok_or_else(|| format!("{text}: neither all nor one of {}", Self::ALL.map(Self::as_str).join(", ")))
    }
}

/// Measures.
pub(crate) async fn run(name: Name, stage: &mut Stage) -> Result<Vec<Row>, String> {
    stage.settled().await.map_err(|error| format!("{}: {error}", name.as_str()))?;
    let measured = match name {
        Name::Users => Ok(vec![users::users(stage).await?]),
        Name::Reads => rates::reads(stage).await,
        Name::Writes => Ok(vec![rates::writes(stage).await?]),
        Name::Kept => Ok(vec![kept::kept(stage).await?]),
        Name::Events => Ok(vec![remote::events(stage).await?]),
        Name::Streams => Ok(vec![following::streams(stage).await?]),
        Name::Sockets => Ok(vec![following::sockets(stage).await?]),
        Name::Flood => Ok(vec![flood::flood(stage).await?]),
        Name::Center => Ok(vec![center::center(stage).await?]),
        Name::Expiry => Ok(vec![expiry::expiry(stage).await?]),
    };
    measured.map_err(|error: String| format!("{}: {error}", name.as_str()))
}

/// The users that are filled in.
pub(crate) fn user(at: usize) -> String {
    format!("user-{at}")
}

/// A row, marked where sizes are not those of the target.
pub(crate) fn row(
    sizes: Sizes,
    (what, target): (&str, &str),
    (measured, holds): (String, bool),
    cores: [f64; 2],
    figures: serde_json::Value,
) -> Row {
    let small = if sizes.scale == Scale::Small { " (small sizes: no comparison)" } else { "" };
    Row {
        what: what.to_owned(),
        target: target.to_owned(),
        measured: measured + small,
        holds,
        cores,
        figures,
        wrong: 0,
    }
}
