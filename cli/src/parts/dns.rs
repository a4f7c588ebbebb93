//! The DNS server as a part: fed from the store's API, or by zone files alone.

mod control;
pub(crate) mod metrics;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use kith_dns::forward::{ForwardStatus, Forwarding};
use kith_dns::status::FileStatus;
use kith_dns::{BuildError, Dns, Status, StatusHandle};
use kith_gossip_client::Client;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::daemon::network;
use super::{Built, Part, pin, report, report_metrics};
use crate::args::Plain;
use crate::config::{self, Split};
use crate::exit::{Exit, Failure};
use crate::feed::Feed;
use control::{Control, Looked};

use crate::modes::{self, Wanted};

/// The DNS server, buildable again and again.
pub(crate) struct DnsPart {
    config: kith_dns::Config,
    source: Source,
    /// Where it is looked into: a Unix socket, and an address for figures.
    socket: Option<PathBuf>,
    metrics: Option<SocketAddr>,
    /// The status of the server that was built last.
    status: Arc<watch::Sender<Option<StatusHandle>>>,
}

/// The socket's name in a node's folder.
pub(crate) const DNS_SOCKET: &str = "dns.sock";

/// Where names come from, beside zone files.
#[derive(Clone)]
pub(crate) enum Source {
    /// The store behind this client, which is also told how the server is.
    Store(Client),
    /// Nowhere else.
    Files,
}

impl DnsPart {
    /// A server with this configuration.
    pub(crate) fn new(config: kith_dns::Config, source: Source) -> DnsPart {
        DnsPart { config, source, socket: None, metrics: None, status: Arc::new(watch::Sender::new(None)) }
    }

    /// The same, which can be looked into.
    pub(crate) fn looked_into(self, socket: Option<PathBuf>, metrics: Option<SocketAddr>) -> DnsPart {
        DnsPart { socket, metrics, ..self }
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
            if let Some(tls) = &self.config.tls {
                modes::check(&tls.key, Wanted::GroupReads)?;
            }
            let config = self.config.clone();
            let dns = match &self.source {
                Source::Store(client) => Dns::build(config, Feed::new(client.clone())).await,
                Source::Files => Dns::build(config, futures_util::stream::pending()).await,
            };
            let dns = dns.map_err(failure)?;
            pin(&mut self.config.listen, dns.addrs());
            let secure = dns.tls_addrs();
            if let Some(tls) = &mut self.config.tls {
                pin(&mut tls.listen, &secure);
            }
            let control = Control::bind(self.socket.as_deref(), self.metrics)
                .await
                .map_err(|error| Failure::new(Exit::Unavailable, error).context("cannot listen for metrics of DNS"))?;
            self.metrics = control.metrics_addr();
            let status = dns.status();
            let looked = Looked { tap: dns.tap(), status: status.clone() };
            self.status.send_replace(Some(status.clone()));
            let (source, settings) = (self.source.clone(), settings(&self.config));
            let plain = dns.addrs().iter().map(|addr| ("dns", addr.to_string()));
            let secure = secure.iter().map(|addr| ("dns-tls", addr.to_string()));
            Ok(Built {
                listens: plain.chain(secure).chain(control.listens()).collect(),
                run: Box::new(move |token| {
                    let end = token.child_token();
                    let (told, told_control) = (end.clone(), end.clone());
                    let reports = async move {
                        if let Source::Store(client) = source {
                            let figures = status.clone();
                            let figures = move || metrics::lines(figures.get());
                            tokio::join!(
                                report(client.clone(), "dns", move || describe(&status.get(), &settings), told.clone()),
                                report_metrics(client, "dns", figures, told),
                            );
                        }
                    };
                    let server = async move {
                        let ended = dns.run(token).await;
                        end.cancel();
                        ended
                    };
                    let control = control.run(looked, told_control);
                    let run = async move { Ok(tokio::join!(server, reports, control).0?) };
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
        BuildError::File(_) | BuildError::Tls(_) => Failure::new(Exit::Config, error),
        BuildError::Task(_) => Failure::new(Exit::Software, error),
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
fn describe(status: &Status, settings: &Value) -> Value {
    let stale = status.stale_since.and_then(|since| SystemTime::now().duration_since(since).ok());
    json!({
        "settings": settings,
        "freshness": format!("{:?}", status.freshness).to_lowercase(),
        "stale_for_s": stale.map(|age| age.as_secs()),
        "generation": status.generation,
        "age_s": status.age.as_secs(),
        "build_us": u64::try_from(status.build_time.as_micros()).unwrap_or(u64::MAX),
        "zones": status.zones.iter().map(|zone| json!({ "zone": zone.name, "names": zone.names })).collect::<Vec<_>>(),
        "reverse_names": status.reverse_names,
        "alarms": status.alarms().iter().map(|alarm| json!({ "name": alarm.name, "text": alarm.text })).collect::<Vec<_>>(),
        "files": status.files.iter().map(describe_file).collect::<Vec<_>>(),
        "bad_rows": status.problem_count,
        "list_entries_cut": status.entries_cut,
        "bad": status.problems.iter().take(SHOWN_PROBLEMS).map(|problem| json!({
            "table": problem.table, "key": problem.key, "reason": problem.reason,
        })).collect::<Vec<_>>(),
        "queries": status.queries.iter().map(|count| json!({
            "zone": count.zone, "type": count.qtype, "rcode": count.rcode, "count": count.count,
        })).collect::<Vec<_>>(),
        "dropped": status.dropped,
        "denied": status.denied,
        "limited": status.limited,
        "limited_cut": status.limited_cut,
        "send_errors": status.send_errors,
        "overflows": status.overflows,
        "connections_refused": status.connections_refused,
        "handshakes_failed": status.handshakes_failed,
        "forward": status.forward.as_ref().map(forward),
    })
}

fn forward(forward: &ForwardStatus) -> Value {
    json!({
        "upstreams": forward.upstreams.iter().map(|upstream| json!({
            "upstream": upstream.name,
            "working": upstream.working,
            "results": upstream.results.iter().copied().collect::<BTreeMap<_, _>>(),
        })).collect::<Vec<_>>(),
        "cache": {
            "hits": forward.hits,
            "misses": forward.misses,
            "entries": forward.entries,
            "bytes": forward.bytes,
            "stale_served": forward.stale,
            "prefetches": forward.prefetches,
            "prefetches_skipped": forward.prefetches_skipped,
        },
        "turned_away": forward.turned_away,
        "refused": forward.refused,
        "loops": forward.loops,
        "rebind_dropped": forward.rebind_dropped,
    })
}

/// One zone file as JSON.
fn describe_file(file: &FileStatus) -> Value {
    json!({
        "file": file.path.display().to_string(),
        "zone": file.zone.as_ref().map(|zone| &zone.name),
        "names": file.zone.as_ref().map(|zone| zone.names),
        "wrong": file.fault.as_ref().map(ToString::to_string),
        "noted": file.note_count,
        "notes": file.notes.iter().take(SHOWN_PROBLEMS).map(ToString::to_string).collect::<Vec<_>>(),
    })
}

/// What its names depend on besides rows, for `kith why`: texts, so that `kith status` has them in one line.
fn settings(config: &kith_dns::Config) -> Value {
    let join = |texts: Vec<String>| texts.join(" ");
    json!({
        "zones": join(config.zones.iter().map(ToString::to_string).collect()),
        "ranges": join(config.ranges.iter().map(ToString::to_string).collect()),
        "own_addresses": join(config.own_addresses.iter().map(ToString::to_string).collect()),
        "forward": join(config.forward.domains.iter().map(|domain| domain.suffix.to_string()).collect()),
    })
}

/// Bad rows that are reported one by one; all are counted.
const SHOWN_PROBLEMS: usize = 20;

/// The configuration of a server without a store.
pub(crate) fn plain(plain: &Plain) -> kith_dns::Config {
    let config = kith_dns::Config::new(config::host_name());
    kith_dns::Config {
        listen: plain.listen.clone(),
        tls: plain.tls(),
        threads: plain.threads.unwrap_or(config.threads),
        allow: plain.allow.clone(),
        zones: Vec::new(),
        files: plain.zone_file.clone(),
        forward: Forwarding {
            domains: plain.forward.iter().map(|Split(domain)| domain.clone()).collect(),
            ..Forwarding::refused()
        },
        ..config
    }
}

/// The bridge of Docker's network for containers, where the daemon keeps one.
fn bridge(config: &config::Config) -> Option<String> {
    let network = network(config).filter(|_| config.daemon.enabled && config.daemon.docker.is_some());
    network.map(|_| kith_daemon::INTERFACE.to_owned())
}

/// The server's configuration.
pub(crate) fn config(config: &config::Config) -> kith_dns::Config {
    let dns = &config.dns;
    let defaults = kith_dns::Config::new(config.node.name.as_str());
    kith_dns::Config {
        listen: dns.listen.clone(),
        bridge: bridge(config),
        tls: dns.tls.clone(),
        threads: dns.threads.unwrap_or(defaults.threads),
        allow: dns.allow.clone(),
        rate: dns.rate,
        zones: dns.zones.clone(),
        ranges: dns.ranges.clone(),
        own_addresses: dns.own_addresses.clone(),
        files: dns.files.clone(),
        ttl: dns.ttl,
        state: Some(config.node.data_dir.join("dns-zone")),
        forward: dns.forward.clone(),
        ..defaults
    }
}
