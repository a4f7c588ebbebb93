//! `kith why`: each instance of a name, in or out of the answer, and by which rule.

use std::path::PathBuf;
use std::str::FromStr;

use kith_dns::explain::{Fate, Instance};
use kith_dns::feed::{self, Table};
use kith_dns::forward::{Domain, Forwarding};
use kith_dns::{Config, Explanation};
use kith_gossip_client::Client;
use serde_json::Value;

use super::table;
use super::value::printable;
use crate::args::Why;
use crate::exit::Failure;
use crate::feed::{decode, heard};
use crate::out::Out;

const HEAD: [&str; 6] = ["INSTANCE", "SERVER", "SLOT", "HEALTH", "", "WHY"];
/// Of an id so much is shown: what names have of it.
const ID: usize = 12;

/// Reads all that names are made of, and explains one.
pub(crate) async fn run(client: &Client, args: &Why) -> Result<(), Failure> {
    let config = config(&client.status().await?);
    let mut events = Vec::new();
    for table in Table::ALL {
        events.push(feed::Event::Reset(table));
        let rows = client.query(table.query()).await?.collect().await?;
        events.extend(rows.into_iter().map(|cells| feed::Event::Upsert { table, cells: decode(cells) }));
        events.push(feed::Event::Synced(table));
    }
    events.extend(client.members().await?.into_iter().map(|member| feed::Event::Member(heard(member))));
    let told = kith_dns::explain(&config, events, &args.name);
    let mut out = Out::new();
    if args.output.json {
        return out.json(&told);
    }
    lines(&told).into_iter().try_for_each(|line| out.line(line))
}

/// What the node's DNS server is configured with, as it says itself; the defaults while none reports.
fn config(status: &Value) -> Config {
    fn read<T: FromStr>(texts: &Value) -> Vec<T> {
        texts.as_str().unwrap_or_default().split(' ').filter_map(|text| text.parse().ok()).collect()
    }
    let default = Config::new(status["node"].as_str().unwrap_or_default());
    let dns = &status["parts"]["dns"];
    let settings = &dns["settings"];
    let zones = read(&settings["zones"]);
    let files = dns["files"].as_array().into_iter().flatten();
    let domains = read(&settings["forward"]).into_iter().map(|suffix| Domain { suffix, servers: Vec::new() });
    Config {
        zones: if zones.is_empty() { default.zones } else { zones },
        ranges: read(&settings["ranges"]),
        own_addresses: read(&settings["own_addresses"]),
        files: files.filter_map(|file| file["file"].as_str()).map(PathBuf::from).collect(),
        forward: Forwarding { domains: domains.collect(), ..Forwarding::refused() },
        ..default
    }
}

fn lines(told: &Explanation) -> Vec<String> {
    let mut lines = vec![format!("{} is {}: {}", printable(&told.name), printable(&told.means), told.rcode)];
    lines.extend(told.addresses.iter().map(|address| format!("  {address}")));
    if !told.instances.is_empty() {
        let rows: Vec<Vec<String>> = told.instances.iter().map(row).collect();
        lines.push(String::new());
        lines.extend(table::render(&HEAD, &rows));
    }
    lines.extend(told.notes.iter().map(|note| format!("note: {}", printable(note))));
    lines
}

fn row(one: &Instance) -> Vec<String> {
    let fate = match one.fate {
        Fate::In => "in",
        Fate::Out => "out",
    };
    let text = |text: &str| if text.is_empty() { "-".to_owned() } else { printable(text) };
    vec![
        printable(&one.id.chars().take(ID).collect::<String>()),
        text(&one.server),
        text(one.slot.as_deref().unwrap_or_default()),
        one.health.to_owned(),
        fate.to_owned(),
        printable(&one.rule),
    ]
}
