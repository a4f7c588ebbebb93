//! What a container is an instance of: by our labels, else by compose's, else by its name. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::json;

use crate::docker::{Addresses, Container};
use crate::health::Check;

/// The network whose containers are known everywhere.
pub(crate) const NETWORK: &str = "kith";
/// Longest label of a name (RFC 1035 §2.3.4).
const LABEL_MAX: usize = 63;
/// Ports that one container may name.
const PORTS_MAX: usize = 32;

/// A container as its row says it, but for its health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Instance {
    /// The project; empty: that of the one service of its name.
    pub(crate) project: String,
    /// The service.
    pub(crate) service: String,
    /// The slot it fills.
    pub(crate) slot: String,
    /// Its ports, as a JSON array.
    pub(crate) ports: String,
    /// How it is checked.
    pub(crate) check: Check,
    /// The image's name.
    pub(crate) image: String,
    /// Where it is; nowhere while it does not run.
    pub(crate) at: Addresses,
}

/// Why a container has no row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unlisted {
    /// It is in other networks only.
    Elsewhere,
    /// It is on the host's own network, and nobody has said what the host's address in the mesh is.
    NoMeshAddress,
    /// It is a command that compose ran once.
    OneOff,
    /// A label that cannot be used, with what is wrong with it.
    Label(&'static str, String),
}

impl Instance {
    /// The instance that a container is. `host` is where host-network ones are.
    pub(crate) fn of(container: &Container, host: &Addresses) -> Result<Instance, Unlisted> {
        let label = |name: &str| container.labels.get(name).map(|text| text.trim()).filter(|text| !text.is_empty());
        if label("com.docker.compose.oneoff").is_some_and(|text| text.eq_ignore_ascii_case("true")) {
            return Err(Unlisted::OneOff);
        }
        let at = match container.networks.get(NETWORK) {
            Some(at) => at.clone(),
            None if !container.on_host => return Err(Unlisted::Elsewhere),
            None if *host == Addresses::default() => return Err(Unlisted::NoMeshAddress),
            None => host.clone(),
        };
        let project = label("kith.project").or_else(|| label("com.docker.compose.project"));
        let service = label("kith.service").or_else(|| label("com.docker.compose.service"));
        let slot = label("kith.instance").or_else(|| label("com.docker.compose.container-number"));
        let checked =
            check(label("kith.health").unwrap_or_default()).map_err(|why| Unlisted::Label("kith.health", why))?;
        Ok(Instance {
            project: project.map_or(Ok(String::new()), |text| name("kith.project", text))?,
            service: name("kith.service", service.unwrap_or(&container.name))?,
            slot: name("kith.instance", slot.unwrap_or(&container.name))?,
            ports: ports(label("kith.ports").unwrap_or_default()).map_err(|why| Unlisted::Label("kith.ports", why))?,
            check: if container.checked { Check::Docker } else { checked },
            image: container.image.clone(),
            at,
        })
    }

    /// Where it is probed.
    pub(crate) fn probed_at(&self) -> Option<IpAddr> {
        let v4 = |ip: Ipv4Addr| IpAddr::V4(ip);
        let v6 = |ip: Ipv6Addr| IpAddr::V6(ip);
        self.at.ip.map(v4).or(self.at.ip6.map(v6))
    }

    /// The port that is checked.
    pub(crate) fn health_port(&self) -> Option<u16> {
        match &self.check {
            Check::Tcp(port) | Check::Http { port, .. } => Some(*port),
            Check::Docker | Check::Running => None,
        }
    }
}

/// A label of a name, in small letters.
fn name(what: &'static str, text: &str) -> Result<String, Unlisted> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let edge = text.starts_with('-') || text.ends_with('-');
    if text.is_empty() || text.len() > LABEL_MAX || edge || !text.bytes().all(allowed) {
        let shown: String = text.chars().take(LABEL_MAX).collect();
        return Err(Unlisted::Label(what, format!("`{shown}` cannot be part of a name: 1 to 63 of a-z, 0-9, - and _")));
    }
    Ok(text.to_ascii_lowercase())
}

/// `http:8080/tcp,metrics:9090/tcp` as a JSON array. The protocol may be left out.
fn ports(text: &str) -> Result<String, String> {
    let one = |text: &str| {
        let (name, rest) = text.split_once(':').ok_or_else(|| format!("`{text}` is not NAME:PORT/PROTO"))?;
        let (port, proto) = rest.split_once('/').unwrap_or((rest, "tcp"));
        let port: u16 = port.trim().parse().map_err(|_| format!("`{port}` is not a port"))?;
        let proto = proto.trim().to_ascii_lowercase();
        if !["tcp", "udp"].contains(&proto.as_str()) {
            return Err(format!("`{proto}` is neither tcp nor udp"));
        }
        Ok(json!({ "name": name.trim(), "proto": proto, "port": port }))
    };
    let listed: Vec<&str> = text.split(',').map(str::trim).filter(|text| !text.is_empty()).collect();
    if listed.len() > PORTS_MAX {
        return Err(format!("more than {PORTS_MAX} ports"));
    }
    let ports: Vec<_> = listed.into_iter().map(one).collect::<Result<_, String>>()?;
    Ok(json!(ports).to_string())
}

/// `tcp:8080` or `8080`; `http:8080/healthz`; `none`, or nothing at all.
fn check(text: &str) -> Result<Check, String> {
    let port = |text: &str| match text.trim().parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        Ok(_) | Err(_) => Err(format!("`{text}` is not a port")),
    };
    match text.split_once(':') {
        None if text.is_empty() || text == "none" => Ok(Check::Running),
        None => port(text).map(Check::Tcp),
        Some(("tcp", rest)) => port(rest).map(Check::Tcp),
        Some(("http", rest)) => {
            let (at, path) = rest.split_once('/').unwrap_or((rest, ""));
            Ok(Check::Http { port: port(at)?, path: format!("/{path}") })
        }
        Some(_) => Err(format!("`{text}` is none of tcp:PORT, http:PORT/PATH, none")),
    }
}

impl fmt::Display for Unlisted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unlisted::Elsewhere => write!(f, "it is not in the network {NETWORK}"),
            Unlisted::NoMeshAddress => {
                f.write_str("it is on the host's network, and the host has no address in the mesh")
            }
            Unlisted::OneOff => f.write_str("compose ran it once, as a command"),
            Unlisted::Label(label, why) => write!(f, "{label}: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Run;

    fn container(labels: &[(&str, &str)]) -> Container {
        let at = Addresses { ip: Some(Ipv4Addr::new(10, 210, 129, 7)), ip6: None };
        Container {
            id: "3f".repeat(32),
            name: "Casa_API-1".to_owned(),
            image: "casa/api:7".to_owned(),
            labels: labels.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect(),
            run: Run::Stopped,
            checked: false,
            networks: [(NETWORK.to_owned(), at)].into(),
            on_host: false,
        }
    }

    fn of(labels: &[(&str, &str)]) -> String {
        match Instance::of(&container(labels), &Addresses::default()) {
            Ok(it) => format!("{} / {} / {} {} {:?}", it.project, it.service, it.slot, it.ports, it.check),
            Err(unlisted) => unlisted.to_string(),
        }
    }

    #[test]
    fn our_labels_come_before_compose_s_and_the_name() {
        let compose = [
            ("com.docker.compose.project", "shop"),
            ("com.docker.compose.service", "web"),
            ("com.docker.compose.container-number", "2"),
        ];
        assert_eq!(of(&compose), "shop / web / 2 [] Running");
        let ours = [("kith.project", "casa"), ("kith.service", "api"), ("kith.instance", "A")];
        assert_eq!(of(&[&compose[..], &ours[..]].concat()), "casa / api / a [] Running");
        assert_eq!(of(&[]), " / casa_api-1 / casa_api-1 [] Running");
        assert_eq!(of(&[("com.docker.compose.oneoff", "True")]), "compose ran it once, as a command");
        assert_eq!(
            of(&[("kith.service", "a.b")]),
            "kith.service: `a.b` cannot be part of a name: 1 to 63 of a-z, 0-9, - and _"
        );
    }

    #[test]
    fn ports_and_checks_are_read_or_named() {
        let ports = |text| of(&[("kith.service", "s"), ("kith.instance", "1"), ("kith.ports", text)]);
        assert_eq!(
            ports("http:8080/tcp, metrics:9090/udp"),
            r#" / s / 1 [{"name":"http","port":8080,"proto":"tcp"},{"name":"metrics","port":9090,"proto":"udp"}] Running"#
        );
        assert_eq!(ports("dns:53"), r#" / s / 1 [{"name":"dns","port":53,"proto":"tcp"}] Running"#);
        assert_eq!(ports("8080"), "kith.ports: `8080` is not NAME:PORT/PROTO");
        assert_eq!(ports("http:99999"), "kith.ports: `99999` is not a port");
        assert_eq!(ports("http:80/sctp"), "kith.ports: `sctp` is neither tcp nor udp");
        for (text, expected) in [
            ("8080", Ok(Check::Tcp(8080))),
            ("tcp:8080", Ok(Check::Tcp(8080))),
            ("http:80", Ok(Check::Http { port: 80, path: "/".to_owned() })),
            ("http:80/a/b?c", Ok(Check::Http { port: 80, path: "/a/b?c".to_owned() })),
            ("none", Ok(Check::Running)),
            ("", Ok(Check::Running)),
            ("tcp:0", Err("`0` is not a port".to_owned())),
            ("http://elsewhere/", Err("`` is not a port".to_owned())),
            ("exec:true", Err("`exec:true` is none of tcp:PORT, http:PORT/PATH, none".to_owned())),
        ] {
            assert_eq!(check(text), expected, "{text}");
        }
    }

    #[test]
    fn docker_s_own_check_comes_before_ours_and_other_networks_are_said() {
        let mut it = container(&[("kith.health", "8080")]);
        it.checked = true;
        assert_eq!(Instance::of(&it, &Addresses::default()).map(|it| it.check), Ok(Check::Docker));
        it.networks.clear();
        assert_eq!(Instance::of(&it, &Addresses::default()), Err(Unlisted::Elsewhere));
        it.on_host = true;
        assert_eq!(Instance::of(&it, &Addresses::default()), Err(Unlisted::NoMeshAddress));
        let mesh = Addresses { ip: Some(Ipv4Addr::new(10, 210, 7, 1)), ip6: None };
        assert_eq!(Instance::of(&it, &mesh).map(|it| it.probed_at()), Ok(Some("10.210.7.1".parse().unwrap())));
    }
}
