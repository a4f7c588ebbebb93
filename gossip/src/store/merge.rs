//! One row of a peer, joined into ours: [`Row::join`] on rows that lie in tables.
//!
//! What a table cannot take never stops anything: a cell of an unknown column, or with a value that SQLite would change or
//! refuse, is set aside; so is the whole row when it cannot be inserted without such a cell. Set aside or not, the row
//! merges, counts and travels the same.

use kith_gossip_proto::{Cell, Digest, Key, Name, Part, Row, Stamp, Value};
use rusqlite::{Connection, ErrorCode, OptionalExtension, ToSql};

use super::aside::Aside;
use super::flush::all_stamps;
use super::group::run;
use super::ledger::{Ledger, Spot};
use super::stamps::Stamps;
use super::statement::Sql;
use super::table::{Need, Table};
use super::watched::Watched;

/// What readers see otherwise than before.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Nothing,
    /// A live row's columns, by position.
    Columns(Vec<usize>),
    /// The row came, went, or is another of the same key.
    Row,
}

/// Merges into the database of a connection that is in a transaction.
pub(crate) struct Merge<'a> {
    pub(crate) conn: &'a Connection,
    pub(crate) ledger: &'a mut Ledger,
}

/// What we hold of a key.
#[derive(Debug)]
pub(super) enum Ours {
    Nothing,
    Live(Live),
    Tomb(Stamps),
    Aside(Aside),
}

/// A live row.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) spot: Spot,
    pub(super) stamps: Stamps,
    pub(super) values: Vec<Value>,
    pub(super) aside: Aside,
}

/// A row that was written: where it is, and what of it could not be.
struct Placed {
    spot: Spot,
    /// None when the whole row is set aside.
    stamps: Option<Stamps>,
    aside: Aside,
}

impl Ours {
    fn cl(&self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Live(live) => live.stamps.cl,
            Self::Tomb(stamps) => stamps.cl,
            Self::Aside(aside) => aside.own.map_or(0, |(cl, _)| cl),
        }
    }

    /// Whether readers see it.
    fn is_visible(&self) -> bool {
        matches!(self, Self::Live(_))
    }
}

impl Live {
    /// The digest of all of it, what is set aside included.
    pub(super) fn digest(&self, table: &Table, key: &Key) -> Digest {
        let mut sum = self.aside.digest(&table.name, key);
        sum += table.terms(key, &self.stamps, &self.values);
        sum
    }
}

impl Aside {
    /// A row that is set aside whole.
    fn of(row: Row) -> Self {
        Self { own: Some((row.cl, row.rs)), cells: row.cells }
    }

    pub(super) fn row(self) -> Option<Row> {
        self.own.map(|(cl, rs)| Row { cl, rs, cells: self.cells })
    }
}

impl Merge<'_> {
    /// Joins a row of a table that is here.
    pub(crate) fn row(&mut self, table: &Table, key: &Key, theirs: Row) -> rusqlite::Result<Seen> {
        let ours = self.load(table, key)?;
        self.row_onto(table, key, ours, theirs)
    }

    /// Joins a row of which this is held, as [`Merge::load`] has just said.
    pub(super) fn row_onto(&mut self, table: &Table, key: &Key, ours: Ours, theirs: Row) -> rusqlite::Result<Seen> {
        if theirs.cl < ours.cl() {
            return Ok(Seen::Nothing);
        }
        match ours {
            Ours::Live(live) if live.stamps.cl == theirs.cl => self.cells(table, key, live, theirs),
            Ours::Tomb(stamps) if stamps.cl == theirs.cl => {
                if theirs.rs <= stamps.rs() {
                    return Ok(Seen::Nothing);
                }
                self.replace(table, key, Ours::Tomb(stamps), theirs)
            }
            Ours::Aside(aside) if aside.own.is_some_and(|(cl, _)| cl == theirs.cl) => {
                let Some(mut row) = aside.clone().row() else { return Ok(Seen::Nothing) };
                row.join(theirs);
                if aside.own == Some((row.cl, row.rs)) && aside.cells == row.cells {
                    return Ok(Seen::Nothing);
                }
                self.replace(table, key, Ours::Aside(aside), row)
            }
            ours => self.replace(table, key, ours, theirs),
        }
    }

    /// Joins a row of a table that is not here, and gives its name a number if it has none.
    pub(crate) fn unknown(&mut self, table: &Name, key: &Key, theirs: Row) -> rusqlite::Result<()> {
        let id = self
            .conn
            .prepare_cached(
                "/*kith*/ INSERT INTO __kith_table (name) VALUES (?1)
                 ON CONFLICT (name) DO UPDATE SET name = name RETURNING tid",
            )?
            .query_row([table.as_str()], |row| row.get(0))?;
        self.homeless(id, table, key, theirs)
    }

    /// Joins a row of a table that is not here: `id` is the number its name was given.
    pub(crate) fn homeless(&mut self, id: i64, table: &Name, key: &Key, theirs: Row) -> rusqlite::Result<()> {
        let before = self.ledger.aside(self.conn, id, key)?;
        let after = match before.clone().row() {
            None => theirs,
            Some(mut row) => {
                row.join(theirs);
                row
            }
        };
        let after = Aside::of(after);
        if before == after {
            return Ok(());
        }
        self.ledger.digests.take(before.part(), before.digest(table, key));
        self.ledger.digests.add(after.part(), after.digest(table, key));
        self.ledger.set_aside(self.conn, id, key, &before, &after)?;
        let spot = Spot::Key(key.clone());
        self.ledger.log(self.conn, id, Some((&spot, &before.stamps())), Some((&spot, &after.stamps())))
    }

    /// Tries again to bring into the table what is set aside of a row.
    pub(crate) fn settle(&mut self, table: &Table, key: &Key) -> rusqlite::Result<Seen> {
        match self.load(table, key)? {
            Ours::Aside(aside) => match aside.clone().row() {
                Some(row) => self.replace(table, key, Ours::Aside(aside), row),
                None => Ok(Seen::Nothing),
            },
            Ours::Live(mut live) if !live.aside.cells.is_empty() => {
                let known = |name: &Name| table.cell(name).is_some();
                let (cells, rest) = live.aside.clone().cells.into_iter().partition(|(name, _)| known(name));
                let held = std::mem::replace(&mut live.aside, Aside { own: None, cells: rest });
                // They leave and come back as if received: in the digest, and nowhere else.
                let back = Row { cl: live.stamps.cl, rs: live.stamps.rs(), cells };
                for (name, cell) in &back.cells {
                    self.ledger.digests.take(Part::Live, Digest::cell(&table.name, key, name, &cell.value, cell.stamp));
                }
                self.ledger.set_aside(self.conn, table.id, key, &held, &live.aside)?;
                self.cells(table, key, live, back)
            }
            Ours::Nothing | Ours::Live(_) | Ours::Tomb(_) => Ok(Seen::Nothing),
        }
    }

    pub(super) fn load(&self, table: &Table, key: &Key) -> rusqlite::Result<Ours> {
        let aside = self.ledger.aside(self.conn, table.id, key)?;
        if aside.own.is_some() {
            return Ok(Ours::Aside(aside));
        }
        if let Some((spot, stamps, values)) = self.find(table, key)? {
            return Ok(Ours::Live(Live { spot, stamps, values, aside }));
        }
        Ok(self.ledger.tomb(self.conn, table, key)?.map_or(Ours::Nothing, Ours::Tomb))
    }

    /// What a watched table's row holds.
    pub(crate) fn image(&self, table: &Table, key: &Key, watched: &Watched) -> rusqlite::Result<Option<Vec<Value>>> {
        if !watched.contains_key(&table.name) {
            return Ok(None);
        }
        Ok(self.find(table, key)?.map(|(_, _, values)| values))
    }

    fn find(&self, table: &Table, key: &Key) -> rusqlite::Result<Option<(Spot, Stamps, Vec<Value>)>> {
        let Some(values) = key_values(table, key) else { return Ok(None) };
        let mut statement = self.conn.prepare_cached(&table.sql.find)?;
        let parts: Vec<_> = values.iter().map(Sql).collect();
        let mut bound: Vec<&dyn ToSql> = parts.iter().map(|part| part as &dyn ToSql).collect();
        let encoded = key.as_bytes();
        if table.by_key() {
            bound.push(&encoded);
        }
        let found = statement
            .query_row(&*bound, |row| {
                let values = table.values(row, 2)?;
                // The key's affinity may have found 5 for '5', which is another key.
                if table.key_of(&values).ok().as_ref() != Some(key) {
                    return Ok(None);
                }
                let spot = if table.by_key() { Spot::Key(key.clone()) } else { Spot::Row(row.get(0)?) };
                Ok(Some((spot, self.ledger.unpack(row.get_ref(1)?)?, values)))
            })
            .optional()?;
        Ok(found.flatten())
    }

    /// Takes away what we have of a key and writes the row instead.
    fn replace(&mut self, table: &Table, key: &Key, ours: Ours, row: Row) -> rusqlite::Result<Seen> {
        let was_visible = ours.is_visible();
        let (from, before) = self.remove(table, key, ours)?;
        let terms = Digest::of(&table.name, key, &row);
        self.ledger.digests.add(Part::of(row.cl, row.rs), terms);
        let placed = if row.is_alive() {
            self.insert(table, key, row)?
        } else {
            let stamps = Stamps::fresh(row.cl, row.rs, 0).sealed(terms);
            self.ledger.put_tomb(self.conn, table, key, &stamps)?;
            let after = [row.rs];
            let spot = Spot::Key(key.clone());
            self.ledger.log(self.conn, table.id, Some((&from, &before)), Some((&spot, &after)))?;
            return Ok(if was_visible { Seen::Row } else { Seen::Nothing });
        };
        self.ledger.set_aside(self.conn, table.id, key, &Aside::default(), &placed.aside)?;
        let seen = placed.stamps.is_some();
        let after = match placed.stamps {
            Some(mut stamps) => {
                stamps.reseal(placed.aside.digest(&table.name, key), terms);
                self.ledger.put_stamps(self.conn, table, &placed.spot, &stamps)?;
                all_stamps(&stamps, &placed.aside)
            }
            None => placed.aside.stamps(),
        };
        self.ledger.log(self.conn, table.id, Some((&from, &before)), Some((&placed.spot, &after)))?;
        Ok(if was_visible || seen { Seen::Row } else { Seen::Nothing })
    }

    fn remove(&mut self, table: &Table, key: &Key, ours: Ours) -> rusqlite::Result<(Spot, Vec<Stamp>)> {
        let spot = Spot::Key(key.clone());
        match ours {
            Ours::Nothing => Ok((spot, Vec::new())),
            Ours::Tomb(stamps) => {
                let (part, term) =
                    (Part::of(stamps.cl, stamps.rs()), Digest::row(&table.name, key, stamps.cl, stamps.rs()));
                self.ledger.digests.take(part, term);
                self.ledger.drop_tomb(self.conn, table, key)?;
                Ok((spot, vec![stamps.rs()]))
            }
            Ours::Aside(aside) => {
                self.ledger.digests.take(aside.part(), aside.digest(&table.name, key));
                self.ledger.set_aside(self.conn, table.id, key, &aside, &Aside::default())?;
                Ok((spot, aside.stamps()))
            }
            Ours::Live(live) => {
                self.ledger.digests.take(Part::Live, live.digest(table, key));
                self.delete(table, &live.spot)?;
                self.ledger.drop_stamps(self.conn, table, &live.spot)?;
                self.ledger.set_aside(self.conn, table.id, key, &live.aside, &Aside::default())?;
                Ok((live.spot, all_stamps(&live.stamps, &live.aside)))
            }
        }
    }

    /// Joins cells of one life into a live row.
    fn cells(&mut self, table: &Table, key: &Key, live: Live, theirs: Row) -> rusqlite::Result<Seen> {
        let Live { spot, mut stamps, values, aside: held } = live;
        let before = all_stamps(&stamps, &held);
        let mut aside = held.clone();
        let (mut went, mut came) = (Digest::default(), Digest::default());
        if theirs.rs > stamps.rs() {
            went += Digest::row(&table.name, key, stamps.cl, stamps.rs());
            came += Digest::row(&table.name, key, stamps.cl, theirs.rs);
            stamps.set_rs(theirs.rs);
        }
        let mut won = Vec::new();
        for (name, cell) in theirs.cells {
            let place = table.cell(&name);
            let in_table = place.and_then(|(at, cid)| stamps.cell(cid).map(|stamp| (stamp, &values[at])));
            let ours = in_table.or_else(|| aside.cells.get(&name).map(|cell| (cell.stamp, &cell.value)));
            if ours.is_some_and(|ours| ours >= (cell.stamp, &cell.value)) {
                continue;
            }
            if let Some((stamp, value)) = ours {
                let term = Digest::cell(&table.name, key, &name, value, stamp);
                if in_table.is_some() { went += term } else { self.ledger.digests.take(Part::Live, term) }
            }
            let term = Digest::cell(&table.name, key, &name, &cell.value, cell.stamp);
            match place {
                None => {
                    self.ledger.digests.add(Part::Live, term);
                    aside.cells.insert(name, cell);
                }
                Some((at, cid)) => {
                    aside.cells.remove(&name);
                    won.push((at, cid, cell, term));
                }
            }
        }
        if won.is_empty() && aside == held && stamps.rs() == before[0] {
            return Ok(Seen::Nothing);
        }
        // A value that is there already needs its new stamp only.
        let differs = |&&(at, _, ref cell, _): &&(usize, u8, Cell, Digest)| values[at] != cell.value;
        let changed: Vec<_> = won.iter().filter(differs).map(|(at, _, cell, _)| (*at, &cell.value)).collect();
        let refused = self.update(table, &spot, &changed)?;
        let written = changed.iter().map(|&(at, _)| at).filter(|at| !refused.contains(at)).collect::<Vec<_>>();
        for (at, cid, cell, term) in won {
            if refused.contains(&at) {
                self.ledger.digests.add(Part::Live, term);
                stamps.unset(1 << cid);
                aside.cells.insert(table.columns[at].clone(), cell);
            } else {
                came += term;
                stamps.set(1 << cid, cell.stamp);
            }
        }
        self.ledger.digests.take(Part::Live, went);
        self.ledger.digests.add(Part::Live, came);
        stamps.reseal(went, came);
        let after = all_stamps(&stamps, &aside);
        self.ledger.set_aside(self.conn, table.id, key, &held, &aside)?;
        self.ledger.put_stamps(self.conn, table, &spot, &stamps)?;
        self.ledger.log(self.conn, table.id, Some((&spot, &before)), Some((&spot, &after)))?;
        Ok(if written.is_empty() { Seen::Nothing } else { Seen::Columns(written) })
    }

    /// Inserts a live row, setting aside what the table cannot take.
    fn insert(&mut self, table: &Table, key: &Key, row: Row) -> rusqlite::Result<Placed> {
        let hidden = |row| Placed { spot: Spot::Key(key.clone()), stamps: None, aside: Aside::of(row) };
        let Some(keys) = key_values(table, key) else { return Ok(hidden(row)) };
        let mut values: Vec<Option<&Value>> = vec![None; table.columns.len()];
        for (&at, value) in table.key_at.iter().zip(&keys) {
            values[at] = Some(value);
        }
        for (name, cell) in &row.cells {
            if let Some((at, _)) = table.cell(name) {
                values[at] = Some(&cell.value);
            }
        }
        let plain = values.iter().zip(&table.affinity).all(|(value, kind)| value.is_none_or(|v| !kind.may_change(v)));
        let quick = if plain { self.insert_values(table, key, &values)? } else { None };
        let (spot, refused) = match quick {
            Some(spot) => (spot, Vec::new()),
            None => match self.insert_bit_by_bit(table, key, &values)? {
                Some(placed) => placed,
                None => return Ok(hidden(row)),
            },
        };
        let mut stamps = Stamps::fresh(row.cl, row.rs, 0);
        let mut aside = Aside::default();
        for (name, cell) in row.cells {
            match table.cell(&name) {
                Some((at, cid)) if !refused.contains(&at) => stamps.set(1 << cid, cell.stamp),
                _ => drop(aside.cells.insert(name, cell)),
            }
        }
        Ok(Placed { spot, stamps: Some(stamps), aside })
    }

    /// None when the table refuses the row.
    fn insert_values(&self, table: &Table, key: &Key, values: &[Option<&Value>]) -> rusqlite::Result<Option<Spot>> {
        let columns: Vec<_> = (0..values.len()).filter(|&at| values[at].is_some()).collect();
        let text;
        let sql = if columns.len() == values.len() {
            &table.sql.insert
        } else {
            text = table.insert(&columns);
            &text
        };
        let bound = values.iter().copied().flatten().map(Sql);
        match self.conn.prepare_cached(sql)?.execute(rusqlite::params_from_iter(bound)) {
            Ok(_) if table.by_key() => Ok(Some(Spot::Key(key.clone()))),
            Ok(_) => Ok(Some(Spot::Row(self.conn.last_insert_rowid()))),
            Err(error) if is_refusal(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Inserts the least that a row needs, then tries each other column. None when not even that can be done.
    fn insert_bit_by_bit(
        &self,
        table: &Table,
        key: &Key,
        values: &[Option<&Value>],
    ) -> rusqlite::Result<Option<(Spot, Vec<usize>)>> {
        let needed = |at: usize| table.cid[at].is_none() || table.needed[at] == Need::Required;
        let least: Vec<_> = (0..values.len()).map(|at| values[at].filter(|_| needed(at))).collect();
        run(self.conn, "/*kith*/ SAVEPOINT row")?;
        let spot = self.insert_values(table, key, &least)?;
        let kept = match &spot {
            None => false,
            Some(spot) => {
                let stored = self.stored(table, spot)?;
                least.iter().zip(&stored).all(|(value, stored)| value.is_none_or(|value| value == stored))
            }
        };
        let Some(spot) = spot.filter(|_| kept) else {
            run(self.conn, "/*kith*/ ROLLBACK TO row")?;
            run(self.conn, "/*kith*/ RELEASE row")?;
            return Ok(None);
        };
        run(self.conn, "/*kith*/ RELEASE row")?;
        let rest: Vec<_> =
            (0..values.len()).filter(|&at| !needed(at)).filter_map(|at| Some((at, values[at]?))).collect();
        let refused = self.update(table, &spot, &rest)?;
        Ok(Some((spot, refused)))
    }

    /// Sets columns of a live row; returns those whose value the table cannot take.
    fn update(&self, table: &Table, spot: &Spot, changed: &[(usize, &Value)]) -> rusqlite::Result<Vec<usize>> {
        if changed.is_empty() {
            return Ok(Vec::new());
        }
        let plain = changed.iter().all(|&(at, value)| !table.affinity[at].may_change(value));
        if plain && self.update_values(table, spot, changed)? == Taken::Yes {
            return Ok(Vec::new());
        }
        let mut refused = Vec::new();
        for &(at, value) in changed {
            run(self.conn, "/*kith*/ SAVEPOINT cell")?;
            let taken = self.update_values(table, spot, &[(at, value)])?;
            if taken == Taken::No || self.stored(table, spot)?[at] != *value {
                run(self.conn, "/*kith*/ ROLLBACK TO cell")?;
                refused.push(at);
            }
            run(self.conn, "/*kith*/ RELEASE cell")?;
        }
        Ok(refused)
    }

    fn update_values(&self, table: &Table, spot: &Spot, changed: &[(usize, &Value)]) -> rusqlite::Result<Taken> {
        let columns: Vec<_> = changed.iter().map(|&(at, _)| at).collect();
        let place = place_values(table, spot);
        let bound = changed.iter().map(|&(_, value)| Sql(value)).chain(place.iter().map(Sql));
        match self.conn.prepare_cached(&table.update(&columns))?.execute(rusqlite::params_from_iter(bound)) {
            Ok(_) => Ok(Taken::Yes),
            Err(error) if is_refusal(&error) => Ok(Taken::No),
            Err(error) => Err(error),
        }
    }

    fn stored(&self, table: &Table, spot: &Spot) -> rusqlite::Result<Vec<Value>> {
        let place = place_values(table, spot);
        let mut statement = self.conn.prepare_cached(&table.sql.read)?;
        statement.query_row(rusqlite::params_from_iter(place.iter().map(Sql)), |row| table.values(row, 0))
    }

    fn delete(&self, table: &Table, spot: &Spot) -> rusqlite::Result<()> {
        let place = place_values(table, spot);
        self.conn
            .prepare_cached(&table.sql.delete)?
            .execute(rusqlite::params_from_iter(place.iter().map(Sql)))
            .map(drop)
    }
}

/// Whether a table took a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    Yes,
    No,
}

/// What SQL that finds a row at its place is bound with.
pub(crate) fn place_values(table: &Table, spot: &Spot) -> Vec<Value> {
    match spot {
        Spot::Row(rowid) => vec![Value::Integer(*rowid)],
        Spot::Key(key) => key_values(table, key).unwrap_or_default(),
    }
}

/// The key's values, if there are as many as the table's key has columns.
fn key_values(table: &Table, key: &Key) -> Option<Vec<Value>> {
    key.decode().ok().filter(|values| values.len() == table.key_at.len())
}

/// Whether it is the value that SQLite does not want, and not SQLite that fails.
fn is_refusal(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        // Unknown is SQLITE_ERROR: an index, a generated column or a CHECK whose expression fails on the joined row.
        Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig | ErrorCode::Unknown)
    )
}
