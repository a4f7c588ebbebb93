//! Whole servers from nothing: a cluster made as an operator makes it, containers in a real Docker on each, power that goes
//! and comes back.

use std::time::{Duration, Instant};

use kith_tests::lab::{Casa, eventually};

/// For a busy machine. What is promised is printed beside what it took.
const BOUND: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_server_that_loses_power_is_out_of_answers_and_is_back_when_its_containers_run() {
    let test = "a_server_that_loses_power_is_out_of_answers_and_is_back_when_its_containers_run";
    let Some(Casa { mut hosts, switch }) = Casa::found(test, 3).await else { return };
    let mut addresses = Vec::new();
    for host in &hosts {
        addresses.push(host.run_api().await);
    }
    Casa::answered(&hosts, &addresses).await;

    switch.kill(&mut hosts[2]);
    let out = Casa::answered(&hosts[..2], &addresses[..2]).await;
    eprintln!("power lost → out of answers on the others: {out:?}, promised 12 s");

    switch.start(&hosts[2]);
    hosts[2].api_runs().await;
    addresses[2] = hosts[2].api_address();
    hosts[2].launch();
    let back = Casa::answered(&hosts[..2], &addresses).await;
    eprintln!("agent started, containers up → answered on the others: {back:?}, promised 2 s");
    hosts[2].ready().await;
    Casa::answered(&hosts, &addresses).await;
}

#[tokio::test]
async fn containers_of_three_servers_made_from_nothing_reach_each_other_by_name() {
    let test = "containers_of_three_servers_made_from_nothing_reach_each_other_by_name";
    let Some(mut casa) = Casa::first(test, 3).await else { return };
    let mut joined = Instant::now();
    for number in 0..casa.hosts.len() {
        let (before, rest) = casa.hosts.split_at_mut(number);
        let host = &mut rest[0];
        if let Some(first) = before.first() {
            host.join(first);
            joined = Instant::now();
            host.begin().await;
        }
        host.run_api().await;
    }
    for from in &casa.hosts {
        for to in &casa.hosts {
            let name = format!("casa-api-{}.internal", to.name);
            eventually(&format!("the container of {} reaches {name}", from.name), BOUND, async || {
                from.api_reaches(&name)
            })
            .await;
        }
    }
    eprintln!("the third joined → every container reaches every other by name: {:?}, promised 5 s", joined.elapsed());
}
