use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::{Host, Listening, Place, Shape, Standing, Unknown};
use crate::name::Label;
use crate::peers::{Peers, Ports};
use crate::resolve::Answer;

const TTL: Duration = Duration::from_secs(5);

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn region(text: &str) -> Label {
    text.parse().expect("a name")
}

fn place(standing: Standing) -> Place {
    Place {
        cluster: region("nats"),
        zone: "internal".parse().expect("a zone"),
        region: Some(region("ams")),
        standing,
        address: ip("10.0.0.1"),
        host: Host::Own,
        ports: Listening::default(),
    }
}

/// Servers of the center, and who is in which region.
fn peers(center: &[&str], regions: &[(&str, &[&str])]) -> Peers {
    let now = Instant::now();
    let mut peers = Peers::default();
    peers.center.observe(&Answer::of(center.iter().map(|text| ip(text)), TTL), now);
    peers.observe_regions(&Answer::of(regions.iter().map(|(name, _)| region(name)), TTL), Some(&region("ams")), now);
    for (name, within) in regions {
        peers.observe_region(&region(name), &Answer::of(within.iter().map(|text| ip(text)), TTL), now);
    }
    peers
}

fn text(shape: &Shape) -> String {
    let list = |servers: &std::collections::BTreeSet<SocketAddr>| {
        servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    match shape {
        Shape::Lone => "lone".to_owned(),
        Shape::Leaf { remotes } => format!("remotes {}", list(remotes)),
        Shape::Center { routes, gateways } => {
            let gateways = gateways.iter().map(|(region, servers)| format!("; {region} {}", list(servers)));
            format!("routes {}{}", list(routes), gateways.collect::<String>())
        }
    }
}

#[test]
fn routes_are_the_center_of_the_region_and_gateways_the_center_of_each_other() {
    let peers = peers(
        &["10.0.0.1", "10.0.0.2", "10.1.0.1"],
        &[("ams", &["10.0.0.1", "10.0.0.2", "10.0.0.9"]), ("iad", &["10.1.0.1", "10.1.0.9"]), ("syd", &["10.2.0.9"])],
    );
    let shape = Shape::of(&place(Standing::Clustered), &peers).expect("peers");
    insta::assert_snapshot!(text(&shape), @"routes 10.0.0.1:6222 10.0.0.2:6222; iad 10.1.0.1:7222");
    assert_eq!(shape.others(ip("10.0.0.1")), 2);
    let shape = Shape::of(&place(Standing::Leaf), &peers).expect("peers");
    insta::assert_snapshot!(text(&shape), @"remotes 10.0.0.1:7422 10.0.0.2:7422 10.1.0.1:7422");
    assert_eq!(Shape::of(&place(Standing::Lone), &peers), Ok(Shape::Lone));
}

#[test]
fn a_server_alone_in_its_region_is_its_own_only_route() {
    let peers = peers(&["10.1.0.1"], &[("ams", &[]), ("iad", &["10.1.0.1"])]);
    let shape = Shape::of(&place(Standing::Clustered), &peers).expect("peers");
    insta::assert_snapshot!(text(&shape), @"routes 10.0.0.1:6222; iad 10.1.0.1:7222");
}

#[test]
fn a_clustered_server_that_knows_nobody_else_waits_and_a_leaf_without_center_does() {
    let none = Peers::default();
    assert_eq!(Shape::of(&place(Standing::Clustered), &none), Err(Unknown::Others));
    assert_eq!(Shape::of(&place(Standing::Leaf), &none), Err(Unknown::Center));
    let itself = peers(&["10.0.0.1"], &[("ams", &["10.0.0.1"])]);
    assert_eq!(Shape::of(&place(Standing::Clustered), &itself), Err(Unknown::Others));
}

#[test]
fn without_regions_the_center_is_one_cluster() {
    let peers = peers(&["10.0.0.1", "10.0.0.2"], &[]);
    let shape = Shape::of(&Place { region: None, ..place(Standing::Clustered) }, &peers).expect("peers");
    insta::assert_snapshot!(text(&shape), @"routes 10.0.0.1:6222 10.0.0.2:6222");
}

#[test]
fn each_server_is_counted_once_by_the_family_of_our_own_address() {
    let both = ["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"];
    let mut peers = peers(&both, &[("ams", &both)]);
    peers.routes = Ports { all: Some(16_222), of: [(ip("10.0.0.2"), 26_222)].into() };
    let shape = Shape::of(&place(Standing::Clustered), &peers).expect("peers");
    insta::assert_snapshot!(text(&shape), @"routes 10.0.0.1:6222 10.0.0.2:26222");
}
