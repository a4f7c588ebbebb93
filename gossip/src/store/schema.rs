//! What a schema may say, and what it says: tables, columns and indexes, read from SQL text.
//!
//! The text is run in an empty database in memory, so that SQLite itself decides what it means; then each table is
//! checked against the rules. A rule exists where two nodes could otherwise not agree on a row, or a row could arrive that
//! cannot be stored.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, OptionalExtension};
use sqlite3_parser::ast::fmt::ToTokens;
use sqlite3_parser::ast::{Cmd, CreateTableBody, Stmt, TableConstraint};
use sqlite3_parser::lexer::Scanner;
use sqlite3_parser::lexer::sql::{Parser, TokenType, Tokenizer};
use sqlite3_parser::{Bump, FallibleIterator};

use super::error::{SchemaError, text};
use super::guard::is_internal;
use super::rules::Rules;
use super::table::quote;

/// Some SQL that declares tables and indexes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaSource {
    /// What messages call it: a file's path, or where it came from.
    pub name: String,
    /// CREATE TABLE and CREATE INDEX statements.
    pub sql: String,
}

impl SchemaSource {
    /// The tables that Kith itself uses.
    pub fn builtin() -> Self {
        Self { name: "schema.sql".to_owned(), sql: include_str!("../../../schema.sql").to_owned() }
    }
}

/// What the sources declare, in their order.
#[derive(Debug, Default)]
pub(crate) struct Declared {
    pub(crate) tables: Vec<TableDef>,
    pub(crate) indexes: Vec<IndexDef>,
}

/// A table as declared.
#[derive(Debug, Clone)]
pub(crate) struct TableDef {
    pub(crate) origin: String,
    pub(crate) name: String,
    pub(crate) sql: String,
    /// What may not differ between a table that exists and its declaration: WITHOUT ROWID, STRICT, the key's columns in
    /// order, the table's own CHECKs.
    pub(crate) shape: String,
    pub(crate) columns: Vec<ColumnDef>,
}

impl ColumnDef {
    /// Whether both declare the same: keywords and types are the same in any case, names and literals are not.
    pub(crate) fn agrees(&self, other: &Self) -> bool {
        self.name == other.name && folded(&self.definition) == folded(&other.definition)
    }
}

/// Lower case outside of quotes.
fn folded(sql: &str) -> String {
    let mut quote = None;
    let fold = |char: char| {
        match quote {
            None if matches!(char, '\'' | '"' | '`') => quote = Some(char),
            Some(open) if open == char => quote = None,
            _ => {}
        }
        if quote.is_none() { char.to_ascii_lowercase() } else { char }
    };
    sql.chars().map(fold).collect()
}

/// A column as declared.
#[derive(Debug, Clone)]
pub(crate) struct ColumnDef {
    pub(crate) name: String,
    /// Its definition as SQL, in one form for all ways to write it.
    pub(crate) definition: String,
    pub(crate) in_key: InKey,
    pub(crate) kind: Kind,
}

/// Whether a column is part of the primary key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InKey {
    Yes,
    No,
}

/// Whether a column holds what was written or what follows from other columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Stored,
    Generated,
}

/// An index as declared.
#[derive(Debug, Clone)]
pub(crate) struct IndexDef {
    pub(crate) origin: String,
    pub(crate) name: String,
    pub(crate) sql: String,
}

/// What SQLite says of one column.
pub(crate) struct Described {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) not_null: bool,
    /// Position in the primary key, from 1.
    pub(crate) pk: i64,
    /// 0 unless generated.
    pub(crate) hidden: i64,
}

/// Reads and checks the sources. `live` is where a table is looked up that an index is declared on.
pub(crate) fn read(sources: &[SchemaSource], live: &Connection) -> Result<Declared, SchemaError> {
    let mut scratch = Scratch::new()?;
    let mut declared = Declared::default();
    for source in sources {
        scratch.run(source, live, &mut declared)?;
    }
    Ok(declared)
}

/// The empty database in which sources are run.
pub(crate) struct Scratch {
    conn: Connection,
    /// Columns read by the statement that was prepared last.
    reads: Arc<Mutex<BTreeSet<String>>>,
}

impl Scratch {
    fn new() -> Result<Self, SchemaError> {
        let mut conn = Connection::open_in_memory()?;
        let reads = Arc::<Mutex<BTreeSet<String>>>::default();
        let noted = Arc::clone(&reads);
        // Only CREATE TABLE and CREATE INDEX are ever run here, so there is nothing to forbid.
        conn.authorizer(Some(move |context: AuthContext<'_>| {
            if let AuthAction::Read { column_name, .. } = context.action {
                let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
                noted.insert(column_name.to_ascii_lowercase());
            }
            Authorization::Allow
        }))?;
        Ok(Self { conn, reads })
    }

    fn run(&mut self, source: &SchemaSource, live: &Connection, declared: &mut Declared) -> Result<(), SchemaError> {
        for (line, sql) in split(source)? {
            let origin = format!("{} line {line}", source.name);
            let syntax = |error: rusqlite::Error| SchemaError::Syntax { origin: origin.clone(), message: text(&error) };
            let statement = Declaration::parse(&origin, sql)?;
            if let Declaration::Index { table, .. } = &statement {
                self.borrow_table(table, live)?;
            }
            self.conn.execute_batch(sql).map_err(syntax)?;
            match statement {
                Declaration::Table { name } => {
                    // IF NOT EXISTS may have made nothing of it.
                    let def = define(&self.conn, &origin, &name)?;
                    self.check(&def)?;
                    if !declared.tables.iter().any(|known| known.name == def.name) {
                        declared.tables.push(def);
                    }
                }
                Declaration::Index { name, .. } => {
                    declared.indexes.push(IndexDef { origin, name, sql: sql.to_owned() });
                }
            }
        }
        Ok(())
    }

    /// An index may be declared on a table of an earlier schema.
    fn borrow_table(&self, table: &str, live: &Connection) -> Result<(), SchemaError> {
        let sql = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE";
        let known: Option<String> = self.conn.query_row(sql, [table], |row| row.get(0)).optional()?;
        if known.is_none() && !is_internal(table) {
            let create: Option<String> = live.query_row(sql, [table], |row| row.get(0)).optional()?;
            if let Some(create) = create {
                self.conn.execute_batch(&create)?;
            }
        }
        Ok(())
    }

    fn check(&self, def: &TableDef) -> Result<(), SchemaError> {
        Rules { scratch: self, def }.check(&describe(&self.conn, &def.name)?)
    }

    /// The columns an expression over a table reads.
    pub(crate) fn columns_of(&self, table: &str, expression: &str) -> rusqlite::Result<BTreeSet<String>> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.conn.prepare(&format!("SELECT ({expression}) FROM {}", quote(table)))?;
        Ok(self.reads.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// The statements of a source, one by one, with the line each begins in.
fn split(source: &SchemaSource) -> Result<Vec<(usize, &str)>, SchemaError> {
    let input = source.sql.as_bytes();
    let mut scanner = Scanner::new(Tokenizer::new());
    let mut statements = Vec::new();
    let mut begun: Option<(usize, usize)> = None;
    loop {
        let (start, token, end) = scanner
            .scan(input)
            .map_err(|error| SchemaError::Syntax { origin: source.name.clone(), message: error.to_string() })?;
        let token = token.map(|(_, token)| token);
        if matches!(token, None | Some(TokenType::TK_SEMI)) {
            if let Some((first, last)) = begun.take() {
                let line = 1 + input[..first].iter().filter(|&&byte| byte == b'\n').count();
                statements.push((line, &source.sql[first..last]));
            }
            if token.is_none() {
                return Ok(statements);
            }
        } else {
            begun = Some((begun.map_or(start, |(first, _)| first), end));
        }
    }
}

/// What one statement declares.
enum Declaration {
    Table { name: String },
    Index { name: String, table: String },
}

impl Declaration {
    fn parse(origin: &str, sql: &str) -> Result<Self, SchemaError> {
        let refused = |subject: &str, reason: &str| {
            Err(SchemaError::Refused {
                origin: origin.to_owned(),
                subject: subject.to_owned(),
                reason: reason.to_owned(),
            })
        };
        let first_line = sql.lines().next().unwrap_or_default();
        let only = "a schema is made of CREATE TABLE and CREATE INDEX";
        // A trigger's body has semicolons, so what is split off of it is not even a statement.
        if sql.split_whitespace().nth(1).is_some_and(|word| word.eq_ignore_ascii_case("trigger")) {
            return refused(first_line, only);
        }
        let bump = Bump::new();
        let command = Parser::new(&bump, sql.as_bytes())
            .next()
            .map_err(|error| SchemaError::Syntax { origin: origin.to_owned(), message: error.to_string() })?;
        match command {
            Some(Cmd::Stmt(Stmt::CreateTable { temporary, tbl_name, body, .. })) => {
                let name = plain(tbl_name.name.0);
                if temporary || tbl_name.db_name.is_some() {
                    refused(
                        &format!("table {name}"),
                        "name the table alone: it is neither temporary nor in another database",
                    )
                } else if is_internal(&name) {
                    refused(&format!("table {name}"), "names with __kith_ or beginning with sqlite_ are not for tables")
                } else if matches!(body, CreateTableBody::AsSelect(_)) {
                    refused(&format!("table {name}"), "CREATE TABLE ... AS has no primary key: list the columns")
                } else {
                    Ok(Self::Table { name })
                }
            }
            Some(Cmd::Stmt(Stmt::CreateIndex { unique, idx_name, tbl_name, .. })) => {
                let name = plain(idx_name.name.0);
                if unique {
                    refused(
                        &format!("index {name}"),
                        "UNIQUE beyond the primary key cannot be held: two nodes may insert the same value at once",
                    )
                } else if idx_name.db_name.is_some() || is_internal(&name) {
                    refused(&format!("index {name}"), "name the index alone, without __kith_ or sqlite_")
                } else {
                    Ok(Self::Index { name, table: plain(tbl_name.0) })
                }
            }
            _ => refused(first_line, only),
        }
    }
}

/// A name without its quotes.
fn plain(name: &str) -> String {
    let mut chars = name.chars();
    match (chars.next(), chars.next_back()) {
        (Some(open @ ('"' | '`' | '\'')), Some(close)) if open == close => {
            chars.as_str().replace(&format!("{open}{open}"), &open.to_string())
        }
        (Some('['), Some(']')) => chars.as_str().to_owned(),
        _ => name.to_owned(),
    }
}

/// What SQLite says of a table's columns, hidden ones included.
pub(crate) fn describe(conn: &Connection, table: &str) -> rusqlite::Result<Vec<Described>> {
    let mut statement =
        conn.prepare("SELECT name, type, \"notnull\", pk, hidden FROM pragma_table_xinfo(?1) ORDER BY cid")?;
    let rows = statement.query_map([table], |row| {
        Ok(Described {
            name: row.get(0)?,
            kind: row.get(1)?,
            not_null: row.get(2)?,
            pk: row.get(3)?,
            hidden: row.get(4)?,
        })
    })?;
    rows.collect()
}

/// Reads a table as `conn` has it; `name` may be spelt in another case.
pub(crate) fn define(conn: &Connection, origin: &str, name: &str) -> Result<TableDef, SchemaError> {
    let (name, sql): (String, String) = conn.query_row(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE",
        [name],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let mut def = TableDef { origin: origin.to_owned(), name, sql, shape: String::new(), columns: Vec::new() };
    let described = describe(conn, &def.name)?;
    let (without_rowid, strict): (bool, bool) = conn.query_row(
        "SELECT wr, strict FROM pragma_table_list WHERE schema = 'main' AND name = ?1",
        [&def.name],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let mut key: Vec<_> = described.iter().filter(|column| column.pk > 0).collect();
    key.sort_by_key(|column| column.pk);
    let key: Vec<_> = key.iter().map(|column| column.name.as_str()).collect();
    let (columns, checks) = with_body(&def, |body| {
        let CreateTableBody::ColumnsAndConstraints { columns, constraints, .. } = body else {
            return Ok((Vec::new(), Vec::new()));
        };
        let columns: Vec<_> = columns.iter().map(sql_of).collect();
        let constraints = constraints.iter().flat_map(|list| list.iter());
        let checks = constraints.filter(|constraint| matches!(constraint.constraint, TableConstraint::Check(..)));
        Ok((columns, checks.map(sql_of).collect::<Vec<_>>()))
    })?;
    def.shape = format!("without rowid: {without_rowid}, strict: {strict}, key: {key:?}, checks: {checks:?}");
    def.columns = described
        .into_iter()
        .zip(columns)
        .map(|(column, definition)| ColumnDef {
            name: column.name,
            definition,
            in_key: if column.pk > 0 { InKey::Yes } else { InKey::No },
            kind: if column.hidden == 0 { Kind::Stored } else { Kind::Generated },
        })
        .collect();
    Ok(def)
}

/// Parses a table's SQL again: a syntax tree lives only as long as its arena.
pub(crate) fn with_body<T>(
    def: &TableDef,
    look: impl FnOnce(&CreateTableBody<'_>) -> Result<T, SchemaError>,
) -> Result<T, SchemaError> {
    let syntax = |message: String| SchemaError::Syntax { origin: def.origin.clone(), message };
    let bump = Bump::new();
    match Parser::new(&bump, def.sql.as_bytes()).next() {
        Ok(Some(Cmd::Stmt(Stmt::CreateTable { body, .. }))) => look(&body),
        Ok(_) => Err(syntax(format!("table {} is not declared by CREATE TABLE", def.name))),
        Err(error) => Err(syntax(error.to_string())),
    }
}

/// A piece of syntax as SQL, in one form for all ways to write it.
pub(crate) fn sql_of(tokens: &impl ToTokens) -> String {
    struct Text<'a, T>(&'a T);
    impl<T: ToTokens> std::fmt::Display for Text<'_, T> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            self.0.to_fmt(f)
        }
    }
    Text(tokens).to_string()
}
