//! What is kept of purged tombstones, in the file.

use std::collections::BTreeMap;

use kith_gossip_proto::{Day, Name, Purged, SiteId, Vector};
use rusqlite::{Connection, params};
use xxhash_rust::xxh3::Xxh3;

use super::ledger::{damaged, signed};
use super::stamps::Damaged;

/// Reads it. It is sealed: of whoever claims to have purged what others have not heard of, they take all rows.
pub(crate) fn load(conn: &Connection) -> rusqlite::Result<Purged> {
    let floor = Day(conn.query_row("SELECT purged_day FROM __kith_meta", [], |row| row.get(0))?);
    let mut statement = conn.prepare("SELECT site, ver FROM __kith_purged")?;
    let site = |row: &rusqlite::Row<'_>| Ok((SiteId::new(row.get(0)?), row.get::<_, i64>(1)?.cast_unsigned()));
    let through = statement.query_map([], site)?.collect::<Result<Vector, _>>()?;
    let mut statement = conn.prepare("SELECT name, purged_cl FROM __kith_table WHERE purged_cl > 0")?;
    let table =
        |row: &rusqlite::Row<'_>| Ok((Name::from(row.get_ref(0)?.as_str()?), row.get::<_, i64>(1)?.cast_unsigned()));
    let lengths = statement.query_map([], table)?.collect::<Result<BTreeMap<_, _>, _>>()?;
    let purged = Purged { through, lengths, floor };
    let kept: Option<i64> = conn.query_row("SELECT purged_seal FROM __kith_meta", [], |row| row.get(0))?;
    if kept.map_or(purged != Purged::default(), |kept| kept != seal(&purged)) {
        return Err(damaged(Damaged));
    }
    Ok(purged)
}

/// Writes what is otherwise than `kept`. A table of a peer's that is not here is known by its name.
pub(crate) fn save(conn: &Connection, purged: &Purged, kept: &Purged) -> rusqlite::Result<()> {
    conn.prepare_cached("/*kith*/ UPDATE __kith_meta SET purged_day = ?1, purged_seal = ?2")?
        .execute(params![purged.floor.0, seal(purged)])?;
    let mut site = conn.prepare_cached(
        "/*kith*/ INSERT INTO __kith_purged (site, ver) VALUES (?1, ?2) ON CONFLICT (site) DO UPDATE SET ver = ?2",
    )?;
    for (id, version) in purged.through.above(&kept.through).iter() {
        site.execute(params![id.as_bytes(), signed(version)])?;
    }
    let mut table = conn.prepare_cached(
        "/*kith*/ INSERT INTO __kith_table (name, purged_cl) VALUES (?1, ?2)
         ON CONFLICT (name) DO UPDATE SET purged_cl = ?2",
    )?;
    for (name, &cl) in purged.lengths.iter().filter(|(name, cl)| **cl > kept.length(name)) {
        table.execute(params![name.as_str(), signed(cl)])?;
    }
    Ok(())
}

/// As if nothing had been purged, for who writes all of it.
pub(crate) fn clear(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(
        "DELETE FROM __kith_purged; UPDATE __kith_table SET purged_cl = 0;
         UPDATE __kith_meta SET purged_day = 0, purged_seal = NULL",
    )
}

fn seal(purged: &Purged) -> i64 {
    let Purged { through, lengths, floor } = purged;
    let mut hash = Xxh3::new();
    hash.update(&floor.0.to_le_bytes());
    hash.update(&through.hash().to_le_bytes());
    for (table, length) in lengths {
        hash.update(&(table.as_str().len() as u64).to_le_bytes());
        hash.update(table.as_str().as_bytes());
        hash.update(&length.to_le_bytes());
    }
    hash.digest().cast_signed()
}
