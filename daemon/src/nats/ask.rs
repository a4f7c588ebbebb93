//! Asking the runner of nats-server how it is.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use kith_gossip_client::error::Chain;
use serde::Deserialize;

use super::plan::Row;

/// How long an answer may take: what it says is at hand.
const ANSWER: Duration = Duration::from_secs(2);
/// Most bytes of an answer. It has some hundreds.
const LONGEST: usize = 64 << 10;

/// Where it is asked.
#[derive(Debug)]
pub(super) struct Runner {
    client: reqwest::Client,
    at: SocketAddr,
}

/// Why it has not said anything.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    /// No answer.
    #[error("no runner of nats-server answers")]
    Silent(#[from] reqwest::Error),
    /// Somebody else's.
    #[error("what answers is no runner of nats-server")]
    Foreign(#[from] serde_json::Error),
    /// Too long.
    #[error("its answer is longer than {LONGEST} bytes")]
    Long,
    /// It names itself by what is no name.
    #[error("its name is none: {0:?}")]
    Nameless(String),
}

/// What of its status concerns us.
#[derive(Debug, Deserialize)]
struct Status {
    id: String,
    cluster: String,
    role: String,
    region: String,
    ip: Option<Ipv4Addr>,
    ip6: Option<Ipv6Addr>,
    ports: Ports,
    health: String,
    started_at: u64,
}

#[derive(Debug, Deserialize)]
struct Ports {
    client: u16,
    route: u16,
    gateway: u16,
    leaf: u16,
}

impl Runner {
    pub(super) fn at(at: SocketAddr) -> Runner {
        let client = reqwest::Client::builder().no_proxy().timeout(ANSWER).build();
        Runner { client: client.expect("nothing in it depends on the host"), at }
    }

    pub(super) fn place(&self) -> SocketAddr {
        self.at
    }

    /// Its name, and the row that it asks for.
    pub(super) async fn ask(&self) -> Result<(String, Row), AskError> {
        let mut answer = self.client.get(format!("http://{}/status", self.at)).send().await?.error_for_status()?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            if body.len() + chunk.len() > LONGEST {
                return Err(AskError::Long);
            }
            body.extend_from_slice(&chunk);
        }
        row(&body)
    }
}

fn row(body: &[u8]) -> Result<(String, Row), AskError> {
    let status: Status = serde_json::from_slice(body)?;
    let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    if !(1..=63).contains(&status.id.len()) || !status.id.bytes().all(letters) {
        return Err(AskError::Nameless(status.id.chars().take(80).collect()));
    }
    let text = |ip: Option<String>| ip.unwrap_or_default();
    Ok((
        status.id,
        Row {
            cluster: status.cluster,
            role: status.role,
            region: status.region,
            ip: text(status.ip.map(|ip| ip.to_string())),
            ip6: text(status.ip6.map(|ip| ip.to_string())),
            ports: [status.ports.client, status.ports.route, status.ports.gateway, status.ports.leaf].map(i64::from),
            health: status.health,
            started_at: i64::try_from(status.started_at).unwrap_or(i64::MAX),
        },
    ))
}

impl AskError {
    pub(super) fn chain(&self) -> String {
        Chain(self).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_runner_says_is_read_and_what_others_say_is_not() {
        let said = r#"{"id":"n1-0a","cluster":"nats","role":"center","region":"fra","ip":"10.210.1.1","ip6":null,
            "ports":{"client":4222,"route":6222,"gateway":7222,"leaf":7422},"health":"healthy","started_at":5,"phase":"running"}"#;
        let (id, row) = row(said.as_bytes()).unwrap();
        assert_eq!((id.as_str(), row.ip.as_str(), row.ip6.as_str()), ("n1-0a", "10.210.1.1", ""));
        assert_eq!(row.ports, [4222, 6222, 7222, 7422]);
        let bad = |from: &str, to: &str| super::row(said.replace(from, to).as_bytes()).is_err();
        assert!(bad("n1-0a", "") && bad("n1-0a", "a b") && bad("10.210.1.1", "here") && bad("4222", "70000"));
        assert!(super::row(b"<html>").is_err());
    }
}
