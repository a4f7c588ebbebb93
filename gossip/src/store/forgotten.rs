//! What is kept of purged tombstones, in the file.

use std::collections::BTreeMap;

use kith_gossip_proto::{Day, Name, Purged, SiteId, Vector};
use rusqlite::{Connection, params};

use super::ledger::signed;

pub(crate) fn load(conn: &Connection) -> rusqlite::Result<Purged> {
    let floor = Day(conn.query_row("SELECT purged_day FROM __kith_meta", [], |row| row.get(0))?);
    let mut statement = conn.prepare("SELECT site, ver FROM __kith_purged")?;
    let site = |row: &rusqlite::Row<'_>| Ok((SiteId::new(row.get(0)?), row.get::<_, i64>(1)?.cast_unsigned()));
    let through = statement.query_map([], site)?.collect::<Result<Vector, _>>()?;
    let mut statement = conn.prepare("SELECT name, purged_cl FROM __kith_table WHERE purged_cl > 0")?;
    let table =
        |row: &rusqlite::Row<'_>| Ok((Name::from(row.get_ref(0)?.as_str()?), row.get::<_, i64>(1)?.cast_unsigned()));
    let lengths = statement.query_map([], table)?.collect::<Result<BTreeMap<_, _>, _>>()?;
    Ok(Purged { through, lengths, floor })
}

/// Writes what is otherwise than `kept`. A table of a peer's that is not here is known by its name.
pub(crate) fn save(conn: &Connection, purged: &Purged, kept: &Purged) -> rusqlite::Result<()> {
    conn.prepare_cached("/*kith*/ UPDATE __kith_meta SET purged_day = ?1")?.execute([purged.floor.0])?;
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
