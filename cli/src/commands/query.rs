//! `kith query`: one SELECT, as a table or as JSON objects.

use futures_util::StreamExt;
use kith_gossip_client::{Client, Statement, Value};

use super::{table, value};
use crate::args::Sql;
use crate::exit::Failure;
use crate::out::Out;

/// Rows that are held back to find out how wide the columns are. What comes later may be wider, and is then out of line.
const MEASURED: usize = 500;

/// Runs the statement and prints its rows.
pub(crate) async fn run(client: &Client, args: &Sql) -> Result<(), Failure> {
    let mut query = client.query(statement(&args.sql, &args.params)).await?;
    let mut out = Out::new();
    if args.output.json {
        let names = names(query.columns());
        while let Some(row) = query.next().await {
            out.line(object(&names, &row?))?;
        }
        return Ok(());
    }
    let mut held: Vec<Vec<String>> = vec![query.columns().iter().map(|name| value::printable(name)).collect()];
    while let Some(row) = query.next().await {
        held.push(row?.iter().map(value::show).collect());
        if held.len() > MEASURED {
            break;
        }
    }
    let widths = table::widths(held.iter().map(Vec::as_slice));
    for line in &held {
        out.line(table::line(line, &widths))?;
    }
    while let Some(row) = query.next().await {
        let cells: Vec<String> = row?.iter().map(value::show).collect();
        out.line(table::line(&cells, &widths))?;
    }
    Ok(())
}

/// The statement as typed.
pub(crate) fn statement(sql: &str, params: &[String]) -> Statement {
    let statement = Statement::new(sql);
    if params.is_empty() { statement } else { statement.with(params.iter().map(|text| value::parse(text))) }
}

/// The columns' names as JSON keys. A name that occurs again gets its number, so that no cell hides another.
fn names(columns: &[String]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for column in columns {
        let mut name = column.clone();
        let mut n = 1;
        while names.contains(&name) {
            n += 1;
            name = format!("{column}:{n}");
        }
        names.push(name);
    }
    names
}

/// A row as an object, in the order of its columns.
fn object(names: &[String], cells: &[Value]) -> String {
    let pairs: Vec<String> = names
        .iter()
        .zip(cells)
        .map(|(name, cell)| {
            let cell = serde_json::to_string(cell).expect("a value has a JSON form");
            format!("{}:{cell}", serde_json::Value::from(name.as_str()))
        })
        .collect();
    format!("{{{}}}", pairs.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_an_object_in_the_order_of_its_columns() {
        let names = names(&["z".to_owned(), "a".to_owned(), "z".to_owned()]);
        assert_eq!(object(&names, &[1.into(), Value::Null, "x\"".into()]), r#"{"z":1,"a":null,"z:2":"x\""}"#);
    }
}
