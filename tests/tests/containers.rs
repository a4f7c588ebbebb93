//! The containers of a server as rows and names: what Docker runs is answered, what it does not is not. Docker is the test's,
//! and once a real one.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use kith_tests::lab::{Authority, Dockerd, Fleet, Lab, Node, Run, ScriptedDocker, eventually};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// For a busy machine. What is promised is printed beside what it took.
const BOUND: Duration = Duration::from_secs(30);

const ONE: &str = "1111111111111111111111111111111111111111111111111111111111111111";
const TWO: &str = "2222222222222222222222222222222222222222222222222222222222222222";
const NAME: &str = "casa-api.internal";

/// Servers, the first with a Docker.
struct Servers {
    nodes: Vec<Node>,
    docker: ScriptedDocker,
    _lab: Lab,
}

async fn servers(names: &[&str]) -> Servers {
    let lab = Lab::new("casa");
    let mut nodes = lab.nodes(&Authority::new("casa"), names);
    let socket: PathBuf = lab.folder(names[0]).join("docker.sock");
    let docker = ScriptedDocker::at(&socket);
    for (node, number) in nodes.iter_mut().zip(0..) {
        node.set("daemon.enabled=true");
        let socket = if number == 0 { socket.display().to_string() } else { "none".to_owned() };
        node.set(format!("daemon.docker={socket}"));
        node.launch();
    }
    for node in &mut nodes {
        node.ready().await;
    }
    Servers { nodes, docker, _lab: lab }
}

fn labels(instance: &str) -> Value {
    json!({ "kith.project": "casa", "kith.service": "api", "kith.instance": instance, "kith.ports": "http:8080/tcp" })
}

async fn row(node: &Node, id: &str) -> Result<Value, String> {
    let select = format!(
        "SELECT project, service, server_id, instance_id, ip, health_status, health_reason, health_port FROM containers WHERE id = '{id}'"
    );
    Ok(node.api().query(&select).await?.into_iter().next().unwrap_or(Value::Null))
}

/// Waits until the row is as `is` says, and says how long it took.
async fn eventually_row(node: &Node, id: &str, what: &str, is: impl Fn(&Value) -> bool) -> Duration {
    let begun = Instant::now();
    eventually(&format!("the row of {} on {} {what}", &id[..4], node.name), BOUND, async || {
        let row = row(node, id).await?;
        if is(&row) { Ok(()) } else { Err(row.to_string()) }
    })
    .await;
    begun.elapsed()
}

async fn answers(node: &Node, addresses: &[&str]) -> Duration {
    let begun = Instant::now();
    eventually(&format!("{} answers {addresses:?}", node.name), BOUND, async || {
        let answer = node.resolve(NAME).await?;
        let mut found: Vec<_> = answer.addresses.iter().map(ToString::to_string).collect();
        found.sort();
        if answer.rcode == "NOERROR" && found == addresses { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    begun.elapsed()
}

async fn containers(node: &Node) -> Result<Value, String> {
    let status = node.api().get("/v1/status").await?.json();
    Ok(status["parts"]["daemon"]["reconcilers"]["containers"].clone())
}

#[tokio::test]
async fn g8_what_docker_runs_is_answered_everywhere_and_what_it_stops_is_not() {
    let Servers { _lab, nodes, docker } = servers(&["one", "two"]).await;
    let [one, two] = &nodes[..] else { panic!("two nodes were made") };
    docker.run(ONE, "10.210.128.7", &labels("a"), None);
    docker.run(TWO, "10.210.128.8", &labels("b"), Some("starting"));
    answers(two, &["10.210.128.7"]).await;
    let row = row(one, ONE).await.expect("a row");
    assert_eq!(row, json!(["casa", "api", "one", "a", "10.210.128.7", "healthy", "", null]));

    docker.health(TWO, "healthy");
    let took =
        tokio::join!(answers(one, &["10.210.128.7", "10.210.128.8"]), answers(two, &["10.210.128.7", "10.210.128.8"]));
    eprintln!("Docker's healthy event → answered: {took:?}, promised 1 s on all");
    docker.kill(ONE);
    let took = tokio::join!(answers(one, &["10.210.128.8"]), answers(two, &["10.210.128.8"]));
    eprintln!("killed → out of answers: here and there {took:?}, promised 0.5 s and 1 s");
    eventually_row(one, ONE, "keeps its address", |row| row[4] == "10.210.128.7" && row[6] == "stopped").await;
    docker.run(ONE, "10.210.128.9", &labels("a"), None);
    answers(two, &["10.210.128.8", "10.210.128.9"]).await;
    docker.pause(TWO);
    answers(two, &["10.210.128.9"]).await;
    docker.unpause(TWO);
    answers(two, &["10.210.128.8", "10.210.128.9"]).await;
    docker.remove(TWO);
    eventually_row(two, TWO, "is gone", Value::is_null).await;
    answers(two, &["10.210.128.9"]).await;
}

#[tokio::test]
async fn a_container_row_that_somebody_deletes_or_changes_is_put_right_within_10_s() {
    let Servers { _lab, nodes, docker } = servers(&["one"]).await;
    let one = &nodes[0];
    docker.run(ONE, "10.210.128.7", &labels("a"), None);
    let whole = |row: &Value| *row == json!(["casa", "api", "one", "a", "10.210.128.7", "healthy", "", null]);
    eventually_row(one, ONE, "is there", whole).await;
    // A row in this server's name that Docker knows nothing of is another tool's.
    let write = async |sql: &str| {
        one.api().execute(sql, &json!([])).await.expect("it is written");
    };
    write(
        "INSERT INTO containers (id, service, server_id, ip) VALUES ('eeeeeeeeeeee', 'other', 'one', '10.210.128.99')",
    )
    .await;
    write(&format!("DELETE FROM containers WHERE id = '{ONE}'")).await;
    let took = eventually_row(one, ONE, "is back", whole).await;
    assert!(took <= Duration::from_secs(10), "deleted, back after {took:?}");
    write(&format!("UPDATE containers SET ip = '10.9.9.9', health_status = 'unhealthy' WHERE id = '{ONE}'")).await;
    let took = eventually_row(one, ONE, "is right", whole).await;
    assert!(took <= Duration::from_secs(10), "changed, put right after {took:?}");
    assert!(!row(one, "eeeeeeeeeeee").await.expect("an answer").is_null(), "another tool's row was deleted");
    eventually("status names it", BOUND, async || {
        let status = containers(one).await?;
        if status["detail"]["not_in_docker"] == json!(["eeeeeeeeeeee"]) { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    let boot = one.api().query("SELECT boot_id FROM servers WHERE id = 'one'").await.expect("rows");
    assert_eq!(boot, [json!(["boot-one"])]);
}

#[tokio::test]
async fn while_docker_hangs_or_is_gone_probes_go_on_and_nothing_is_deleted() {
    let Servers { _lab, nodes, mut docker } = servers(&["one"]).await;
    let one = &nodes[0];
    // What is probed listens on an address of this node's own.
    let listener = TcpListener::bind((one.at.api.ip(), 0)).await.expect("a free port");
    let at = listener.local_addr().expect("an address");
    let mut probed = labels("b");
    probed["kith.health"] = json!(format!("tcp:{}", at.port()));
    docker.run(ONE, "10.210.128.7", &labels("a"), Some("healthy"));
    docker.run(TWO, &at.ip().to_string(), &probed, None);
    let is = |status: &'static str| move |row: &Value| row[5] == status;
    eventually_row(one, ONE, "is healthy", is("healthy")).await;
    let took = eventually_row(one, TWO, "is healthy", is("healthy")).await;
    eprintln!("first successful probe → row: {took:?}, promised 1 s to answers");
    assert_eq!(row(one, TWO).await.expect("a row")[7], json!(at.port()));

    docker.leave().await;
    eventually_row(one, ONE, "is unknown", is("unknown")).await;
    drop(listener);
    eventually_row(one, TWO, "is degraded", is("degraded")).await;
    eventually_row(one, TWO, "is unhealthy", is("unhealthy")).await;
    let listener = TcpListener::bind(at).await.expect("the same port");
    eventually_row(one, TWO, "is healthy again", is("healthy")).await;
    assert_eq!(row(one, ONE).await.expect("a row")[5], "unknown");

    docker.serve();
    eventually_row(one, ONE, "is healthy again", is("healthy")).await;
    docker.hang();
    docker.kill(ONE);
    drop(listener);
    eventually_row(one, TWO, "is unhealthy though Docker hangs", is("unhealthy")).await;
    docker.go_on();
    eventually_row(one, ONE, "has stopped", |row| row[6] == "stopped").await;
}

#[tokio::test]
async fn a_daemon_beside_the_store_goes_on_over_a_restart_of_either() {
    let lab = Lab::new("casa");
    let mut node = lab.nodes(&Authority::new("casa"), &["one"]).pop().expect("a node was made");
    let socket = lab.folder("one").join("docker.sock");
    let docker = ScriptedDocker::at(&socket);
    node.set(format!("daemon.docker={}", socket.display()));
    let [mut store, mut daemon] = node.alone(["gossip", "daemon"]);
    // It may start first.
    daemon.launch();
    store.start().await;
    docker.run(ONE, "10.210.128.7", &labels("a"), Some("healthy"));
    docker.run(TWO, "10.210.128.8", &labels("b"), None);
    let healthy = |row: &Value| row[5] == "healthy";
    eventually_row(&store, ONE, "is healthy", healthy).await;
    eventually_row(&store, TWO, "is healthy", healthy).await;

    store.kill();
    docker.health(ONE, "unhealthy");
    store.start().await;
    let took = eventually_row(&store, ONE, "is unhealthy", |row| row[5] == "unhealthy").await;
    eprintln!("unhealthy while the store was away → row: {took:?} after its start");

    // What goes while the daemon is away is missed by the next one, in two full lists.
    daemon.kill();
    docker.remove(TWO);
    daemon.launch();
    eventually_row(&store, TWO, "is gone", Value::is_null).await;
    docker.health(ONE, "healthy");
    eventually_row(&store, ONE, "is healthy again", healthy).await;
}

#[tokio::test]
async fn kith_ps_lists_containers_and_says_why_others_are_not_listed() {
    let Servers { _lab, nodes, docker } = servers(&["one", "two"]).await;
    docker.run(ONE, "10.210.128.7", &labels("a"), Some("starting"));
    docker.run_in("bridge", TWO, "172.17.0.2", &labels("b"), None);
    eventually_row(&nodes[1], ONE, "is there", |row| !row.is_null()).await;
    let ps = async |node: &Node, more: &[&str]| {
        let api = format!("http://{}", node.at.api);
        let run = Run::of(["ps", "--api", &api].iter().chain(more)).await;
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        run.stdout
    };
    let listed = "111111111111  casa/api  a     one     10.210.128.7  unhealthy  starting\n";
    let head = "CONTAINER     SERVICE   SLOT  SERVER  ADDRESS       HEALTH     WHY\n";
    assert_eq!(ps(&nodes[0], &[]).await, format!("{head}{listed}"));
    assert_eq!(ps(&nodes[1], &[]).await, "CONTAINER  SERVICE  SLOT  SERVER  ADDRESS  HEALTH  WHY\n");
    assert_eq!(ps(&nodes[1], &["--all"]).await, format!("{head}{listed}"));
    eventually("it says why", BOUND, async || {
        let lines = ps(&nodes[0], &["--why", "--json"]).await;
        let other = lines.lines().find(|line| line.contains("222222222222")).ok_or_else(|| lines.clone())?;
        let other: Value = serde_json::from_str(other).map_err(|e| e.to_string())?;
        let said = (&other["health"], &other["reason"]);
        if said == (&json!("not listed"), &json!("it is not in the network kith")) { Ok(()) } else { Err(lines) }
    })
    .await;
}

#[tokio::test]
async fn g8_a_real_docker_is_followed() {
    let test = "g8_a_real_docker_is_followed";
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let socket = Dockerd::socket(folder.path());
    let prepare = |node: &mut Node| {
        node.set("daemon.enabled=true");
        node.set(format!("daemon.docker={}", socket.display()));
    };
    let Some(fleet) = Fleet::start(test, 1, prepare).await else { return };
    let one = &fleet.nodes[0];
    // It comes after the daemon.
    let Some(docker) = Dockerd::start(test, one, folder).await else { return };
    docker.image();
    docker.docker(&["network", "create", "--subnet", "10.210.129.0/24", "kith"]);
    let run = ["run", "--detach", "--network", "kith", "--label", "kith.project=casa", "--label", "kith.service=api"];
    let address = |name: &str| {
        let format = "{{.NetworkSettings.Networks.kith.IPAddress}}";
        docker.docker(&["inspect", "--format", format, name])
    };

    docker.docker(&[&run[..], &["--name", "casa-1", "lab:1", "/bin/sleep", "600"]].concat());
    let first = address("casa-1");
    let took = answers(one, &[&first]).await;
    eprintln!("docker run → answered: {took:?} after it returned");

    let check = ["--health-cmd", "test -f /tmp-ok", "--health-interval", "1s", "--name", "casa-2"];
    docker.docker(&[&run[..], &check[..], &["lab:1", "/bin/sleep", "600"]].concat());
    let second = address("casa-2");
    let id = docker.docker(&["inspect", "--format", "{{.Id}}", "casa-2"]);
    eventually_row(one, &id, "starts as unhealthy", |row| row[5] == "unhealthy" && row[6] == "starting").await;
    docker.docker(&["exec", "casa-2", "/bin/touch", "/tmp-ok"]);
    let mut both = [first.as_str(), second.as_str()];
    both.sort_unstable();
    answers(one, &both).await;

    docker.docker(&["kill", "casa-1"]);
    let took = answers(one, &[&second]).await;
    eprintln!("docker kill → out of answers: {took:?} after it returned, promised 0.5 s");
    docker.docker(&["start", "casa-1"]);
    let mut both = [address("casa-1"), second.clone()];
    both.sort_unstable();
    answers(one, &[&both[0], &both[1]]).await;
    docker.docker(&["pause", "casa-2"]);
    answers(one, &[&address("casa-1")]).await;
    docker.docker(&["unpause", "casa-2"]);
    docker.docker(&["rm", "--force", "casa-2"]);
    eventually_row(one, &id, "is gone", Value::is_null).await;
    answers(one, &[&address("casa-1")]).await;
}
