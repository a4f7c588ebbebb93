//! What a client's SQL may do: read everything, and write rows of replicated tables.
//!
//! One authorizer is installed on a connection when it is opened, and stays: replacing it would expire every prepared
//! statement. A [`Switch`] on the writer's connection, a [`Lookout`] on those that read, says whose SQL is running.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use kith_gossip_proto::Name;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

/// Whose SQL the writer's connection runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The store's own: everything is allowed, nothing is captured.
    Own,
    /// A client's: it is checked and captured, and ends at the deadline.
    Client,
}

/// The writer's mode, shared with the hooks of its connection.
#[derive(Debug, Default)]
pub(crate) struct Switch {
    client: AtomicBool,
    halted: AtomicBool,
    closing: AtomicBool,
    deadline: Mutex<Option<Instant>>,
}

impl Switch {
    pub(crate) fn side(&self) -> Side {
        if self.client.load(Ordering::Relaxed) { Side::Client } else { Side::Own }
    }

    /// A client's SQL begins.
    pub(crate) fn enter(&self, deadline: Option<Instant>) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
        self.halted.store(false, Ordering::Relaxed);
        self.client.store(true, Ordering::Relaxed);
    }

    /// It ends.
    pub(crate) fn leave(&self) {
        self.client.store(false, Ordering::Relaxed);
    }

    /// Ends the client's statement at the next look: what it does is lost already.
    pub(crate) fn halt(&self) {
        self.halted.store(true, Ordering::Relaxed);
    }

    /// From now on clients' statements end at the next look: the store is closing, and they had their time.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Whether the running statement is to be interrupted. Asked every few thousand instructions.
    pub(crate) fn is_over(&self) -> bool {
        let late = || {
            let deadline = self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
            deadline.is_some_and(|deadline| Instant::now() >= deadline)
        };
        self.side() == Side::Client
            && (self.halted.load(Ordering::Relaxed) || self.closing.load(Ordering::Relaxed) || late())
    }
}

/// The names of the store's own tables contain this; no replicated table's may.
pub(crate) const INTERNAL: &str = "__kith_";

/// For the connection that writes, while a client's SQL is prepared.
pub(crate) fn writer(context: AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Insert { table_name }
        | AuthAction::Delete { table_name }
        | AuthAction::Update { table_name, .. } => {
            if is_internal(table_name) {
                Authorization::Deny
            } else {
                Authorization::Allow
            }
        }
        action => reading(action),
    }
}

/// Whose SQL a reading connection runs, and what the client's was seen to use while it was prepared.
#[derive(Debug, Default)]
pub(crate) struct Lookout {
    client: AtomicBool,
    used: Mutex<Used>,
}

/// What a statement uses, as SQLite says while it prepares it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Tables and their columns. A table of which no column matters (`count(*)`) has none.
    pub columns: BTreeMap<Name, BTreeSet<Name>>,
    /// Functions, in lower case.
    pub functions: BTreeSet<String>,
}

impl Lookout {
    pub(crate) fn enter(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Used::default();
        self.client.store(true, Ordering::Relaxed);
    }

    /// What was used since [`Lookout::enter`].
    pub(crate) fn leave(&self) -> Used {
        self.client.store(false, Ordering::Relaxed);
        std::mem::take(&mut self.used.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// For connections that read. They are opened read-only as well.
    pub(crate) fn allows(&self, context: AuthContext<'_>) -> Authorization {
        if !self.client.load(Ordering::Relaxed) {
            return Authorization::Allow;
        }
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        match context.action {
            AuthAction::Read { table_name, column_name } => {
                let columns = used.columns.entry(table_name.into()).or_default();
                // SQLite names no column when only the number of rows matters.
                if !column_name.is_empty() {
                    columns.insert(column_name.into());
                }
            }
            AuthAction::Function { function_name } => {
                used.functions.insert(function_name.to_ascii_lowercase());
            }
            _ => {}
        }
        match context.action {
            // The connection cannot write; whoever tries is told that the statement is not a query.
            AuthAction::Insert { .. } | AuthAction::Update { .. } | AuthAction::Delete { .. } => Authorization::Allow,
            action => reading(action),
        }
    }
}

fn reading(action: AuthAction<'_>) -> Authorization {
    match action {
        AuthAction::Select | AuthAction::Recursive | AuthAction::Read { .. } => Authorization::Allow,
        AuthAction::Function { function_name } => {
            // Both reach outside the database: a shared library, a pointer.
            let outside = ["load_extension", "fts3_tokenizer"];
            if outside.iter().any(|name| function_name.eq_ignore_ascii_case(name)) {
                Authorization::Deny
            } else {
                Authorization::Allow
            }
        }
        // What pragma_table_info(…) and its like run underneath. They change nothing.
        AuthAction::Pragma { pragma_name, .. } => {
            let describing =
                ["table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "data_version"];
            if describing.iter().any(|name| pragma_name.eq_ignore_ascii_case(name)) {
                Authorization::Allow
            } else {
                Authorization::Deny
            }
        }
        // The library's enum is open; what is not listed above is not for clients.
        _ => Authorization::Deny,
    }
}

pub(crate) fn is_internal(table: &str) -> bool {
    let table = table.to_ascii_lowercase();
    table.contains(INTERNAL) || table.starts_with("sqlite_")
}
