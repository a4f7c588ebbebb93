//! What tests share: rows by column name, a small cluster, and a `dig` that reads answers by another codec than ours.

use std::net::IpAddr;
use std::str::FromStr as _;
use std::sync::Arc;

use arc_swap::ArcSwap;
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder};

use crate::answer::{Asked, Cookies, Outcome, Transport, answer};
use crate::config::Config;
use crate::facts::Facts;
use crate::feed::{Cell, Event, Member, MemberState, Table};
use crate::server::{Desk, Desks, who_may_ask};
use crate::status::Published;
use crate::zone::{Settings, Zone};

/// A row under construction: schema defaults, changed by column name.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    table: Table,
    cells: Vec<Cell>,
}

impl Row {
    fn new(table: Table) -> Self {
        let cells = columns(table)
            .map(|column| match column {
                "removed_at" | "ttl" | "instance_id" => Cell::Null,
                "health_status" => "healthy".into(),
                "ports" => "[]".into(),
                "draining" | "fail_open" | "started_at" => 0.into(),
                port if port.ends_with("_port") => 0.into(),
                _ => "".into(),
            })
            .collect();
        Self { table, cells }
    }

    pub(crate) fn set(mut self, column: &str, cell: impl Into<Cell>) -> Self {
        let index = columns(self.table).position(|name| name == column).expect("a column of the query");
        self.cells[index] = cell.into();
        self
    }

    pub(crate) fn upsert(self) -> Event {
        Event::Upsert { table: self.table, cells: self.cells }
    }

    pub(crate) fn delete(self) -> Event {
        Event::Delete { table: self.table, cells: self.cells }
    }
}

/// The columns that a table's query selects.
fn columns(table: Table) -> impl Iterator<Item = &'static str> {
    let selected = table.query().strip_prefix("SELECT ").and_then(|rest| rest.split_once(" FROM "));
    selected.expect("SELECT … FROM …").0.split(',').map(str::trim)
}

pub(crate) fn server(id: &str) -> Row {
    Row::new(Table::Servers).set("id", id)
}

pub(crate) fn service(project: &str, name: &str) -> Row {
    Row::new(Table::Services).set("project", project).set("name", name)
}

/// A healthy container; its id is the digits repeated to 64.
pub(crate) fn container(digits: &str, service: &str, ip: &str) -> Row {
    let (project, service) = service.split_once('/').expect("project/service");
    let id: String = digits.chars().cycle().take(64).collect();
    let row = Row::new(Table::Containers).set("id", id.as_str()).set("project", project).set("service", service);
    row.set("ip", ip).set("server_id", "s1")
}

pub(crate) fn nats(id: &str, cluster: &str, ip: &str) -> Row {
    Row::new(Table::NatsServers).set("id", id).set("cluster", cluster).set("ip", ip).set("server_id", "s1")
}

pub(crate) fn metadata(key: &str, value: &str) -> Row {
    Row::new(Table::Metadata).set("key", key).set("value", value)
}

pub(crate) fn member(server: &str, state: MemberState) -> Member {
    Member { server: server.to_owned(), state, boot_id: String::new(), heard: None, rtt: None }
}

/// All tables from the beginning to their `Synced`, with these rows.
pub(crate) fn snapshot(rows: impl IntoIterator<Item = Row>) -> Vec<Event> {
    let mut events: Vec<Event> = Table::ALL.map(Event::Reset).into();
    events.extend(rows.into_iter().map(Row::upsert));
    events.extend(Table::ALL.map(Event::Synced));
    events
}

pub(crate) fn facts(events: impl IntoIterator<Item = Event>) -> Facts {
    let mut facts = Facts::default();
    for event in events {
        facts.apply(event);
    }
    facts
}

/// Node `s1` in 10.210.0.0/16 and fd00:210::/32.
pub(crate) fn config() -> Config {
    let ranges = ["10.210.0.0/16", "fd00:210::/32"].map(|range| range.parse().unwrap()).into();
    Config { ranges, ..Config::new("s1") }
}

pub(crate) fn zone(rows: impl IntoIterator<Item = Row>) -> Zone {
    zone_of(snapshot(rows))
}

pub(crate) fn zone_of(events: impl IntoIterator<Item = Event>) -> Zone {
    Zone::build(&facts(events), &Settings::from(&config()), 7)
}

pub(crate) fn query(name: &str, rtype: &str) -> Message {
    let rtype = match rtype.strip_prefix("TYPE") {
        Some(number) => RecordType::from(number.parse::<u16>().unwrap()),
        None => RecordType::from_str(rtype).unwrap(),
    };
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), rtype));
    message
}

/// A name on the wire, and where its labels begin.
pub(crate) fn wire(name: &str) -> (Vec<u8>, Vec<u8>) {
    let (mut wire, mut labels) = (Vec::new(), Vec::new());
    for label in name.split('.').filter(|label| !label.is_empty()) {
        labels.push(wire.len() as u8);
        wire.push(label.len() as u8);
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    (wire, labels)
}

/// A desk with one service of one container, for who asks from these networks, at so many answers a second.
pub(crate) fn desk<const N: usize>(allow: [&str; N], rate: u32) -> Desk {
    let zone = zone([service("casa", "api"), container("a", "casa/api", "10.210.0.1")]);
    let (built, took) = (tokio::time::Instant::now(), std::time::Duration::ZERO);
    let published = Published { zone, built, took, stale_since: None };
    let allow = allow.map(|network| network.parse().unwrap()).into();
    let config = Config { allow, threads: 1.try_into().unwrap(), rate: rate.try_into().ok(), ..config() };
    let (access, _) = who_may_ask(&config);
    Desks::new(&config, &Arc::new(ArcSwap::from_pointee(published)), &access, (None, None)).last
}

pub(crate) const COOKIES: Cookies = Cookies::new([7; 16]);

pub(crate) const ELSEWHERE: &str = "10.210.200.9";

/// Asks over TCP from elsewhere in the cluster.
pub(crate) fn ask(zone: &Zone, message: &Message) -> Message {
    ask_as(zone, &message.to_vec().unwrap(), Transport::Tcp, ELSEWHERE, 0)
}

pub(crate) fn ask_as(zone: &Zone, query: &[u8], transport: Transport, source: &str, turn: u32) -> Message {
    let mut out = Vec::new();
    let source: IpAddr = source.parse().unwrap();
    let outcome = answer(zone, &Asked { query, transport, source, turn, cookies: COOKIES }, &mut out);
    assert_ne!(outcome, Outcome::Drop);
    decode(&out)
}

/// Reads a reply strictly: it has as many records as its header says, and nothing behind the last one.
pub(crate) fn decode(reply: &[u8]) -> Message {
    let mut decoder = BinDecoder::new(reply);
    let message = Message::read(&mut decoder).expect("an answer that another codec reads");
    assert!(decoder.is_empty(), "{} bytes behind the message", decoder.len());
    let said = [4, 6, 8, 10].map(|at| usize::from(u16::from_be_bytes([reply[at], reply[at + 1]])));
    // The codec keeps OPT apart from the other additional records.
    let additionals = message.additionals.len() + usize::from(message.edns.is_some());
    assert_eq!(said, [message.queries.len(), message.answers.len(), message.authorities.len(), additionals]);
    message
}

/// An answer as text: code, flags, then records by section.
pub(crate) fn text(message: &Message) -> String {
    let mut text = message.metadata.response_code.to_string();
    for (set, flag) in [
        (message.metadata.authoritative, " AA"),
        (message.metadata.truncation, " TC"),
        (message.metadata.recursion_available, " RA"),
    ] {
        if set {
            text += flag;
        }
    }
    for record in &message.answers {
        text += &format!("\n  {record}");
    }
    for record in &message.authorities {
        text += &format!("\n  authority: {record}");
    }
    for record in &message.additionals {
        text += &format!("\n  additional: {record}");
    }
    text
}

/// The answers to some questions, as text.
pub(crate) fn dig(zone: &Zone, questions: &[(&str, &str)]) -> String {
    let answers = questions.iter().map(|(name, rtype)| {
        let answer = text(&ask(zone, &query(name, rtype)));
        format!("{name} {rtype}: {answer}")
    });
    answers.collect::<Vec<_>>().join("\n")
}

/// The addresses of a name, sorted; `-` for none, the code if it is not NOERROR.
pub(crate) fn addresses(zone: &Zone, name: &str) -> String {
    let mut all = Vec::new();
    for rtype in ["A", "AAAA"] {
        let answer = ask(zone, &query(name, rtype));
        if answer.metadata.response_code != hickory_proto::op::ResponseCode::NoError {
            return answer.metadata.response_code.to_string();
        }
        all.extend(answer.answers.iter().map(|record| record.data.to_string()));
    }
    all.sort();
    if all.is_empty() { "-".to_owned() } else { all.join(" ") }
}
