//! What the runner says of itself and of its nats-server.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// How the runner is. The upper half is what becomes this server's row, by which others find it; the lower is for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The server's name.
    pub id: String,
    /// The name of all clusters together.
    pub cluster: String,
    /// center or leaf.
    pub role: String,
    /// Region code.
    pub region: String,
    /// Where its listeners are reached by IPv4.
    pub ip: Option<Ipv4Addr>,
    /// And by IPv6.
    pub ip6: Option<Ipv6Addr>,
    /// Their ports.
    pub ports: Ports,
    /// Whether it lives, which is not whether its cluster has formed: else nobody would ever be the first.
    pub health: Health,
    /// When nats-server was last started, ms since 1970; 0: not yet.
    pub started_at: u64,

    /// What the runner does.
    pub phase: Phase,
    /// What it waits for, or what is wrong.
    pub reason: Option<String>,
    /// Whether another server of its name is in the cluster.
    #[serde(default)]
    pub namesake: bool,
    /// What becomes of its configuration.
    #[serde(default)]
    pub following: Following,
    /// The version of nats-server.
    pub version: String,
    /// Its process.
    pub pid: Option<i32>,
    /// How often it was started again.
    pub restarts: u64,
    /// How it last ended.
    pub last_end: Option<String>,
    /// What else is run.
    pub processes: Vec<Beside>,
}

/// What DNS says, and what is done about it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Following {
    /// How many other servers it connects to, by DNS.
    pub peers: usize,
    /// Which.
    #[serde(default)]
    pub named: Named,
    /// Why DNS says less than all.
    pub dns: Option<String>,
    /// How what is wanted differs from what runs.
    pub due: Option<String>,
    /// Why the last configuration was refused; the one before stays.
    pub refused: Option<String>,
    /// Whose turn to restart is waited for, or why there is none.
    pub turn: Option<String>,
}

/// Whom DNS names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Named {
    /// Nobody, or they are not known yet.
    #[default]
    Nobody,
    /// Other servers of the center.
    Center {
        /// How many in the own region.
        near: usize,
        /// Other regions.
        regions: Vec<String>,
    },
    /// Servers of the center, for a leaf.
    Leaf {
        /// How many.
        center: usize,
    },
}

/// The ports of its listeners; 0: it does not listen there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// Clients.
    pub client: u16,
    /// Servers of the same cluster.
    pub route: u16,
    /// Other clusters.
    pub gateway: u16,
    /// Leaf nodes.
    pub leaf: u16,
}

/// As it stands in rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// nats-server answers, or waits for its first peers.
    Healthy,
    /// It does neither.
    Unhealthy,
}

/// What the runner does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It does not know its peers yet, and does not start alone.
    WaitingForPeers,
    /// nats-server runs, and has not answered yet.
    Starting,
    /// nats-server runs and answers.
    Running,
    /// It runs, and does not answer as it should.
    Unwell,
    /// It ended, and is started again soon.
    Restarting,
    /// It ended again and again.
    CrashLooping,
    /// It was told to end.
    Ending,
    /// It is gone.
    Stopped,
}

/// Another process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beside {
    /// Its name.
    pub name: String,
    /// What it does.
    pub phase: Phase,
    /// How often it was started again.
    pub restarts: u64,
    /// How it last ended.
    pub last_end: Option<String>,
}

/// Reads the status while the runner runs.
#[derive(Debug, Clone)]
pub struct StatusHandle(pub(crate) watch::Receiver<Status>);

impl StatusHandle {
    /// As it is at this moment.
    #[must_use]
    pub fn get(&self) -> Status {
        self.0.borrow().clone()
    }

    /// Waits until it has changed. Nothing is lost when the wait is dropped.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // The runner is gone: nothing changes any more.
            std::future::pending::<()>().await;
        }
    }
}
