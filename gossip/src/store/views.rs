//! What clients of Corrosion read of its bookkeeping by SQL, as views of ours: its columns, our contents.
//!
//! They are temporary views of each connection that reads, so they are in no file, cannot be written, and are no tables that
//! could be replicated. There never is a gap here: each site's versions are applied in order, and what is missing is behind
//! the head.

use std::sync::{Arc, PoisonError, RwLock};

use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;
use serde_json::json;

/// The other nodes, as the views show them: a list in JSON.
#[derive(Clone, Debug)]
pub(crate) struct Others(Arc<RwLock<Arc<str>>>);

/// Another node as Corrosion's clients know one.
#[derive(Clone, Debug)]
pub(crate) struct Other {
    /// Its site, in hexadecimal digits.
    pub(crate) site: String,
    /// Where it is spoken to.
    pub(crate) addr: String,
    /// Whether it is heard.
    pub(crate) state: &'static str,
    /// Round-trip time, in milliseconds.
    pub(crate) rtt_ms: Option<u64>,
}

impl Default for Others {
    fn default() -> Self {
        Self(Arc::new(RwLock::new("[]".into())))
    }
}

impl Others {
    /// Shows these from now on.
    pub(crate) fn show(&self, others: &[Other]) {
        let others: Vec<_> = others.iter().map(Other::row).collect();
        let list: Arc<str> = serde_json::Value::Array(others).to_string().into();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = list;
    }

    /// Puts the views on a connection, which may be read-only but not yet forbidden to write.
    pub(crate) fn add_views(&self, conn: &Connection) -> rusqlite::Result<()> {
        let shown = Arc::clone(&self.0);
        // Innocuous: it reads nothing of the database.
        let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS;
        conn.create_scalar_function("__kith_others", 0, flags, move |_| {
            Ok(shown.read().unwrap_or_else(PoisonError::into_inner).to_string())
        })?;
        conn.execute_batch(
            "CREATE TEMP VIEW crsql_db_versions AS SELECT id AS site_id, head AS db_version FROM main.__kith_site
             WHERE head > 0;
             CREATE TEMP VIEW __corro_bookkeeping_gaps AS SELECT x'' AS actor_id, 0 AS start, 0 AS \"end\" WHERE false;
             CREATE TEMP VIEW __corro_members AS SELECT unhex(value ->> 'site') AS actor_id,
             value ->> 'address' AS address, value -> 'foca_state' AS foca_state, value ->> 'rtt_min' AS rtt_min,
             0 AS updated_at FROM json_each(__kith_others());",
        )
    }
}

impl Other {
    fn row(&self) -> serde_json::Value {
        let Self { site, addr, state, rtt_ms } = self;
        let foca =
            json!({ "id": { "id": site, "addr": addr, "ts": 0, "cluster_id": 0 }, "incarnation": 0, "state": state });
        json!({ "site": site, "address": addr, "foca_state": foca, "rtt_min": rtt_ms })
    }
}
