//! `kith status`: what a node knows, on one screen.
//!
//! What a part says of itself is printed as the part shapes it, a line for each group of figures and a table for each list of them,
//! so that a figure added there shows here without a change. Only members and heads are laid out by hand.

use std::collections::BTreeSet;

use kith_gossip_client::Client;
use kith_gossip_client::members::Member;
use serde_json::{Value, json};

use super::value::printable;
use super::{members, table};
use crate::args::Output;
use crate::exit::Failure;
use crate::out::Out;

/// The figure by which lists are told apart.
const SERVER: &str = "server";

/// Asks and prints.
pub(crate) async fn run(client: &Client, args: &Output) -> Result<(), Failure> {
    let mut status = client.status().await?;
    let members = client.members().await?;
    let mut out = Out::new();
    if args.json {
        return out.json(&json!({ "status": status, "members": members }));
    }
    let mut take = |name: &str| status.as_object_mut().and_then(|map| map.remove(name)).unwrap_or(Value::Null);
    let (node, parts, alarms, mut store) = (take("node"), take("parts"), take("alarms"), take("store"));
    let peers = status["replication"].as_object_mut().and_then(|map| map.remove("peers")).unwrap_or(Value::Null);
    let heads = store.as_object_mut().and_then(|map| map.remove("heads")).unwrap_or(Value::Null);
    let mut lines = vec![format!("{} at {}", leaf(&node).unwrap_or_default(), client.endpoint())];
    lines.extend(alarm_lines(&alarms));
    lines.extend(group("store", &store, 1));
    lines.extend(groups(&status, 1));
    lines.extend([String::new(), "members".to_owned()]);
    let rows: Vec<Vec<String>> = members.iter().map(members::row).collect();
    lines.extend(table::render(&members::HEAD, &rows).into_iter().map(|line| format!("  {line}")));
    lines.extend(peer_lines(&peers));
    lines.extend([String::new(), "heads".to_owned()]);
    lines.extend(head_lines(&heads, &members));
    for (name, part) in parts.as_object().into_iter().flatten() {
        lines.extend([String::new(), printable(name)]);
        lines.extend(groups(part, 1));
    }
    lines.into_iter().try_for_each(|line| out.line(line))
}

/// What somebody has to see to, before everything else.
fn alarm_lines(alarms: &Value) -> Vec<String> {
    let line = |alarm: &Value| {
        let text = |key: &str| leaf(&alarm[key]).unwrap_or_default();
        format!("  ALARM {}: {}", text("name"), text("text"))
    };
    alarms.as_array().into_iter().flatten().map(line).collect()
}

/// How far each peer and this node are apart.
fn peer_lines(peers: &Value) -> Vec<String> {
    let peers: Vec<_> =
        peers.as_object().into_iter().flatten().map(|(server, peer)| (Some(server.as_str()), peer)).collect();
    if peers.is_empty() {
        return Vec::new();
    }
    let table = figures(&peers).into_iter().map(|line| format!("  {line}"));
    [String::new(), "peers".to_owned()].into_iter().chain(table).collect()
}

/// What is told of each of several: a row for each, and a column for each figure that any of them has. Of which server it is
/// comes first, whether that is its name or one of its figures.
fn figures(each: &[(Option<&str>, &Value)]) -> Vec<String> {
    let all = || each.iter().filter_map(|(_, one)| one.as_object()).flatten().map(|(name, _)| name.as_str());
    let names: BTreeSet<&str> = all().filter(|name| *name != SERVER).collect();
    let named = each.iter().any(|(server, one)| server.is_some() || !one[SERVER].is_null());
    let heads: Vec<String> = named
        .then_some(SERVER)
        .into_iter()
        .chain(names.iter().copied())
        .map(|name| printable(name).to_uppercase())
        .collect();
    let row = |(server, one): &(Option<&str>, &Value)| {
        let figure = |name: &str| leaf(&one[name]).unwrap_or_else(|| "…".to_owned());
        let server = named.then(|| server.map_or_else(|| figure(SERVER), printable));
        server.into_iter().chain(names.iter().map(|name| figure(name))).collect()
    };
    let rows: Vec<Vec<String>> = each.iter().map(row).collect();
    table::render(&heads.iter().map(String::as_str).collect::<Vec<_>>(), &rows)
}

/// Whether a list is of things of each of which plain figures are told.
fn is_table(items: &[Value]) -> bool {
    let plain = |item: &Value| item.as_object().is_some_and(|map| map.values().all(|value| leaf(value).is_some()));
    items.len() > 1 && items.iter().all(plain)
}

/// The last version applied of each site, with the member whose site it is.
fn head_lines(heads: &Value, members: &[Member]) -> Vec<String> {
    let row = |(site, head): (&String, &Value)| {
        let owner = members.iter().find(|member| member.site.as_ref() == Some(site));
        let owner = owner.map_or_else(|| "-".to_owned(), |member| printable(&member.server));
        vec![owner, printable(site), leaf(head).unwrap_or_default()]
    };
    let rows: Vec<Vec<String>> = heads.as_object().into_iter().flatten().map(row).collect();
    table::render(&["SERVER", "SITE", "HEAD"], &rows).into_iter().map(|line| format!("  {line}")).collect()
}

/// An object as lines: its plain values together, then each group of values on a line of its own.
fn groups(value: &Value, depth: usize) -> Vec<String> {
    let pad = "  ".repeat(depth);
    let Some(map) = value.as_object() else {
        return leaf(value).map(|text| format!("{pad}{text}")).into_iter().collect();
    };
    let plain = pairs(value);
    let first = if plain.is_empty() { None } else { Some(format!("{pad}{plain}")) };
    let rest = map.iter().filter(|(_, value)| leaf(value).is_none());
    first.into_iter().chain(rest.flat_map(|(name, value)| group(name, value, depth))).collect()
}

/// A named group: its plain values beside the name, what is deeper below.
fn group(name: &str, value: &Value, depth: usize) -> Vec<String> {
    let (pad, name) = ("  ".repeat(depth), printable(name));
    match value {
        Value::Array(items) if is_table(items) => {
            let each: Vec<_> = items.iter().map(|item| (None, item)).collect();
            let table = figures(&each).into_iter().map(|line| format!("{pad}  {line}"));
            std::iter::once(format!("{pad}{name}")).chain(table).collect()
        }
        Value::Array(items) => {
            let head = format!("{pad}{name}");
            std::iter::once(head).chain(items.iter().flat_map(|item| groups(item, depth + 1))).collect()
        }
        Value::Object(map) => {
            let head = format!("{pad}{name}: {}", pairs(value)).trim_end().to_owned();
            let rest = map.iter().filter(|(_, value)| leaf(value).is_none());
            std::iter::once(head).chain(rest.flat_map(|(name, value)| group(name, value, depth + 1))).collect()
        }
        plain => vec![format!("{pad}{name}: {}", leaf(plain).unwrap_or_default())],
    }
}

/// The plain values of an object, with their names.
fn pairs(value: &Value) -> String {
    let pair = |(name, value): (&String, &Value)| Some(format!("{} {}", printable(name), leaf(value)?));
    value.as_object().into_iter().flatten().filter_map(pair).collect::<Vec<_>>().join(", ")
}

/// The text of a plain value, and of a list or object that holds nothing.
fn leaf(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some("-".to_owned()),
        Value::Bool(truth) => Some(if *truth { "yes" } else { "no" }.to_owned()),
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(printable(text)),
        Value::Array(items) => items.is_empty().then(|| "none".to_owned()),
        Value::Object(map) => map.is_empty().then(|| "none".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_peer_is_a_row_whatever_is_told_of_it() {
        let peers =
            json!({ "n2": { "behind": 3, "ahead": null }, "n3": { "behind": 0, "ahead": 1, "digest": "equal" } });
        let lines = peer_lines(&peers);
        assert_eq!(
            lines,
            [
                "",
                "peers",
                "  SERVER  AHEAD  BEHIND  DIGEST",
                "  n2      -      3       -",
                "  n3      1      0       equal",
            ]
        );
        assert!(peer_lines(&json!({})).is_empty());
    }

    #[test]
    fn an_alarm_is_a_line_of_its_own() {
        let alarms = json!([{ "name": "certificate", "text": "the certificate ends in 6 days\u{1b}" }]);
        assert_eq!(alarm_lines(&alarms), ["  ALARM certificate: the certificate ends in 6 days\\u{1b}"]);
        assert!(alarm_lines(&json!([])).is_empty() && alarm_lines(&Value::Null).is_empty());
    }

    #[test]
    fn any_status_is_laid_out() {
        let status = json!({
            "up_seconds": 7,
            "waiting": [],
            "replication": { "lag_p99_ms": 0.5, "queued": 0 },
            "zones": [{ "names": 12, "zone": "internal" }, { "names": 12, "zone": "jiji" }],
            "tunnels": [{ "state": "up", "server": "n2", "mtu": 1420 }, { "state": "down", "server": "n3", "mtu": null }],
            "deep": { "a": null, "deeper": { "b": true } },
        });
        let lines = groups(&status, 1);
        assert_eq!(
            lines,
            [
                "  up_seconds 7, waiting none",
                "  deep: a -",
                "    deeper: b yes",
                "  replication: lag_p99_ms 0.5, queued 0",
                "  tunnels",
                "    SERVER  MTU   STATE",
                "    n2      1420  up",
                "    n3      -     down",
                "  zones",
                "    NAMES  ZONE",
                "    12     internal",
                "    12     jiji",
            ]
        );
    }
}
