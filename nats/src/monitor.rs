//! What nats-server tells of itself, asked at its monitoring port.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use reqwest::{Client, StatusCode};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

/// How long an answer may take. A busy server answers within milliseconds; one that is stopped never does.
const ANSWER: Duration = Duration::from_secs(2);
/// Bytes of an answer. That of 1,000 routes has some 600 KB.
const LONGEST: usize = 4 << 20;
/// Connections that are listed: whether there is one at all is what is asked.
const LISTED: usize = 64;

/// A nats-server's monitoring port.
#[derive(Debug, Clone)]
pub(crate) struct Monitor {
    client: Client,
    at: SocketAddr,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MonitorError {
    /// Nothing came back in time.
    #[error("nats-server does not answer at {at}")]
    Silent {
        /// Where.
        at: SocketAddr,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// It says that it is not well.
    #[error("nats-server says: {0}")]
    Unwell(String),
    /// It says something else than is expected.
    #[error("nats-server's answer to {asked} cannot be read")]
    Foreign {
        /// What was asked.
        asked: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// It says too much.
    #[error("nats-server's answer to {0} is too long")]
    Long(String),
}

/// `/varz`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Varz {
    /// Its name.
    pub(crate) server_name: String,
    /// When this process was started, as a text: another one, another text.
    pub(crate) start: String,
    /// Clients.
    pub(crate) connections: u64,
    /// Servers of its cluster.
    pub(crate) routes: u64,
    /// Leaves.
    pub(crate) leafnodes: u64,
    /// What its file says of other clusters.
    pub(crate) gateway: Gateway,
}

/// `gateway` of `/varz`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Gateway {
    /// Those that the file names.
    pub(crate) gateways: Vec<Remote>,
}

/// One of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Remote {
    /// Its region.
    pub(crate) name: String,
}

/// `/jsz`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Jsz {
    /// None where it is alone, or not a member yet.
    pub(crate) meta_cluster: Option<Meta>,
    /// Its streams.
    pub(crate) streams: u64,
}

/// The group that decides where streams are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Meta {
    /// Its leader's name; empty if there is none.
    pub(crate) leader: String,
    /// How many belong to it.
    pub(crate) cluster_size: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Routez {
    routes: Vec<Route>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Route {
    remote_name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Gatewayz {
    outbound_gateways: BTreeMap<String, IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct Connz {
    #[serde(default)]
    connections: Vec<Connection>,
}

#[derive(Debug, Deserialize)]
struct Connection {
    #[serde(default)]
    account: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Healthz {
    status: String,
    error: String,
}

impl Monitor {
    /// The one at this address.
    pub(crate) fn new(at: SocketAddr) -> Monitor {
        // A connection is kept for the next question, and no proxy of the environment is between us and our own host.
        let client = Client::builder().no_proxy().timeout(ANSWER).pool_max_idle_per_host(2).build();
        Monitor { client: client.expect("nothing in it depends on the host"), at }
    }

    /// Whether it lives: whether it is well of itself, whatever it knows of others, and so also while nobody leads.
    pub(crate) async fn live(&self) -> Result<(), MonitorError> {
        self.health("/healthz?js-server-only=true").await
    }

    /// Whether it has caught up with all others.
    pub(crate) async fn ready(&self) -> Result<(), MonitorError> {
        self.health("/healthz").await
    }

    /// What it says of itself.
    pub(crate) async fn varz(&self) -> Result<Varz, MonitorError> {
        self.json("/varz").await
    }

    /// Servers of its region that it is connected to, each by several connections.
    pub(crate) async fn routed(&self) -> Result<BTreeSet<String>, MonitorError> {
        let routez: Routez = self.json("/routez").await?;
        Ok(routez.routes.into_iter().map(|route| route.remote_name).collect())
    }

    /// Other regions that it is connected to.
    pub(crate) async fn gateways(&self) -> Result<BTreeSet<String>, MonitorError> {
        let gatewayz: Gatewayz = self.json("/gatewayz").await?;
        Ok(gatewayz.outbound_gateways.into_keys().collect())
    }

    /// What it says of its streams.
    pub(crate) async fn jsz(&self) -> Result<Jsz, MonitorError> {
        self.json("/jsz").await
    }

    /// Whether it has clients other than those of this account, which is ours.
    pub(crate) async fn has_clients(&self, besides: &str) -> Result<bool, MonitorError> {
        let connz: Connz = self.json(&format!("/connz?auth=1&limit={LISTED}")).await?;
        Ok(connz.connections.iter().any(|connection| connection.account != besides))
    }

    async fn health(&self, path: &str) -> Result<(), MonitorError> {
        let (status, body) = self.get(path).await?;
        if status == StatusCode::OK {
            return Ok(());
        }
        let said: Healthz = serde_json::from_slice(&body).unwrap_or_default();
        let words = [said.status, said.error].join(" ");
        Err(MonitorError::Unwell(if words.trim().is_empty() { status.to_string() } else { words.trim().to_owned() }))
    }

    async fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T, MonitorError> {
        let (_, body) = self.get(path).await?;
        serde_json::from_slice(&body).map_err(|source| MonitorError::Foreign { asked: path.to_owned(), source })
    }

    async fn get(&self, path: &str) -> Result<(StatusCode, Vec<u8>), MonitorError> {
        let silent = |source| MonitorError::Silent { at: self.at, source };
        let mut answer = self.client.get(format!("http://{}{path}", self.at)).send().await.map_err(silent)?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(silent)? {
            if body.len() + chunk.len() > LONGEST {
                return Err(MonitorError::Long(path.to_owned()));
            }
            body.extend_from_slice(&chunk);
        }
        Ok((answer.status(), body))
    }
}
