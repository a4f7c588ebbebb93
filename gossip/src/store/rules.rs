//! The rules a replicated table keeps, each with the reason in its message.

use sqlite3_parser::ast::{
    ColumnConstraint, CreateTableBody, Expr, Literal, SortedColumn, TableConstraint, UnaryOperator,
};

use super::error::SchemaError;
use super::schema::{Described, Scratch, TableDef, sql_of, with_body};
use super::stamps::COLUMNS_MAX;
use super::table::{Affinity, Typing};

/// One table under examination.
pub(crate) struct Rules<'a> {
    pub(crate) scratch: &'a Scratch,
    pub(crate) def: &'a TableDef,
}

const UNIQUE: &str = "UNIQUE beyond the primary key cannot be held: two nodes may insert the same value at once";
const FOREIGN_KEY: &str = "FOREIGN KEY cannot be held: a row may arrive before, or outlive, the one it refers to";

impl Rules<'_> {
    pub(crate) fn check(&self, columns: &[Described]) -> Result<(), SchemaError> {
        self.names(columns)?;
        self.key(columns)?;
        with_body(self.def, |body| self.constraints(body))
    }

    fn refuse<T>(&self, column: Option<&str>, reason: impl Into<String>) -> Result<T, SchemaError> {
        let subject = match column {
            None => format!("table {}", self.def.name),
            Some(column) => format!("table {}, column {column}", self.def.name),
        };
        Err(SchemaError::Refused { origin: self.def.origin.clone(), subject, reason: reason.into() })
    }

    fn names(&self, columns: &[Described]) -> Result<(), SchemaError> {
        let cells = columns.iter().filter(|column| column.pk == 0 && column.hidden == 0).count();
        if cells > COLUMNS_MAX {
            return self.refuse(None, format!("{cells} columns beside the key, and {COLUMNS_MAX} is the most"));
        }
        if columns.iter().any(|column| column.name.is_empty()) {
            return self.refuse(None, "a column has an empty name");
        }
        let taken = |alias| columns.iter().any(|column| column.name.eq_ignore_ascii_case(alias));
        if ["rowid", "oid", "_rowid_"].into_iter().all(taken) {
            return self.refuse(None, "columns hide every name of the rowid: rename one of rowid, oid, _rowid_");
        }
        Ok(())
    }

    fn key(&self, columns: &[Described]) -> Result<(), SchemaError> {
        let key: Vec<_> = columns.iter().filter(|column| column.pk > 0).collect();
        if key.is_empty() {
            return self.refuse(None, "no PRIMARY KEY: nodes know a row by its key");
        }
        for column in &key {
            let kind = column.kind.to_ascii_uppercase();
            let fits = match Affinity::of(&kind, Typing::Flexible) {
                Affinity::Text => true,
                Affinity::Blob => kind.contains("BLOB"),
                Affinity::Numeric => kind.contains("INT"),
                Affinity::Real => false,
            };
            if !fits {
                return self.refuse(Some(&column.name), "a key column is INTEGER, TEXT or BLOB");
            }
            // An INTEGER PRIMARY KEY is the rowid, which is never NULL.
            let is_rowid = key.len() == 1 && kind == "INTEGER";
            if !column.not_null && !is_rowid {
                return self.refuse(Some(&column.name), "a key column may be NULL here: write NOT NULL");
            }
        }
        Ok(())
    }

    fn constraints(&self, body: &CreateTableBody<'_>) -> Result<(), SchemaError> {
        let CreateTableBody::ColumnsAndConstraints { columns, constraints, .. } = body else {
            return self.refuse(None, "CREATE TABLE ... AS has no primary key: list the columns");
        };
        for (column, def) in columns.iter().zip(&self.def.columns) {
            for constraint in column.constraints {
                self.of_column(&def.name, &constraint.constraint)?;
            }
        }
        constraints.iter().flat_map(|list| list.iter()).try_for_each(|constraint| self.of_table(&constraint.constraint))
    }

    fn of_column(&self, column: &str, constraint: &ColumnConstraint<'_>) -> Result<(), SchemaError> {
        match constraint {
            ColumnConstraint::PrimaryKey { auto_increment: true, .. } => self.autoincrement(Some(column)),
            ColumnConstraint::Unique(_) => self.refuse(Some(column), UNIQUE),
            ColumnConstraint::ForeignKey { .. } => self.refuse(Some(column), FOREIGN_KEY),
            ColumnConstraint::Check(expression) => self.one_column(Some(column), expression),
            ColumnConstraint::Default(value) if !is_constant(value) => self.refuse(
                Some(column),
                "a DEFAULT must be a literal: it stands for the column in rows that never had it, the same on every node",
            ),
            ColumnConstraint::Collate { collation_name } => self.collation(column, collation_name.0),
            ColumnConstraint::PrimaryKey { .. }
            | ColumnConstraint::NotNull { .. }
            | ColumnConstraint::Default(_)
            | ColumnConstraint::Defer(_)
            | ColumnConstraint::Generated { .. } => Ok(()),
        }
    }

    fn of_table(&self, constraint: &TableConstraint<'_>) -> Result<(), SchemaError> {
        match constraint {
            TableConstraint::PrimaryKey { auto_increment: true, .. } => self.autoincrement(None),
            TableConstraint::PrimaryKey { columns, .. } => self.key_collations(columns),
            TableConstraint::Unique { .. } => self.refuse(None, UNIQUE),
            TableConstraint::ForeignKey { .. } => self.refuse(None, FOREIGN_KEY),
            TableConstraint::Check(expression, _) => self.one_column(None, expression),
        }
    }

    fn autoincrement(&self, column: Option<&str>) -> Result<(), SchemaError> {
        self.refuse(column, "AUTOINCREMENT lets each node choose keys, and two would choose the same")
    }

    /// A merge may take one column from each of two rows that both keep the rule.
    fn one_column(&self, column: Option<&str>, expression: &Expr<'_>) -> Result<(), SchemaError> {
        let columns = self.scratch.columns_of(&self.def.name, &sql_of(expression))?;
        if columns.len() > 1 {
            let list: Vec<_> = columns.into_iter().collect();
            let reason = "a CHECK over more than one column cannot be held: each may come from another node";
            return self.refuse(column, format!("{reason} ({})", list.join(", ")));
        }
        Ok(())
    }

    fn collation(&self, column: &str, collation: &str) -> Result<(), SchemaError> {
        let in_key = self.def.columns.iter().any(|def| def.name == column && def.in_key == super::schema::InKey::Yes);
        if in_key && !collation.trim_matches(['"', '`', '[', ']', '\'']).eq_ignore_ascii_case("binary") {
            return self.refuse(
                Some(column),
                format!("COLLATE {collation} in a key makes rows one here that are two elsewhere: use BINARY"),
            );
        }
        Ok(())
    }

    fn key_collations(&self, columns: &[SortedColumn<'_>]) -> Result<(), SchemaError> {
        columns.iter().try_for_each(|column| match &column.expr {
            Expr::Collate(_, collation) => {
                let name = self.def.columns.iter().find(|def| def.in_key == super::schema::InKey::Yes);
                self.collation(name.map_or("", |def| &def.name), collation)
            }
            _ => Ok(()),
        })
    }
}

fn is_constant(value: &Expr<'_>) -> bool {
    match value {
        Expr::Literal(literal) => {
            !matches!(literal, Literal::CurrentDate | Literal::CurrentTime | Literal::CurrentTimestamp)
        }
        Expr::Unary(UnaryOperator::Negative | UnaryOperator::Positive, inner) => is_constant(inner),
        Expr::Parenthesized(inner) => matches!(&inner[..], [one] if is_constant(one)),
        // A bare word: TRUE, FALSE, or a text by an old custom.
        Expr::Id(_) | Expr::Name(_) => true,
        _ => false,
    }
}
