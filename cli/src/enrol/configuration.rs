//! The configuration file of a server that was just made: what is its own, and the rest as comments.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use kith_daemon::setup::docker::name_server;
use kith_gossip::identity::Subnets;
use kith_gossip_proto::NodeId;

use super::Paths;
use crate::args::Place;
use crate::config::{ClusterId, Seed};

/// What it says beside paths and addresses.
pub(super) struct Facts<'a> {
    pub(super) name: &'a NodeId,
    pub(super) cluster: &'a ClusterId,
    pub(super) cidr: Subnets,
    pub(super) number: u8,
    pub(super) seeds: &'a [Seed],
    pub(super) keeps: Keeps,
}

/// Whether the authority's key is on this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeps {
    Authority,
    Nothing,
}

/// The text.
pub(super) fn render(facts: &Facts<'_>, place: &Place, paths: &Paths) -> String {
    let Facts { name, cluster, cidr, number, seeds, keeps } = facts;
    let region = match &place.region {
        Some(region) => format!("region = {}\n", quoted(region.as_str())),
        None => "# region = \"fra\"        # region code, for {region}.APP names\n".to_owned(),
    };
    let containers = asked_by_containers(*cidr, *number);
    let seeds: Vec<String> = seeds.iter().map(|seed| quoted(seed.as_str())).collect();
    let authority = match keeps {
        Keeps::Authority => format!(
            "# Whoever has this folder says who belongs to the cluster. It is on this server alone: keep a copy in a safe place.\n\
             authority = {}\n",
            path(&paths.authority)
        ),
        Keeps::Nothing => String::new(),
    };
    format!(
        "# This server of the cluster. `kith config show` prints every key with its value and where it came from.\n\
         \n\
         [node]\n\
         name = {name}\n\
         {region}data_dir = {data}\n\
         \n\
         [cluster]\n\
         id = {cluster}\n\
         cidr = {cidr}    # server N has the Nth /24 of it\n\
         \n\
         [gossip]\n\
         # UDP, for the other servers: let it through the firewall.\n\
         listen = {listen}\n\
         {advertise}\
         # Servers that are dialled first, HOST:PORT. One that answers is enough; two or three let any of them be down.\n\
         seeds = [{seeds}]\n\
         # The cluster's authority, this server's certificate, which it renews itself, and its private key.\n\
         ca = {ca}\n\
         cert = {certificate}\n\
         key = {key}\n\
         {authority}\
         # durability = \"full\"    # an acknowledged write survives a power cut; \"normal\": a crash only\n\
         \n\
         [api]\n\
         # listen = [\"127.0.0.1:31220\"]    # beyond loopback it wants api.token_file\n\
         \n\
         [dns]\n\
         # listen = [\"127.0.0.1:53\"{containers}]    # the host's own programs{for_whom}\n\
         # zones = [\"internal\"]\n\
         \n\
         # This server's row and those of its containers, tunnels between the servers, Docker's network `kith` for containers that others reach.\n\
         [daemon]\n\
         # enabled = true\n\
         # wireguard = true    # UDP 31820, for the other servers: let it through the firewall\n\
         # endpoints = [\"192.0.2.1:31820\"]    # where they reach it, if not at gossip.advertise or this host's own addresses\n",
        containers = containers.map_or_else(String::new, |at| format!(", \"{at}:53\"")),
        for_whom = if containers.is_some() { ", and the containers of Docker's network `kith`" } else { "" },
        name = quoted(name.as_str()),
        data = path(&paths.data),
        cluster = quoted(cluster.as_str()),
        cidr = quoted(&cidr.to_string()),
        listen = quoted(&place.listen.to_string()),
        advertise = advertised(place.advertise),
        seeds = seeds.join(", "),
        ca = path(&paths.ca),
        certificate = path(&paths.certificate),
        key = path(&paths.key),
    )
}

/// Where this server's containers ask for names.
fn asked_by_containers(cidr: Subnets, number: u8) -> Option<Ipv4Addr> {
    name_server(cidr.to_string().parse().ok()?, cidr.of(number).parse().ok()?)
}

fn advertised(address: Option<SocketAddr>) -> String {
    match address {
        Some(address) => format!("advertise = {}\n", quoted(&address.to_string())),
        None => {
            "# advertise = \"192.0.2.1:31280\"    # where the others reach this server, if not where it sends from\n"
                .to_owned()
        }
    }
}

fn path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
