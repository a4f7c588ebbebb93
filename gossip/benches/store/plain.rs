//! SQLite as a program would use it that needs no replication: the same table, the same settings, the same statements.

use std::path::Path;

use kith_gossip::store::{Params, Statement};
use kith_gossip_proto::Value;
use rusqlite::{Connection, types};
use tempfile::TempDir;

use crate::work::{SCHEMA, key};

pub(crate) struct Plain {
    dir: TempDir,
    conn: Connection,
}

impl Plain {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        Self { conn: open(dir.path()), dir }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn run(&self, transactions: &[Vec<Statement>]) {
        for statements in transactions {
            self.conn.execute_batch("BEGIN IMMEDIATE").unwrap();
            for statement in statements {
                let Params::Positional(values) = &statement.params else { unreachable!("all have positions") };
                let mut prepared = self.conn.prepare_cached(&statement.sql).unwrap();
                prepared.execute(rusqlite::params_from_iter(values.iter().map(sql))).unwrap();
            }
            self.conn.execute_batch("COMMIT").unwrap();
        }
    }

    /// Reads the first `rows` rows, each by its key.
    pub(crate) fn read(&self, rows: usize) {
        let mut prepared = self.conn.prepare_cached("SELECT * FROM t WHERE id = ?").unwrap();
        for n in 0..rows {
            let row = prepared.query_row([sql(&key(n))], |row| {
                (0..crate::work::CELLS).map(|at| row.get::<_, types::Value>(at)).collect::<Result<Vec<_>, _>>()
            });
            std::hint::black_box(row.unwrap());
        }
    }
}

/// Opens the database of this folder, or makes it.
pub(crate) fn open(folder: &Path) -> Connection {
    let conn = Connection::open(folder.join("plain.db")).unwrap();
    let settings = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -2048;
        PRAGMA cell_size_check = ON; PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY;";
    conn.execute_batch(settings).unwrap();
    conn.execute_batch(&SCHEMA.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS")).unwrap();
    conn
}

fn sql(value: &Value) -> types::Value {
    match value {
        Value::Null => types::Value::Null,
        Value::Integer(number) => types::Value::Integer(*number),
        Value::Real(number) => types::Value::Real(*number),
        Value::Text(text) => types::Value::Text(String::from_utf8_lossy(text).into_owned()),
        Value::Blob(blob) => types::Value::Blob(blob.to_vec()),
    }
}
