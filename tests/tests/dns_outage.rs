//! Promise G9: whatever is away, a name that is known is answered, and never denied.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use kith_tests::lab::{Authority, Lab, Node, agree, eventually};
use serde_json::json;
use tokio::net::UdpSocket;

/// For nodes to find each other, or to come back, on a busy machine.
const BOUND: Duration = Duration::from_secs(60);

const NAME: &str = "casa-api.internal";

async fn answers(node: &Node) -> Result<(), String> {
    let answer = node.resolve(NAME).await?;
    if answer.addresses.len() == 1 { Ok(()) } else { Err(format!("{answer:?}")) }
}

async fn fill(node: &Node) {
    let service = "INSERT INTO services (project, name) VALUES ('casa', 'api')";
    node.api().execute(service, &json!([])).await.expect("written");
    let insert = "INSERT INTO containers (id, project, service, server_id, instance_id, ip, started_at) \
                  VALUES ('aaaaaaaaaaa1', 'casa', 'api', 'n1', 'a', '10.210.0.1', 1)";
    node.api().execute(insert, &json!([])).await.expect("written");
}

#[tokio::test]
async fn g9_a_server_that_lost_its_database_denies_nothing_while_it_catches_up() {
    let lab = Lab::new("outage");
    let mut nodes = lab.nodes(&Authority::new("outage"), &["n1", "n2"]);
    nodes.iter_mut().for_each(Node::launch);
    for node in &mut nodes {
        node.ready().await;
    }
    fill(&nodes[0]).await;
    agree(&nodes, BOUND).await;
    eventually("both answer", BOUND, async || answers(&nodes[1]).await).await;

    nodes[1].kill();
    std::fs::remove_dir_all(nodes[1].data()).expect("its database is there");
    nodes[1].launch();
    let mut said = BTreeSet::new();
    eventually("it answers again", BOUND, async || {
        // From its first packet on: refused by the port, or no answer yet, is no denial.
        let answer = nodes[1].resolve(NAME).await?;
        said.insert(answer.rcode.clone());
        if answer.addresses.len() == 1 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    assert!(!said.contains("NXDOMAIN"), "what it said on the way: {said:?}");
}

/// Asks again and again while `what` lasts, a second long: each answer is the one there was before.
async fn goes_on(dns: &Node, what: &str) {
    let begun = Instant::now();
    let mut asked = 0;
    while begun.elapsed() < Duration::from_secs(1) {
        answers(dns).await.unwrap_or_else(|seen| panic!("{what}: {seen}"));
        asked += 1;
    }
    eprintln!("{what}: {asked} questions, all answered");
}

#[tokio::test]
async fn g9_who_dies_while_the_store_is_away_is_out_once_it_is_back() {
    let lab = Lab::new("outage");
    let [one, mut two] = <[Node; 2]>::try_from(lab.nodes(&Authority::new("outage"), &["n1", "n2"])).expect("two nodes");
    let [mut store, mut dns] = one.split();
    store.start().await;
    two.start().await;
    fill(&store).await;
    let insert = "INSERT INTO containers (id, project, service, server_id, instance_id, ip, started_at) \
                  VALUES ('aaaaaaaaaaa2', 'casa', 'api', 'n2', 'b', '10.210.0.2', 1)";
    two.api().execute(insert, &json!([])).await.expect("written");
    dns.launch();
    let answered = async |expected: &[&str]| {
        let begun = Instant::now();
        eventually(&format!("{expected:?} is answered"), BOUND, async || {
            let answer = dns.resolve(NAME).await?;
            let found: Vec<_> = answer.addresses.iter().map(ToString::to_string).collect();
            if found == expected { Ok(()) } else { Err(format!("{answer:?}")) }
        })
        .await;
        begun.elapsed()
    };
    answered(&["10.210.0.1", "10.210.0.2"]).await;

    store.kill();
    two.kill();
    // Not waited for: it is ready when it has caught up, and whom it would ask is gone.
    store.launch();
    let took = answered(&["10.210.0.1"]).await;
    eprintln!("out {took:.1?} after both were killed (promised: 12 s)");
}

/// A question for an address of `name`.
fn question(id: u16, name: &str) -> Vec<u8> {
    let mut bytes = Vec::from(id.to_be_bytes());
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

#[tokio::test]
async fn an_upstream_that_is_a_black_hole_leaves_own_names_answered_and_the_slow_path_bounded() {
    const TOGETHER: u16 = 150;
    const SERVFAIL: u8 = 2;
    let hole = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let lab = Lab::new("outage");
    let mut node = lab.nodes(&Authority::new("outage"), &["n1"]).remove(0);
    node.set(format!("dns.upstreams={}", hole.local_addr().expect("its address")));
    node.start().await;
    fill(&node).await;
    eventually("DNS answers", BOUND, async || answers(&node).await).await;

    let client = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    client.connect(node.at.dns).await.expect("loopback is there");
    let mut open = BTreeSet::new();
    for round in 0..4 {
        for id in (0..TOGETHER).map(|n| round * TOGETHER + n) {
            client.send(&question(id, &format!("h{id}.example.com"))).await.expect("loopback takes datagrams");
            open.insert(id);
        }
        goes_on(&node, "the upstream is a black hole").await;
        // Those who found no seat are told so at once; those who wait for an upstream do so for 2 s.
        let mut reply = [0; 512];
        while let Ok(length) = client.try_recv(&mut reply) {
            assert_eq!(reply[3] & 15, SERVFAIL, "{:02x?}", &reply[..length]);
            open.remove(&u16::from_be_bytes([reply[0], reply[1]]));
        }
        assert!(open.len() <= 3 * 64, "{} questions wait, from one source", open.len());
    }
    eventually("every question has its answer", BOUND, async || {
        let mut reply = [0; 512];
        while let Ok(length) = client.try_recv(&mut reply) {
            assert_eq!(reply[3] & 15, SERVFAIL, "{:02x?}", &reply[..length]);
            open.remove(&u16::from_be_bytes([reply[0], reply[1]]));
        }
        if open.is_empty() { Ok(()) } else { Err(format!("{open:?}")) }
    })
    .await;
    drop(hole);
}
