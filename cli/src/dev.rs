//! `kith dev`: a whole cluster on loopback in one process. Each node is what `kith agent` runs: its own database, real
//! QUIC between the nodes, DNS fed over its own Unix socket. Certificates are made in memory and never written.

mod nats;
mod presence;
mod sample;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use kith_dns::StatusHandle;
use kith_gossip::DevAuthority;
use kith_gossip::api::ApiConfig;
use kith_gossip::replication::WINDOW;
use kith_gossip::store::{Durability, SchemaSource};
use kith_gossip_client::client::Readiness;
use kith_gossip_client::error::Chain;
use kith_gossip_client::members::MemberState;
use kith_gossip_client::{Client, Endpoint};
use kith_gossip_proto::NodeId;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::agent::Agent;
use crate::args;
use crate::exit::{Exit, Failure};
use crate::out::Out;
use crate::parts::Part;
use crate::parts::dns::{DNS_SOCKET, DnsPart, Source};
use crate::parts::gossip::GossipPart;

/// From built to ready: nodes find each other in a second or two; a busy machine gets its time.
const READY: Duration = Duration::from_secs(30);
/// How often it is looked whether they are.
const LOOK: Duration = Duration::from_millis(20);
/// The name that the nodes' certificates are bound to.
const CLUSTER: &str = "dev";

/// A node of the cluster, running.
struct Node {
    name: NodeId,
    client: Client,
    api: String,
    dns: String,
    gossip: String,
    zone: watch::Receiver<Option<StatusHandle>>,
}

/// Where the nodes keep their files.
struct Home {
    /// Sockets, and without `--dir` the data; gone at the end. Sockets are always here, since their paths must be short.
    scratch: TempDir,
    dir: Option<PathBuf>,
}

/// Runs the cluster until the token is cancelled.
pub(crate) async fn run(args: &args::Dev, token: CancellationToken) -> Result<(), Failure> {
    for first in [args.api, args.dns, args.gossip] {
        nth(first, args.nodes - 1)?;
    }
    let group = group(args)?;
    let home = Home::open(args.dir.as_deref())?;
    let secret = if args.beside.presence { Some(presence::secret(home.folder())?) } else { None };
    let authority =
        DevAuthority::new(CLUSTER).map_err(|e| Failure::new(Exit::Software, e).context("cannot make certificates"))?;
    let (mut nodes, mut agents) = (Vec::new(), Vec::new());
    for i in 0..args.nodes {
        let seeds: Vec<String> = nodes.iter().map(|node: &Node| node.gossip.clone()).collect();
        let name: NodeId = format!("n{}", i + 1).parse().expect("a letter and a number are a node id");
        let span = tracing::info_span!("node", name = %name);
        let (node, agent) = build(args, i, name, &home, &authority, seeds).instrument(span.clone()).await?;
        agents.push((agent, span.clone()));
        if let Some(group) = group.filter(|_| i < nats::SERVERS) {
            let beside = node.beside((i, group), &home, secret.as_deref());
            agents.push((beside.instrument(span.clone()).await?, span));
        }
        nodes.push(node);
    }
    let stop = token.child_token();
    let mut running = JoinSet::new();
    for (agent, span) in agents {
        running.spawn(agent.run(stop.clone()).instrument(span));
    }
    // An agent that ends, or a token that is cancelled, while the cluster comes up ends the coming up.
    let mut result = tokio::select! {
        welcomed = welcome(args, &nodes, secret.as_deref()) => welcomed,
        Some(ended) = running.join_next() => joined(ended),
        () = token.cancelled() => Ok(()),
    };
    if result.is_ok() {
        tokio::select! {
            Some(ended) = running.join_next() => result = joined(ended),
            () = token.cancelled() => {}
        }
    }
    stop.cancel();
    while let Some(ended) = running.join_next().await {
        result = result.and(joined(ended));
    }
    home.close().and(result)
}

/// What NATS servers there are to be.
fn group(args: &args::Dev) -> Result<Option<nats::Group>, Failure> {
    let (group, option) = match (args.beside.presence, args.beside.nats) {
        (true, _) => (nats::Group::Leaves, "--presence"),
        (false, true) => (nats::Group::Cluster, "--nats"),
        (false, false) => return Ok(None),
    };
    if args.nodes < nats::SERVERS {
        let few = format!("{option} takes {} nodes, and there are {}", nats::SERVERS, args.nodes);
        return Err(Failure::message(Exit::Usage, few));
    }
    Ok(Some(group))
}

fn joined(ended: Result<Result<(), Failure>, tokio::task::JoinError>) -> Result<(), Failure> {
    ended.unwrap_or_else(|e| Err(Failure::new(Exit::Software, e).context("a node failed")))
}

impl Home {
    fn open(dir: Option<&Path>) -> Result<Home, Failure> {
        let scratch = tempfile::Builder::new()
            .prefix("kith-dev-")
            .tempdir()
            .map_err(|e| Failure::new(Exit::Io, e).context("cannot make a temporary folder"))?;
        Ok(Home { scratch, dir: dir.map(Path::to_owned) })
    }

    /// What lasts as long as the data.
    fn folder(&self) -> &Path {
        self.dir.as_deref().unwrap_or(self.scratch.path())
    }

    /// Where a node's database is. It is made if missing.
    fn data(&self, name: &NodeId) -> Result<PathBuf, Failure> {
        let dir = self.folder().join(name.as_str());
        std::fs::create_dir_all(&dir)
            .map_err(|e| Failure::new(Exit::Io, e).context(format!("cannot make {}", dir.display())))?;
        Ok(dir)
    }

    fn socket(&self, name: &NodeId) -> PathBuf {
        self.scratch.path().join(format!("{name}.sock"))
    }

    fn close(self) -> Result<(), Failure> {
        self.scratch.close().map_err(|e| Failure::new(Exit::Io, e).context("cannot remove the temporary folder"))
    }
}

async fn build(
    args: &args::Dev,
    i: u8,
    name: NodeId,
    home: &Home,
    authority: &DevAuthority,
    seeds: Vec<String>,
) -> Result<(Node, Agent), Failure> {
    let identity =
        authority.issue(&name).map_err(|e| Failure::new(Exit::Software, e).context("cannot make a certificate"))?;
    let socket = home.socket(&name);
    let gossip = kith_gossip::Config {
        node: name.clone(),
        region: sample::region(i).to_owned(),
        dir: home.data(&name)?,
        schema: vec![SchemaSource::builtin()],
        durability: Durability::Full,
        remember: WINDOW,
        cluster_id: CLUSTER.to_owned(),
        enrolment: None,
        listen: nth(args.gossip, i)?,
        advertise: None,
        seeds,
        identity,
        api: ApiConfig { listen: vec![nth(args.api, i)?], unix: Some(socket.clone()), tokens: None },
        boot_id: format!("dev-{}", std::process::id()),
    };
    let client = Client::new(Endpoint::unix(&socket), None)?;
    let cluster = IpNet::V4(Ipv4Net::new([10, 210, 0, 0].into(), 16).expect("16 is a prefix length"));
    let loopback = IpNet::V4(Ipv4Net::new([127, 0, 0, 0].into(), 8).expect("8 is a prefix length"));
    let dns = DnsPart::new(
        kith_dns::Config {
            listen: vec![nth(args.dns, i)?],
            ranges: vec![cluster],
            own_addresses: vec![loopback],
            ..kith_dns::Config::new(name.as_str())
        },
        Source::Store(client.clone()),
    )
    .looked_into(Some(home.data(&name)?.join(DNS_SOCKET)), None);
    let zone = dns.status();
    let parts: Vec<Box<dyn Part>> = vec![Box::new(GossipPart::new(gossip)), Box::new(dns)];
    let agent = Agent::build(parts, Some(client.clone())).await?;
    let find = |wanted: &str| {
        let mut listens = agent.listens();
        listens.find(|(what, _)| *what == wanted).map(|(_, addr)| addr.to_owned()).unwrap_or_default()
    };
    let (api, dns, gossip) = (format!("http://{}", find("api")), find("dns"), find("gossip"));
    Ok((Node { name, client, api, dns, gossip, zone }, agent))
}

/// The address of node `i`, counted from 0: a free port stays one, others count up.
fn nth(first: SocketAddr, i: u8) -> Result<SocketAddr, Failure> {
    let port = match first.port() {
        0 => Some(0),
        port => port.checked_add(u16::from(i)),
    };
    let port =
        port.ok_or_else(|| Failure::message(Exit::Usage, format!("there is no port for every node from {first}")))?;
    Ok(SocketAddr::new(first.ip(), port))
}

/// Waits until everything is there, fills it, and says where it is.
async fn welcome(args: &args::Dev, nodes: &[Node], secret: Option<&Path>) -> Result<(), Failure> {
    ready(nodes).await?;
    if secret.is_some() {
        presence::ready().await?;
    }
    if let Some(first) = nodes.first().filter(|_| !args.empty) {
        sample::load(&first.client, nodes.len()).await?;
    }
    let mut out = Out::new();
    if args.json {
        return out.json(&ready_line(nodes, secret));
    }
    for (Node { name, api, dns, gossip, .. }, i) in nodes.iter().zip(0..) {
        let has_nats = (args.beside.nats || args.beside.presence) && i < nats::SERVERS;
        let nats = if has_nats { format!("  nats {}:4222", nats::address(i)) } else { String::new() };
        let presence = if has_nats && args.beside.presence { presence::shown(i) } else { String::new() };
        out.line(format!("{name}  api {api}  dns {dns}  gossip {gossip}{nats}{presence}"))?;
    }
    if let (Some(first), Some(last)) = (nodes.first(), nodes.last()) {
        let presence = secret.map(presence::suggestions).unwrap_or_default();
        let suggestions = sample::suggestions(args, &first.api, &last.dns, presence);
        suggestions.iter().try_for_each(|line| out.line(line))?;
    }
    Ok(())
}

/// Where everything listens, and the secret that writers of presence need.
fn ready_line(nodes: &[Node], secret: Option<&Path>) -> Value {
    let of = |(node, i): (&Node, u8)| {
        let mut line = json!({ "name": node.name.as_str(), "api": node.api, "dns": node.dns, "gossip": node.gossip });
        if secret.is_some() && i < nats::SERVERS {
            line["presence"] = json!(presence::at(i).to_string());
        }
        line
    };
    let mut line = json!({ "ready": true, "nodes": nodes.iter().zip(0..).map(of).collect::<Vec<_>>() });
    if let Some(secret) = secret {
        line["presence_secret_file"] = json!(secret);
    }
    line
}

/// Waits until every node serves, sees all others and answers names.
async fn ready(nodes: &[Node]) -> Result<(), Failure> {
    let until = Instant::now() + READY;
    for node in nodes {
        while let Err(missing) = node.is_ready(nodes.len()).await {
            if Instant::now() >= until {
                return Err(Failure::message(Exit::Unavailable, missing).context(format!(
                    "{} is not ready after {} s",
                    node.name,
                    READY.as_secs()
                )));
            }
            sleep(LOOK).await;
        }
    }
    Ok(())
}

impl Node {
    /// The NATS server of this node, the `i`th, which asks its DNS for the others; and presence, if it has a secret.
    async fn beside(
        &self,
        (i, group): (u8, nats::Group),
        home: &Home,
        secret: Option<&Path>,
    ) -> Result<Agent, Failure> {
        let dns = self.dns.parse().expect("it listens at an address");
        let dir = home.data(&self.name)?.join("nats");
        let mut parts = nats::parts((i, group), &self.name, dir, dns, self.client.clone());
        parts.extend(secret.map(|secret| presence::part(i, &self.name, secret)));
        Agent::build(parts, None).await
    }

    /// What is missing, if anything is.
    async fn is_ready(&self, members: usize) -> Result<(), String> {
        match self.client.ready().await {
            Ok(Readiness::Ready) => {}
            Ok(Readiness::Waiting(what)) => return Err(format!("waiting for {}", what.join(", "))),
            Err(error) => return Err(Chain(&error).to_string()),
        }
        let list = self.client.members().await.map_err(|error| Chain(&error).to_string())?;
        let up = list.iter().filter(|member| member.state == MemberState::Up).count();
        if up < members {
            return Err(format!("{up} of {members} members are up"));
        }
        let zone = self.zone.borrow().as_ref().map(|status| status.get().generation);
        if zone.is_none_or(|generation| generation == 0) {
            return Err("DNS has no zone yet".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_count_up_and_a_free_one_stays_free() {
        let port = |first: &str, i| nth(first.parse().unwrap(), i).map(|addr| addr.port()).ok();
        assert_eq!(port("127.0.0.1:5300", 2), Some(5302));
        assert_eq!(port("127.0.0.1:0", 2), Some(0));
        assert_eq!(port("127.0.0.1:65534", 2), None);
    }
}
