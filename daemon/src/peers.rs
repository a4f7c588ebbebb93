//! The peers of this server's WireGuard interface: who the others are, what is behind each, and the interface itself.
//!
//! ```text
//!  rows, peer cache, interface ─► judge (pure): who is a peer ─► plan (pure) ─► interface, cache
//!                                                                     └─► own row, once the interface is whole
//! ```
//!
//! Absence takes nothing away: a row that is gone or wrong, and a store that is empty, old or away, leave every tunnel as it was. A
//! peer goes because an operator removed its server, or because its server has another key.

mod cache;
mod judge;
mod key;
mod mesh;
mod plan;
mod report;
mod row;
mod sure;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use kith_gossip_client::Value;
use kith_gossip_proto::NodeId;
use tokio::time::Instant;

use crate::clock::Now;
use crate::driver::Reconciler;
use crate::endpoints::{Way, Ways};
use crate::error::Error;
use crate::own::{Column, Own, Standing};
use crate::partition::Partition;
use crate::status::Alarm;
use crate::store::{CaughtUp, Store};
use crate::wireguard::{self, Desired, Interface, PrivateKey, SecretFile, Seen};
use cache::{Cache, CacheFile};
pub(crate) use judge::{Installed, Shook};
use judge::{Judgement, View, judge};
pub(crate) use key::PublicKey;
pub use mesh::MeshRange;
pub(crate) use mesh::{Number, management};
pub(crate) use plan::{HOLD, KEEPALIVE};
use plan::{WINDOW, Why, held, plan};
use row::Row;
pub(crate) use row::can_end;

/// How often everything is looked at. Rows wake it before that.
const PERIOD: Duration = Duration::from_secs(30);
/// The same after a change, while we have no number, and while a key is being replaced.
const SOON: Duration = Duration::from_secs(1);

/// What wakes it, of the rows.
pub(crate) fn rows() -> kith_gossip_client::Statement {
    Row::select()
}

/// Keeps the peers.
pub(crate) struct Peers {
    node: NodeId,
    store: Store,
    own: Own,
    partition: Partition,
    interface: Interface,
    ways: Ways,
    port: u16,
    mesh: MeshRange,
    hold: Duration,
    secret: SecretFile,
    key: Option<PrivateKey>,
    file: CacheFile,
    cache: Cache,
    /// Since when each tombstone is seen.
    tombstones: BTreeMap<String, Instant>,
    /// Since when a key is seen to be replaced.
    replaced: BTreeMap<PublicKey, Instant>,
    /// When peers of removed servers were removed.
    removals: Vec<Instant>,
    /// The last handshake of each peer, and when we saw it.
    handshakes: BTreeMap<PublicKey, (SystemTime, Instant)>,
    last: Option<(Seen, Judgement)>,
    /// Removed servers whose peers stay, since many went of late.
    held: BTreeSet<String>,
    /// Steps since that look: what is shown is of before them.
    steps: usize,
}

/// What a [`Peers`] is made of.
pub(crate) struct Parts<'a> {
    /// What the daemon was told.
    pub(crate) config: &'a crate::Config,
    /// What of it concerns WireGuard.
    pub(crate) wireguard: &'a crate::config::Wireguard,
    /// The store.
    pub(crate) store: Store,
    /// The own row.
    pub(crate) own: Own,
    /// Whether peers may be removed.
    pub(crate) partition: Partition,
    /// The interface.
    pub(crate) interface: Interface,
    /// Who is to be reached, and where that was.
    pub(crate) ways: Ways,
}

/// All that a plan is made of, beside what is remembered.
pub(crate) struct Observed {
    seen: Seen,
    key: PublicKey,
    own_row: Option<Number>,
    rows: Option<BTreeMap<String, Row>>,
    peers: BTreeMap<PublicKey, Installed>,
    worked: BTreeMap<PublicKey, SocketAddr>,
    echoed: BTreeSet<PublicKey>,
    sure: BTreeSet<String>,
}

/// Something to do.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// To the interface.
    SetUp(wireguard::Step),
    /// To its peers.
    Peer(plan::Step),
    /// Say of ourselves, now that others can be answered.
    Say(Column, String),
}

impl Peers {
    /// The peers of this node. What was known of them is read at once.
    pub(crate) fn new(parts: Parts<'_>) -> Result<Peers, Error> {
        let Parts { config, wireguard, store, own, partition, interface, ways } = parts;
        let file = CacheFile::within(&config.dir);
        let cache = file.read()?;
        // How long ago is not known: a restart must not let more go.
        let removals = vec![Instant::now(); cache.removed];
        Ok(Peers {
            node: config.node.clone(),
            store,
            own,
            partition,
            interface,
            ways,
            port: wireguard.port,
            mesh: wireguard.mesh,
            hold: wireguard.remove_after,
            secret: SecretFile::within(&config.dir),
            key: None,
            file,
            cache,
            tombstones: BTreeMap::new(),
            replaced: BTreeMap::new(),
            removals,
            handshakes: BTreeMap::new(),
            last: None,
            held: BTreeSet::new(),
            steps: 0,
        })
    }

    fn key(&mut self) -> Result<PrivateKey, Error> {
        if let Some(key) = &self.key {
            return Ok(key.clone());
        }
        let key = self.secret.open()?;
        self.key = Some(key.clone());
        Ok(key)
    }

    /// The rows, if what they do not say is known not to be said, and who is removed for sure. That the store is away is no failure here.
    async fn rows(&self) -> Option<(Vec<Vec<Value>>, BTreeSet<String>)> {
        match self.store.caught_up().await {
            Ok(CaughtUp::Yes) => {
                let rows = self.store.rows(Row::select()).await.ok()?;
                let sure = sure::among(&rows, &self.store.rows(sure::select()).await.ok()?);
                Some((rows, sure))
            }
            Ok(CaughtUp::NotYet) | Err(_) => None,
        }
    }

    /// Counts ages from now on: of tombstones, replaced keys and handshakes.
    fn age(&mut self, observed: &Observed, now: Now) {
        if let Some(rows) = &observed.rows {
            let removed: Vec<&String> =
                rows.iter().filter(|(_, row)| matches!(row.said, row::Said::Removed(_))).map(|(id, _)| id).collect();
            self.tombstones.retain(|id, _| removed.contains(&id));
            for id in removed {
                self.tombstones.entry(id.clone()).or_insert(now.at);
            }
        }
        self.removals.retain(|at| now.at.saturating_duration_since(*at) < WINDOW);
        for (key, peer) in observed.seen.device.iter().flat_map(|device| &device.peers) {
            if let Some(value) = peer.handshake
                && self.handshakes.get(key).is_none_or(|(before, _)| *before != value)
            {
                self.handshakes.insert(*key, (value, now.at));
            }
        }
        self.handshakes.retain(|key, _| observed.peers.contains_key(key));
    }

    fn view<'a>(&'a self, observed: &'a Observed) -> View<'a> {
        View {
            mesh: self.mesh,
            own: self.node.as_str(),
            own_key: observed.key,
            own_row: observed.own_row,
            rows: observed.rows.as_ref(),
            cache: &self.cache,
            worked: &observed.worked,
            echoed: &observed.echoed,
            peers: &observed.peers,
            tombstones: &self.tombstones,
            replaced: &self.replaced,
            removals: &self.removals,
            sure: &observed.sure,
            suspicion: self.partition.suspicion(),
            hold: self.hold,
        }
    }

    /// Where tunnels end, of the underlay's MTU.
    fn ends(&self) -> Vec<SocketAddr> {
        self.cache.servers.values().flat_map(|known| known.endpoints.iter().copied().chain(known.worked)).collect()
    }

    /// The number in our own row.
    fn own_row(&self, rows: &[Vec<Value>]) -> Option<Number> {
        let own = rows.iter().find(|cells| matches!(&cells[..], [Value::Text(id), ..] if id == self.node.as_str()))?;
        match own.get(3) {
            Some(Value::Text(subnet)) => self.mesh.number_of(subnet),
            Some(_) | None => None,
        }
    }

    /// What we say of ourselves, once we have a number: without it nobody could make anything of our key.
    fn said(&self, key: PublicKey, number: Option<Number>) -> Vec<Step> {
        let Some(number) = number else { return Vec::new() };
        let said = [
            (Column::WireguardPubkey, key.to_string()),
            (Column::ManagementIp, management(&key).to_string()),
            (Column::Subnet, self.mesh.subnet(number).to_string()),
            (Column::WireguardIp, self.mesh.address(number).to_string()),
        ];
        let known = self.own.said();
        let differs = |(column, value): &(Column, String)| known.get(column) != Some(value);
        said.into_iter().filter(differs).map(|(column, value)| Step::Say(column, value)).collect()
    }
}

/// Whose management addresses are reached by the interface: those that have something behind them, and, as long as it has them, those
/// that are to go. Their time is as much theirs as the peer's: somebody may take it back.
fn routed(judgement: &Judgement) -> BTreeSet<PublicKey> {
    let wanted = judgement.wanted.iter().filter(|(_, wanted)| !wanted.allowed.is_empty()).map(|(key, _)| key);
    wanted.chain(judgement.leaving.keys()).chain(judgement.former.keys()).copied().collect()
}

/// Where the peers may be reached that have something behind them.
fn ways(judgement: &Judgement) -> BTreeMap<PublicKey, Way> {
    let known = judgement.cache.servers.iter().map(|(id, known)| {
        let cache::Known { key, endpoints, worked, echoed, .. } = known;
        (*key, Way { id: id.clone(), endpoints: endpoints.clone(), worked: *worked, echoed: *echoed })
    });
    known.filter(|(key, _)| judgement.wanted.get(key).is_some_and(|wanted| !wanted.allowed.is_empty())).collect()
}

impl Reconciler for Peers {
    const NAME: &'static str = "peers";
    type Observed = Observed;
    type Step = Step;

    async fn observe(&mut self, now: Now) -> Result<Observed, Error> {
        let key = self.key()?.public();
        let seen = self.interface.look(&self.ends()).await?;
        wireguard::is_ours(&seen, key).map_err(|source| Error::NotOurs { name: self.interface.name(), source })?;
        let (cells, sure) = self.rows().await.unzip();
        let own_row = cells.as_ref().and_then(|cells| self.own_row(cells));
        let rows = cells.map(|cells| Row::read(cells, self.mesh));
        let peers = seen.device.iter().flat_map(|device| &device.peers);
        let peers = peers.map(|(key, peer)| (*key, peer.installed.clone())).collect();
        let (worked, echoed) = (self.ways.worked(), self.ways.echoed());
        let sure = sure.unwrap_or_default();
        let observed = Observed { seen, key, own_row, rows, peers, worked, echoed, sure };
        self.age(&observed, now);
        let view = self.view(&observed);
        let judgement = judge(&view);
        self.held = held(&judgement, &view, now);
        self.replaced.retain(|key, _| judgement.former.contains_key(key));
        for key in judgement.former.keys() {
            self.replaced.entry(*key).or_insert(now.at);
        }
        let mtu = observed.seen.link.as_ref().map(|link| link.mtu);
        self.ways.tell(key, mtu, ways(&judgement));
        self.last = Some((observed.seen.clone(), judgement));
        self.steps = 0;
        Ok(observed)
    }

    fn plan(&self, observed: &Observed, now: Now) -> Vec<Step> {
        // Whoever was removed is left by the others; its own tunnels it leaves alone.
        if self.own.standing() == Standing::Removed {
            return Vec::new();
        }
        let view = self.view(observed);
        let judgement = judge(&view);
        let number = judgement.cache.own;
        let desired =
            Desired { key: observed.key, port: self.port, mesh: self.mesh, number, peers: routed(&judgement) };
        let mut steps: Vec<Step> = wireguard::plan(&desired, &observed.seen).into_iter().map(Step::SetUp).collect();
        steps.extend(plan(&judgement, &view, now).into_iter().map(Step::Peer));
        steps.extend(self.said(observed.key, number));
        steps
    }

    async fn apply(&mut self, step: Step, now: Now) -> Result<(), Error> {
        tracing::info!(%step, "WireGuard");
        self.steps += 1;
        match step {
            Step::SetUp(step) => {
                let key = self.key()?;
                self.interface.set_up(&step, &key).await
            }
            Step::Peer(plan::Step::Remember(cache)) => {
                self.file.write(&cache)?;
                self.cache = cache;
                Ok(())
            }
            Step::Peer(plan::Step::Add { key, allowed, endpoint, .. }) => {
                self.interface.set(key, &allowed, endpoint).await
            }
            Step::Peer(plan::Step::Allow { key, allowed, .. }) => self.interface.set(key, &allowed, None).await,
            Step::Peer(plan::Step::Remove { key, why, .. }) => {
                self.interface.remove(key).await?;
                if why == Why::Removed {
                    self.removals.push(now.at);
                }
                Ok(())
            }
            Step::Say(column, value) => {
                self.own.say(column, value);
                Ok(())
            }
        }
    }

    fn period(&self, now: Now) -> Duration {
        let Some((_, judgement)) = &self.last else { return SOON };
        // A tombstone's time comes by itself.
        let due = |since: &Instant| (*since + self.hold).saturating_duration_since(now.at);
        let leaving =
            judgement.leaving.values().map(|leaving| due(&leaving.since)).filter(|left| !left.is_zero()).min();
        let settled = self.steps == 0 && judgement.former.is_empty() && judgement.cache.own.is_some();
        let shortest = if settled { PERIOD } else { SOON };
        leaving.map_or(shortest, |left| left.min(shortest))
    }

    fn alarms(&self, _now: Now) -> Vec<Alarm> {
        let clashes = self.last.as_ref().map(|(_, judgement)| report::alarms(judgement));
        clashes.unwrap_or_default().into_iter().chain(report::held(&self.held)).collect()
    }

    fn detail(&self, now: Now) -> serde_json::Value {
        let Some((seen, judgement)) = &self.last else { return serde_json::Value::Null };
        report::detail(&self.interface.name(), seen, judgement, &self.handshakes, now)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::SetUp(step) => step.fmt(f),
            Step::Peer(step) => step.fmt(f),
            Step::Say(column, value) => write!(f, "say {}={value:?}", column.name()),
        }
    }
}
