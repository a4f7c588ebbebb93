//! The bridge: Docker's network `kith`, in which the containers that others reach are, and the firewall's rules that let them.
//!
//! ```text
//!   container ── kith-br ── host ── kith0 (the tunnels) ── other servers' containers    each at its own address
//!                             └──── whatever else: the world sees the host
//! ```
//!
//! Docker's own masquerade is off in this network; ours is for what leaves the cluster. The network is never made anew while a container is in
//! it, running or not: one that was stopped could not be started again. What cannot be put right is an alarm.

mod plan;

use std::path::Path;
use std::time::Duration;

use ipnet::Ipv4Net;
use kith_gossip_client::{Statement, Value};
use kith_gossip_proto::NodeId;
use serde_json::json;

use crate::clock::Now;
use crate::config::Network;
use crate::docker::Docker;
use crate::driver::Reconciler;
use crate::error::Error;
use crate::firewall::{self, Rules};
use crate::own::{Column, Own};
use crate::status::Alarm;
use crate::store::Store;
pub use plan::INTERFACE;
use plan::{Found, Observed, Step, faults, plan};
pub(crate) use plan::{NAME, Place, gateway};

/// How often is looked. A Docker that starts, and a network that is made or removed, wake it.
const PERIOD: Duration = Duration::from_secs(300);
/// The same while the own row names no range: a server that has just joined has one within a second or two.
const SOON: Duration = Duration::from_secs(1);

/// Keeps the network and its rules.
pub(crate) struct Bridge {
    node: NodeId,
    store: Store,
    own: Own,
    config: Network,
    docker: Docker,
    last: Option<Observed>,
}

impl Bridge {
    /// The bridge of this node, in the Docker at `socket`.
    pub(crate) fn new(node: NodeId, store: Store, own: Own, config: Network, socket: &Path) -> Bridge {
        Bridge { node, store, own, config, docker: Docker::at(socket), last: None }
    }

    /// This server's own range: as it is said here, else as its row has it since it joined.
    async fn own_range(&self) -> Result<Option<Ipv4Net>, Error> {
        if let Some(said) = self.own.said().get(&Column::Subnet) {
            return Ok(said.parse().ok());
        }
        let select = Statement::new("SELECT subnet FROM servers WHERE id = ?").with([self.node.as_str()]);
        let rows = self.store.rows(select).await?;
        let cell = rows.into_iter().next().and_then(|cells| cells.into_iter().next());
        Ok(cell.as_ref().and_then(Value::as_text).and_then(|text| text.parse().ok()))
    }

    async fn network(&mut self) -> Result<Option<Found>, Error> {
        let Some((id, network)) = self.docker.network(NAME).await? else { return Ok(None) };
        let attached = self.docker.attached(&id).await?;
        Ok(Some(Found { id, network, attached }))
    }

    async fn look(&mut self) -> Result<Observed, Error> {
        let own = self.own_range().await?;
        let Some(mut place) = own.and_then(|own| Place::of(self.config.cluster, own, &self.config.tunnel)) else {
            return Ok(Observed { place: None, network: None, rules: Ok(Rules::default()) });
        };
        place.mtu = mtu(&self.config.tunnel);
        place.api = self.docker.api_version().await?;
        let network = self.network().await?;
        let rules = Rules::read().await.map_err(|error| Error::from(error).chain());
        Ok(Observed { place: Some(place), network, rules })
    }
}

/// The MTU of an interface; none if it is not there. The kernel's one for IPv6 is the interface's own, and is read in the network of this
/// process, where the files of `/sys` may be of another.
fn mtu(interface: &str) -> Option<u32> {
    std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{interface}/mtu")).ok()?.trim().parse().ok()
}

impl Reconciler for Bridge {
    const NAME: &'static str = "bridge";
    type Observed = Observed;
    type Step = Step;

    async fn observe(&mut self, _now: Now) -> Result<Observed, Error> {
        match self.look().await {
            Ok(observed) => {
                self.last = Some(observed.clone());
                Ok(observed)
            }
            Err(error) => {
                self.docker.failed();
                Err(error)
            }
        }
    }

    fn plan(&self, observed: &Observed, _now: Now) -> Vec<Step> {
        plan(observed)
    }

    async fn apply(&mut self, step: Step, _now: Now) -> Result<(), Error> {
        match &step {
            Step::Remove { id, .. } => self.docker.remove_network(id).await?,
            Step::Create(network) => self.docker.create_network(NAME, network).await?,
            Step::Delete(rule) => firewall::delete(rule).await?,
            Step::Insert(rule) => firewall::insert(rule).await?,
        }
        tracing::info!(%step, "bridge put right");
        Ok(())
    }

    fn period(&self, _now: Now) -> Duration {
        if self.last.as_ref().is_some_and(|last| last.place.is_some()) { PERIOD } else { SOON }
    }

    fn detail(&self, _now: Now) -> serde_json::Value {
        let Some(last) = &self.last else { return serde_json::Value::Null };
        let Some(place) = &last.place else { return json!({ "range": null }) };
        json!({
            "range": place.containers.to_string(),
            "gateway": place.gateway().to_string(),
            "interface": INTERFACE,
            "tunnel_mtu": place.mtu,
            "containers": last.network.as_ref().map(|found| found.attached.len()),
        })
    }

    fn alarms(&self, _now: Now) -> Vec<Alarm> {
        let faults = self.last.as_ref().map(faults).unwrap_or_default();
        faults.into_iter().map(|text| Alarm { name: "bridge", text }).collect()
    }
}
