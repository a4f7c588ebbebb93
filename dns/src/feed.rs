//! What this crate is fed with: one stream of rows and members, which the binary joins from the store's subscriptions.
//!
//! Cells arrive untyped, in the column order of [`Table::query`]; they are decoded and validated here and nowhere
//! before. Per table the order is `Reset` (a full snapshot begins; unless the subscription resumed), rows, `Synced`,
//! then changes. What the rows were before a `Reset` stays answered until its `Synced` replaces it whole.

use std::time::Duration;

/// The tables DNS reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// `cluster_metadata`: facts of the cluster as a whole.
    Metadata,
    /// `servers`: the servers of the fleet.
    Servers,
    /// `services`: the services that exist.
    Services,
    /// `containers`: the instances of services.
    Containers,
    /// `nats_servers`: the servers of NATS clusters.
    NatsServers,
}

impl Table {
    /// All tables, in the order of their declaration.
    pub const ALL: [Table; 5] =
        [Table::Metadata, Table::Servers, Table::Services, Table::Containers, Table::NatsServers];

    /// The SQL text to subscribe with. Constant, and without the columns that only people or counters need, so that a
    /// heartbeat (`last_seen`) or a check counter is no change for DNS. Primary key columns come first.
    #[must_use]
    pub fn query(self) -> &'static str {
        match self {
            Table::Metadata => "SELECT key, value FROM cluster_metadata",
            Table::Servers => {
                "SELECT id, wireguard_ip, management_ip, region, removed_at, draining, boot_id, subnet FROM servers"
            }
            Table::Services => "SELECT project, name, ports, ttl, fail_open FROM services",
            Table::Containers => {
                "SELECT id, project, service, server_id, instance_id, ip, ip6, ports, health_status, draining, \
                 started_at FROM containers"
            }
            Table::NatsServers => {
                "SELECT id, cluster, role, server_id, region, ip, ip6, client_port, route_port, gateway_port, \
                 leaf_port, health_status, started_at FROM nats_servers"
            }
        }
    }

    /// The table's name in the schema.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Table::Metadata => "cluster_metadata",
            Table::Servers => "servers",
            Table::Services => "services",
            Table::Containers => "containers",
            Table::NatsServers => "nats_servers",
        }
    }
}

/// One SQLite value.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// NULL.
    Null,
    /// INTEGER.
    Integer(i64),
    /// REAL.
    Real(f64),
    /// TEXT.
    Text(String),
    /// BLOB.
    Blob(Vec<u8>),
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Cell::Text(text.to_owned())
    }
}

impl From<i64> for Cell {
    fn from(value: i64) -> Self {
        Cell::Integer(value)
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A full snapshot of this table begins; what it does not repeat is gone at its `Synced`.
    Reset(Table),
    /// A row is there, or is different.
    Upsert {
        /// Whose row.
        table: Table,
        /// Its cells, in the column order of the query.
        cells: Vec<Cell>,
    },
    /// A row is gone.
    Delete {
        /// Whose row.
        table: Table,
        /// Its last cells; only the key columns matter.
        cells: Vec<Cell>,
    },
    /// The snapshot, or the resumption, is complete.
    Synced(Table),
    /// What came of this table are whole transactions. Some stores do not say it; of one that does, it comes after each `Synced`
    /// of a snapshot and behind the changes of each transaction.
    Committed(Table),
    /// All nodes as gossip sees them, at every (re)connect. A store that has just started knows few: whoever was up before and is
    /// not among them has some time to be heard.
    Members(Vec<Member>),
    /// A node that changed.
    Member(Member),
    /// The store is away: the zone is frozen and marked stale, until every table is `Synced`, or changed, again.
    FeedLost,
}

/// A node as gossip sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The node id, `servers.id`.
    pub server: String,
    /// What gossip makes of it.
    pub state: MemberState,
    /// The kernel's boot id that the node reports; empty when it reports none.
    pub boot_id: String,
    /// How long before this event its heartbeat last advanced here.
    pub heard: Option<Duration>,
    /// Round trip to it, if measured.
    pub rtt: Option<Duration>,
}

/// What gossip makes of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberState {
    /// Its heartbeat advances.
    Up,
    /// Its heartbeat has not advanced here, by any path, for 10 s.
    Silent,
    /// It left for good.
    Removed,
}

#[cfg(test)]
mod tests {
    use super::Table;

    /// The store knows a subscription by its text: another text is another subscription, with a snapshot of its own.
    #[test]
    fn the_queries_are_these() {
        insta::assert_snapshot!(Table::ALL.map(Table::query).join("\n"), @r#"
        SELECT key, value FROM cluster_metadata
        SELECT id, wireguard_ip, management_ip, region, removed_at, draining, boot_id, subnet FROM servers
        SELECT project, name, ports, ttl, fail_open FROM services
        SELECT id, project, service, server_id, instance_id, ip, ip6, ports, health_status, draining, started_at FROM containers
        SELECT id, cluster, role, server_id, region, ip, ip6, client_port, route_port, gateway_port, leaf_port, health_status, started_at FROM nats_servers
        "#);
    }
}
