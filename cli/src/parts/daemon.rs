//! The daemon as a part: its reconcilers, joined to the store by the API.

use std::io::Write;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use ipnet::IpNet;
use kith_daemon::config::PORT;
use kith_daemon::{Clock, Daemon, Host, Stuck};
use kith_gossip_client::Client;
use serde_json::json;

use super::gossip::boot_id;
use super::{Built, Part, report_soon};
use crate::config;
use crate::exit::{Exit, Failure};
use crate::stop::leave_at_once;

/// The daemon, buildable again and again.
pub(crate) struct DaemonPart {
    config: kith_daemon::Config,
    client: Client,
}

impl DaemonPart {
    /// A daemon with this configuration, at the store behind `client`.
    pub(crate) fn new(config: kith_daemon::Config, client: Client) -> DaemonPart {
        DaemonPart { config, client }
    }
}

impl Part for DaemonPart {
    fn name(&self) -> &'static str {
        "daemon"
    }

    fn build(&mut self) -> BoxFuture<'_, Result<Built, Failure>> {
        async {
            std::fs::create_dir_all(&self.config.dir)
                .map_err(|e| Failure::new(Exit::Io, e).context("node.data_dir"))?;
            let host = Host { clock: Clock::system(), stuck: leave };
            let daemon =
                Daemon::build(&self.config, self.client.clone(), host).map_err(|e| Failure::new(Exit::Io, e))?;
            let (status, client) = (daemon.status(), self.client.clone());
            Ok(Built {
                listens: daemon.addrs().iter().map(|addr| ("daemon", addr.to_string())).collect(),
                run: Box::new(move |token| {
                    let end = token.child_token();
                    let told = end.clone();
                    let changes = status.clone();
                    let changed = move || {
                        let changes = changes.clone();
                        async move { changes.alarmed().await }
                    };
                    let reports = report_soon(client, "daemon", move || json!(status.get()), changed, told);
                    let reconcilers = async move {
                        let ended = daemon.run(token).await;
                        end.cancel();
                        ended
                    };
                    async move { Ok(tokio::join!(reconcilers, reports).0?) }.boxed()
                }),
            })
        }
        .boxed()
    }
}

/// Ends the process because of loops that are stuck: they hold on to threads that nothing else gets back. The service manager
/// starts it again.
pub(crate) fn leave(stuck: &[Stuck]) {
    for Stuck { name, silent, at } in stuck {
        tracing::error!(reconciler = name, ?silent, at, "stuck loop, ending the process");
        // The log may be what is stuck.
        drop(writeln!(std::io::stderr(), "error: {name} is stuck at {at} for {} s", silent.as_secs()));
    }
    leave_at_once(Exit::Software as i32)
}

/// Where others reach this server's tunnels: found out if somebody is to be asked, or nobody has said it.
fn public(config: &config::Config) -> Option<kith_daemon::Public> {
    let sources = config.daemon.public_sources.clone();
    let cluster = match config.cluster.cidr {
        IpNet::V4(cluster) => Some(cluster),
        IpNet::V6(_) => None,
    };
    let listens = Some(config.gossip.listen.ip()).filter(|address| !address.is_unspecified());
    let advertised = config.gossip.advertise.map(|at| at.ip()).or(listens);
    let wireguard = config.daemon.wireguard.as_ref();
    let is_unsaid = wireguard.is_some_and(|wireguard| wireguard.endpoints.is_empty());
    (is_unsaid || !sources.is_empty()).then(|| kith_daemon::Public {
        sources,
        advertised,
        endpoints: wireguard.map_or_else(Vec::new, |wireguard| wireguard.endpoints.clone()),
        port: wireguard.map_or(PORT, |wireguard| wireguard.port),
        cluster,
    })
}

/// Docker's network, if it is made here: a cluster whose range cannot be divided among its servers has none for containers.
pub(super) fn network(config: &config::Config) -> Option<kith_daemon::Network> {
    let cluster = match config.cluster.cidr {
        IpNet::V4(cluster) if config.cluster.subnets().is_some() => cluster,
        IpNet::V4(_) | IpNet::V6(_) => return None,
    };
    let kept = config.daemon.network == config::Network::Kept;
    kept.then(|| kith_daemon::Network { cluster, tunnel: config.daemon.interface.clone() })
}

/// The daemon's configuration.
pub(crate) fn config(config: &config::Config) -> Result<kith_daemon::Config, Failure> {
    let node = &config.node;
    Ok(kith_daemon::Config {
        node: node.name.clone(),
        hostname: config::host_name(),
        region: node.region.as_str().to_owned(),
        release: env!("CARGO_PKG_VERSION").to_owned(),
        dir: node.data_dir.clone(),
        boot_id: boot_id(config)?,
        docker: config.daemon.docker.clone(),
        network: network(config),
        public: public(config),
        sweep_after: config.daemon.sweep_after,
        wireguard: config.daemon.wireguard.clone(),
        nats: config.nats.runner.health,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Purpose, Sources};

    fn build(file: &str) -> Config {
        let file = Some(("kith.toml".into(), file.to_owned()));
        let sources = Sources { file, hostname: "n1".to_owned(), ..Sources::default() };
        Config::build(&sources, Purpose::Daemon).unwrap_or_else(|problems| panic!("{problems}"))
    }

    #[test]
    fn where_nobody_says_where_tunnels_end_it_is_found_out_from_where_gossip_is_reached() {
        let advertised = |file: &str| public(&build(file)).map(|public| public.advertised.map(|ip| ip.to_string()));
        assert_eq!(advertised(""), None);
        assert_eq!(advertised("[daemon]\nwireguard = true\n"), Some(None));
        let wireguard = "[daemon]\nwireguard = true\n[gossip]\n";
        for at in ["listen", "advertise"] {
            let file = format!("{wireguard}{at} = \"192.0.2.1:7\"\n");
            assert_eq!(advertised(&file), Some(Some("192.0.2.1".to_owned())), "{at}");
        }
        let said = "[daemon]\nwireguard = true\nendpoints = [\"192.0.2.1:31820\"]\n";
        assert_eq!(advertised(said), None);
        assert_eq!(advertised(&format!("{said}public_sources = [\"https://ip.example.com/\"]\n")), Some(None));
    }

    #[test]
    fn the_network_of_containers_knows_the_tunnels_by_their_name_whoever_makes_them() {
        let tunnel = |file: &str| network(&build(file)).map(|network| network.tunnel);
        assert_eq!(tunnel("").as_deref(), Some("kith0"));
        for on in [true, false] {
            let file = format!("[daemon]\nwireguard = {on}\ninterface = \"wg9\"\n");
            assert_eq!(tunnel(&file).as_deref(), Some("wg9"), "{on}");
        }
        assert_eq!(tunnel("[daemon]\nnetwork = false\n"), None);
    }
}
