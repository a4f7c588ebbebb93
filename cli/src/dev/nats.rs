//! `kith dev --nats`: three NATS servers, each on a loopback address of its own, which find each other through the cluster's DNS.
//! With `--presence` they are a center of one, and two leaves of it.
//!
//! ```text
//! nats-server ◄── runner ◄─ /status ─ daemon of its node, which has this one reconciler ─► row ─► DNS of every node ─► runners
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use kith_daemon::{Clock, Daemon, Host};
use kith_gossip_client::Client;
use kith_gossip_proto::NodeId;
use kith_nats::config::{CLUSTER, Config, Ending, Listen, Ports, Role, Servers, Store, SyncInterval};
use kith_nats::render::Limits;

use crate::exit::Failure;
use crate::parts::daemon::leave;
use crate::parts::nats::NatsPart;
use crate::parts::{Built, Part};

/// How many there are: a group that still decides when one is away.
pub(super) const SERVERS: u8 = 3;

/// What they are to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    /// One cluster.
    Cluster,
    /// The first is the center, and the others are leaves.
    Leaves,
}

impl Group {
    fn standing(self, i: u8) -> (Role, Servers) {
        match (self, i) {
            (Group::Cluster, _) => (Role::Center, Servers::Three),
            (Group::Leaves, 0) => (Role::Center, Servers::One),
            (Group::Leaves, _) => (Role::Leaf, Servers::One),
        }
    }
}

/// Where server `i`, counted from 0, listens: each on an address, since in DNS a server is told by it.
pub(super) fn address(i: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, 11 + i)
}

/// The parts of server `i` at this node, whose DNS answers there. Of the others they are told nothing.
pub(super) fn parts(
    (i, group): (u8, Group),
    node: &NodeId,
    dir: PathBuf,
    dns: SocketAddr,
    client: Client,
) -> Vec<Box<dyn Part>> {
    let at = |port| SocketAddr::from((address(i), port));
    let (role, servers) = group.standing(i);
    let config = Config {
        node: node.clone(),
        // One cluster, though the nodes are said to be in several regions: a cluster of one server holds no replicas.
        region: String::new(),
        zone: kith_dns::ZoneName::default().to_string(),
        cluster: CLUSTER.to_owned(),
        role,
        servers,
        listen: Listen { ip: Some(address(i)), ip6: None, ports: Ports::default() },
        monitor: at(8222),
        health: at(5500),
        resolvers: vec![dns],
        url: None,
        binary: std::env::var_os("NATS_SERVER_BIN").map(PathBuf::from),
        store: Store { dir, files: None, memory: None, sync: SyncInterval::Always },
        tls: None,
        accounts: None,
        credentials: None,
        secret: None,
        limits: Limits::default(),
        remove_after: None,
        append: None,
        processes: Vec::new(),
        ending: Ending::AtOnce,
    };
    vec![Box::new(NatsPart::new(config)), Box::new(RowPart { node: node.clone(), client, at: at(5500) })]
}

/// A daemon that keeps the row of the node's nats-server alone.
struct RowPart {
    node: NodeId,
    client: Client,
    at: SocketAddr,
}

impl Part for RowPart {
    fn name(&self) -> &'static str {
        "daemon"
    }

    fn build(&mut self) -> BoxFuture<'_, Result<Built, Failure>> {
        let host = Host { clock: Clock::system(), stuck: leave };
        let daemon = Daemon::of_nats(self.node.clone(), self.client.clone(), host, self.at);
        let run = move |token| async move { Ok(daemon.run(token).await?) }.boxed();
        std::future::ready(Ok(Built { listens: Vec::new(), run: Box::new(run) })).boxed()
    }
}
