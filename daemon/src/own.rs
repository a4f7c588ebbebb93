//! What this server says of itself: the columns of its own `servers` row, each said by the reconciler that knows it.
//!
//! A column that nobody has said anything of yet is left as it is in the row. [`heartbeat`](crate::heartbeat) is who writes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::wake::Wake;

/// A column of the own row that this server writes. `removed_at`, `draining` and `labels` are the operator's, and
/// `last_seen` is the heartbeat's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Column {
    /// The host's own name.
    Hostname,
    /// The server's range.
    Subnet,
    /// Its address inside the mesh.
    WireguardIp,
    /// Its WireGuard public key.
    WireguardPubkey,
    /// Its management address.
    ManagementIp,
    /// Where WireGuard reaches it, as a JSON array.
    Endpoints,
    /// Region code.
    Region,
    /// The kernel's boot id, since the first full container list.
    BootId,
    /// The version of Kith.
    Release,
}

/// The values of some columns.
pub(crate) type Columns = BTreeMap<Column, String>;

impl Column {
    /// All of them, in the order of the table.
    pub(crate) const ALL: [Column; 9] = [
        Column::Hostname,
        Column::Subnet,
        Column::WireguardIp,
        Column::WireguardPubkey,
        Column::ManagementIp,
        Column::Endpoints,
        Column::Region,
        Column::BootId,
        Column::Release,
    ];

    /// Its name in SQL.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Column::Hostname => "hostname",
            Column::Subnet => "subnet",
            Column::WireguardIp => "wireguard_ip",
            Column::WireguardPubkey => "wireguard_pubkey",
            Column::ManagementIp => "management_ip",
            Column::Endpoints => "endpoints",
            Column::Region => "region",
            Column::BootId => "boot_id",
            Column::Release => "release",
        }
    }
}

/// Whether this server is one of the cluster. One that is not writes nothing more in its own name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is.
    Belongs,
    /// An operator removed it.
    Removed,
}

/// What has been said. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Own {
    said: Arc<Mutex<Columns>>,
    standing: Arc<Mutex<Standing>>,
    heartbeat: Wake,
}

impl Own {
    /// What is known from the start. `heartbeat` is woken by each change.
    pub(crate) fn new(said: Columns, heartbeat: Wake) -> Own {
        let standing = Arc::new(Mutex::new(Standing::Belongs));
        Own { said: Arc::new(Mutex::new(said)), standing, heartbeat }
    }

    /// Says what a column is to be from here on.
    pub(crate) fn say(&self, column: Column, value: impl Into<String>) {
        let value = value.into();
        let before = self.said.lock().unwrap_or_else(PoisonError::into_inner).insert(column, value.clone());
        if before.as_ref() != Some(&value) {
            self.heartbeat.poke();
        }
    }

    /// Whether this server belongs, as the heartbeat last saw it.
    pub(crate) fn standing(&self) -> Standing {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says whether it does. Only the heartbeat, which reads the row, knows.
    pub(crate) fn stands(&self, standing: Standing) {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = standing;
    }

    /// All that has been said.
    pub(crate) fn said(&self) -> Columns {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_said_wakes_the_heartbeat_once_and_not_again_for_the_same() {
        let wake = Wake::default();
        let own = Own::new([(Column::Region, "fra".to_owned())].into(), wake.clone());
        let poked = || tokio::time::timeout(std::time::Duration::from_secs(1), wake.poked());
        own.say(Column::Region, "fra");
        assert!(poked().await.is_err());
        own.say(Column::Subnet, "10.210.7.0/24");
        assert!(poked().await.is_ok());
        assert_eq!(own.said().into_values().collect::<Vec<_>>(), ["10.210.7.0/24", "fra"]);
    }
}
