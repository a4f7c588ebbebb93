//! `kith schema diff` and `kith schema apply`: a running node's tables and those that files declare.

use kith_gossip_client::client::Migrated;

use crate::args::{SchemaAction, SchemaFiles};
use crate::exit::{Exit, Failure};
use crate::out::Out;
use crate::parts::gossip::schema_files;

/// Compares, or applies.
pub(crate) async fn run(action: &SchemaAction) -> Result<(), Failure> {
    let (SchemaAction::Diff(files) | SchemaAction::Apply(files)) = action;
    let sources = schema_files(&files.paths)?;
    if sources.is_empty() {
        return Err(Failure::message(Exit::Usage, "there is no *.sql in what was named"));
    }
    let names: Vec<_> = sources.iter().zip(1..).map(|(source, n)| format!("statement {n}: {}", source.name)).collect();
    let texts: Vec<_> = sources.into_iter().map(|source| source.sql).collect();
    let client = files.store.client()?;
    let migrated = match action {
        SchemaAction::Diff(_) => client.try_migration(&texts).await,
        SchemaAction::Apply(_) => client.migrate(&texts).await,
    };
    // The node numbers what it is sent.
    let migrated = migrated.map_err(|error| Failure::from(error).context(names.join(", ")))?;
    print(files, &migrated)
}

fn print(files: &SchemaFiles, migrated: &Migrated) -> Result<(), Failure> {
    let mut out = Out::new();
    if files.output.json {
        return out.json(migrated);
    }
    let Migrated { tables, columns, indexes } = migrated;
    let mut lines = Vec::new();
    for (kind, names) in [("table", tables), ("column", columns), ("index", indexes)] {
        lines.extend(names.iter().map(|name| format!("+ {kind} {name}")));
    }
    if lines.is_empty() {
        lines.push("nothing to add".to_owned());
    }
    out.line(lines.join("\n"))
}
