//! The seal of the schema: one hash of all that the database declares, written when that changes.
//!
//! A flipped bit in a declaration makes another table of it: a column of another name, which would look like one that was
//! never written, or one that cannot be brought to the declared schema, which would look like an operator's mistake.

use rusqlite::{Connection, OptionalExtension};
use xxhash_rust::xxh3::Xxh3;

/// Writes the seal. To be called whenever tables, columns or indexes may be others than before.
pub(crate) fn seal(conn: &Connection) -> rusqlite::Result<()> {
    let outline = outline(conn)?;
    conn.execute("UPDATE __kith_meta SET outline = ?1", [outline]).map(drop)
}

/// Whether the database declares what was sealed.
pub(crate) fn is_sealed(conn: &Connection) -> rusqlite::Result<bool> {
    let kept: Option<Option<i64>> =
        conn.query_row("SELECT outline FROM __kith_meta", [], |row| row.get(0)).optional()?;
    match kept.flatten() {
        // A start that was interrupted before its first migration.
        None => Ok(true),
        Some(kept) => Ok(kept == outline(conn)?),
    }
}

fn outline(conn: &Connection) -> rusqlite::Result<i64> {
    // Texts with their lengths, so that what moves from one to the next is seen. What SQLite makes for itself is left out.
    let texts = "
        SELECT type || length(name) || name || length(tbl_name) || tbl_name || sql FROM sqlite_schema
        WHERE type IN ('table', 'index') AND sql IS NOT NULL AND name NOT LIKE 'sqlite!_%' ESCAPE '!'
        UNION ALL SELECT tid || ' ' || name FROM __kith_table WHERE live
        UNION ALL SELECT tid || ' ' || cid || ' ' || name FROM __kith_col
        ORDER BY 1";
    let mut statement = conn.prepare(texts)?;
    let mut rows = statement.query([])?;
    let mut hash = Xxh3::new();
    while let Some(row) = rows.next()? {
        let text = row.get_ref(0)?.as_bytes()?;
        hash.update(&(text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    Ok(hash.digest().cast_signed())
}
