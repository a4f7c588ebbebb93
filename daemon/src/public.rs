//! The public address: where others reach this server's tunnels, in front of the addresses that its own networks know.
//!
//! ```text
//!   configured ─► where gossip says it is reached ─► what HTTPS sources see us as ─► interfaces: public, then private
//! ```
//!
//! A source is asked every ten minutes, and when an interface's address changes, over IPv4 and IPv6 apart. One that fails takes nothing away:
//! what it said last holds for a day. What others see as the source of our packets nobody tells us yet.

mod plan;
mod source;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::future::join_all;
use nix::ifaddrs::getifaddrs;
use serde_json::json;
use tokio::time::Instant;

use crate::clock::Now;
use crate::config::Public;
use crate::driver::Reconciler;
use crate::error::Error;
use crate::own::{Column, Own};
use plan::{Interface, Observed, Step, plan};
pub use source::Source;
use source::{Asked, Family};

/// How often interfaces are looked at.
const PERIOD: Duration = Duration::from_secs(30);
/// How often sources are asked.
const ASK: Duration = Duration::from_secs(600);
/// How long what a source said holds while it fails.
const HOLDS: Duration = Duration::from_secs(86_400);

/// Finds it.
pub(crate) struct PublicAddress {
    own: Own,
    config: Public,
    /// What each source said, over each family, and when.
    said: BTreeMap<(Source, Family), (IpAddr, Instant)>,
    /// Why it did not, the last time.
    failed: BTreeMap<(Source, Family), String>,
    asked_at: Option<Instant>,
    interfaces: Vec<Interface>,
}

impl PublicAddress {
    /// The public address of this server, said in its own row.
    pub(crate) fn new(own: Own, config: Public) -> PublicAddress {
        let (said, failed) = (BTreeMap::new(), BTreeMap::new());
        PublicAddress { own, config, said, failed, asked_at: None, interfaces: Vec::new() }
    }

    async fn ask(&mut self, now: Now) {
        self.asked_at = Some(now.at);
        if self.config.sources.is_empty() {
            return;
        }
        let trusted = match source::trusted() {
            Ok(trusted) => trusted,
            // No source can be asked then; the reason is the same for all.
            Err(error) => {
                let why = |source: &Source| ((source.clone(), Family::V4), error.to_string());
                self.failed = self.config.sources.iter().map(why).collect();
                return;
            }
        };
        let each = self.config.sources.iter().flat_map(|source| Family::ALL.map(|family| (source.clone(), family)));
        let asked = each.map(|(source, family)| {
            let trusted = trusted.clone();
            async move {
                let answer = source.ask(family, trusted).await;
                ((source, family), answer)
            }
        });
        for (key, answer) in join_all(asked).await {
            match answer {
                Ok(Asked::Seen(address)) => {
                    self.failed.remove(&key);
                    self.said.insert(key, (address, now.at));
                }
                // The source, or this host, has no address of this family.
                Ok(Asked::NoSuchFamily) => drop(self.failed.remove(&key)),
                Err(error) => drop(self.failed.insert(key, error.chain())),
            }
        }
    }
}

/// The addresses of this host's interfaces.
fn interfaces() -> Result<Vec<Interface>, Error> {
    let failed = |errno: nix::Error| Error::File { path: "interfaces".into(), source: errno.into() };
    let found = getifaddrs().map_err(failed)?.filter_map(|entry| {
        let address = entry.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        let address = v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))?;
        Some(Interface { name: entry.interface_name, address })
    });
    let mut found: Vec<Interface> = found.collect();
    found.sort();
    Ok(found)
}

impl Reconciler for PublicAddress {
    const NAME: &'static str = "public";
    type Observed = Observed;
    type Step = Step;

    async fn observe(&mut self, now: Now) -> Result<Observed, Error> {
        let interfaces = interfaces()?;
        let due = self.asked_at.is_none_or(|at| now.at.saturating_duration_since(at) >= ASK);
        if due || interfaces != self.interfaces {
            self.interfaces = interfaces;
            self.ask(now).await;
        }
        self.said.retain(|_, (_, at)| now.at.saturating_duration_since(*at) < HOLDS);
        Ok(Observed {
            seen: self.said.values().map(|(address, _)| *address).collect(),
            interfaces: self.interfaces.clone(),
            said: self.own.said().get(&Column::Endpoints).cloned(),
        })
    }

    fn plan(&self, observed: &Observed, _now: Now) -> Vec<Step> {
        plan(&self.config, observed)
    }

    async fn apply(&mut self, step: Step, _now: Now) -> Result<(), Error> {
        tracing::info!(%step, "endpoints changed");
        self.own.say(Column::Endpoints, step.0);
        Ok(())
    }

    fn period(&self, _now: Now) -> Duration {
        PERIOD
    }

    fn detail(&self, now: Now) -> serde_json::Value {
        let name = |(source, family): &(Source, Family)| format!("{source} over {}", family.name());
        let age = |at: &Instant| now.at.saturating_duration_since(*at).as_secs();
        let said = self
            .said
            .iter()
            .map(|(key, (address, at))| (name(key), json!({ "address": address.to_string(), "s_ago": age(at) })));
        let failed = self.failed.iter().map(|(key, why)| (name(key), json!(why)));
        json!({
            "endpoints": self.own.said().get(&Column::Endpoints),
            "seen": said.collect::<serde_json::Map<_, _>>(),
            "failed": failed.collect::<serde_json::Map<_, _>>(),
        })
    }
}
