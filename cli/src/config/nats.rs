//! `[nats]`: the runner of nats-server. Variables of its ancestor are heard where the key's own is not set.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use kith_dns::ZoneName;
use kith_nats::config::{
    CLUSTER, Config as Runner, Ending, HEALTH, Listen as Listeners, MONITOR, Ports, Role, STORE_DIR, Servers, Store,
    SyncInterval, Tls, Url,
};
use kith_nats::render::Limits;

use super::reader::Reader;
use super::value::{Appended, Away, Connections, Extra, Label, Listen, Payload, Port, Switch, Text};
use super::{Node, Purpose};

/// Variables of the ancestor, by the key that each stands for. Of two for one key the later counts.
pub(super) const INHERITED: [(&str, &str); 6] = [
    ("NATS_SERVER_BIN", "bin"),
    ("NATS_STORE_DIR", "store_dir"),
    ("NATS_MAX_FILE_STORE", "max_file_store"),
    ("NATS_MAX_MEMORY_STORE", "max_mem_store"),
    ("NATS_MAX_MEM_STORE", "max_mem_store"),
    ("NATS_APPEND_CONFIG", "append_config"),
];

/// The runner.
#[derive(Debug)]
pub(crate) struct Nats {
    pub(crate) enabled: bool,
    pub(crate) runner: Runner,
}

impl Nats {
    pub(super) fn read(reader: &mut Reader<'_>, node: &Node, zone: Option<&ZoneName>, purpose: Purpose) -> Nats {
        let enabled = reader.or(("nats", "enabled"), Switch(false)).0;
        let is_wanted = purpose == Purpose::Nats || (purpose == Purpose::Agent && enabled);
        let role = reader.or(("nats", "role"), Role::Center);
        let servers = reader.or(("nats", "servers"), Servers::One);
        let mut file = |name| reader.optional(("nats", name)).map(|Text(path)| PathBuf::from(path));
        let (binary, accounts, credentials) = (file("bin"), file("accounts"), file("credentials"));
        let files = [file("tls_ca"), file("tls_cert"), file("tls_key")];
        let secret = file("secret_file");
        let url: Option<Url> = reader.optional(("nats", "url"));
        let is_wanted = is_wanted && url.is_none();
        let is_clustered = role == Role::Center && servers == Servers::Three;
        if is_wanted && is_clustered && node.region.as_str().is_empty() && !reader.is_wrong(("node", "region")) {
            let hint = "a cluster of nats-servers is those of one region: name it, as \"fra\"";
            reader.problem(("node", "region"), "not set, and nats.servers is 3", hint);
        }
        let tls = match &files {
            [Some(ca), Some(cert), Some(key)] => Some(Tls { ca: ca.clone(), cert: cert.clone(), key: key.clone() }),
            _ => None,
        };
        if is_wanted
            && is_clustered
            && accounts.is_some()
            && secret.is_none()
            && !reader.is_wrong(("nats", "secret_file"))
        {
            let hint = "with accounts nobody is served without a name, so servers take turns by a secret: name a file that is the same on each";
            reader.problem(("nats", "secret_file"), "not set, and nats.accounts is", hint);
        }
        if tls.is_none() && files.iter().any(Option::is_some) {
            let hint = "TLS takes three PEM files: nats.tls_ca, nats.tls_cert, nats.tls_key";
            reader.problem(("nats", "tls_cert"), "not all of its files are named", hint);
        }
        let zone = zone.map_or_else(|| ZoneName::default().to_string(), ToString::to_string);
        let found = if is_wanted && is_clustered { Found::ByOthers } else { Found::ByWhoIsTold };
        let listen = listeners(reader, found);
        let runner = Runner {
            node: node.name.clone(),
            region: node.region.as_str().to_owned(),
            zone: reader.or(("nats", "zone"), Text(zone)).0,
            cluster: reader.or(("nats", "cluster"), Label(CLUSTER.to_owned())).0,
            role,
            servers,
            listen,
            monitor: reader.or(("nats", "monitor"), Listen(MONITOR)).0,
            health: reader.or(("nats", "health"), Listen(HEALTH)).0,
            resolvers: reader.list(("nats", "resolvers"), Vec::new()).into_iter().map(|Listen(at)| at).collect(),
            url,
            binary,
            store: Store {
                dir: reader.or(("nats", "store_dir"), Text(STORE_DIR.to_owned())).0.into(),
                files: reader.optional(("nats", "max_file_store")),
                memory: reader.optional(("nats", "max_mem_store")),
                sync: reader.or(("nats", "sync"), SyncInterval::Always),
            },
            tls,
            accounts,
            credentials,
            secret,
            limits: Limits {
                max_connections: reader.optional(("nats", "max_connections")).map(|Connections(number)| number.get()),
                max_payload: reader.optional(("nats", "max_payload")).map(|Payload(bytes)| bytes),
            },
            remove_after: removal(reader),
            append: reader.optional(("nats", "append_config")).map(|Appended { text }| text),
            processes: reader.list(("nats", "process"), Vec::new()).into_iter().map(|Extra(extra)| extra).collect(),
            ending: Ending::Drain,
        };
        Nats { enabled, runner }
    }
}

impl Nats {
    /// Where clients on this host reach it, or the one that somebody else runs.
    pub(super) fn url(&self) -> String {
        if let Some(url) = &self.runner.url {
            return url.to_string();
        }
        let listen = &self.runner.listen;
        let ip = listen.ip.map(IpAddr::from).or(listen.ip6.map(IpAddr::from));
        let scheme = if self.runner.tls.is_some() { "tls" } else { "nats" };
        let ip = ip.unwrap_or(Ipv4Addr::LOCALHOST.into());
        format!("{scheme}://{}", SocketAddr::new(ip, listen.ports.client))
    }
}

/// After how long away a member is removed. A test has no ten minutes.
fn removal(reader: &mut Reader<'_>) -> Option<Duration> {
    let asked = reader.optional(("nats", "remove_after_ms")).map(|Away(time)| time);
    reader.hidden(("nats", "remove_early_ms")).map(Duration::from_millis).or(asked)
}

/// Who finds a nats-server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    /// The servers of its cluster, by DNS.
    ByOthers,
    /// Whoever is told where it is.
    ByWhoIsTold,
}

/// Where nats-server is reached.
fn listeners(reader: &mut Reader<'_>, found: Found) -> Listeners {
    let ip: Option<Ipv4Addr> = reader.optional(("nats", "ip"));
    let ip6: Option<Ipv6Addr> = reader.optional(("nats", "ip6"));
    let none = ip.is_none() && ip6.is_none();
    if none && found == Found::ByOthers && !reader.is_wrong(("nats", "ip")) && !reader.is_wrong(("nats", "ip6")) {
        let hint = "the other servers find this one at it: name its address in the mesh, or nats.ip6";
        reader.problem(("nats", "ip"), "not set, and nats.servers is 3", hint);
    }
    if let Some(open) = [ip.map(IpAddr::from), ip6.map(IpAddr::from)].into_iter().flatten().find(IpAddr::is_unspecified)
    {
        let hint = "it stands in DNS: name an address of this server";
        reader.problem(
            ("nats", if open.is_ipv4() { "ip" } else { "ip6" }),
            format!("{open} is nobody's address"),
            hint,
        );
    }
    let own = Ports::default();
    let mut port = |name, own| {
        let default = Port(NonZeroU16::new(own).expect("none of them is 0"));
        reader.or(("nats", name), default).0.get()
    };
    let ports = Ports {
        client: port("client_port", own.client),
        route: port("route_port", own.route),
        gateway: port("gateway_port", own.gateway),
        leaf: port("leaf_port", own.leaf),
    };
    Listeners { ip: ip.or_else(|| none.then_some(Ipv4Addr::LOCALHOST)), ip6, ports }
}
