//! Whole servers from nothing: a cluster made as an operator makes it, containers in a real Docker on each, power that goes
//! and comes back.

use kith_tests::lab::Casa;

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
