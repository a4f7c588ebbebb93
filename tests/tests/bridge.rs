//! Docker's network `kith` and the rules around it, kept by a daemon in a network of its own: with a Docker of the test's making, and
//! with a real one.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use kith_tests::lab::{Dockerd, Fleet, Node, ScriptedDocker, eventually};
use kith_tests::skip::skip;
use serde_json::{Value, json};

/// For a busy machine.
const BOUND: Duration = Duration::from_secs(60);
/// The network's, of server 7.
const RANGE: &str = "10.210.135.0/24";
const ONE: &str = "1111111111111111111111111111111111111111111111111111111111111111";

const RULES: [&str; 3] = [
    "-A DOCKER-USER -s 10.210.0.0/16 -d 10.210.135.0/24 -i kith0 -o kith-br -m comment --comment kith -j ACCEPT",
    "-A DOCKER-USER -s 10.210.135.0/24 -d 10.210.0.0/16 -i kith-br -o kith0 -m comment --comment kith -j ACCEPT",
    "-A POSTROUTING -s 10.210.135.0/24 ! -d 10.210.0.0/16 -m comment --comment kith -j MASQUERADE",
];

/// A command in the network of a node: whether it succeeded, and what it printed.
fn inside(node: &Node, resolver: &std::path::Path, arguments: &[&str]) -> (bool, String) {
    let output = node.beside(resolver).args(arguments).output().expect("nsenter runs");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// One node with a daemon that keeps the network; its Docker's socket, and a file for [`inside`].
struct One {
    fleet: Fleet,
    resolver: PathBuf,
    _folder: tempfile::TempDir,
}

impl One {
    async fn start(test: &str, socket: &std::path::Path) -> Option<One> {
        let prepare = |node: &mut Node| {
            node.set("daemon.enabled=true");
            node.set("daemon.network=true");
            node.set(format!("daemon.docker={}", socket.display()));
        };
        let fleet = Fleet::start(test, 1, prepare).await?;
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let resolver = folder.path().join("resolv.conf");
        std::fs::write(&resolver, "nameserver 127.0.0.1\n").expect("the folder can be written");
        let one = One { fleet, resolver, _folder: folder };
        if !one.runs(&["iptables", "-S"]).0 {
            skip(test, "`iptables` cannot be run");
            return None;
        }
        Some(one)
    }

    fn node(&self) -> &Node {
        &self.fleet.nodes[0]
    }

    fn runs(&self, arguments: &[&str]) -> (bool, String) {
        inside(self.node(), &self.resolver, arguments)
    }

    async fn number(&self) {
        let sql = "INSERT INTO servers (id, subnet) VALUES ('n1', '10.210.7.0/24') ON CONFLICT (id) DO UPDATE SET subnet = excluded.subnet";
        self.node().api().execute(sql, &json!([])).await.expect("written");
    }

    /// Our rules, of both tables.
    fn rules(&self) -> Vec<String> {
        let printed = ["filter", "nat"].map(|table| self.runs(&["iptables", "-w", "-t", table, "-S"]).1).concat();
        printed.lines().filter(|line| line.contains("--comment kith ")).map(str::to_owned).collect()
    }

    async fn has_rules(&self) -> Duration {
        let begun = Instant::now();
        eventually("the rules are there, each once", BOUND, async || {
            let mut rules = self.rules();
            rules.sort();
            let mut wanted = RULES;
            wanted.sort_unstable();
            if rules == wanted { Ok(()) } else { Err(format!("{rules:#?}")) }
        })
        .await;
        begun.elapsed()
    }

    async fn bridge(&self) -> Result<(Value, String), String> {
        let status = self.node().api().get("/v1/status").await?.json();
        let alarms = status["alarms"].as_array().into_iter().flatten().filter(|alarm| alarm["name"] == "bridge");
        let alarms: Vec<&str> = alarms.filter_map(|alarm| alarm["text"].as_str()).collect();
        Ok((status["parts"]["daemon"]["reconcilers"]["bridge"].clone(), alarms.join("\n")))
    }
}

#[tokio::test]
async fn the_network_and_its_rules_are_made_mended_and_never_taken_from_under_a_container() {
    let test = "the_network_and_its_rules_are_made_mended_and_never_taken_from_under_a_container";
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let socket = folder.path().join("docker.sock");
    let mut docker = ScriptedDocker::speaking("1.51", &socket);
    let Some(one) = One::start(test, &socket).await else { return };
    assert!(one.runs(&["iptables", "-N", "DOCKER-USER"]).0 && one.runs(&["iptables", "-P", "FORWARD", "DROP"]).0);
    // Without a number nothing is touched.
    eventually("it has looked", BOUND, async || {
        let (bridge, _) = one.bridge().await?;
        if bridge["passes"].as_u64() > Some(0) && bridge["detail"]["range"].is_null() {
            Ok(())
        } else {
            Err(bridge.to_string())
        }
    })
    .await;
    assert!(docker.network("kith").is_none() && one.rules().is_empty());

    one.number().await;
    let network =
        eventually("the network is made", BOUND, async || docker.network("kith").ok_or_else(String::new)).await;
    assert_eq!(network["IPAM"]["Config"], json!([{ "Subnet": RANGE, "Gateway": "10.210.135.1" }]));
    let options = json!({
        "com.docker.network.bridge.name": "kith-br",
        "com.docker.network.bridge.enable_ip_masquerade": "false",
        "com.docker.network.bridge.trusted_host_interfaces": "kith0",
        "com.docker.network.driver.mtu": "1420",
    });
    assert_eq!(network["Options"], options);
    one.has_rules().await;

    // Docker starts anew, and finds its chain empty.
    docker.leave().await;
    assert!(one.runs(&["iptables", "-F", "DOCKER-USER"]).0 && one.runs(&["iptables", "-t", "nat", "-F"]).0);
    docker.serve();
    let took = one.has_rules().await;
    eprintln!("Docker restarted → rules there again: {took:?}");
    docker.drop_network("kith");
    eventually("the network is made again", BOUND, async || docker.network("kith").map(drop).ok_or_else(String::new))
        .await;

    // Somebody makes another one, and a container is in it.
    docker.run(ONE, "172.18.0.2", &json!({ "kith.service": "api" }), None);
    docker.drop_network("kith");
    docker.make_network("kith", "172.18.0.0/16", &json!({}));
    eventually("it is an alarm", BOUND, async || {
        let (bridge, alarm) = one.bridge().await?;
        if alarm.contains("its range is 172.18.0.0/16") { Ok(()) } else { Err(format!("{alarm} {bridge}")) }
    })
    .await;
    let network = docker.network("kith").expect("it is there");
    assert_eq!(network["IPAM"]["Config"][0]["Subnet"], "172.18.0.0/16", "made anew under a container");
    docker.remove(ONE);
    docker.event_of_network("kith");
    eventually("it is made anew once nothing is in it", BOUND, async || {
        let network = docker.network("kith").unwrap_or_default();
        let (bridge, alarm) = one.bridge().await?;
        if network["Options"] == options && alarm.is_empty() {
            Ok(())
        } else {
            Err(format!("{network} {alarm} {bridge}"))
        }
    })
    .await;
}

#[tokio::test]
async fn a_real_docker_gets_its_network_and_keeps_it_over_a_restart() {
    let test = "a_real_docker_gets_its_network_and_keeps_it_over_a_restart";
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let socket = Dockerd::socket(folder.path());
    let Some(one) = One::start(test, &socket).await else { return };
    one.number().await;
    let Some(docker) = Dockerd::start_with_firewall(test, one.node(), folder).await else { return };
    let inspect = |format: &str| docker.docker(&["network", "inspect", "--format", format, "kith"]);
    eventually("the network is there", BOUND, async || {
        let names = docker.docker(&["network", "ls", "--format", "{{.Name}}"]);
        if names.lines().any(|name| name == "kith") { Ok(()) } else { Err(names) }
    })
    .await;
    assert_eq!(
        inspect("{{(index .IPAM.Config 0).Subnet}} {{(index .IPAM.Config 0).Gateway}}"),
        format!("{RANGE} 10.210.135.1")
    );
    one.has_rules().await;
    let made = inspect("{{.Id}}");
    let (there, link) = one.runs(&["ip", "-o", "address", "show", "dev", "kith-br"]);
    assert!(there && link.contains("10.210.135.1/24"), "{link}");
    // Nobody named its address, and it came after the start.
    eventually("DNS answers at the bridge", BOUND, async || {
        let answer = one.node().resolve_at(([10, 210, 135, 1], 53).into(), "local.node.internal").await?;
        if answer.rcode == "NOERROR" { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;

    docker.image();
    docker.docker(&["run", "--detach", "--network", "kith", "--name", "api-1", "lab:1", "/bin/sleep", "600"]);
    // What a reload of the firewall leaves of it.
    assert!(one.runs(&["iptables", "-F", "DOCKER-USER"]).0);
    docker.docker(&["network", "create", "other"]);
    let took = one.has_rules().await;
    eprintln!("a network was made → rules there again: {took:?}");
    eventually("all is well", BOUND, async || {
        let (bridge, alarm) = one.bridge().await?;
        let known = bridge["detail"]["containers"] == 1 && bridge["error"].is_null();
        if known && alarm.is_empty() { Ok(()) } else { Err(format!("{alarm} {bridge}")) }
    })
    .await;
    assert_eq!(inspect("{{.Id}}"), made, "made anew under a container");
}
