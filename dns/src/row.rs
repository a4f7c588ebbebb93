//! Rows, decoded: the one place where untyped cells become addresses, names, classes and ports.
//!
//! Anything may stand in a row: the store checks no types and inherited clients write to it. What cannot be used is
//! left out with a [`Fault`] that says why, as narrowly as honesty allows: a container without a usable address or id
//! is left out whole, while a container whose port list is broken still answers A. A server row always counts for what
//! it says of removal and draining, however broken the rest of it is, since leaving that out would serve the dead.

use std::borrow::Borrow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::Deserialize;

use crate::config::Ttl;
use crate::feed::Cell;
use crate::name::{self, NameError};

/// Most ports of one row that are looked at; the rest are left out with a fault.
const PORTS_MAX: usize = 64;
/// Longest piece of a bad cell repeated in a fault, in characters: enough to recognise it.
const QUOTE_MAX: usize = 48;

/// Shortest prefixes of a server's range: hosts get a /24, and whole sites less than these.
const SUBNET_MIN_V4: u8 = 16;
const SUBNET_MIN_V6: u8 = 48;

/// Why a row, or a part of it, is left out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("{found} cells where the query selects {wanted}")]
    Width { found: usize, wanted: usize },
    #[error("{column} is {found}, not {wanted}")]
    Type { column: &'static str, found: &'static str, wanted: &'static str },
    #[error("{column} {text:?} is not an address of its kind")]
    Address { column: &'static str, text: String },
    #[error("{address} is outside the cluster's ranges")]
    Outside { address: IpAddr },
    #[error("no address")]
    NoAddress,
    #[error("{column}: {reason}")]
    Name { column: &'static str, reason: NameError },
    #[error("{column} {text:?} is a word with a meaning of its own in names")]
    Reserved { column: &'static str, text: String },
    #[error("id {0:?} does not begin with 12 hex digits")]
    Id(String),
    #[error("id begins with the same 12 digits as {0:?}")]
    SameId(String),
    #[error("ports: {0}")]
    Ports(String),
    #[error("{column} {value} is out of range")]
    Number { column: &'static str, value: i64 },
    #[error("health_status {0:?} is unknown to this release and counts as unknown")]
    Health(String),
    #[error("role {0:?} is neither center nor leaf")]
    Role(String),
    #[error("no services row for {0}")]
    NoService(String),
    #[error("no project, and {count} services are named {service:?}")]
    AmbiguousProject { service: String, count: usize },
    #[error("name {name} is taken by {by}")]
    Taken { name: String, by: String },
    #[error("name {name}: {reason}")]
    Unnameable { name: String, reason: NameError },
    #[error("the list of {list} has no room for {count} of them")]
    Long { list: &'static str, count: usize },
    #[error("cluster_cidr {0:?} is not a list of ranges")]
    Range(String),
    #[error("subnet {0:?} is not the range of a server")]
    Subnet(String),
    #[error("subnet {subnet} is public, and no range that is configured here has it: nobody in it may ask")]
    Public { subnet: IpNet },
    #[error("{range} is public, and no range that is configured here has it: it is served, and nobody in it may ask")]
    PublicRange { range: IpNet },
}

/// A server of the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// `servers.id`, as rows and members refer to it.
    pub(crate) id: Arc<str>,
    /// The id as a label, if it can be one.
    pub(crate) label: Option<Arc<str>>,
    pub(crate) v4: Option<Ipv4Addr>,
    pub(crate) v6: Option<Ipv6Addr>,
    /// Region code, empty if none.
    pub(crate) region: String,
    pub(crate) belonging: Belonging,
    /// Empty if not set.
    pub(crate) boot_id: String,
    /// The range of its containers.
    pub(crate) subnet: Option<IpNet>,
}

/// What the operator says of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Belonging {
    Member,
    Draining,
    Removed,
}

/// Whether the operator, or the daemon, keeps something out of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Serving {
    Yes,
    Draining,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) project: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) ports: Vec<Port>,
    pub(crate) ttl: Option<Ttl>,
    pub(crate) fallback: Fallback,
}

/// What a known name answers when no candidate is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fallback {
    /// Nothing.
    Empty,
    /// All rows but those draining or of removed servers: `fail_open`.
    All,
}

/// A container. There may be a million, so that texts which many have are shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) digits: Digits,
    /// Lower-cased; empty: that of the one service of its name.
    pub(crate) project: Arc<str>,
    pub(crate) service: Arc<str>,
    pub(crate) server: Arc<str>,
    /// As written, `None` counting as one slot.
    pub(crate) slot: Option<Box<str>>,
    /// The slot as a label, if it can be one.
    pub(crate) slot_label: Option<Box<str>>,
    pub(crate) v4: Option<Ipv4Addr>,
    pub(crate) v6: Option<Ipv6Addr>,
    pub(crate) ports: Box<[Port]>,
    pub(crate) health: Health,
    pub(crate) serving: Serving,
    pub(crate) started_at: i64,
}

/// The first 12 hex digits of a container's id, lower-cased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Digits([u8; 12]);

impl Digits {
    fn of(id: &str) -> Option<Self> {
        let mut digits = *id.as_bytes().first_chunk::<12>()?;
        digits.make_ascii_lowercase();
        digits.iter().all(u8::is_ascii_hexdigit).then_some(Self(digits))
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hex digits are ASCII")
    }
}

/// A server of a NATS cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Nats {
    /// Its name, a label.
    pub(crate) label: String,
    /// Its cluster, a label.
    pub(crate) cluster: Arc<str>,
    pub(crate) role: Option<Role>,
    pub(crate) server: String,
    /// Region code, empty if none.
    pub(crate) region: String,
    pub(crate) v4: Option<Ipv4Addr>,
    pub(crate) v6: Option<Ipv6Addr>,
    /// Ports of `client`, `route`, `gateway`, `leaf`, in the order of [`Nats::LISTENERS`]; 0: not listening.
    pub(crate) ports: [u16; 4],
    pub(crate) health: Health,
    pub(crate) started_at: i64,
}

impl Nats {
    /// First labels of the SRV names of a cluster's listeners, in the order of its ports.
    pub(crate) const LISTENERS: [&'static str; 4] = ["_nats", "_nats-route", "_nats-gateway", "_nats-leaf"];
}

/// The part a NATS server plays, which is its group in names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    Center,
    Leaf,
}

impl Role {
    pub(crate) const ALL: [Role; 2] = [Role::Center, Role::Leaf];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Role::Center => "center",
            Role::Leaf => "leaf",
        }
    }
}

/// Health classes, the best last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Health {
    Unhealthy,
    Unknown,
    Degraded,
    Healthy,
}

impl Health {
    /// As the schema has it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Health::Unhealthy => "unhealthy",
            Health::Unknown => "unknown",
            Health::Degraded => "degraded",
            Health::Healthy => "healthy",
        }
    }
}

/// A named port, for SRV.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    /// Label of the service part, with its underscore: `_http`.
    pub(crate) name: String,
    /// Label of the protocol part, with its underscore: `_tcp`.
    pub(crate) proto: String,
    pub(crate) port: u16,
}

/// The key of a row as text, whatever the cells are, so that a poison row can be replaced and deleted like any other.
/// Keys are ordered as their columns are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key(Arc<str>);

/// Stands between two columns of a key. It comes before every character of a name, and is in none.
const BETWEEN: char = '\u{1f}';

impl Key {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// As people read it.
    pub(crate) fn text(&self) -> String {
        self.0.replace(BETWEEN, "/")
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The key of a row of which the first `columns` (1 or 2) are the key.
pub(crate) fn key(cells: &[Cell], columns: usize) -> Key {
    let part = |index: usize| match cells.get(index) {
        None => String::new(),
        Some(Cell::Text(text)) => text.clone(),
        // The NUL keeps these apart from every text that a row could sensibly have.
        Some(other) => format!("\0{other:?}"),
    };
    let first = part(0);
    Key(if columns == 1 { first.into() } else { format!("{first}{BETWEEN}{}", part(1)).into() })
}

/// Reads the cells of one row from left to right. `faults` collects what is left out without losing the row.
struct Reader<'a> {
    cells: std::slice::Iter<'a, Cell>,
    faults: &'a mut Vec<Fault>,
}

impl<'a> Reader<'a> {
    fn new(cells: &'a [Cell], wanted: usize, faults: &'a mut Vec<Fault>) -> Result<Self, Fault> {
        if cells.len() != wanted {
            return Err(Fault::Width { found: cells.len(), wanted });
        }
        Ok(Self { cells: cells.iter(), faults })
    }

    fn next(&mut self) -> &'a Cell {
        self.cells.next().unwrap_or(&Cell::Null)
    }

    /// A text; NULL reads as the empty one.
    fn text(&mut self, column: &'static str) -> Result<&'a str, Fault> {
        match self.next() {
            Cell::Text(text) => Ok(text),
            Cell::Null => Ok(""),
            other => Err(Fault::Type { column, found: kind(other), wanted: "a text" }),
        }
    }

    /// A text of which the row can do without.
    fn optional_text(&mut self, column: &'static str) -> &'a str {
        self.text(column).unwrap_or_else(|fault| {
            self.faults.push(fault);
            ""
        })
    }

    fn integer(&mut self, column: &'static str) -> Result<Option<i64>, Fault> {
        match self.next() {
            Cell::Integer(value) => Ok(Some(*value)),
            Cell::Null => Ok(None),
            other => Err(Fault::Type { column, found: kind(other), wanted: "an integer" }),
        }
    }

    /// A number of which the row can do without; what is no integer reads as NULL.
    fn optional_integer(&mut self, column: &'static str) -> Option<i64> {
        self.integer(column).unwrap_or_else(|fault| {
            self.faults.push(fault);
            None
        })
    }

    fn address<A: std::str::FromStr>(&mut self, column: &'static str) -> Result<Option<A>, Fault> {
        match self.text(column)? {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| Fault::Address { column, text: quote(text) }),
        }
    }

    /// A label that the row can do without.
    fn optional_label(&mut self, column: &'static str) -> Option<String> {
        match self.optional_text(column) {
            "" => None,
            text => self.soft_label(column, text),
        }
    }

    fn soft_label(&mut self, column: &'static str, text: &str) -> Option<String> {
        name::label(text).map_err(|reason| self.faults.push(Fault::Name { column, reason })).ok()
    }

    fn label(&mut self, column: &'static str) -> Result<String, Fault> {
        name::label(self.text(column)?).map_err(|reason| Fault::Name { column, reason })
    }

    fn ports(&mut self) -> Vec<Port> {
        match self.optional_text("ports") {
            "" | "[]" => Vec::new(),
            text => ports(text, self.faults),
        }
    }

    fn health(&mut self) -> Health {
        match self.optional_text("health_status") {
            "healthy" => Health::Healthy,
            "degraded" => Health::Degraded,
            "unhealthy" => Health::Unhealthy,
            "unknown" | "" => Health::Unknown,
            other => {
                self.faults.push(Fault::Health(quote(other)));
                Health::Unknown
            }
        }
    }

    fn port(&mut self, column: &'static str) -> u16 {
        let value = self.optional_integer(column).unwrap_or(0);
        u16::try_from(value).unwrap_or_else(|_| {
            self.faults.push(Fault::Number { column, value });
            0
        })
    }
}

impl Server {
    pub(crate) fn decode(cells: &[Cell], faults: &mut Vec<Fault>) -> Result<Self, Fault> {
        let mut row = Reader::new(cells, 8, faults)?;
        let id: Arc<str> = row.text("id")?.into();
        let mut label = row.soft_label("id", &id);
        if label.as_deref() == Some("local") {
            row.faults.push(Fault::Reserved { column: "id", text: quote(&id) });
            label = None;
        }
        let v4 = row.address("wireguard_ip").unwrap_or_else(|fault| {
            row.faults.push(fault);
            None
        });
        let v6 = row.address("management_ip").unwrap_or_else(|fault| {
            row.faults.push(fault);
            None
        });
        let region = row.region();
        let removed = !matches!(row.next(), Cell::Null);
        let draining = !matches!(row.next(), Cell::Integer(0) | Cell::Null);
        let belonging = match (removed, draining) {
            (true, _) => Belonging::Removed,
            (false, true) => Belonging::Draining,
            (false, false) => Belonging::Member,
        };
        let boot_id = row.optional_text("boot_id").to_owned();
        let subnet = row.subnet();
        Ok(Self { id, label: label.map(Arc::from), v4, v6, region, belonging, boot_id, subnet })
    }
}

impl Reader<'_> {
    /// The range of a server. One wider than any server's is not believed: who is in it may ask.
    fn subnet(&mut self) -> Option<IpNet> {
        let text = self.optional_text("subnet");
        if text.is_empty() {
            return None;
        }
        let narrow = |net: &IpNet| {
            net.prefix_len()
                >= match net {
                    IpNet::V4(_) => SUBNET_MIN_V4,
                    IpNet::V6(_) => SUBNET_MIN_V6,
                }
        };
        let subnet = text.parse().ok().filter(narrow);
        if subnet.is_none() {
            self.faults.push(Fault::Subnet(quote(text)));
        }
        subnet
    }

    /// A region code. Words with a meaning below an APP, and `_…`, cannot be asked for, so they are no regions.
    fn region(&mut self) -> String {
        let Some(region) = self.optional_label("region") else { return String::new() };
        if KEYWORDS.contains(&region.as_str()) || region.starts_with('_') {
            self.faults.push(Fault::Reserved { column: "region", text: region });
            return String::new();
        }
        region
    }
}

/// Labels below an APP that come before regions.
const KEYWORDS: [&str; 8] = ["global", "peers", "regions", "vms", "vm", "process", "nearest", "of"];

impl Service {
    pub(crate) fn decode(cells: &[Cell], faults: &mut Vec<Fault>) -> Result<Self, Fault> {
        let mut row = Reader::new(cells, 5, faults)?;
        let project = row.label("project")?.into();
        let name = row.label("name")?.into();
        let ports = row.ports();
        let ttl = row.optional_integer("ttl").and_then(|value| {
            Ttl::from_secs(value).map_err(|_| row.faults.push(Fault::Number { column: "ttl", value })).ok()
        });
        let fallback = match row.optional_integer("fail_open") {
            None | Some(0) => Fallback::Empty,
            Some(_) => Fallback::All,
        };
        Ok(Self { project, name, ports, ttl, fallback })
    }
}

impl Container {
    pub(crate) fn decode(cells: &[Cell], faults: &mut Vec<Fault>) -> Result<Self, Fault> {
        let mut row = Reader::new(cells, 11, faults)?;
        let id = row.text("id")?;
        let digits = Digits::of(id).ok_or_else(|| Fault::Id(quote(id)))?;
        let project = match row.text("project")? {
            "" => Arc::from(""),
            text => name::label(text).map_err(|reason| Fault::Name { column: "project", reason })?.into(),
        };
        let service = row.label("service")?.into();
        let server = row.text("server_id")?.into();
        let slot = Some(row.optional_text("instance_id")).filter(|slot| !slot.is_empty());
        let slot_label = slot.and_then(|slot| row.soft_label("instance_id", slot)).map(Box::from);
        let slot = slot.map(Box::from);
        let v4 = row.address("ip")?;
        let v6 = row.address("ip6")?;
        let ports = row.ports().into();
        let health = row.health();
        let serving = match row.next() {
            Cell::Integer(0) | Cell::Null => Serving::Yes,
            _ => Serving::Draining,
        };
        let started_at = row.optional_integer("started_at").unwrap_or(0);
        if v4.is_none() && v6.is_none() {
            return Err(Fault::NoAddress);
        }
        Ok(Self { digits, project, service, server, slot, slot_label, v4, v6, ports, health, serving, started_at })
    }
}

impl Nats {
    pub(crate) fn decode(cells: &[Cell], faults: &mut Vec<Fault>) -> Result<Self, Fault> {
        let mut row = Reader::new(cells, 13, faults)?;
        let label = row.label("id")?;
        let cluster: Arc<str> = row.label("cluster")?.into();
        if matches!(&*cluster, "svc" | "node") || cluster.starts_with('_') {
            return Err(Fault::Reserved { column: "cluster", text: quote(&cluster) });
        }
        let role = match row.optional_text("role") {
            "center" => Some(Role::Center),
            "leaf" => Some(Role::Leaf),
            other => {
                row.faults.push(Fault::Role(quote(other)));
                None
            }
        };
        let server = row.text("server_id")?.to_owned();
        let region = row.region();
        let v4 = row.address("ip")?;
        let v6 = row.address("ip6")?;
        let ports = ["client_port", "route_port", "gateway_port", "leaf_port"].map(|column| row.port(column));
        let health = row.health();
        let started_at = row.optional_integer("started_at").unwrap_or(0);
        if v4.is_none() && v6.is_none() {
            return Err(Fault::NoAddress);
        }
        Ok(Self { label, cluster, role, server, region, v4, v6, ports, health, started_at })
    }
}

/// One element of a `ports` column as it is written.
#[derive(Deserialize)]
struct RawPort {
    #[serde(default)]
    name: String,
    #[serde(default)]
    proto: String,
    port: u16,
}

/// Reads a `ports` column: a JSON array of `{"name","proto","port"}`. A port without a name is named by its number, one
/// without a protocol is TCP. Sorted; of two ports of one name the smaller counts.
fn ports(text: &str, faults: &mut Vec<Fault>) -> Vec<Port> {
    let raw: Vec<serde_json::Value> = match serde_json::from_str(text) {
        Ok(raw) => raw,
        Err(error) => {
            faults.push(Fault::Ports(error.to_string()));
            return Vec::new();
        }
    };
    if raw.len() > PORTS_MAX {
        faults.push(Fault::Ports(format!("{} ports, of which the first {PORTS_MAX} count", raw.len())));
    }
    let mut ports = Vec::new();
    for value in raw.into_iter().take(PORTS_MAX) {
        match port(value) {
            Ok(port) => ports.push(port),
            Err(reason) => faults.push(Fault::Ports(reason)),
        }
    }
    ports.sort_by(|a, b| (&a.name, &a.proto, a.port).cmp(&(&b.name, &b.proto, b.port)));
    ports.dedup_by(|a, b| a.name == b.name && a.proto == b.proto);
    ports
}

fn port(value: serde_json::Value) -> Result<Port, String> {
    let raw: RawPort = serde_json::from_value(value).map_err(|error| error.to_string())?;
    let name = if raw.name.is_empty() { raw.port.to_string() } else { raw.name };
    let proto = if raw.proto.is_empty() { "tcp".to_owned() } else { raw.proto };
    let with_underscore = |text: &str| name::label(&format!("_{text}")).map_err(|error| error.to_string());
    Ok(Port { name: with_underscore(&name)?, proto: with_underscore(&proto)?, port: raw.port })
}

fn kind(cell: &Cell) -> &'static str {
    match cell {
        Cell::Null => "NULL",
        Cell::Integer(_) => "an integer",
        Cell::Real(_) => "a real",
        Cell::Text(_) => "a text",
        Cell::Blob(_) => "a blob",
    }
}

/// The beginning of a text, for a fault.
pub(crate) fn quote(text: &str) -> String {
    text.chars().take(QUOTE_MAX).collect()
}
