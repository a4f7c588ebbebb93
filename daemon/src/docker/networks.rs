//! Docker's networks, in our words.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest, NetworkInspect};
use bollard::query_parameters::ListContainersOptionsBuilder;
use ipnet::Ipv4Net;

use super::{Docker, DockerError};

/// A network as Docker has it, or is to make it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Network {
    /// Its driver, as `bridge`.
    pub(crate) driver: String,
    /// Its IPv4 range and the address of the host in it; none if it has not exactly one.
    pub(crate) range: Option<(Ipv4Net, Ipv4Addr)>,
    /// The driver's options.
    pub(crate) options: BTreeMap<String, String>,
    /// Whether nothing outside is reached from it.
    pub(crate) reach: Reach,
}

/// What is reached from a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Whatever the host routes.
    Routed,
    /// Nothing but itself.
    Internal,
}

/// A version of Docker's API, as 1.50.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ApiVersion(pub(crate) u16, pub(crate) u16);

impl Docker {
    /// The network of this name, with its id.
    pub(crate) async fn network(&mut self, name: &str) -> Result<Option<(String, Network)>, DockerError> {
        let client = self.client().await?;
        match self.call(client.inspect_network(name, None)).await {
            Ok(answer) => Ok(answer.id.clone().map(|id| (id, network(answer)))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The names of the containers that are in a network, running or not.
    pub(crate) async fn attached(&mut self, id: &str) -> Result<Vec<String>, DockerError> {
        let client = self.client().await?;
        let filters = HashMap::from([("network", vec![id])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let listed = self.call(client.list_containers(Some(options))).await?;
        let name = |names: Option<Vec<String>>, id: Option<String>| {
            let first = names.and_then(|names| names.into_iter().next());
            first.map(|name| name.trim_start_matches('/').to_owned()).or(id)
        };
        let mut names: Vec<String> =
            listed.into_iter().filter_map(|container| name(container.names, container.id)).collect();
        names.sort();
        Ok(names)
    }

    /// Makes a network.
    pub(crate) async fn create_network(&mut self, name: &str, network: &Network) -> Result<(), DockerError> {
        let client = self.client().await?;
        let range = network.range.map(|(subnet, gateway)| IpamConfig {
            subnet: Some(subnet.to_string()),
            gateway: Some(gateway.to_string()),
            ..IpamConfig::default()
        });
        let request = NetworkCreateRequest {
            name: name.to_owned(),
            driver: Some(network.driver.clone()),
            internal: Some(network.reach == Reach::Internal),
            ipam: Some(Ipam { config: range.map(|range| vec![range]), ..Ipam::default() }),
            options: Some(network.options.clone().into_iter().collect()),
            ..NetworkCreateRequest::default()
        };
        self.call(client.create_network(request)).await.map(drop)
    }

    /// Removes a network, which Docker refuses while a container that runs is in it.
    pub(crate) async fn remove_network(&mut self, id: &str) -> Result<(), DockerError> {
        let client = self.client().await?;
        match self.call(client.remove_network(id)).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other,
        }
    }

    /// The newest version of the API that Docker speaks, which tells its own.
    pub(crate) async fn api_version(&mut self) -> Result<Option<ApiVersion>, DockerError> {
        let client = self.client().await?;
        let version = self.call(client.version()).await?;
        Ok(version.api_version.as_deref().and_then(ApiVersion::of))
    }
}

impl ApiVersion {
    /// The version of this text.
    pub(crate) fn of(text: &str) -> Option<ApiVersion> {
        let (major, minor) = text.split_once('.')?;
        Some(ApiVersion(major.parse().ok()?, minor.parse().ok()?))
    }
}

fn network(answer: NetworkInspect) -> Network {
    let configs = answer.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
    let mut ranges = configs.into_iter().filter_map(|config| {
        let subnet: Ipv4Net = config.subnet?.parse().ok()?;
        // Docker's default is the first address.
        let gateway = config.gateway.and_then(|gateway| gateway.parse().ok()).or_else(|| subnet.hosts().next())?;
        Some((subnet, gateway))
    });
    let range = ranges.next();
    Network {
        driver: answer.driver.unwrap_or_default(),
        range: if ranges.next().is_some() { None } else { range },
        options: answer.options.unwrap_or_default().into_iter().collect(),
        reach: if answer.internal == Some(true) { Reach::Internal } else { Reach::Routed },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_read_as_docker_renders_it() {
        let answer: NetworkInspect = serde_json::from_str(
            r#"{"Name":"kith","Id":"n1","Driver":"bridge","EnableIPv6":true,"Internal":false,
                "IPAM":{"Driver":"default","Options":null,"Config":[
                  {"Subnet":"10.210.135.0/24"},{"Subnet":"fd00:1::/64","Gateway":"fd00:1::1"}]},
                "Containers":{},"Options":{"com.docker.network.driver.mtu":"1420"},"Labels":{}}"#,
        )
        .unwrap();
        let read = network(answer);
        let range = ("10.210.135.0/24".parse().unwrap(), Ipv4Addr::new(10, 210, 135, 1));
        assert_eq!((read.driver.as_str(), read.range, read.reach), ("bridge", Some(range), Reach::Routed));
        assert_eq!(read.options["com.docker.network.driver.mtu"], "1420");
    }

    #[test]
    fn versions_are_compared_by_number() {
        let of = |text: &str| ApiVersion::of(text).unwrap();
        assert!(of("1.9") < of("1.41") && of("1.50") < of("2.0"));
        assert_eq!(ApiVersion::of("1"), None);
    }
}
