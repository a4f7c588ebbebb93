//! A cluster of whole servers, made as an operator makes it: `kith init`, `kith invite`, `kith join`, with tunnels between
//! them, and a container of one service on each.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::host::{Host, Hosts};
use super::wait::eventually;

/// For a busy machine. What is promised is printed beside what it took.
const BOUND: Duration = Duration::from_secs(60);
/// The one container of each server, as its Docker calls it.
const CONTAINER: &str = "api";

/// Servers that know each other.
#[derive(Debug)]
pub struct Casa {
    // Dropped first: a failed test shows their logs.
    /// The servers; the first has the authority.
    pub hosts: Vec<Host>,
    /// What lies between them, and their power.
    pub switch: Hosts,
}

impl Casa {
    /// The service that runs on all of them.
    pub const NAME: &'static str = "casa-api.internal";

    /// A cluster of `count` servers that have all joined; none, said aloud in the name of `test`, where this machine does not let us.
    ///
    /// # Panics
    /// If a command fails, or a server is not ready within 30 s.
    pub async fn found(test: &str, count: u8) -> Option<Casa> {
        let mut casa = Casa::first(test, count).await?;
        let (first, others) = casa.hosts.split_first_mut()?;
        for host in others {
            host.join(first);
            host.begin().await;
        }
        Some(casa)
    }

    /// The same, of which the first alone is in the cluster.
    ///
    /// # Panics
    /// If a command fails, or it is not ready within 30 s.
    pub async fn first(test: &str, count: u8) -> Option<Casa> {
        let (switch, mut hosts) = Hosts::up(test, count)?;
        let first = hosts.first_mut()?;
        let advertise = format!("{}:31280", first.address());
        first.kith(&["init", "--cluster", "casa", "--name", "h1", "--advertise", &advertise]);
        first.begin().await;
        Some(Casa { hosts, switch })
    }

    /// Waits until each of `hosts` answers these addresses and nothing else, and says how long the last of them took.
    ///
    /// # Panics
    /// If one does not within 60 s.
    pub async fn answered(hosts: &[Host], addresses: &[IpAddr]) -> Duration {
        let begun = Instant::now();
        let each = hosts.iter().map(async |host| {
            eventually(&format!("{} answers {addresses:?}", host.name), BOUND, async || {
                let answer = host.resolve(Casa::NAME).await?;
                let right = answer.rcode == "NOERROR" && answer.addresses == addresses;
                if right { Ok(()) } else { Err(format!("{answer:?}")) }
            })
            .await;
        });
        futures_util::future::join_all(each).await;
        begun.elapsed()
    }
}

impl Host {
    /// Joins the cluster of `first`, which runs.
    ///
    /// # Panics
    /// If it is not let in.
    pub fn join(&self, first: &Host) {
        let made: Value = serde_json::from_str(&first.kith(&["invite", &self.name, "--json"])).expect("JSON");
        self.kith(&["join", made["token"].as_str().expect("a token")]);
    }

    /// Turns on what is off in a new configuration, and starts the agent: the daemon, tunnels, names for containers.
    ///
    /// # Panics
    /// If it is not ready within 30 s.
    pub async fn begin(&mut self) {
        self.configure(&[
            ("daemon", "enabled = true\nwireguard = true"),
            ("dns", &format!("listen = [\"127.0.0.1:53\", \"{}:53\"]", self.gateway())),
        ]);
        self.launch();
        self.ready().await;
    }

    /// Runs its container of the service on the network `kith`, once the daemon has made that, and says its address there.
    /// Docker starts it again when power is back.
    ///
    /// # Panics
    /// If Docker does not, or there is no network within 60 s.
    pub async fn run_api(&self) -> IpAddr {
        eventually(&format!("{} has the network kith", self.name), BOUND, async || {
            let networks = self.docker(&["network", "ls", "--format", "{{.Name}}"]);
            if networks.lines().any(|name| name == "kith") { Ok(()) } else { Err(networks) }
        })
        .await;
        let labels = ["--label", "kith.project=casa", "--label", "kith.service=api"];
        let gateway = self.gateway().to_string();
        let create = ["run", "--detach", "--network", "kith", "--name", CONTAINER, "--restart", "always"];
        let names = ["--dns", &gateway, "--label", &format!("kith.instance={}", self.name)];
        self.docker(&[&create[..], &names, &labels, &["lab:1", "/bin/sleep", "100000"]].concat());
        self.api_address()
    }

    /// Whether a packet that the container sends to `name` comes back.
    ///
    /// # Errors
    /// With what `ping` says.
    pub fn api_reaches(&self, name: &str) -> Result<(), String> {
        let mut ping = self.command("docker");
        let ping = ping.args(["exec", CONTAINER, "/bin/ping", "-c", "1", "-W", "1", name]).output();
        let ping = ping.map_err(|e| e.to_string())?;
        let said = format!("{}{}", String::from_utf8_lossy(&ping.stdout), String::from_utf8_lossy(&ping.stderr));
        if ping.status.success() { Ok(()) } else { Err(said) }
    }

    /// The address of the container now.
    ///
    /// # Panics
    /// If it has none.
    #[must_use]
    pub fn api_address(&self) -> IpAddr {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        self.docker(&["inspect", "--format", format, CONTAINER]).parse().expect("it has an address")
    }

    /// Waits until the container runs.
    ///
    /// # Panics
    /// If it does not within 60 s.
    pub async fn api_runs(&self) {
        eventually(&format!("the container of {} runs", self.name), BOUND, async || {
            let state = self.docker(&["inspect", "--format", "{{.State.Status}}", CONTAINER]);
            if state == "running" { Ok(()) } else { Err(state) }
        })
        .await;
    }
}
