//! The configuration: a TOML file, then environment variables `KITH_SECTION_KEY`, then flags, in this order; checked
//! whole at start, immutable after.
//!
//! [`raw`] gathers what was written with its place, [`reader`] gives each key its type, and [`Config::build`] here is
//! the one function from the one to the other. All that is wrong is reported together, each with file and line.

mod key;
pub(crate) mod legacy;
mod nats;
mod presence;
mod problem;
mod raw;
mod reader;
mod value;

use std::net::{Ipv4Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use kith_daemon::config::{REMOVE_AFTER, SWEEP_AFTER, TUNNEL, Wireguard};
use kith_daemon::{MeshRange, Source};
use kith_dns::forward::{Forwarding, Rebind, Upstream, Upstreams};
use kith_dns::{Tls, Ttl, ZoneName};
use kith_gossip::identity::Subnets;
use kith_gossip::replication::WINDOW;
use kith_gossip_proto::NodeId;

pub(crate) use nats::Nats;
use presence::Presence;
use problem::Origin;
pub(crate) use problem::Problems;
use raw::RawConfig;
use reader::{Reader, Shown, render, render_json};
use value::{CacheBytes, DnsListen, Foreign, Interface, Listen, Port, Range, Rate, Reached, Switch, Text, Threads};
pub(crate) use value::{ClusterId, Durability, Region, Seed, Split, dns_listen};

/// Where the file is looked for when none is named.
pub(crate) const DEFAULT_FILE: &str = "/etc/kith/kith.toml";

/// Where WireGuard listens.
const PORT: NonZeroU16 = NonZeroU16::new(31820).expect("not 0");

/// Longest path of a Unix socket, in bytes, by Linux (`sun_path` less its end).
const MAX_SOCKET_PATH: usize = 107;

/// The whole configuration.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) node: Node,
    pub(crate) cluster: Cluster,
    pub(crate) gossip: Gossip,
    pub(crate) api: Api,
    pub(crate) dns: Dns,
    pub(crate) daemon: Daemon,
    pub(crate) nats: Nats,
    pub(crate) presence: Presence,
    shown: Vec<Shown>,
}

/// This node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: NodeId,
    pub(crate) region: Region,
    pub(crate) boot_id_file: PathBuf,
    pub(crate) data_dir: PathBuf,
}

/// The cluster it belongs to.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) id: ClusterId,
    pub(crate) cidr: IpNet,
}

/// The store and its replication.
#[derive(Debug)]
pub(crate) struct Gossip {
    pub(crate) enabled: bool,
    pub(crate) listen: SocketAddr,
    pub(crate) advertise: Option<SocketAddr>,
    pub(crate) seeds: Vec<Seed>,
    /// `None` only where this part is not to run.
    pub(crate) identity: Option<IdentityFiles>,
    /// The folder of the authority's key, on the one server that has it.
    pub(crate) authority: Option<PathBuf>,
    pub(crate) schema: Vec<PathBuf>,
    pub(crate) durability: Durability,
    /// For tests only, which cannot wait for days.
    pub(crate) remember: Duration,
}

/// The files that say who this node is.
#[derive(Debug)]
pub(crate) struct IdentityFiles {
    pub(crate) ca: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// The HTTP API.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) unix: PathBuf,
    pub(crate) token_file: Option<PathBuf>,
}

/// The DNS server.
#[derive(Debug)]
pub(crate) struct Dns {
    pub(crate) enabled: bool,
    pub(crate) listen: Vec<SocketAddr>,
    /// Where DNS gives its figures itself, beside the API.
    pub(crate) metrics: Option<SocketAddr>,
    /// DNS over TLS.
    pub(crate) tls: Option<Tls>,
    /// Workers for each address; as many as there are cores, if none are named.
    pub(crate) threads: Option<NonZeroUsize>,
    /// Networks that may ask; those that are near, if none are named.
    pub(crate) allow: Vec<IpNet>,
    /// Answers a second for each network that is not private.
    pub(crate) rate: Option<NonZeroU32>,
    pub(crate) zones: Vec<ZoneName>,
    pub(crate) ttl: Ttl,
    pub(crate) ranges: Vec<IpNet>,
    pub(crate) own_addresses: Vec<IpNet>,
    pub(crate) forward: Forwarding,
    /// Zone files.
    pub(crate) files: Vec<PathBuf>,
}

/// The reconcilers.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) enabled: bool,
    /// Docker's socket; none: this server's containers are entered by somebody else.
    pub(crate) docker: Option<PathBuf>,
    /// Whether Docker's network for containers that others reach is made here.
    pub(crate) network: Network,
    /// Who is asked for this server's public address.
    pub(crate) public_sources: Vec<Source>,
    /// For tests only, which cannot wait for an hour.
    pub(crate) sweep_after: Duration,
    /// The interface of the tunnels.
    pub(crate) interface: String,
    /// WireGuard; none: its interface is somebody else's.
    pub(crate) wireguard: Option<Wireguard>,
}

/// Who makes Docker's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    /// The daemon.
    Kept,
    /// Somebody else.
    Foreign,
}

/// What the configuration is read for: a part that is not to run need not be complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// All parts that are enabled.
    Agent,
    /// The store alone.
    Gossip,
    /// The DNS server alone.
    Dns,
    /// The reconcilers alone.
    Daemon,
    /// The runner of nats-server alone.
    Nats,
    /// Presence alone.
    Presence,
}

/// What there is to read, in the order in which the later replaces the earlier.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// The file's name and text.
    pub(crate) file: Option<(PathBuf, String)>,
    /// The environment.
    pub(crate) environment: Vec<(String, String)>,
    /// Each `--set`.
    pub(crate) flags: Vec<String>,
    /// The host's own name, of which the node's is made if none is set.
    pub(crate) hostname: String,
}

impl Sources {
    /// The sources of this process. A file that is named must exist; the default one may be missing.
    pub(crate) fn gather(file: Option<&Path>, flags: &[String]) -> Result<Sources, Problems> {
        let mut problems = Problems::default();
        let path = file.unwrap_or(Path::new(DEFAULT_FILE));
        let text = match read(path) {
            Ok(text) => Some((path.to_owned(), text)),
            Err(error) if file.is_none() && error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                problems.add(&Origin::Default, format!("{}: {error}", path.display()), None);
                None
            }
        };
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        problems.or(Sources { file: text, environment, flags: flags.to_vec(), hostname: host_name() })
    }
}

/// The host's own name, as a server's name may be made of it: its first label, in small letters. Empty if there is none.
pub(crate) fn host_name() -> String {
    first_label(&std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default())
}

fn first_label(host: &str) -> String {
    host.trim().split('.').next().unwrap_or_default().to_lowercase()
}

fn read(path: &Path) -> std::io::Result<String> {
    let size = std::fs::metadata(path)?.len();
    if size > raw::MAX_FILE {
        return Err(std::io::Error::other(format!("{size} bytes are no configuration")));
    }
    std::fs::read_to_string(path)
}

impl Config {
    /// Reads and checks everything.
    pub(crate) fn build(sources: &Sources, purpose: Purpose) -> Result<Config, Problems> {
        let mut problems = Problems::default();
        let mut raw = RawConfig::default();
        if let Some((path, text)) = &sources.file {
            raw.add_file(path, text, &mut problems);
        }
        raw.add_environment(sources.environment.iter().cloned(), &mut problems);
        for flag in &sources.flags {
            raw.add_flag(flag, &mut problems);
        }
        let mut reader = Reader::new(&raw, problems);
        let node = Node::read(&mut reader, &sources.hostname);
        let cluster = Cluster::read(&mut reader);
        let gossip = Gossip::read(&mut reader, purpose);
        let api = Api::read(&mut reader, &node.data_dir);
        let dns = Dns::read(&mut reader, cluster.cidr);
        let daemon = Daemon::read(&mut reader, cluster.cidr);
        let nats = Nats::read(&mut reader, &node, dns.zones.first(), purpose);
        let presence = Presence::read(&mut reader, &nats, purpose);
        let any = gossip.enabled || dns.enabled || daemon.enabled || nats.enabled || presence.enabled;
        if purpose == Purpose::Agent && !any {
            let hint = "enable gossip, dns, daemon, nats, presence or all of them";
            reader.problem(("gossip", "enabled"), "no part is enabled", hint);
        }
        if gossip.authority.is_some() && cluster.subnets().is_none() && !reader.is_wrong(("cluster", "cidr")) {
            let hint = "the authority gives each server a /24 of it: set cluster.cidr to a range as 10.210.0.0/16";
            reader.problem(("cluster", "cidr"), "no range for 127 servers", hint);
        }
        reader.shown.sort_by_key(|shown| shown.key.rank());
        let config = Config { node, cluster, gossip, api, dns, daemon, nats, presence, shown: reader.shown };
        reader.problems.or(config)
    }

    /// The effective values with where each came from, as TOML.
    pub(crate) fn show(&self) -> String {
        render(&self.shown)
    }

    /// The same as JSON.
    pub(crate) fn show_json(&self) -> serde_json::Value {
        render_json(&self.shown)
    }
}

impl Node {
    fn read(reader: &mut Reader<'_>, hostname: &str) -> Node {
        let own = first_label(hostname);
        let fallback: Result<NodeId, _> = own.parse();
        let name = match (fallback, reader.origin(("node", "name"))) {
            (Ok(own), _) => reader.or(("node", "name"), own),
            (Err(_), origin) => {
                if origin == Origin::Default {
                    reader.problem(
                        ("node", "name"),
                        format!("not set, and the host's name `{own}` cannot be a node's"),
                        "give this node a name: 1 to 63 of a-z, 0-9, - and _",
                    );
                }
                reader.or(("node", "name"), "node".parse().expect("a node's name"))
            }
        };
        Node {
            name,
            region: reader.or(("node", "region"), Region(String::new())),
            boot_id_file: path(reader, ("node", "boot_id_file"), "/proc/sys/kernel/random/boot_id"),
            data_dir: path(reader, ("node", "data_dir"), "/var/lib/kith"),
        }
    }
}

impl Cluster {
    /// The servers' ranges, if the cluster's can be divided among them.
    pub(crate) fn subnets(&self) -> Option<Subnets> {
        self.cidr.to_string().parse().ok()
    }

    fn read(reader: &mut Reader<'_>) -> Cluster {
        let cidr = IpNet::new(Ipv4Addr::new(10, 210, 0, 0).into(), 16).expect("16 is a prefix length");
        Cluster {
            id: reader.or(("cluster", "id"), ClusterId("kith".to_owned())),
            cidr: reader.or(("cluster", "cidr"), Range(cidr)).0,
        }
    }
}

impl Gossip {
    fn read(reader: &mut Reader<'_>, purpose: Purpose) -> Gossip {
        let enabled = reader.or(("gossip", "enabled"), Switch(true)).0;
        let listen = reader.or(("gossip", "listen"), Listen(([0, 0, 0, 0], 31280).into())).0;
        let advertise = reader.optional(("gossip", "advertise")).map(|Listen(addr)| addr);
        if advertise.is_some_and(|addr| addr.ip().is_unspecified() || addr.port() == 0) {
            reader.problem(
                ("gossip", "advertise"),
                "not an address of one host",
                "name the address and port at which other nodes reach this one",
            );
        }
        let seeds = reader.list(("gossip", "seeds"), Vec::new());
        let certificates = match purpose {
            Purpose::Agent if enabled => Certificates::Needed,
            Purpose::Gossip => Certificates::Needed,
            Purpose::Agent | Purpose::Dns | Purpose::Daemon | Purpose::Nats | Purpose::Presence => Certificates::Unused,
        };
        let identity = IdentityFiles::read(reader, certificates);
        let authority = reader.optional(("gossip", "authority")).map(|Text(path)| PathBuf::from(path));
        let schema = reader.list(("gossip", "schema"), Vec::new()).into_iter().map(|Text(path)| path.into()).collect();
        let durability = reader.or(("gossip", "durability"), Durability::Full);
        let remember = reader.hidden(("gossip", "remember_deletions_ms")).map_or(WINDOW, Duration::from_millis);
        Gossip { enabled, listen, advertise, seeds, identity, authority, schema, durability, remember }
    }
}

/// Whether a part is to run that cannot without certificates.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Certificates {
    Needed,
    Unused,
}

impl IdentityFiles {
    fn read(reader: &mut Reader<'_>, certificates: Certificates) -> Option<IdentityFiles> {
        const NAMES: [&str; 3] = ["ca", "cert", "key"];
        let files = NAMES.map(|name| reader.optional(("gossip", name)).map(|Text(path)| PathBuf::from(path)));
        for (name, file) in NAMES.into_iter().zip(&files) {
            if certificates == Certificates::Needed && file.is_none() && !reader.is_wrong(("gossip", name)) {
                reader.problem(
                    ("gossip", name),
                    "not set",
                    "nodes prove who they are by certificates: name three PEM files, gossip.ca, gossip.cert, gossip.key",
                );
            }
        }
        match files {
            [Some(ca), Some(cert), Some(key)] => Some(IdentityFiles { ca, cert, key }),
            _ => None,
        }
    }
}

impl Api {
    fn read(reader: &mut Reader<'_>, data_dir: &Path) -> Api {
        let listen: Vec<Listen> = reader.list(("api", "listen"), vec![Listen(([127, 0, 0, 1], 31220).into())]);
        let listen: Vec<SocketAddr> = listen.into_iter().map(|Listen(addr)| addr).collect();
        let unix = data_dir.join("kith.sock");
        let unix = path(reader, ("api", "unix"), &unix.to_string_lossy());
        if unix.as_os_str().len() > MAX_SOCKET_PATH {
            reader.problem(
                ("api", "unix"),
                format!("a socket's path holds at most {MAX_SOCKET_PATH} bytes"),
                "choose a shorter one, as /run/kith/kith.sock",
            );
        }
        let token_file = reader.optional(("api", "token_file")).map(|Text(path)| PathBuf::from(path));
        if token_file.is_none()
            && let Some(open) = listen.iter().find(|addr| !addr.ip().is_loopback())
        {
            reader.problem(
                ("api", "listen"),
                format!("{open} is not on loopback, and there is no token"),
                "set api.token_file, or listen on 127.0.0.1",
            );
        }
        Api { listen, unix, token_file }
    }
}

impl Dns {
    fn read(reader: &mut Reader<'_>, cidr: IpNet) -> Dns {
        let enabled = reader.or(("dns", "enabled"), Switch(true)).0;
        let listen = reader.list(("dns", "listen"), vec![DnsListen(([127, 0, 0, 1], 53).into())]);
        let zones = reader.list(("dns", "zones"), vec![ZoneName::default()]);
        if enabled && listen.is_empty() && !reader.is_wrong(("dns", "listen")) {
            reader.problem(("dns", "listen"), "no address", "name one, or set dns.enabled = false");
        }
        if enabled && zones.is_empty() && !reader.is_wrong(("dns", "zones")) {
            reader.problem(("dns", "zones"), "no zone", "name one, as \"internal\"");
        }
        let ranges = reader.list(("dns", "ranges"), vec![Range(cidr)]);
        Dns {
            enabled,
            listen: listen.into_iter().map(|DnsListen(addr)| addr).collect(),
            tls: tls(reader),
            metrics: reader.optional(("dns", "metrics")).map(|Listen(addr)| addr),
            threads: reader.optional(("dns", "threads")).map(|Threads(number)| number),
            allow: reader.list(("dns", "allow"), Vec::new()).into_iter().map(|Range(net)| net).collect(),
            rate: NonZeroU32::new(reader.or(("dns", "rrl_rate"), Rate(kith_dns::config::RATE)).0),
            zones,
            ttl: reader.or(("dns", "ttl"), Ttl::DEFAULT),
            ranges: ranges.into_iter().map(|Range(net)| net).collect(),
            own_addresses: reader
                .list(("dns", "own_addresses"), Vec::new())
                .into_iter()
                .map(|Range(net)| net)
                .collect(),
            forward: forwarding(reader),
            files: reader.list(("dns", "zone"), Vec::new()).into_iter().map(|Text(path)| path.into()).collect(),
        }
    }
}

impl Daemon {
    fn read(reader: &mut Reader<'_>, cidr: IpNet) -> Daemon {
        let enabled = reader.or(("daemon", "enabled"), Switch(false)).0;
        let docker = reader.or(("daemon", "docker"), Text("/var/run/docker.sock".to_owned())).0;
        let sweep_after = reader.hidden(("daemon", "sweep_after_ms")).map_or(SWEEP_AFTER, Duration::from_millis);
        let network = if reader.or(("daemon", "network"), Switch(true)).0 { Network::Kept } else { Network::Foreign };
        let public_sources = reader.list(("daemon", "public_sources"), Vec::new());
        let Interface(interface) = reader.or(("daemon", "interface"), Interface(TUNNEL.to_owned()));
        Daemon {
            enabled,
            docker: (docker != "none").then(|| docker.into()),
            network,
            public_sources,
            sweep_after,
            wireguard: wireguard(reader, cidr, &interface),
            interface,
        }
    }
}

/// WireGuard, where it is asked for.
fn wireguard(reader: &mut Reader<'_>, cidr: IpNet, interface: &str) -> Option<Wireguard> {
    let on = reader.or(("daemon", "wireguard"), Switch(false)).0;
    let Port(port) = reader.or(("daemon", "port"), Port(PORT));
    let endpoints = reader.list(("daemon", "endpoints"), Vec::new()).into_iter().map(|Reached(addr)| addr).collect();
    let remove_after = reader.hidden(("daemon", "remove_after_ms")).map_or(REMOVE_AFTER, Duration::from_millis);
    if !on {
        return None;
    }
    let mesh = MeshRange::new(cidr);
    if mesh.is_none() && !reader.is_wrong(("cluster", "cidr")) {
        let hint = "each server has two /24 of it inside the mesh: set cluster.cidr to a range as 10.210.0.0/16";
        reader.problem(("cluster", "cidr"), "no range for 127 servers", hint);
    }
    Some(Wireguard { interface: interface.to_owned(), port: port.get(), endpoints, mesh: mesh?, remove_after })
}

/// DNS over TLS, where an address for it is named.
fn tls(reader: &mut Reader<'_>) -> Option<Tls> {
    let listen: Vec<DnsListen> = reader.list(("dns", "tls_listen"), Vec::new());
    let mut file = |name| reader.optional(("dns", name)).map(|Text(path)| PathBuf::from(path));
    let files = [file("tls_cert"), file("tls_key")];
    if !listen.is_empty() {
        for (name, file) in ["tls_cert", "tls_key"].into_iter().zip(&files) {
            if file.is_none() && !reader.is_wrong(("dns", name)) {
                reader.problem(("dns", name), "not set", "DNS over TLS needs a certificate and its key, two PEM files");
            }
        }
    }
    let [Some(cert), Some(key)] = files else { return None };
    let listen: Vec<SocketAddr> = listen.into_iter().map(|DnsListen(addr)| addr).collect();
    (!listen.is_empty()).then_some(Tls { listen, cert, key })
}

fn forwarding(reader: &mut Reader<'_>) -> Forwarding {
    let listed = reader.list(("dns", "upstreams"), vec![Foreign::System]);
    let count = listed.len();
    let servers: Vec<Upstream> = listed
        .into_iter()
        .filter_map(|one| match one {
            Foreign::System => None,
            Foreign::Upstream(upstream) => Some(upstream),
        })
        .collect();
    if !servers.is_empty() && servers.len() < count {
        reader.problem(("dns", "upstreams"), "system and others together", "name the servers, or \"system\" alone");
    }
    let (upstreams, below) = match (count, servers.is_empty()) {
        (0, _) => (Upstreams::None, Vec::new()),
        (_, true) => (Upstreams::System, Forwarding::system().domains),
        (_, false) => (Upstreams::These(servers), Forwarding::system().domains),
    };
    let trusted = reader.optional(("dns", "upstream_ca")).map(|Text(path)| PathBuf::from(path));
    // Those that are configured come first: of two with one name the first counts.
    let split = reader.list(("dns", "forward"), Vec::new()).into_iter().map(|Split(domain)| domain);
    Forwarding {
        upstreams,
        domains: split.chain(below).collect(),
        rebind: reader.or(("dns", "rebind_protection"), Rebind::Cluster),
        cache_bytes: reader.or(("dns", "cache_bytes"), CacheBytes(Forwarding::CACHE_BYTES)).0,
        trusted,
    }
}

fn path(reader: &mut Reader<'_>, key: (&str, &str), default: &str) -> PathBuf {
    reader.or(key, Text(default.to_owned())).0.into()
}

#[cfg(test)]
mod tests;
