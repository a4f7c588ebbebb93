//! Keeping connections: to every seed and every member, for ever.
//!
//! Seeds are written as `host:port` and are looked up again and again: a name that is looked up once is how clusters
//! split. Which node a seed is, its certificate says; a seed that turns out to be ourselves is remembered and left alone.
//! Members are dialled at the address they gossip, but only while no connection with them is live, whoever dialled it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use kith_gossip_proto::NodeId;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{DialError, Net};
use crate::chain::Chain;
use crate::retry::Retry;

/// The first and the longest wait between two attempts. The longest bounds how long a healed path goes unnoticed.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(3);

/// A connection that ended sooner counts as a failed attempt, or two nodes that refuse each other after the handshake
/// would dial without a pause.
const SETTLED: Duration = Duration::from_secs(5);

/// How long the node with the greater id leaves the dialling to the other, so that a pair rarely dials both ways at once.
/// Two connections would do no harm.
const COURTESY: Duration = Duration::from_millis(250);

/// How often a seed's name is looked up although its nodes are connected.
const LOOK_UP_EVERY: Duration = Duration::from_secs(30);

/// Addresses of one seed that are dialled: the first in order. A name that holds more is a mistake.
const ADDRESSES: usize = 32;

/// Where the members can be reached.
pub(crate) type Addresses = BTreeMap<NodeId, SocketAddr>;

/// Dials until the token is cancelled.
pub(crate) async fn run(
    net: Net,
    seeds: Vec<String>,
    mut members: watch::Receiver<Addresses>,
    token: CancellationToken,
) {
    let mut tasks = JoinSet::new();
    for seed in seeds {
        tasks.spawn(keep_seed(net.clone(), seed));
    }
    let mut dialled: BTreeMap<NodeId, (watch::Sender<SocketAddr>, AbortHandle)> = BTreeMap::new();
    loop {
        let wanted = members.borrow_and_update().clone();
        dialled.retain(|node, (_, task)| {
            let keep = wanted.contains_key(node);
            if !keep {
                task.abort();
            }
            keep
        });
        for (node, address) in wanted.into_iter().filter(|(node, _)| node != net.node()) {
            if let Some((current, _)) = dialled.get(&node) {
                current.send_if_modified(|current| std::mem::replace(current, address) != address);
            } else {
                let (current, address) = watch::channel(address);
                let task = tasks.spawn(keep_member(net.clone(), node.clone(), address));
                dialled.insert(node, (current, task));
            }
        }
        // Cancel-safe: the first two only look, join_next keeps its tasks.
        tokio::select! {
            () = token.cancelled() => break,
            changed = members.changed() => if changed.is_err() { break },
            Some(joined) = tasks.join_next(), if !tasks.is_empty() => super::driver::report(joined),
        }
    }
    tasks.shutdown().await;
}

/// Keeps every node that a seed's name leads to connected.
async fn keep_seed(net: Net, seed: String) {
    let mut retry = Retry::new(FIRST, LONGEST);
    let mut found: BTreeMap<SocketAddr, Found> = BTreeMap::new();
    let mut trouble = Trouble::default();
    loop {
        let mut changes = net.changes();
        let satisfied = match look_up(&seed).await {
            Ok(addresses) => {
                found.retain(|address, _| addresses.contains(address));
                let mut satisfied = true;
                for address in addresses {
                    satisfied &= dial_seed(&net, &seed, address, &mut found, &mut trouble).await;
                }
                satisfied
            }
            Err(error) => {
                trouble.tell(|| tracing::warn!(%seed, error, "seed cannot be looked up"));
                false
            }
        };
        let began = Instant::now();
        let wait = if satisfied { LOOK_UP_EVERY } else { retry.delay() };
        // Cancel-safe: both only wait. A connection that went is a reason to look at once; one that came costs a look.
        tokio::select! {
            () = sleep(wait) => {}
            _ = changes.changed(), if satisfied => {}
        }
        // The other side judges our certificate after we have judged its own, so a refusal looks like a connection that
        // ends at once.
        if satisfied && began.elapsed() >= SETTLED {
            retry.reset();
            trouble.over();
        } else if satisfied {
            sleep(retry.delay()).await;
        }
    }
}

/// What is known to be at a seed's address.
enum Found {
    Ourselves,
    Node(NodeId),
}

/// Sees that the address's node is connected; returns whether it is, or need not be.
async fn dial_seed(
    net: &Net,
    seed: &str,
    address: SocketAddr,
    found: &mut BTreeMap<SocketAddr, Found>,
    trouble: &mut Trouble,
) -> bool {
    match found.get(&address) {
        Some(Found::Ourselves) => return true,
        Some(Found::Node(node)) if net.connection(node).is_some() => return true,
        Some(Found::Node(_)) | None => {}
    }
    match net.dial(address).await {
        Ok(node) => {
            found.insert(address, Found::Node(node));
            true
        }
        Err(DialError::Ourselves) => {
            found.insert(address, Found::Ourselves);
            true
        }
        Err(error) => {
            trouble.tell(|| tracing::info!(%seed, %address, error = %Chain(&error), "seed cannot be reached"));
            tracing::debug!(%seed, %address, error = %Chain(&error), "seed cannot be reached yet");
            false
        }
    }
}

async fn look_up(seed: &str) -> Result<BTreeSet<SocketAddr>, String> {
    match timeout(Duration::from_secs(5), tokio::net::lookup_host(seed)).await {
        Ok(Ok(addresses)) => Ok(addresses.collect::<BTreeSet<_>>().into_iter().take(ADDRESSES).collect()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer within 5 s".into()),
    }
}

/// Keeps a member connected.
async fn keep_member(net: Net, node: NodeId, address: watch::Receiver<SocketAddr>) {
    let mut retry = Retry::new(FIRST, LONGEST);
    let mut trouble = Trouble::default();
    let courtesy = if *net.node() < node { Duration::ZERO } else { COURTESY };
    let mut wait = courtesy;
    loop {
        // Cancel-safe: both only wait.
        tokio::select! {
            connection = net.connected(&node) => {
                let since = Instant::now();
                connection.closed().await;
                if since.elapsed() >= SETTLED {
                    retry.reset();
                    trouble.over();
                }
                wait = courtesy.max(retry.delay());
            }
            () = sleep(wait) => {
                let address = *address.borrow();
                dial_member(&net, &node, address, &mut trouble).await;
                wait = retry.delay();
            }
        }
    }
}

async fn dial_member(net: &Net, node: &NodeId, address: SocketAddr, trouble: &mut Trouble) {
    match net.dial(address).await {
        Ok(found) if found == *node => {}
        // The other node keeps the connection: the address is its own by now, and ours to it was wanted anyway.
        Ok(found) => {
            trouble.tell(|| tracing::info!(peer = %node, %address, %found, "a member's address leads to another node"));
        }
        Err(error) => {
            trouble
                .tell(|| tracing::info!(peer = %node, %address, error = %Chain(&error), "a member cannot be reached"));
            tracing::debug!(peer = %node, %address, error = %Chain(&error), "a member cannot be reached yet");
        }
    }
}

/// Says a thing once until it is over: the first failure is news, the thousandth is not.
#[derive(Default)]
struct Trouble {
    told: bool,
}

impl Trouble {
    fn tell(&mut self, say: impl FnOnce()) {
        if !std::mem::replace(&mut self.told, true) {
            say();
        }
    }

    fn over(&mut self) {
        self.told = false;
    }
}
