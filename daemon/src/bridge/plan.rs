//! The plan of the bridge: pure.

use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::docker::{ApiVersion, Network, Reach};
use crate::firewall::{Rule, Rules, Table};

/// The network's name in Docker.
pub(crate) const NAME: &str = "kith";
/// Its interface on the host: rules name it, so it must not be one of Docker's choice.
pub const INTERFACE: &str = "kith-br";
/// Docker's chain for rules of others, which it passes before its own.
pub(crate) const DOCKER_USER: &str = "DOCKER-USER";
/// The MTU while there is no tunnel to go by: what WireGuard leaves of 1500 bytes over IPv6.
const MTU: u32 = 1420;
/// What an interface without an MTU of its own has.
const ETHERNET: u32 = 1500;

/// Docker 28.0, which drops what comes to a container's own address from outside.
const FENCED: ApiVersion = ApiVersion(1, 48);
/// Docker 28.2, which can be told whom to trust.
const TRUSTS: ApiVersion = ApiVersion(1, 50);

const OPTION_INTERFACE: &str = "com.docker.network.bridge.name";
const OPTION_MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const OPTION_MTU: &str = "com.docker.network.driver.mtu";
const OPTION_TRUSTED: &str = "com.docker.network.bridge.trusted_host_interfaces";
const OPTION_GATEWAY: &str = "com.docker.network.bridge.gateway_mode_ipv4";

/// What this server's containers are to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// All servers' ranges.
    pub(crate) cluster: Ipv4Net,
    /// The range of this server's containers.
    pub(crate) containers: Ipv4Net,
    /// The interface of the tunnels.
    pub(crate) tunnel: String,
    /// Its MTU; none while it is not there.
    pub(crate) mtu: Option<u32>,
    /// Docker's API.
    pub(crate) api: Option<ApiVersion>,
}

/// What there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Observed {
    /// What is to be; none while the own row names no range.
    pub(crate) place: Option<Place>,
    /// The network.
    pub(crate) network: Option<Found>,
    /// The firewall's rules, or why they cannot be read.
    pub(crate) rules: Result<Rules, String>,
}

/// The network as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Its id.
    pub(crate) id: String,
    /// What Docker says of it.
    pub(crate) network: Network,
    /// The containers that are in it, running or not.
    pub(crate) attached: Vec<String>,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Remove the network, in which nothing is.
    Remove {
        /// Its id.
        id: String,
        /// What is wrong with it.
        wrong: Vec<String>,
    },
    /// Make it.
    Create(Network),
    /// Take a rule of ours away.
    Delete(Rule),
    /// Put a rule in front.
    Insert(Rule),
}

/// The range of the containers of the server whose own range this is.
fn containers(cluster: Ipv4Net, own: Ipv4Net) -> Option<Ipv4Net> {
    let [a, b, number, _] = own.network().octets();
    let inside = cluster.prefix_len() == 16 && cluster.contains(&own) && own.prefix_len() == 24;
    let containers = Ipv4Net::new(Ipv4Addr::new(a, b, number.checked_add(128)?, 0), 24).ok()?;
    inside.then_some(containers)
}

/// Its address among them, which is their gateway and their name server.
pub(crate) fn gateway(cluster: Ipv4Net, own: Ipv4Net) -> Option<Ipv4Addr> {
    containers(cluster, own).map(first)
}

fn first(range: Ipv4Net) -> Ipv4Addr {
    let [a, b, c, _] = range.network().octets();
    Ipv4Addr::new(a, b, c, 1)
}

impl Place {
    /// The place of the server whose own range this is: 10.210.N.0/24 has the containers' 10.210.(128+N).0/24.
    pub(crate) fn of(cluster: Ipv4Net, own: Ipv4Net, tunnel: &str) -> Option<Place> {
        let containers = containers(cluster, own)?;
        Some(Place { cluster, containers, tunnel: tunnel.to_owned(), mtu: None, api: None })
    }

    /// The host's address in the containers' range.
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        first(self.containers)
    }

    /// The network that is to be.
    pub(crate) fn network(&self) -> Network {
        let mut options = vec![
            (OPTION_INTERFACE, INTERFACE.to_owned()),
            (OPTION_MASQUERADE, "false".to_owned()),
            (OPTION_MTU, self.mtu.unwrap_or(MTU).to_string()),
        ];
        options.extend(self.admittance());
        Network {
            driver: "bridge".to_owned(),
            range: Some((self.containers, self.gateway())),
            options: options.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            reach: Reach::Routed,
        }
    }

    /// The option by which this Docker lets in what comes by the tunnels.
    fn admittance(&self) -> Option<(&'static str, String)> {
        let api = self.api?;
        if api >= TRUSTS {
            Some((OPTION_TRUSTED, self.tunnel.clone()))
        } else if api >= FENCED {
            // It can only be told to fence nothing in this network. What comes by other ways is still dropped by FORWARD.
            Some((OPTION_GATEWAY, "nat-unprotected".to_owned()))
        } else {
            None
        }
    }

    /// The rules that are to be.
    fn rules(&self) -> [Rule; 3] {
        let Place { cluster, containers, tunnel, .. } = self;
        let inward = format!("-s {cluster} -d {containers} -i {tunnel} -o {INTERFACE}");
        let outward = format!("-s {containers} -d {cluster} -i {INTERFACE} -o {tunnel}");
        let abroad = format!("-s {containers} ! -d {cluster}");
        [
            Rule::ours(Table::Filter, DOCKER_USER, &inward, "ACCEPT"),
            Rule::ours(Table::Filter, DOCKER_USER, &outward, "ACCEPT"),
            Rule::ours(Table::Nat, "POSTROUTING", &abroad, "MASQUERADE"),
        ]
    }
}

/// What is to be done.
pub(crate) fn plan(observed: &Observed) -> Vec<Step> {
    let Some(place) = &observed.place else { return Vec::new() };
    let mut steps = network(place, observed.network.as_ref());
    if let Ok(rules) = &observed.rules {
        steps.extend(firewall(place, rules));
    }
    steps
}

fn network(place: &Place, found: Option<&Found>) -> Vec<Step> {
    let Some(found) = found else { return vec![Step::Create(place.network())] };
    let wrong = wrong(place, &found.network);
    if wrong.is_empty() || !found.attached.is_empty() {
        return Vec::new();
    }
    vec![Step::Remove { id: found.id.clone(), wrong }, Step::Create(place.network())]
}

/// What is wrong with a network, as Docker renders it. Options that are nobody's business here may be as they are.
fn wrong(place: &Place, network: &Network) -> Vec<String> {
    let wanted = place.network();
    let mut wrong = Vec::new();
    if network.driver != wanted.driver {
        wrong.push(format!("its driver is {}, not {}", network.driver, wanted.driver));
    }
    if network.range != wanted.range {
        let show = |range: Option<(Ipv4Net, Ipv4Addr)>| match range {
            Some((subnet, gateway)) => format!("{subnet} with gateway {gateway}"),
            None => "not one IPv4 range".to_owned(),
        };
        wrong.push(format!("its range is {}, not {}", show(network.range), show(wanted.range)));
    }
    if network.reach != wanted.reach {
        wrong.push("it is internal".to_owned());
    }
    for (name, value) in &wanted.options {
        let found = network.options.get(name).map(String::as_str);
        let fits = match name.as_str() {
            // A smaller one costs a little, a larger one loses packets.
            OPTION_MTU => place.mtu.is_none_or(|mtu| mtu_of(found) <= mtu),
            _ => found == Some(value),
        };
        if !fits {
            wrong.push(format!("{name} is {}, not {value}", found.unwrap_or("not set")));
        }
    }
    wrong
}

fn mtu_of(option: Option<&str>) -> u32 {
    option.and_then(|text| text.parse().ok()).filter(|mtu| *mtu > 0).unwrap_or(ETHERNET)
}

/// Rules of ours that are not wanted, or twice, go; those that are missing come, but where there is no chain for them.
fn firewall(place: &Place, rules: &Rules) -> Vec<Step> {
    let wanted = place.rules();
    let mut steps = Vec::new();
    for (at, rule) in rules.ours.iter().enumerate() {
        if !wanted.contains(rule) || rules.ours[..at].contains(rule) {
            steps.push(Step::Delete(rule.clone()));
        }
    }
    let missing = wanted.into_iter().filter(|rule| !rules.ours.contains(rule) && rules.has(rule.table, &rule.chain));
    steps.extend(missing.map(Step::Insert));
    steps
}

/// What is wrong and not put right by any step.
pub(crate) fn faults(observed: &Observed) -> Vec<String> {
    let Some(place) = &observed.place else { return Vec::new() };
    let mut faults = Vec::new();
    if let Some(found) = &observed.network
        && let count @ 1.. = found.attached.len()
    {
        let first = &found.attached[0];
        let which = if count == 1 { first.clone() } else { format!("{first} and {} more", count - 1) };
        faults.extend(wrong(place, &found.network).into_iter().map(|wrong| {
            format!("the Docker network {NAME} cannot be mended while containers are in it ({which}): {wrong}")
        }));
    }
    match &observed.rules {
        Err(why) => faults.push(format!("the firewall is left as it is: {why}")),
        Ok(rules) => {
            let drops = rules.policies.get(&(Table::Filter, "FORWARD".to_owned())).is_some_and(|it| it == "DROP");
            if !rules.has(Table::Filter, DOCKER_USER) && drops {
                faults.push(format!(
                    "FORWARD drops, and there is no chain {DOCKER_USER}: containers elsewhere do not reach those here"
                ));
            }
        }
    }
    faults
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Remove { wrong, .. } => write!(f, "remove network {NAME}: {}", wrong.join("; ")),
            Step::Create(network) => {
                write!(f, "create network {NAME}: {}", network.driver)?;
                if let Some((subnet, gateway)) = network.range {
                    write!(f, ", {subnet}, gateway {gateway}")?;
                }
                network.options.iter().try_for_each(|(name, value)| write!(f, ", {name}={value}"))
            }
            Step::Delete(rule) => write!(f, "delete rule {rule}"),
            Step::Insert(rule) => write!(f, "insert rule {rule}"),
        }
    }
}

#[cfg(test)]
mod tests;
