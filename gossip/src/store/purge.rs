//! Tombstones that are old enough, and that everybody has seen: found by a reader, taken away by the writer.
//!
//! What is kept of them is in the ledger ([`Purged`](kith_gossip_proto::Purged)). The rule of who must have seen them is
//! replication's.

use std::sync::Arc;

use kith_gossip_proto::{Day, Digest, Hlc, Key, Part, Vector};
use rusqlite::Connection;

use super::ledger::{Ledger, Spot, damaged};
use super::snapshot::Snapshot;
use super::stamps::Damaged;
use super::table::{Table, TableSet, quote, tombs_of};
use super::verify::is_sealed;
use super::writer::Core;

/// Tombstones that one look finds at most: a few megabytes of keys. The next look finds the others.
const FOUND_MAX: usize = 50_000;

/// Tombstones that go in one transaction, so that clients who write do not wait for long.
pub(crate) const PURGED_AT_ONCE: usize = 500;

/// Tombstones that may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Per site, the last version that one of them is of.
    pub through: Vector,
    /// By table and key.
    pub(crate) keys: Vec<(i64, Key)>,
}

impl Due {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

/// Finds the tombstones that these heads cover and that were made before this reading. Costs nothing while the oldest are
/// younger; else it reads all of them.
pub(crate) fn due(conn: &Connection, covered: &Vector, before: Hlc) -> rusqlite::Result<Due> {
    let snapshot = Snapshot::begin(conn)?;
    let mut due = Due::default();
    if snapshot.ledger.digests.days().next().is_none_or(|(oldest, _)| oldest > Day::of(before)) {
        return Ok(due);
    }
    for table in snapshot.tables.iter() {
        let sql = format!("SELECT pk, st FROM {}", quote(&tombs_of(&table.name)));
        let mut statement = conn.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let tomb = snapshot.ledger.unpack(row.get_ref(1)?)?;
            let rs = tomb.rs();
            if rs.hlc >= before || rs.version > covered.head(rs.site) {
                continue;
            }
            let key = Key::from_bytes(&row.get::<_, Vec<u8>>(0)?).map_err(|_| damaged(Damaged))?;
            // It may have become old by a bit that flipped. It stays, for a look to find.
            if !is_sealed(table, &key, &tomb) {
                continue;
            }
            due.through.raise(rs.site, rs.version);
            due.keys.push((table.id, key));
            if due.keys.len() == FOUND_MAX {
                return Ok(due);
            }
        }
    }
    Ok(due)
}

/// Counts them.
pub(crate) fn count(conn: &Connection) -> rusqlite::Result<u64> {
    let mut count = 0;
    for table in TableSet::load(conn)?.iter() {
        let sql = format!("SELECT count(*) FROM {}", quote(&tombs_of(&table.name)));
        count += conn.query_row(&sql, [], |row| row.get::<_, i64>(0))?.cast_unsigned();
    }
    Ok(count)
}

impl Core {
    /// Takes away those of the tombstones that are there still; returns how many. One that a later deletion made is not
    /// among them.
    pub(crate) fn purge(&mut self, due: &Due) -> rusqlite::Result<u64> {
        let tables: Arc<TableSet> = Arc::clone(&self.tables);
        let mut gone = 0;
        for (id, key) in &due.keys {
            if let Some(table) = tables.by_id(*id) {
                gone += self.ledger.purge(&self.conn, table, key, &due.through)?;
            }
        }
        Ok(gone)
    }
}

impl Ledger {
    fn purge(&mut self, conn: &Connection, table: &Table, key: &Key, through: &Vector) -> rusqlite::Result<u64> {
        let Some(tomb) = self.tomb(conn, table, key)? else { return Ok(0) };
        let (cl, rs) = (tomb.cl, tomb.rs());
        if rs.version > through.head(rs.site) || !is_sealed(table, key, &tomb) {
            return Ok(0);
        }
        self.digests.take(Part::of(cl, rs), Digest::row(&table.name, key, cl, rs));
        self.drop_tomb(conn, table, key)?;
        self.log(conn, table.id, Some((&Spot::Key(key.clone()), &[rs])), None)?;
        Arc::make_mut(&mut self.purged).note(&table.name, cl, rs);
        Ok(1)
    }
}

#[cfg(test)]
mod tests {
    use kith_gossip_proto::agreement::{Agreement, Fingerprint};
    use std::time::Duration;
    use tempfile::TempDir;

    use super::super::{Durability, SchemaSource, Statement, Store, StoreConfig};
    use super::*;

    fn open(dir: &TempDir) -> Store {
        let sql = "CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, a TEXT)".to_owned();
        let schema = vec![SchemaSource { name: "test".to_owned(), sql }];
        Store::open(StoreConfig { path: dir.path().join("kith.db"), schema, durability: Durability::Full }).unwrap()
    }

    fn compared(ours: Fingerprint, theirs: Fingerprint) -> Agreement {
        let mut agreement = Agreement::default();
        agreement.compare(ours, theirs, Duration::ZERO);
        agreement
    }

    #[tokio::test]
    async fn who_has_purged_more_than_its_peer_agrees_with_it_once_both_leave_the_same_days_out() {
        let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let [ours, theirs] = [open(&dirs[0]), open(&dirs[1])];
        let mut commits = ours.commits();
        for sql in ["INSERT INTO t VALUES (1, 'a'), (2, 'b')", "DELETE FROM t WHERE id = 1"] {
            ours.execute(vec![Statement::new(sql)], None).await.unwrap();
            let versions = &commits.recv().await.unwrap().versions;
            theirs.apply(versions.iter().map(|version| (**version).clone()).collect()).await.unwrap();
        }
        assert_eq!(compared(ours.fingerprint(), theirs.fingerprint()), Agreement::Equal);
        let heads = Vector::clone(&ours.state().heads);
        let due = ours.due(heads, Hlc::MAX).await.unwrap();
        assert_eq!(ours.purge(due).await.unwrap(), 1);
        assert_eq!(compared(ours.fingerprint(), theirs.fingerprint()), Agreement::Unknown);
        theirs.compare_from(ours.fingerprint().floor);
        assert_eq!(compared(ours.fingerprint(), theirs.fingerprint()), Agreement::Equal);
        // Live rows are compared all the same.
        theirs.execute(vec![Statement::new("UPDATE t SET a = 'c'")], None).await.unwrap();
        let other = Fingerprint { vector: ours.fingerprint().vector, ..theirs.fingerprint() };
        assert_eq!(compared(ours.fingerprint(), other), Agreement::Differs { since: Duration::ZERO });
    }
}
