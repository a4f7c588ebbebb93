//! Presence of a whole cluster: a center and two leaves that are told nothing of each other but what DNS says.

use std::net::SocketAddr;
use std::time::Duration;

use kith_tests::fetched::{browser, nats_server};
use kith_tests::lab::{Api, Browser, Dev, Run, eventually};
use serde_json::{Value, json};

/// For a busy machine.
const BOUND: Duration = Duration::from_secs(30);

/// Says how a user is, by the command line.
async fn set(dev: &Dev, node: usize, user: &str, status: &str) -> Run {
    let secret = dev.secret.as_ref().expect("it says so").display().to_string();
    let at = format!("http://{}", dev.presence[node]);
    let run = Run::of(["presence", "set", user, status, "--secret-file", &secret, "--at", &at]).await;
    assert_eq!(run.code, Some(0), "{run:?}");
    run
}

async fn shown(at: SocketAddr, user: &str) -> Result<Value, String> {
    let reply = Api::new(at).get(&format!("/api/v2/presence/{user}")).await?;
    Ok(reply.json()["data"][user].clone())
}

#[tokio::test]
async fn g12_leaves_that_know_nothing_but_dns_share_who_is_online_with_the_center() {
    let Some(server) = nats_server("g12_leaves_that_know_nothing_but_dns") else { return };
    let mut dev = Dev::presence(&server).await;
    assert_eq!(dev.presence, [11, 12, 13].map(|last| SocketAddr::from(([127, 0, 0, last], 8080))));
    set(&dev, 1, "ann", "busy").await;
    for node in [2, 0] {
        eventually(&format!("node {node} shows ann"), BOUND, async || {
            let record = shown(dev.presence[node], "ann").await?;
            let is_shown = record["status"] == "busy" && record["node_id"] == "n2" && record["stale"] == false;
            if is_shown { Ok(()) } else { Err(record.to_string()) }
        })
        .await;
    }
    set(&dev, 2, "ann", "away").await;
    eventually("the first leaf shows what was said on the second", BOUND, async || {
        let record = shown(dev.presence[1], "ann").await?;
        if record["status"] == "away" { Ok(()) } else { Err(record.to_string()) }
    })
    .await;
    // How they found the center: it is a row, the row is a name, and the name is all that the leaves' runners ask for.
    let rows = dev.api().query("SELECT server_id, role FROM nats_servers ORDER BY id").await.expect("rows");
    assert_eq!(rows, [json!(["n1", "center"]), json!(["n2", "leaf"]), json!(["n3", "leaf"])]);
    let dns = dev.nodes[1].dns.to_string();
    let run = Run::of(["resolve", "center.process.nats.internal", "--json", "--server", &dns]).await;
    let answer: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|e| panic!("{e}: {run:?}"));
    assert_eq!(answer["answers"][0]["value"], "127.0.0.11", "{answer}");
    for last in [12, 13] {
        let links = Api::new(([127, 0, 0, last], 8222).into()).get("/leafz").await.expect("nats-server answers");
        assert!(links.json()["leafnodes"] == 1 && links.body.contains("\"ip\": \"127.0.0.11\""), "{links:?}");
    }
    let begun = std::time::Instant::now();
    assert_eq!(dev.stop().await.code(), Some(0), "{}", dev.log());
    eprintln!("it stopped within {:?}", begun.elapsed());
}

/// The text of a user's row on the page, without the time that he was last seen; and how it is drawn.
fn row(user: &str) -> String {
    let row = format!("document.querySelector('tr[data-user={user}]')");
    format!("({row} ? [...{row}.cells].slice(0, 4).map(cell => cell.textContent).concat({row}.className) : null)")
}

#[tokio::test]
async fn the_page_of_a_node_shows_in_a_browser_who_comes_and_goes() {
    let test = "the_page_of_a_node_shows_in_a_browser_who_comes_and_goes";
    let (Some(server), Some(program)) = (nats_server(test), browser(test)) else { return };
    let mut dev = Dev::presence(&server).await;
    let mut page = Browser::open(&program, &format!("http://{}/", dev.presence[2])).await;
    let state = "document.getElementById('state')?.textContent";
    page.shows(state, &json!("following"), BOUND).await;
    page.shows(&row("bob"), &json!(["bob", "offline", "", "", "offline"]), BOUND).await;
    set(&dev, 1, "bob", "busy").await;
    page.shows(&row("bob"), &json!(["bob", "busy", "", "n2", "busy"]), BOUND).await;
    set(&dev, 1, "bob", "offline").await;
    page.shows(&row("bob"), &json!(["bob", "offline", "", "", "offline"]), BOUND).await;
    // Others are followed as soon as they are named, those before no longer.
    let named = "(users => { users.value = 'eve, ann'; users.dispatchEvent(new Event('change')); return 1 })(document.getElementById('users'))";
    page.evaluate(named).await;
    page.shows(&row("eve"), &json!(["eve", "offline", "", "", "offline"]), BOUND).await;
    assert_eq!(page.evaluate(&row("bob")).await, Value::Null);
    set(&dev, 2, "eve", "online").await;
    page.shows(&row("eve"), &json!(["eve", "online", "", "n3", "online"]), BOUND).await;
    // All of it came from the node itself.
    let loaded = "performance.getEntriesByType('resource').map(entry => new URL(entry.name).host)";
    let hosts = page.evaluate(loaded).await;
    let own = dev.presence[2].to_string();
    assert!(hosts.as_array().is_some_and(|hosts| hosts.iter().all(|host| *host == own)), "{hosts}");
    assert_eq!(dev.stop().await.code(), Some(0), "{}", dev.log());
    page.shows(state, &json!("connecting"), BOUND).await;
}
