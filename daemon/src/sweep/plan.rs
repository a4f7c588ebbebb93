//! The plan of the sweep: pure.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use kith_gossip_client::Statement;
use tokio::time::Instant;

use crate::clock::Now;
use crate::partition::Suspicion;

/// What there is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Observed {
    /// The servers that were removed.
    pub(crate) tombstones: BTreeMap<String, Tombstone>,
    /// Whether we may be the ones who are cut off.
    pub(crate) suspicion: Suspicion,
}

/// A server that was removed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tombstone {
    /// When we saw it first.
    pub(crate) since: Instant,
    /// How many rows it has.
    pub(crate) rows: BTreeMap<Table, u64>,
}

/// A table of what runs on a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Table {
    /// `containers`.
    Containers,
    /// `nats_servers`.
    NatsServers,
}

/// What is deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    table: Table,
    server: String,
    rows: u64,
}

impl Table {
    /// Both.
    pub(crate) const ALL: [Table; 2] = [Table::Containers, Table::NatsServers];

    fn name(self) -> &'static str {
        match self {
            Table::Containers => "containers",
            Table::NatsServers => "nats_servers",
        }
    }

    /// How many rows each server has that was removed.
    pub(crate) fn count(self) -> String {
        let table = self.name();
        format!(
            "SELECT server_id, count(*) FROM {table} WHERE server_id IN \
             (SELECT id FROM servers WHERE removed_at IS NOT NULL) GROUP BY server_id"
        )
    }
}

impl Step {
    /// The statement. A server that was taken back since it was looked at keeps its rows.
    pub(crate) fn statement(&self) -> Statement {
        let table = self.table.name();
        let sql = format!(
            "DELETE FROM {table} WHERE server_id = ? AND server_id IN (SELECT id FROM servers WHERE removed_at IS NOT NULL)"
        );
        Statement::new(sql).with([self.server.as_str()])
    }
}

/// What is to be deleted, of servers whose tombstone has been seen for `after`.
pub(crate) fn plan(observed: &Observed, after: Duration, now: Now) -> Vec<Step> {
    match observed.suspicion {
        Suspicion::Clear => {}
        Suspicion::Unknown | Suspicion::Suspected => return Vec::new(),
    }
    let due = observed.tombstones.iter().filter(|(_, it)| now.at.saturating_duration_since(it.since) >= after);
    let steps = due.flat_map(|(server, tombstone)| {
        let some = tombstone.rows.iter().filter(|(_, rows)| **rows > 0);
        some.map(|(table, rows)| Step { table: *table, server: server.clone(), rows: *rows })
    });
    steps.collect()
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "delete {} {} of {}, which was removed", self.rows, self.table.name(), self.server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SWEEP_AFTER;

    fn planned(seen: &[(&str, u64, u64, u64)], suspicion: Suspicion) -> String {
        let now = Instant::now() + SWEEP_AFTER * 2;
        let tombstones = seen.iter().map(|(id, seconds, containers, nats)| {
            let rows = [(Table::Containers, *containers), (Table::NatsServers, *nats)].into();
            ((*id).to_owned(), Tombstone { since: now - Duration::from_secs(*seconds), rows })
        });
        let observed = Observed { tombstones: tombstones.collect(), suspicion };
        let steps = plan(&observed, SWEEP_AFTER, Now { at: now, wall_ms: 0 });
        steps.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn what_a_removed_server_ran_goes_after_an_hour_and_nothing_else() {
        assert_eq!(planned(&[("fra-3", 3599, 7, 1)], Suspicion::Clear), "");
        insta::assert_snapshot!(planned(&[("fra-3", 3600, 7, 1), ("fra-4", 9000, 0, 0), ("fra-5", 10, 5, 5)], Suspicion::Clear), @r"
        delete 7 containers of fra-3, which was removed
        delete 1 nats_servers of fra-3, which was removed
        ");
        assert_eq!(planned(&[], Suspicion::Clear), "");
    }

    #[test]
    fn nothing_is_swept_unless_it_is_known_that_we_are_not_cut_off() {
        let old = [("fra-3", 9000, 7, 0)];
        assert_eq!(planned(&old, Suspicion::Suspected), "");
        assert_eq!(planned(&old, Suspicion::Unknown), "");
        assert_ne!(planned(&old, Suspicion::Clear), "");
    }

    #[test]
    fn a_server_that_was_taken_back_meanwhile_keeps_its_rows() {
        let step = Step { table: Table::Containers, server: "fra-3".to_owned(), rows: 7 };
        let text = serde_json::to_string(&step.statement()).unwrap();
        insta::assert_snapshot!(text, @r#"["DELETE FROM containers WHERE server_id = ? AND server_id IN (SELECT id FROM servers WHERE removed_at IS NOT NULL)",["fra-3"]]"#);
    }
}
