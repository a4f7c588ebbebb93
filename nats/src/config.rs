//! What the runner is told at its start: few typed values, checked where they were written.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use kith_gossip_proto::NodeId;

use crate::render::Limits;

/// The name of a cluster where none is given: the APP of its names in DNS.
pub const CLUSTER: &str = "nats";
/// Where streams and what is made once are kept where nobody says otherwise; inherited.
pub const STORE_DIR: &str = "/nats-store";
/// Where the runner answers about its health; inherited.
pub const HEALTH: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5500);
/// Where nats-server answers the runner.
pub const MONITOR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8222);

/// The least that an operator may have [`Config::remove_after`] be: a server that restarts, or whose host does, is back by then. Below 10 s one
/// that was killed counts as up.
pub const REMOVAL: Duration = Duration::from_secs(600);

/// The runner's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// This server.
    pub node: NodeId,
    /// Region code: the cluster of nats-servers it belongs to. May be empty where there is but one region.
    pub region: String,
    /// The zone of the names, as `internal`.
    pub zone: String,
    /// The name of all clusters together, the APP of their names.
    pub cluster: String,
    /// What this server is among them.
    pub role: Role,
    /// How many servers its region has.
    pub servers: Servers,
    /// Where its listeners are reached.
    pub listen: Listen,
    /// Where nats-server tells the runner of itself. On this host only.
    pub monitor: SocketAddr,
    /// Where the runner tells everybody else.
    pub health: SocketAddr,
    /// Who is asked for names; nobody named: the system's resolvers.
    pub resolvers: Vec<SocketAddr>,
    /// A nats-server that somebody else runs; none: one is run here.
    pub url: Option<Url>,
    /// The nats-server that is run; none: it is looked for.
    pub binary: Option<PathBuf>,
    /// Streams, and what is made once and kept.
    pub store: Store,
    /// Between servers and to clients; none: in the clear, as inside a mesh of tunnels.
    pub tls: Option<Tls>,
    /// A file in nats-server's own language: what stands between the braces of `accounts { … }`. Read again when it changes.
    pub accounts: Option<PathBuf>,
    /// A file with which a leaf signs on at the center: NATS credentials (NKey and JWT), or `user:password`.
    pub credentials: Option<PathBuf>,
    /// A file with a secret that all servers of the center share, 16 letters or more; none: whoever reaches their ports is one of them.
    pub secret: Option<PathBuf>,
    /// Bounds of clients.
    pub limits: Limits,
    /// After how long away a member is removed from JetStream's group, if the others are a majority; none: by an operator alone.
    pub remove_after: Option<Duration>,
    /// Raw configuration, put behind all else.
    pub append: Option<String>,
    /// What else is run beside nats-server.
    pub processes: Vec<Extra>,
    /// How nats-server is ended.
    pub ending: Ending,
}

/// What a server is among the clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// One of those that form clusters and gateways.
    Center,
    /// At the edge: connects to the center, and to no other leaf.
    Leaf,
}

/// How many servers a region's cluster has. Configuration and never derived from what DNS says at the moment: nats-server deletes
/// streams when it goes from the one to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Servers {
    /// One, which knows no other of its region.
    One,
    /// Three, or two in regions that hold no stream with replicas.
    Three,
}

/// Where listeners are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// By IPv4.
    pub ip: Option<Ipv4Addr>,
    /// By IPv6.
    pub ip6: Option<Ipv6Addr>,
    /// The ports.
    pub ports: Ports,
}

/// The ports of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// Clients.
    pub client: u16,
    /// Servers of the same cluster.
    pub route: u16,
    /// Other clusters.
    pub gateway: u16,
    /// Leaf nodes.
    pub leaf: u16,
}

impl Default for Ports {
    fn default() -> Ports {
        Ports { client: 4222, route: 6222, gateway: 7222, leaf: 7422 }
    }
}

/// Where streams are kept, and how much of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// The folder.
    pub dir: PathBuf,
    /// Most bytes in files; none: what nats-server takes by itself, three quarters of the disk.
    pub files: Option<Size>,
    /// Most bytes in memory; none: three quarters of what this process may use.
    pub memory: Option<Size>,
    /// When what is in files is on the disk.
    pub sync: SyncInterval,
}

/// When what nats-server has acknowledged is on the disk, and not only with the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncInterval {
    /// Before it is acknowledged: it survives a power cut.
    Always,
    /// So long after it at most: the end of a process loses nothing, a power cut may.
    Within(Duration),
}

/// Certificates, PEM. They name addresses, since peers are configured by address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Who signs the others'.
    pub ca: PathBuf,
    /// The own one.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Another process that is kept running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extra {
    /// Its name in logs and status.
    pub name: String,
    /// The program and its arguments.
    pub command: Vec<String>,
}

/// How nats-server is ended when the runner is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Its clients are sent away first, over half a minute.
    Drain,
    /// At once: nobody depends on it.
    AtOnce,
}

/// Where a nats-server is that somebody else runs: `nats://10.0.0.1:4222`, or `tls://…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url(async_nats::ServerAddr);

impl Url {
    pub(crate) fn server(&self) -> async_nats::ServerAddr {
        self.0.clone()
    }
}

impl FromStr for Url {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Url, &'static str> {
        const WRONG: &str = "not a URL of NATS, as nats://10.0.0.1:4222";
        let server: async_nats::ServerAddr = text.parse().map_err(|_| WRONG)?;
        if server.host().is_empty() {
            return Err(WRONG);
        }
        if server.has_user_pass() || server.username().is_some() {
            return Err("it names a user: what is shown here is no place for a password, which nats.credentials takes");
        }
        Ok(Url(server))
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, host, port) = (self.0.scheme(), self.0.host(), self.0.port());
        if host.contains(':') { write!(f, "{scheme}://[{host}]:{port}") } else { write!(f, "{scheme}://{host}:{port}") }
    }
}

/// A number of bytes as nats-server reads it: `512MB`, `1TB`, where each letter is another 1,024.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Size, &'static str> {
        const WRONG: &str = "not a number of bytes, as 1073741824, 512MB or 1TB";
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let factor = match text[digits.len()..].to_ascii_uppercase().as_str() {
            "" | "B" => 1,
            "K" | "KB" | "KIB" => 1 << 10,
            "M" | "MB" | "MIB" => 1 << 20,
            "G" | "GB" | "GIB" => 1 << 30,
            "T" | "TB" | "TIB" => 1_u64 << 40,
            _ => return Err(WRONG),
        };
        let number: u64 = digits.parse().map_err(|_| WRONG)?;
        // nats-server counts in signed 64 bits.
        let bytes = number.checked_mul(factor).filter(|bytes| i64::try_from(*bytes).is_ok()).ok_or(WRONG)?;
        Ok(Size(bytes))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for SyncInterval {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<SyncInterval, &'static str> {
        const WRONG: &str = "neither \"always\" nor a number of seconds, as \"120s\"";
        if text == "always" {
            return Ok(SyncInterval::Always);
        }
        let seconds =
            text.strip_suffix('s').and_then(|digits| digits.parse::<u32>().ok()).filter(|seconds| *seconds > 0);
        seconds.map(|seconds| SyncInterval::Within(Duration::from_secs(seconds.into()))).ok_or(WRONG)
    }
}

impl fmt::Display for SyncInterval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SyncInterval::Always => f.write_str("always"),
            SyncInterval::Within(time) => write!(f, "{}s", time.as_secs()),
        }
    }
}

impl FromStr for Role {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Role, &'static str> {
        match text {
            "center" => Ok(Role::Center),
            "leaf" => Ok(Role::Leaf),
            _ => Err("neither \"center\" nor \"leaf\""),
        }
    }
}

impl Role {
    /// As it stands in DNS and in rows.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Center => "center",
            Role::Leaf => "leaf",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Servers {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Servers, &'static str> {
        match text {
            "1" => Ok(Servers::One),
            "3" => Ok(Servers::Three),
            _ => Err("neither 1 nor 3"),
        }
    }
}

impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Servers::One => "1",
            Servers::Three => "3",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_server_and_no_password() {
        let shown = |text: &str| text.parse::<Url>().map(|url| url.to_string());
        assert_eq!(shown("nats://10.0.0.1:4333").as_deref(), Ok("nats://10.0.0.1:4333"));
        assert_eq!(shown("tls://[fd00::1]").as_deref(), Ok("tls://[fd00::1]:4222"));
        for wrong in ["nats://a:b@10.0.0.1", "nats://token@10.0.0.1", "http://10.0.0.1", ""] {
            assert!(shown(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn syncs_are_always_or_some_seconds_later() {
        for good in ["always", "120s"] {
            assert_eq!(good.parse::<SyncInterval>().map(|sync| sync.to_string()).as_deref(), Ok(good));
        }
        for wrong in ["", "never", "0s", "120", "-1s", "2m", "s"] {
            assert!(wrong.parse::<SyncInterval>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_read_as_nats_server_reads_them() {
        let bytes = |text: &str| text.parse().map(|Size(bytes)| bytes).ok();
        assert_eq!(bytes("1024"), Some(1024));
        assert_eq!(bytes("1TB"), Some(1 << 40));
        assert_eq!(bytes("512mb"), Some(512 << 20));
        for wrong in ["", "GB", "-1", "1.5GB", "1XB", "9223372036854775808", "16777216TB", "1 GB", "1é"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
    }
}
