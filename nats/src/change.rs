//! What has to be done about a configuration that is not the one that runs. Pure.
//!
//! Each line of the table was tried on nats-server 2.15; tests hold the ones that surprise (`tests/tests/nats_traps.rs`).

use std::fmt;

use crate::render::{Document, Section};

/// What one difference takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// The running process learns it by itself. A file with another gateway block has every reload refused as a whole, so
    /// the running process keeps the block that it started with.
    Aside,
    /// SIGHUP.
    Reload,
    /// Another process.
    Restart,
}

impl Section {
    /// What a change of this section takes. Of TLS, routes and remotes one can be had for another, but none for some.
    #[must_use]
    pub fn class(self, running: &Document, wanted: &Document) -> Class {
        let both = running.has(self) && wanted.has(self);
        match self {
            Section::Gateways if both => Class::Aside,
            Section::Tls | Section::Routes | Section::Remotes if both => Class::Reload,
            Section::Limits | Section::Accounts => Class::Reload,
            Section::Gateways | Section::Tls | Section::Routes | Section::Remotes => Class::Restart,
            Section::Server
            | Section::JetStream
            | Section::Cluster
            | Section::Gateway
            | Section::Leaves
            | Section::Append => Class::Restart,
        }
    }
}

/// What is due because the wanted configuration is another than the one that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Where they differ, and what that takes, in the order of the file.
    pub sections: Vec<(Section, Class)>,
}

impl Due {
    /// From what runs to what is wanted.
    #[must_use]
    pub fn between(running: &Document, wanted: &Document) -> Self {
        Self {
            sections: running.differences(wanted).map(|section| (section, section.class(running, wanted))).collect(),
        }
    }

    /// Of what is the same.
    #[must_use]
    pub fn none() -> Self {
        Self { sections: Vec::new() }
    }

    /// The part of it that takes this.
    #[must_use]
    pub fn only(&self, class: Class) -> Self {
        Self { sections: self.sections.iter().filter(|(_, takes)| *takes == class).copied().collect() }
    }

    /// Whether something differs that takes this.
    #[must_use]
    pub fn takes(&self, class: Class) -> bool {
        self.sections.iter().any(|(_, takes)| *takes == class)
    }
}

impl fmt::Display for Due {
    /// `reload: routes; restart: JetStream`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = "";
        for (class, word) in
            [(Class::Aside, "at the next start"), (Class::Reload, "reload"), (Class::Restart, "restart")]
        {
            let takes = self.sections.iter().filter(|(_, takes)| *takes == class);
            let names: Vec<String> = takes.map(|(section, _)| section.to_string()).collect();
            if !names.is_empty() {
                write!(out, "{before}{word}: {}", names.join(", "))?;
                before = "; ";
            }
        }
        Ok(())
    }
}

/// What the running process may read: all that it can take by a reload is as wanted, all else as it started with.
#[must_use]
pub fn reloadable(running: &Document, wanted: &Document) -> Document {
    wanted.with(running, |section| section.class(running, wanted) != Class::Reload)
}
