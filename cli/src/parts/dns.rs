//! The DNS server as a part: fed from the store's API, and from nothing else.

use std::sync::Arc;
use std::time::SystemTime;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use kith_dns::{BuildError, Dns, Status, StatusHandle};
use kith_gossip_client::Client;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Built, Part, pin, report};
use crate::config;
use crate::exit::{Exit, Failure};
use crate::feed::Feed;

/// The DNS server, buildable again and again.
pub(crate) struct DnsPart {
    config: kith_dns::Config,
    client: Client,
    /// The status of the server that was built last.
    status: Arc<watch::Sender<Option<StatusHandle>>>,
}

impl DnsPart {
    /// A server with this configuration, fed by the store behind `client`.
    pub(crate) fn new(config: kith_dns::Config, client: Client) -> DnsPart {
        DnsPart { config, client, status: Arc::new(watch::Sender::new(None)) }
    }

    /// Follows the status of whichever server runs.
    pub(crate) fn status(&self) -> watch::Receiver<Option<StatusHandle>> {
        self.status.subscribe()
    }
}

impl Part for DnsPart {
    fn name(&self) -> &'static str {
        "dns"
    }

    fn build(&mut self) -> BoxFuture<'_, Result<Built, Failure>> {
        async {
            let dns = Dns::build(self.config.clone(), Feed::new(self.client.clone())).await.map_err(failure)?;
            pin(&mut self.config.listen, dns.addrs());
            let status = dns.status();
            self.status.send_replace(Some(status.clone()));
            let client = self.client.clone();
            Ok(Built {
                listens: dns.addrs().iter().map(|addr| ("dns", addr.to_string())).collect(),
                run: Box::new(move |token| {
                    let end = token.child_token();
                    let reports = report(client, "dns", move || describe(&status.get()), end.clone());
                    let server = async move {
                        let ended = dns.run(token).await;
                        end.cancel();
                        ended
                    };
                    let run = async move { Ok(tokio::join!(server, reports).0?) };
                    run.boxed()
                }),
            })
        }
        .boxed()
    }
}

fn failure(error: BuildError) -> Failure {
    match &error {
        BuildError::NoAddress | BuildError::NoZone => Failure::new(Exit::Config, error),
        BuildError::Bind { source, .. } => {
            let hint = match source.kind() {
                std::io::ErrorKind::AddrInUse => {
                    "another server has this port: stop it, or set dns.listen (--dns in kith dev)"
                }
                std::io::ErrorKind::PermissionDenied => {
                    "a port below 1024 needs CAP_NET_BIND_SERVICE: grant it, or set dns.listen"
                }
                _ => "is it an address of this host? See dns.listen",
            };
            Failure::new(Exit::Unavailable, error).hint(hint)
        }
    }
}

/// The status as JSON.
fn describe(status: &Status) -> Value {
    let stale = status.stale_since.and_then(|since| SystemTime::now().duration_since(since).ok());
    json!({
        "freshness": format!("{:?}", status.freshness).to_lowercase(),
        "stale_for_s": stale.map(|age| age.as_secs()),
        "generation": status.generation,
        "age_s": status.age.as_secs(),
        "build_us": u64::try_from(status.build_time.as_micros()).unwrap_or(u64::MAX),
        "zones": status.zones.iter().map(|zone| json!({ "zone": zone.name, "names": zone.names })).collect::<Vec<_>>(),
        "reverse_names": status.reverse_names,
        "bad_rows": status.problem_count,
        "bad": status.problems.iter().take(SHOWN_PROBLEMS).map(|problem| json!({
            "table": problem.table, "key": problem.key, "reason": problem.reason,
        })).collect::<Vec<_>>(),
        "queries": status.queries.iter().map(|count| json!({
            "zone": count.zone, "type": count.qtype, "rcode": count.rcode, "count": count.count,
        })).collect::<Vec<_>>(),
        "dropped": status.dropped,
        "send_errors": status.send_errors,
        "overflows": status.overflows,
        "connections_refused": status.connections_refused,
    })
}

/// Bad rows that are reported one by one; all are counted.
const SHOWN_PROBLEMS: usize = 20;

/// The server's configuration.
pub(crate) fn config(config: &config::Config) -> kith_dns::Config {
    let dns = &config.dns;
    let defaults = kith_dns::Config::new(config.node.name.as_str());
    kith_dns::Config {
        listen: dns.listen.clone(),
        threads: dns.threads.unwrap_or(defaults.threads),
        zones: dns.zones.clone(),
        ranges: dns.ranges.clone(),
        own_addresses: dns.own_addresses.clone(),
        ttl: dns.ttl,
        ..defaults
    }
}
