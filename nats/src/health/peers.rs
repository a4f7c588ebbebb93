//! Whom nats-server is connected to, against whom DNS names.

use std::collections::BTreeSet;

use super::check::Found;
use crate::chain::Chain;
use crate::monitor::{Monitor, MonitorError};
use crate::status::Named;

/// Asks, and compares.
pub(super) async fn peers(monitor: &Monitor, named: &Named) -> Found {
    let said = |error: MonitorError| Chain(&error).to_string();
    let seen = match named {
        Named::Nobody => return Ok("connects to nobody".to_owned()),
        Named::Center { .. } => Seen {
            near: monitor.routed().await.map_err(said)?,
            regions: monitor.gateways().await.map_err(said)?,
            leaves: 0,
        },
        Named::Leaf { .. } => Seen { leaves: monitor.varz().await.map_err(said)?.leafnodes, ..Seen::default() },
    };
    judge(named, &seen)
}

/// Who is connected: names of servers of the region, names of other regions, leaf connections.
#[derive(Debug, Default)]
struct Seen {
    near: BTreeSet<String>,
    regions: BTreeSet<String>,
    leaves: u64,
}

fn judge(named: &Named, seen: &Seen) -> Found {
    match named {
        Named::Nobody => Ok("connects to nobody".to_owned()),
        Named::Leaf { center } => {
            let line = format!("{} connections; DNS names {center} servers of the center", seen.leaves);
            if seen.leaves > 0 { Ok(line) } else { Err(line) }
        }
        Named::Center { near, regions } => {
            let missing: Vec<&str> =
                regions.iter().filter(|region| !seen.regions.contains(*region)).map(String::as_str).collect();
            let line =
                format!("{} of {near} servers of the region, {} other regions", seen.near.len(), seen.regions.len());
            match missing.as_slice() {
                [] if seen.near.len() >= *near => Ok(line),
                [] => Err(line),
                missing => Err(format!(
                    "{line}; none of {}: if it is up, and not heard of within two minutes, `kith nats restart` here finds it",
                    missing.join(", ")
                )),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Seen, judge};
    use crate::status::Named;

    fn center(near: usize, regions: &[&str], seen_near: &[&str], seen_regions: &[&str]) -> String {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
        let named = Named::Center { near, regions: regions.iter().map(|name| (*name).to_owned()).collect() };
        let seen = Seen { near: names(seen_near), regions: names(seen_regions), leaves: 0 };
        judge(&named, &seen).unwrap_or_else(|line| format!("not well: {line}"))
    }

    #[test]
    fn who_is_missing_is_named() {
        let table = [
            center(2, &["iad"], &["b", "c"], &["iad"]),
            center(2, &["iad"], &["b", "c"], &["iad", "syd"]),
            center(2, &["iad"], &["b"], &["iad"]),
            center(2, &["iad", "syd"], &["b", "c"], &["iad"]),
            center(0, &[], &[], &[]),
            judge(&Named::Leaf { center: 3 }, &Seen { leaves: 1, ..Seen::default() }).expect("one will do"),
            judge(&Named::Leaf { center: 3 }, &Seen::default()).expect_err("none will not"),
        ];
        insta::assert_snapshot!(table.join("\n"), @r"
        2 of 2 servers of the region, 1 other regions
        2 of 2 servers of the region, 2 other regions
        not well: 1 of 2 servers of the region, 1 other regions
        not well: 2 of 2 servers of the region, 1 other regions; none of syd: if it is up, and not heard of within two minutes, `kith nats restart` here finds it
        0 of 0 servers of the region, 0 other regions
        1 connections; DNS names 3 servers of the center
        0 connections; DNS names 3 servers of the center
        ");
    }
}
