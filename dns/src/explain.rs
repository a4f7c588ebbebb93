//! Why a name answers what it answers: what it stands for, and of each instance whether it is in, by which rule.
//!
//! A function of the same events and zone files that make the zone: nothing is asked of a running server, so that whoever
//! has them can explain any of its answers.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use crate::config::Config;
use crate::facts::Facts;
use crate::feed::Event;
use crate::files::Files;
use crate::zone::Settings;

/// What a name stands for, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The name, lower-cased.
    pub name: String,
    /// What it stands for, in words.
    pub means: String,
    /// The code that a question for it gets.
    pub rcode: &'static str,
    /// The addresses that it answers, in order.
    pub addresses: Vec<IpAddr>,
    /// Every instance that could answer, in the order of their ids.
    pub instances: Vec<Instance>,
    /// What else has to do with it.
    pub notes: Vec<String>,
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Instance {
    /// The table of its row.
    pub table: &'static str,
    /// The key of its row.
    pub id: String,
    /// The server it runs on.
    pub server: String,
    /// The slot it fills.
    pub slot: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its health, as its row says.
    pub health: &'static str,
    /// When it started, as its row says.
    pub started_at: i64,
    /// Whether it answers.
    pub fate: Fate,
    /// By which rule.
    pub rule: String,
}

/// Whether an instance answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It does.
    In,
    /// It does not.
    Out,
}

/// Explains a name by these events, of every table a snapshot, and the members; and by the zone files of the configuration,
/// which are read.
#[must_use]
pub fn explain(config: &Config, events: impl IntoIterator<Item = Event>, name: &str) -> Explanation {
    let mut facts = Facts::default();
    for event in events {
        facts.apply(event);
    }
    crate::zone::explain(&facts, &Files::new(config).once(), &Arc::new(Settings::from(config)), name)
}
