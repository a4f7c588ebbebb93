//! nats-server's configuration as text, section by section, so that what differs between two of them says by itself what
//! has to be done about it. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::SyncInterval;
use crate::name::Label;
use crate::shape::{Place, Shape};

pub(crate) mod quote;
#[cfg(test)]
pub(crate) mod tests;
mod text;

/// What does not come from DNS. Files have been read: what they hold is here, so that a change of a file is a change of
/// the text. Not to be printed: it has passwords.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the server stands, and what it is reached at.
    pub place: Place,
    /// `server_name`: made once, and kept with the store.
    pub name: Label,
    /// Where the monitor of nats-server listens: for the runner alone.
    pub monitor: SocketAddr,
    /// JetStream; none without a store.
    pub store: Option<Store>,
    /// Bounds of clients.
    pub limits: Limits,
    /// TLS of all listeners; none is for a mesh that encrypts.
    pub tls: Option<Tls>,
    /// The body of `accounts { … }`, from an operator's file.
    pub accounts: Option<String>,
    /// The user of the system account.
    pub system: Credentials,
    /// What servers of the center show to each other.
    pub routes: Option<Credentials>,
    /// The user of the account of turns, where there are other accounts: then nobody is served without a name.
    pub turns: Option<Credentials>,
    /// What a leaf shows to the center.
    pub leaf: Option<LeafCredentials>,
    /// How long clients are asked to leave before it stops. nats-server takes nothing below 30 s.
    pub lame_duck: Duration,
    /// Raw configuration of an operator, put at the end.
    pub append: Option<String>,
}

/// Where JetStream keeps streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// The folder.
    pub dir: PathBuf,
    /// Most bytes on disk; none: nats-server decides.
    pub max_file: Option<u64>,
    /// Most bytes of streams in memory.
    pub max_memory: Option<u64>,
    /// When what is acknowledged is on the disk.
    pub sync: SyncInterval,
}

/// Bounds that nats-server takes without a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Clients at once.
    pub max_connections: Option<u32>,
    /// Bytes of one message.
    pub max_payload: Option<u32>,
}

/// Files of a certificate with the address of the server in it (an IP SAN), its key, and of who signs those of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Whom the certificates of others must be from.
    pub ca: PathBuf,
    /// Stands for what the three files hold: differs when one does.
    pub mark: u64,
}

/// A user and a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
}

/// What a leaf shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeafCredentials {
    /// A user of an account of the center.
    User(Credentials),
    /// A file of NATS credentials.
    File(PathBuf),
}

/// How long clients are asked to leave before it stops: the least that nats-server takes.
pub const LAME_DUCK: Duration = Duration::from_secs(30);

/// A part of the configuration whose change means one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Section {
    /// `server_name`, `listen`, `http`, time-outs.
    Server,
    /// Bounds of clients.
    Limits,
    /// `tls`.
    Tls,
    /// `accounts`.
    Accounts,
    /// `jetstream`.
    JetStream,
    /// `cluster` without its routes.
    Cluster,
    /// `cluster.routes`.
    Routes,
    /// `gateway` without the others.
    Gateway,
    /// `gateway.gateways`.
    Gateways,
    /// `leafnodes` without remotes.
    Leaves,
    /// `leafnodes.remotes`.
    Remotes,
    /// What an operator appends.
    Append,
}

impl Section {
    /// In the order of the file.
    pub const ALL: [Section; 12] = [
        Section::Server,
        Section::Limits,
        Section::Tls,
        Section::Accounts,
        Section::JetStream,
        Section::Cluster,
        Section::Routes,
        Section::Gateway,
        Section::Gateways,
        Section::Leaves,
        Section::Remotes,
        Section::Append,
    ];
}

impl fmt::Display for Section {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Section::Server => "server",
            Section::Limits => "limits",
            Section::Tls => "TLS",
            Section::Accounts => "accounts",
            Section::JetStream => "JetStream",
            Section::Cluster => "cluster",
            Section::Routes => "routes",
            Section::Gateway => "gateway listener",
            Section::Gateways => "gateways",
            Section::Leaves => "leaf listener",
            Section::Remotes => "leaf remotes",
            Section::Append => "appended configuration",
        })
    }
}

impl fmt::Debug for Credentials {
    /// Without the password.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

impl fmt::Debug for Document {
    /// Without its text, which has passwords.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Document").field(&self.0.keys()).finish()
    }
}

/// A whole configuration.
#[derive(Clone, PartialEq, Eq)]
pub struct Document(BTreeMap<Section, String>);

impl Document {
    /// The configuration of a server of this shape.
    #[must_use]
    pub fn of(settings: &Settings, shape: &Shape) -> Self {
        Self(text::sections(settings, shape))
    }

    /// Nothing.
    #[must_use]
    pub fn empty() -> Self {
        Self(BTreeMap::new())
    }

    /// Whether it says something in this section.
    #[must_use]
    pub fn has(&self, section: Section) -> bool {
        self.0.contains_key(&section)
    }

    /// Sections in which two differ.
    pub fn differences<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = Section> + 'a {
        Section::ALL.into_iter().filter(|section| self.0.get(section) != other.0.get(section))
    }

    /// This one, with those sections of `other` that `which` names.
    #[must_use]
    pub fn with(&self, other: &Self, which: impl Fn(Section) -> bool) -> Self {
        let from = |section: &Section| if which(*section) { other.0.get(section) } else { self.0.get(section) };
        Self(Section::ALL.into_iter().filter_map(|section| Some((section, from(&section)?.clone()))).collect())
    }

    /// As nats-server reads it.
    #[must_use]
    pub fn text(&self) -> String {
        text::join(&self.0)
    }
}
