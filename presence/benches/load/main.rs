//! What presence must reach, measured: a row for each target, beside what was measured.
//!
//! ```text
//! cargo bench -p kith-presence --bench load -- all                 every row, in turn: some minutes
//! cargo bench -p kith-presence --bench load -- writes --json       one row, as a line of JSON
//! cargo bench -p kith-presence --bench load -- all --small         every row at sizes that take a minute
//! ```
//! Each run starts what it needs: a center and two leaves, with a real nats-server each (`scripts/nats` fetches it), all on
//! loopback, synced on every append. Nodes are processes of their own, and so are the nats-servers: what each takes of the
//! CPU is told apart from the load's, which runs here. Without a row nothing is done: `cargo bench` of the whole tree measures
//! nothing that was not asked for. As a test it runs every row at small sizes, and
//! fails where anything is lost, refused or never heard; times are not judged then.

#![allow(clippy::unwrap_used, reason = "the nats-servers are those of the tests")]

mod client;
mod figures;
mod follow;
mod node;
mod process;
mod rows;
#[path = "../../tests/wire/servers.rs"]
mod servers;
mod stage;

use std::io::Write;

use figures::Row;
use rows::{Name, Scale, Sizes};
use stage::Stage;

/// The name of the test that this is, for those who list tests.
const TEST: &str = "every_row_of_presence_is_measured_at_small_sizes";

/// What was typed.
enum Asked {
    /// A node of ours.
    Node(node::Node),
    Rows(Vec<Name>, Sizes, Form),
    /// The names of the tests that are here.
    Tests,
    Nothing,
}

/// What is printed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Table,
    Json,
}

impl Asked {
    fn parse(words: &[String]) -> Result<Self, String> {
        let has = |word: &str| words.iter().any(|known| known == word);
        if has(node::WORD) {
            return node::Node::parse(words).map(Self::Node);
        }
        if has("--list") {
            return Ok(if has("--ignored") { Self::Nothing } else { Self::Tests });
        }
        // As a test: of all tests, or of this one.
        if words.is_empty() || (has("--exact") && has(TEST)) {
            return Ok(Self::Rows(Name::ALL.to_vec(), Sizes::small(), Form::Table));
        }
        let (mut names, mut sizes, mut form) = (Vec::new(), Sizes::whole(), Form::Table);
        for word in words.iter().filter(|word| *word != "--bench") {
            match word.as_str() {
                "--small" => sizes = Sizes::small(),
                "--json" => form = Form::Json,
                "all" => names = Name::ALL.to_vec(),
                name => names.push(name.parse()?),
            }
        }
        Ok(if names.is_empty() { Self::Nothing } else { Self::Rows(names, sizes, form) })
    }
}

fn main() -> Result<(), String> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let asked = Asked::parse(&words)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| e.to_string())?;
    let mut out = std::io::stdout();
    match asked {
        Asked::Nothing => Ok(()),
        Asked::Tests => writeln!(out, "{TEST}: test").map_err(|e| e.to_string()),
        Asked::Node(node) => runtime.block_on(node.run()),
        Asked::Rows(names, sizes, form) => {
            let Some(binary) = servers::binary(TEST) else { return Ok(()) };
            runtime.block_on(async {
                let mut stage = Stage::start(&binary, sizes).await?;
                if form == Form::Table {
                    writeln!(out, "{}\n\n{}", stage.place(), Row::HEAD).map_err(|e| e.to_string())?;
                }
                let mut wrong = 0;
                for name in names {
                    for row in rows::run(name, &mut stage).await? {
                        let line = if form == Form::Json { row.json().to_string() } else { row.to_string() };
                        writeln!(out, "{line}").map_err(|e| e.to_string())?;
                        wrong += row.wrong;
                    }
                }
                // At whole sizes the table says it, for each row.
                if wrong > 0 && sizes.scale == Scale::Small {
                    return Err(format!("{wrong} lost, refused or never heard"));
                }
                Ok(())
            })
        }
    }
}
