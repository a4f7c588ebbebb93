//! The values a key may have, each with the sentence that says what was wanted.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::str::FromStr;
use std::time::Duration;

use data_encoding::BASE64;
use ipnet::IpNet;
use kith_dns::forward::{Domain, Upstream};
use kith_nats::config::{REMOVAL, Size};

/// A text that is not empty.
pub(super) struct Text(pub(super) String);

impl FromStr for Text {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Text, &'static str> {
        if text.is_empty() { Err("empty") } else { Ok(Text(text.to_owned())) }
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// On or off.
pub(super) struct Switch(pub(super) bool);

impl FromStr for Switch {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Switch, &'static str> {
        text.parse().map(Switch).map_err(|_| "neither true nor false")
    }
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An address to listen on.
pub(super) struct Listen(pub(super) SocketAddr);

impl FromStr for Listen {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Listen, &'static str> {
        text.parse().map(Listen).map_err(|_| "not an address with a port, as 127.0.0.1:53 or [::1]:53")
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An address to listen on for DNS.
pub(super) struct DnsListen(pub(super) SocketAddr);

impl FromStr for DnsListen {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<DnsListen, &'static str> {
        dns_listen(text).map(DnsListen)
    }
}

impl fmt::Display for DnsListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where systemd-resolved answers, at whatever port: a host that sends its questions there would get ours, and be asked
/// them by us.
const RESOLVED: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 0, 53), Ipv4Addr::new(127, 0, 0, 54)];

/// Reads an address to listen on for DNS.
pub(crate) fn dns_listen(text: &str) -> Result<SocketAddr, &'static str> {
    let Listen(addr) = text.parse()?;
    match addr.ip().to_canonical() {
        IpAddr::V4(v4) if RESOLVED.contains(&v4) => {
            Err("127.0.0.53 and 127.0.0.54 are systemd-resolved's: take another address, as 127.0.0.1:53")
        }
        _ => Ok(addr),
    }
}

/// A name that is one label of DNS.
pub(super) struct Label(pub(super) String);

impl FromStr for Label {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Label, &'static str> {
        if is_label(text) { Ok(Label(text.to_owned())) } else { Err("not a name: 1 to 63 of a-z, 0-9 and -") }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Raw configuration in base64, which goes through every environment unharmed.
pub(super) struct Appended {
    pub(super) text: String,
}

impl FromStr for Appended {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Appended, &'static str> {
        // `base64` breaks its lines.
        let joined: String = text.split_whitespace().collect();
        let bytes = BASE64.decode(joined.as_bytes()).map_err(|_| "not base64")?;
        String::from_utf8(bytes).map(|text| Appended { text }).map_err(|_| "not a text in base64")
    }
}

/// A process that runs beside nats-server, `NAME=COMMAND ARG …` or `NAME=["COMMAND", "ARG"]`.
pub(super) struct Extra(pub(super) kith_nats::config::Extra);

impl FromStr for Extra {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Extra, &'static str> {
        let (name, command) = text.split_once('=').ok_or("not NAME=COMMAND")?;
        if !is_label(name) || name == "nats-server" {
            return Err("not a name before the =: 1 to 63 of a-z, 0-9 and -");
        }
        let words = || command.split_whitespace().map(str::to_owned).collect();
        let command: Vec<String> = match command.trim_start().starts_with('[') {
            true => serde_json::from_str(command).map_err(|_| "not a list of texts behind the =")?,
            false => words(),
        };
        if command.first().is_none_or(String::is_empty) {
            return Err("no command behind the =");
        }
        Ok(Extra(kith_nats::config::Extra { name: name.to_owned(), command }))
    }
}

impl fmt::Display for Extra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.0.name, serde_json::json!(self.0.command))
    }
}

/// A port.
pub(super) struct Port(pub(super) NonZeroU16);

impl FromStr for Port {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Port, &'static str> {
        text.parse().map(Port).map_err(|_| "not a port, 1 to 65535")
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Clients of a nats-server at once.
pub(super) struct Connections(pub(super) NonZeroU32);

impl FromStr for Connections {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Connections, &'static str> {
        text.parse().map(Connections).map_err(|_| "not a number of connections, 1 or more")
    }
}

/// Bytes of one message of a nats-server, which takes none above 64 MiB.
pub(super) struct Payload(pub(super) u32);

impl FromStr for Payload {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Payload, &'static str> {
        let Size(bytes) = text.parse()?;
        let bytes = u32::try_from(bytes).ok().filter(|bytes| (1..=64 << 20).contains(bytes));
        bytes.map(Payload).ok_or("not a number of bytes up to 64MB")
    }
}

/// For how long a member of JetStream's group is to be away, in milliseconds.
pub(super) struct Away(pub(super) Duration);

impl FromStr for Away {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Away, &'static str> {
        let time = text.parse().map(Duration::from_millis).map_err(|_| "not a number of milliseconds")?;
        if time < REMOVAL {
            Err("less than 600000: a server or a host that restarts is not gone")
        } else {
            Ok(Away(time))
        }
    }
}

/// The name of a network interface.
pub(super) struct Interface(pub(super) String);

impl FromStr for Interface {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Interface, &'static str> {
        let fits = (1..=15).contains(&text.len()) && ![".", ".."].contains(&text);
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if fits && text.bytes().all(allowed) {
            Ok(Interface(text.to_owned()))
        } else {
            Err("not an interface's name: 1 to 15 letters, digits, - and _")
        }
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where other hosts reach this one.
pub(super) struct Reached(pub(super) SocketAddr);

impl FromStr for Reached {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Reached, &'static str> {
        let of_one = |addr: &SocketAddr| !addr.ip().is_unspecified() && !addr.ip().is_loopback() && addr.port() != 0;
        text.parse()
            .ok()
            .filter(of_one)
            .map(Reached)
            .ok_or("not an address and port at which other hosts reach this one")
    }
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A number of threads.
pub(super) struct Threads(pub(super) NonZeroUsize);

impl FromStr for Threads {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Threads, &'static str> {
        let number: NonZeroUsize = text.parse().map_err(|_| "not a number of threads, 1 to 1024")?;
        if number.get() <= 1024 { Ok(Threads(number)) } else { Err("more than 1024 threads") }
    }
}

/// Answers a second; 0: as many as are asked for.
pub(super) struct Rate(pub(super) u32);

impl FromStr for Rate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Rate, &'static str> {
        text.parse().map(Rate).map_err(|_| "not a number of answers a second")
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A range of addresses, without host bits.
pub(super) struct Range(pub(super) IpNet);

impl FromStr for Range {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Range, &'static str> {
        let net: IpNet = text.parse().map_err(|_| "not a range of addresses, as 10.210.0.0/16")?;
        if net.trunc() == net {
            Ok(Range(net))
        } else {
            Err("names a host, not a range: bits beyond the prefix are set")
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who is asked about names that are not ours.
pub(super) enum Foreign {
    /// The system's servers.
    System,
    /// This one.
    Upstream(Upstream),
}

impl FromStr for Foreign {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Foreign, &'static str> {
        match text {
            "system" => Ok(Foreign::System),
            _ => text.parse().map(Foreign::Upstream).map_err(|_| "not system, ADDR, ADDR:PORT or tls://ADDR#NAME"),
        }
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Foreign::System => f.write_str("system"),
            Foreign::Upstream(upstream) => upstream.fmt(f),
        }
    }
}

/// A domain that is asked elsewhere, `SUFFIX=SERVER+SERVER`.
#[derive(Debug, Clone)]
pub(crate) struct Split(pub(crate) Domain);

impl FromStr for Split {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Split, &'static str> {
        let (suffix, servers) = text.split_once('=').ok_or("not SUFFIX=ADDR, as corp.example=10.0.0.53")?;
        let suffix = suffix.parse().map_err(|_| "not a domain before the =")?;
        let servers = servers.split('+').map(str::parse).collect::<Result<Vec<_>, _>>();
        Ok(Split(Domain { suffix, servers: servers.map_err(|_| "not ADDR, ADDR:PORT or tls://ADDR#NAME")? }))
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers: Vec<String> = self.0.servers.iter().map(ToString::to_string).collect();
        write!(f, "{}={}", self.0.suffix, servers.join("+"))
    }
}

/// A number of bytes for kept answers.
pub(super) struct CacheBytes(pub(super) usize);

impl FromStr for CacheBytes {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<CacheBytes, &'static str> {
        let bytes = text.parse().ok().filter(|bytes| (1 << 16..=1 << 36).contains(bytes));
        bytes.map(CacheBytes).ok_or("not a number of bytes from 65536 to 68719476736")
    }
}

impl fmt::Display for CacheBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where another node of the cluster may be found, `host:port`. The name is resolved again for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seed(String);

impl Seed {
    /// `host:port`.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Seed {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Seed, &'static str> {
        let good = text.parse::<SocketAddr>().is_ok()
            || text.rsplit_once(':').is_some_and(|(host, port)| {
                let letters = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
                (1..=253).contains(&host.len()) && host.bytes().all(letters) && port.parse::<u16>().is_ok_and(|p| p > 0)
            });
        if good { Ok(Seed(text.to_owned())) } else { Err("not HOST:PORT") }
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A region code: empty, or a DNS label, since `{region}.APP` is a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Region(pub(super) String);

impl Region {
    /// The code; empty if there is none.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Region {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Region, &'static str> {
        if text.is_empty() || is_label(text) {
            Ok(Region(text.to_owned()))
        } else {
            Err("not a region code: at most 63 of a-z, 0-9 and -")
        }
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The cluster's name. Nodes with another one are strangers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClusterId(pub(super) String);

impl ClusterId {
    /// The name.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<ClusterId, &'static str> {
        if is_label(text) {
            Ok(ClusterId(text.to_owned()))
        } else {
            Err("not a cluster's name: 1 to 63 of a-z, 0-9 and -")
        }
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_label(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(allowed) && !text.starts_with('-') && !text.ends_with('-')
}

/// What an acknowledged write has survived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// A power cut: it is on the disk.
    Full,
    /// A crash of the process; a power cut may take the last moments.
    Normal,
}

impl FromStr for Durability {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Durability, &'static str> {
        match text {
            "full" => Ok(Durability::Full),
            "normal" => Ok(Durability::Normal),
            _ => Err("neither \"full\" nor \"normal\""),
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Durability::Full => "full",
            Durability::Normal => "normal",
        })
    }
}
