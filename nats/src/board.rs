//! Where the runner's tasks write what each of them knows, and everybody reads the whole.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::config::{Config, Role};
use crate::identity::Identity;
use crate::status::{Beside, Following, Health, Phase, Ports, Status, StatusHandle};

/// The status, and who may write it.
#[derive(Debug, Clone)]
pub(crate) struct Board(watch::Sender<Status>);

impl Board {
    /// Before anything runs.
    pub(crate) fn new(config: &Config, identity: &Identity, version: String) -> Board {
        let own = config.listen.ports;
        let (route, gateway, leaf) = match config.role {
            Role::Center => (own.route, own.gateway, own.leaf),
            // A leaf listens for nobody but clients.
            Role::Leaf => (0, 0, 0),
        };
        let beside = |name: &String| Beside { name: name.clone(), phase: Phase::Starting, restarts: 0, last_end: None };
        let status = Status {
            id: identity.name.clone(),
            cluster: config.cluster.clone(),
            role: config.role.as_str().to_owned(),
            region: config.region.clone(),
            ip: config.listen.ip,
            ip6: config.listen.ip6,
            ports: Ports { client: own.client, route, gateway, leaf },
            health: Health::Unhealthy,
            started_at: 0,
            phase: Phase::Starting,
            reason: None,
            namesake: false,
            following: Following::default(),
            version,
            pid: None,
            restarts: 0,
            last_end: None,
            processes: config.processes.iter().map(|extra| beside(&extra.name)).collect(),
        };
        Board(watch::channel(status).0)
    }

    /// Changes it. Whoever waits is told only of what is different.
    pub(crate) fn write(&self, change: impl FnOnce(&mut Status)) {
        self.0.send_if_modified(|status| {
            let before = status.clone();
            change(status);
            *status != before
        });
    }

    /// nats-server runs, with this id, since this moment.
    pub(crate) fn started(&self, pid: Option<i32>) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.write(|status| {
            status.started_at = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
            status.pid = pid;
        });
        self.phase(Phase::Starting, None);
    }

    /// What the runner does, and why. Health follows from it.
    pub(crate) fn phase(&self, phase: Phase, reason: Option<String>) {
        self.write(|status| {
            status.health = match phase {
                Phase::WaitingForPeers | Phase::Running => Health::Healthy,
                Phase::Starting
                | Phase::Unwell
                | Phase::Restarting
                | Phase::CrashLooping
                | Phase::Ending
                | Phase::Stopped => Health::Unhealthy,
            };
            (status.phase, status.reason) = (phase, reason);
        });
    }

    /// For readers.
    pub(crate) fn handle(&self) -> StatusHandle {
        StatusHandle(self.0.subscribe())
    }
}
