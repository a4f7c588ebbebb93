//! Promise G9: whatever is away, a name that is known is answered, and never denied.

use std::collections::BTreeSet;
use std::time::Duration;

use kith_tests::lab::{Authority, Lab, Node, agree, eventually};
use serde_json::json;

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
