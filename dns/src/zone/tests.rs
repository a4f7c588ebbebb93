//! Every form of name, and what stands there.

use std::sync::LazyLock;
use std::time::Duration;

use proptest::prelude::*;

use super::{Owner, Shards, Zone};
use crate::answer::Transport;
use crate::feed::{Event, Member, MemberState};
use crate::testing::{
    ELSEWHERE, Row, addresses, ask, ask_as, container, dig, member, metadata, nats, query, server, service, snapshot,
    text, zone, zone_of,
};

/// Two servers in two regions, a service with three instances, a NATS cluster.
fn rows() -> Vec<Row> {
    let s1 = server("s1").set("wireguard_ip", "10.210.1.1").set("management_ip", "fdcc::1").set("region", "ams");
    let s2 = server("s2").set("wireguard_ip", "10.210.2.1").set("region", "iad");
    let ports = r#"[{"name":"http","proto":"tcp","port":80},{"name":"metrics","proto":"tcp","port":9100}]"#;
    let own_ports = r#"[{"name":"http","proto":"tcp","port":8080}]"#;
    vec![
        s1,
        s2,
        service("casa", "api").set("ports", ports),
        service("casa", "db").set("ttl", 30),
        container("aa", "casa/api", "10.210.128.1").set("instance_id", "one").set("ports", own_ports),
        container("ab", "casa/api", "10.210.128.2").set("instance_id", "two").set("ip6", "fd00:210::2"),
        container("ac", "casa/api", "10.210.129.3").set("instance_id", "one").set("server_id", "s2"),
        nats("n1", "nats", "10.210.1.1").set("role", "center").set("region", "ams").set("client_port", 4222),
        nats("n2", "nats", "10.210.2.1").set("role", "leaf").set("server_id", "s2").set("leaf_port", 7422),
    ]
}

#[test]
fn a_service_answers_under_all_its_names() {
    let zone = zone(rows());
    insta::assert_snapshot!(dig(&zone, &[
        ("casa-api.internal", "A"),
        ("global.casa-api.internal", "AAAA"),
        ("api.casa.svc.internal", "A"),
        ("CASA-api-One.Internal", "A"),
        ("one.api.casa.svc.internal", "A"),
        ("iad.casa-api.internal", "A"),
        ("abababababab.vm.casa-api.internal", "A"),
        ("abababababab.vm.casa-api.internal", "AAAA"),
    ]), @r#"
    casa-api.internal A: No Error AA
      casa-api.internal. 5 IN A 10.210.128.1
      casa-api.internal. 5 IN A 10.210.128.2
      casa-api.internal. 5 IN A 10.210.129.3
    global.casa-api.internal AAAA: No Error AA
      global.casa-api.internal. 5 IN AAAA fd00:210::2
    api.casa.svc.internal A: No Error AA
      api.casa.svc.internal. 5 IN A 10.210.128.1
      api.casa.svc.internal. 5 IN A 10.210.128.2
      api.casa.svc.internal. 5 IN A 10.210.129.3
    CASA-api-One.Internal A: No Error AA
      CASA-api-One.Internal. 5 IN A 10.210.128.1
      CASA-api-One.Internal. 5 IN A 10.210.129.3
    one.api.casa.svc.internal A: No Error AA
      one.api.casa.svc.internal. 5 IN A 10.210.128.1
      one.api.casa.svc.internal. 5 IN A 10.210.129.3
    iad.casa-api.internal A: No Error AA
      iad.casa-api.internal. 5 IN A 10.210.129.3
    abababababab.vm.casa-api.internal A: No Error AA
      abababababab.vm.casa-api.internal. 5 IN A 10.210.128.2
    abababababab.vm.casa-api.internal AAAA: No Error AA
      abababababab.vm.casa-api.internal. 5 IN AAAA fd00:210::2
    "#);
}

#[test]
fn a_nats_cluster_answers_under_all_its_names() {
    let zone = zone(rows());
    insta::assert_snapshot!(dig(&zone, &[
        ("nats.internal", "A"),
        ("center.process.nats.internal", "A"),
        ("leaf.process.nats.internal", "A"),
        ("ams.nats.internal", "A"),
        ("n1.vm.nats.internal", "A"),
        ("_nats._tcp.nats.internal", "SRV"),
        ("_nats-leaf._tcp.nats.internal", "SRV"),
        ("_nats-gateway._tcp.nats.internal", "SRV"),
    ]), @r#"
    nats.internal A: No Error AA
      nats.internal. 5 IN A 10.210.1.1
      nats.internal. 5 IN A 10.210.2.1
    center.process.nats.internal A: No Error AA
      center.process.nats.internal. 5 IN A 10.210.1.1
    leaf.process.nats.internal A: No Error AA
      leaf.process.nats.internal. 5 IN A 10.210.2.1
    ams.nats.internal A: No Error AA
      ams.nats.internal. 5 IN A 10.210.1.1
    n1.vm.nats.internal A: No Error AA
      n1.vm.nats.internal. 5 IN A 10.210.1.1
    _nats._tcp.nats.internal SRV: No Error AA
      _nats._tcp.nats.internal. 5 IN SRV 0 1 4222 n1.vm.nats.internal.
      additional: n1.vm.nats.internal. 5 IN A 10.210.1.1
    _nats-leaf._tcp.nats.internal SRV: No Error AA
      _nats-leaf._tcp.nats.internal. 5 IN SRV 0 1 7422 n2.vm.nats.internal.
      additional: n2.vm.nats.internal. 5 IN A 10.210.2.1
    _nats-gateway._tcp.nats.internal SRV: No Error AA
      authority: internal. 5 IN SOA internal. nobody.invalid. 7 3600 600 86400 5
    "#);
}

#[test]
fn srv_has_the_containers_port_before_the_services_and_addresses_along() {
    let zone = zone(rows());
    insta::assert_snapshot!(dig(&zone, &[
        ("_http._tcp.casa-api.internal", "SRV"),
        ("_metrics._tcp.api.casa.svc.internal", "SRV"),
    ]), @r#"
    _http._tcp.casa-api.internal SRV: No Error AA
      _http._tcp.casa-api.internal. 5 IN SRV 0 1 80 abababababab.vm.casa-api.internal.
      _http._tcp.casa-api.internal. 5 IN SRV 0 1 80 acacacacacac.vm.casa-api.internal.
      _http._tcp.casa-api.internal. 5 IN SRV 0 1 8080 aaaaaaaaaaaa.vm.casa-api.internal.
      additional: abababababab.vm.casa-api.internal. 5 IN A 10.210.128.2
      additional: abababababab.vm.casa-api.internal. 5 IN AAAA fd00:210::2
      additional: acacacacacac.vm.casa-api.internal. 5 IN A 10.210.129.3
      additional: aaaaaaaaaaaa.vm.casa-api.internal. 5 IN A 10.210.128.1
    _metrics._tcp.api.casa.svc.internal SRV: No Error AA
      _metrics._tcp.api.casa.svc.internal. 5 IN SRV 0 1 9100 aaaaaaaaaaaa.vm.casa-api.internal.
      _metrics._tcp.api.casa.svc.internal. 5 IN SRV 0 1 9100 abababababab.vm.casa-api.internal.
      _metrics._tcp.api.casa.svc.internal. 5 IN SRV 0 1 9100 acacacacacac.vm.casa-api.internal.
      additional: aaaaaaaaaaaa.vm.casa-api.internal. 5 IN A 10.210.128.1
      additional: abababababab.vm.casa-api.internal. 5 IN A 10.210.128.2
      additional: abababababab.vm.casa-api.internal. 5 IN AAAA fd00:210::2
      additional: acacacacacac.vm.casa-api.internal. 5 IN A 10.210.129.3
    "#);
}

#[test]
fn lists_are_texts_in_the_forms_that_clients_parse() {
    let zone = zone(rows());
    insta::assert_snapshot!(dig(&zone, &[
        ("regions.casa-api.internal", "TXT"),
        ("vms.casa-api.internal", "TXT"),
        ("vms.nats.internal", "TXT"),
        ("_apps.internal", "TXT"),
        ("_instances.internal", "TXT"),
        ("regions.casa-db.internal", "TXT"),
    ]), @r#"
    regions.casa-api.internal TXT: No Error AA
      regions.casa-api.internal. 5 IN TXT ams,iad
    vms.casa-api.internal TXT: No Error AA
      vms.casa-api.internal. 5 IN TXT aaaaaaaaaaaa ams,abababababab ams,acacacacacac iad
    vms.nats.internal TXT: No Error AA
      vms.nats.internal. 5 IN TXT n1 ams,n2 iad
    _apps.internal TXT: No Error AA
      _apps.internal. 5 IN TXT casa-api,casa-db,nats
    _instances.internal TXT: No Error AA
      _instances.internal. 5 IN TXT instance=aaaaaaaaaaaa,app=casa-api,ip=10.210.128.1,region=ams;instance=abababababab,app=casa-api,ip=10.210.128.2,region=ams;instance=acacacacacac,app=casa-api,ip=10.210.129.3,region=iad;instance=n1,app=nats,ip=10.210.1.1,region=ams;instance=n2,app=nats,ip=10.210.2.1,region=iad
    regions.casa-db.internal TXT: No Error AA
      authority: internal. 5 IN SOA internal. nobody.invalid. 7 3600 600 86400 5
    "#);
}

#[test]
fn servers_and_addresses_have_names() {
    let zone = zone(rows());
    insta::assert_snapshot!(dig(&zone, &[
        ("s1.node.internal", "A"),
        ("local.node.internal", "AAAA"),
        ("s2.node.internal", "AAAA"),
        ("1.1.210.10.in-addr.arpa", "PTR"),
        ("2.128.210.10.in-addr.arpa", "PTR"),
        ("2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.2.0.0.0.d.f.ip6.arpa", "PTR"),
        ("1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.c.c.d.f.ip6.arpa", "PTR"),
        ("128.210.10.in-addr.arpa", "PTR"),
        ("9.128.210.10.in-addr.arpa", "PTR"),
        ("210.10.in-addr.arpa", "NS"),
        ("1.1.168.192.in-addr.arpa", "PTR"),
    ]), @r#"
    s1.node.internal A: No Error AA
      s1.node.internal. 5 IN A 10.210.1.1
    local.node.internal AAAA: No Error AA
      local.node.internal. 5 IN AAAA fdcc::1
    s2.node.internal AAAA: No Error AA
      authority: internal. 5 IN SOA internal. nobody.invalid. 7 3600 600 86400 5
    1.1.210.10.in-addr.arpa PTR: No Error AA
      1.1.210.10.in-addr.arpa. 5 IN PTR s1.node.internal.
    2.128.210.10.in-addr.arpa PTR: No Error AA
      2.128.210.10.in-addr.arpa. 5 IN PTR abababababab.vm.casa-api.internal.
    2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.2.0.0.0.d.f.ip6.arpa PTR: No Error AA
      2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.2.0.0.0.d.f.ip6.arpa. 5 IN PTR abababababab.vm.casa-api.internal.
    1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.c.c.d.f.ip6.arpa PTR: No Error AA
      1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.c.c.d.f.ip6.arpa. 5 IN PTR s1.node.internal.
    128.210.10.in-addr.arpa PTR: No Error AA
      authority: 210.10.in-addr.arpa. 5 IN SOA 210.10.in-addr.arpa. nobody.invalid. 7 3600 600 86400 5
    9.128.210.10.in-addr.arpa PTR: Non-Existent Domain AA
      authority: 210.10.in-addr.arpa. 5 IN SOA 210.10.in-addr.arpa. nobody.invalid. 7 3600 600 86400 5
    210.10.in-addr.arpa NS: No Error AA
      210.10.in-addr.arpa. 5 IN NS local.node.internal.
      additional: local.node.internal. 5 IN A 10.210.1.1
      additional: local.node.internal. 5 IN AAAA fdcc::1
    1.1.168.192.in-addr.arpa PTR: Query Refused
    "#);
}

#[test]
fn negatives_are_nodata_for_what_exists_and_nxdomain_for_what_does_not() {
    let zone = zone(rows());
    insta::assert_snapshot!(dig(&zone, &[
        ("casa-api.internal", "TXT"),
        ("casa-db.internal", "A"),
        ("vm.casa-api.internal", "A"),
        ("svc.internal", "A"),
        ("_tcp.casa-api.internal", "SRV"),
        ("iad.casa-db.internal", "A"),
        ("fra.casa-db.internal", "A"),
        ("nope.internal", "A"),
        ("nope.internal", "TYPE65280"),
        ("x.casa-api.internal", "A"),
        ("x.one.api.casa.svc.internal", "A"),
        ("internal", "A"),
        ("internal", "SOA"),
        ("internal", "NS"),
        ("www.example.com", "A"),
        ("xinternal", "A"),
    ]), @r#"
    casa-api.internal TXT: No Error AA
      authority: internal. 5 IN SOA internal. nobody.invalid. 7 3600 600 86400 5
    casa-db.internal A: No Error AA
      authority: internal. 5 IN SOA internal. nobody.invalid. 7 3600 600 86400 5
    vm.casa-api.internal A: No Error AA
      authority: internal. 5 IN SOA internal. nobody.invalid. 7 3600 600 86400 5
    svc.internal A: No Error AA
      authority: internal. 5 IN SOA internal. nobody.invalid. 7 3600 600 86400 5
    _tcp.casa-api.internal SRV: No Error AA
      authority: internal. 5 IN SOA internal. nobody.invalid. 7 3600 600 86400 5
    iad.casa-db.internal A: No Error AA
      authority: internal. 5 IN SOA internal. nobody.invalid. 7 3600 600 86400 5
    fra.casa-db.internal A: Non-Existent Domain AA
      authority: internal. 5 IN SOA internal. nobody.invalid. 7 3600 600 86400 5
    nope.internal A: Non-Existent Domain AA
      authority: internal. 5 IN SOA internal. nobody.invalid. 7 3600 600 86400 5
    nope.internal TYPE65280: Non-Existent Domain AA
      authority: internal. 5 IN SOA internal. nobody.invalid. 7 3600 600 86400 5
    x.casa-api.internal A: Non-Existent Domain AA
      authority: internal. 5 IN SOA internal. nobody.invalid. 7 3600 600 86400 5
    x.one.api.casa.svc.internal A: Non-Existent Domain AA
      authority: internal. 5 IN SOA internal. nobody.invalid. 7 3600 600 86400 5
    internal A: No Error AA
      authority: internal. 5 IN SOA internal. nobody.invalid. 7 3600 600 86400 5
    internal SOA: No Error AA
      internal. 5 IN SOA internal. nobody.invalid. 7 3600 600 86400 5
    internal NS: No Error AA
      internal. 5 IN NS local.node.internal.
      additional: local.node.internal. 5 IN A 10.210.1.1
      additional: local.node.internal. 5 IN AAAA fdcc::1
    www.example.com A: Query Refused
    xinternal A: Non-Existent Domain AA
      authority: . 5 IN SOA . nobody.invalid. 1 3600 1200 604800 5
    "#);
}

#[test]
fn a_region_is_known_while_a_server_that_is_not_removed_is_in_it() {
    let mut rows = rows();
    rows.push(server("s3").set("region", "fra").set("removed_at", 5));
    rows.push(container("ad", "casa/db", "10.210.128.9").set("server_id", "s3"));
    rows.push(nats("n3", "nats", "10.210.1.3").set("role", "leaf").set("region", "nrt"));
    let zone = zone(rows);
    for name in ["fra.casa-db.internal", "fra.casa-api.internal", "nrt.nats.internal"] {
        assert_eq!(addresses(&zone, name), "Non-Existent Domain", "{name}");
    }
    assert_eq!(addresses(&zone, "ams.casa-db.internal"), "-");
    assert_eq!(addresses(&zone, "nats.internal"), "10.210.1.1 10.210.1.3 10.210.2.1");
    let regions = text(&ask(&zone, &query("regions.nats.internal", "TXT")));
    assert!(regions.ends_with(" TXT ams,iad"), "{regions}");
}

#[test]
fn a_service_may_keep_its_answers_for_another_time() {
    let mut rows = rows();
    rows.push(container("ad", "casa/db", "10.210.128.9"));
    let answer = ask(&zone(rows), &query("casa-db.internal", "A"));
    assert_eq!(answer.answers[0].ttl, 30);
}

#[test]
fn every_zone_serves_the_same_names() {
    let mut config = crate::testing::config();
    config.zones.push("fleet.example".parse().unwrap());
    let facts = crate::testing::facts(snapshot(rows()));
    let zone = Zone::build(&facts, &(&config).into(), 1);
    insta::assert_snapshot!(dig(&zone, &[
        ("casa-api-two.internal", "A"),
        ("casa-api-two.fleet.example", "A"),
        ("_nats._tcp.nats.fleet.example", "SRV"),
        ("nope.fleet.example", "A"),
        ("2.128.210.10.in-addr.arpa", "PTR"),
    ]), @r#"
    casa-api-two.internal A: No Error AA
      casa-api-two.internal. 5 IN A 10.210.128.2
    casa-api-two.fleet.example A: No Error AA
      casa-api-two.fleet.example. 5 IN A 10.210.128.2
    _nats._tcp.nats.fleet.example SRV: No Error AA
      _nats._tcp.nats.fleet.example. 5 IN SRV 0 1 4222 n1.vm.nats.fleet.example.
      additional: n1.vm.nats.fleet.example. 5 IN A 10.210.1.1
    nope.fleet.example A: Non-Existent Domain AA
      authority: fleet.example. 5 IN SOA fleet.example. nobody.invalid. 1 3600 600 86400 5
    2.128.210.10.in-addr.arpa PTR: No Error AA
      2.128.210.10.in-addr.arpa. 5 IN PTR abababababab.vm.casa-api.internal.
    "#);
}

#[test]
fn the_nearest_come_first_and_the_own_server_before_all() {
    let mut events = snapshot(rows());
    events.push(Event::Upsert {
        table: crate::feed::Table::Containers,
        cells: cells(container("ad", "casa/api", "10.210.130.4").set("server_id", "s3")),
    });
    for (server, ms) in [("s2", 40), ("s3", 5)] {
        events.push(Event::Member(Member { rtt: Some(Duration::from_millis(ms)), ..member(server, MemberState::Up) }));
    }
    let zone = zone_of(events);
    let top = |n: &str| {
        let answer = ask(&zone, &query(&format!("{n}.nearest.of.casa-api.internal"), "A"));
        let list: Vec<_> = answer.answers.iter().map(|record| record.data.to_string()).collect();
        format!("{} {}", answer.metadata.response_code, list.join(" "))
    };
    assert_eq!(top("top3"), "No Error 10.210.128.1 10.210.128.2 10.210.130.4");
    assert_eq!(top("top100"), "No Error 10.210.128.1 10.210.128.2 10.210.130.4 10.210.129.3");
    for bad in ["top0", "top03", "top101", "top", "topx", "top99999999999999999999"] {
        assert_eq!(top(bad), "Non-Existent Domain ", "{bad}");
    }
}

#[test]
fn instances_that_share_an_address_are_one_record() {
    let mut rows = rows();
    rows.push(container("ad", "casa/api", "10.210.128.1").set("instance_id", "three"));
    rows.push(container("ae", "casa/api", "10.210.128.1").set("instance_id", "four").set("ip6", "fd00:210::4"));
    let zone = zone(rows);
    for name in ["top9.nearest.of.casa-api.internal", "peers.casa-api.internal"] {
        assert_eq!(addresses(&zone, name), "10.210.128.1 10.210.128.2 10.210.129.3 fd00:210::2 fd00:210::4", "{name}");
    }
    assert_eq!(addresses(&zone, "top2.nearest.of.casa-api.internal"), "10.210.128.1 10.210.128.2 fd00:210::2");
}

#[test]
fn an_address_that_is_here_and_elsewhere_is_one_record_and_a_peer() {
    let zone = zone([
        service("casa", "api"),
        container("aa", "casa/api", "10.210.128.1").set("instance_id", "one"),
        container("ab", "casa/api", "10.210.128.1").set("server_id", "s2").set("ip6", "fd00:210::2"),
    ]);
    for name in ["top9.nearest.of.casa-api.internal", "peers.casa-api.internal"] {
        assert_eq!(addresses(&zone, name), "10.210.128.1 fd00:210::2", "{name}");
    }
    let wire = query("peers.casa-api.internal", "A").to_vec().unwrap();
    let answer = ask_as(&zone, &wire, Transport::Udp, "127.0.0.1", 0);
    assert_eq!(answer.answers.len(), 1, "the one that is elsewhere has it too");
}

fn cells(row: Row) -> Vec<crate::feed::Cell> {
    match row.upsert() {
        Event::Upsert { cells, .. } => cells,
        _ => unreachable!("an upsert"),
    }
}

#[test]
fn peers_leave_out_who_asks() {
    let zone = zone(rows());
    let peers = |source: &str, rtype: &str| {
        let wire = query("peers.casa-api.internal", rtype).to_vec().unwrap();
        let answer = ask_as(&zone, &wire, Transport::Udp, source, 0);
        let mut list: Vec<_> = answer.answers.iter().map(|record| record.data.to_string()).collect();
        list.sort();
        list.join(" ")
    };
    assert_eq!(peers("10.210.200.9", "A"), "10.210.128.1 10.210.128.2 10.210.129.3");
    assert_eq!(peers("10.210.128.1", "A"), "10.210.128.2 10.210.129.3");
    // Asked over IPv6, the IPv4 address of the same instance is left out as well.
    assert_eq!(peers("fd00:210::2", "A"), "10.210.128.1 10.210.129.3");
    assert_eq!(peers("10.210.128.2", "AAAA"), "");
    assert_eq!(peers("::ffff:10.210.128.2", "A"), "10.210.128.1 10.210.129.3");
    // This host itself stands for the instances on it.
    assert_eq!(peers("127.0.0.1", "A"), "10.210.129.3");
    assert_eq!(peers("10.210.1.1", "A"), "10.210.129.3");
}

#[test]
fn of_two_services_with_one_flat_name_the_smaller_answers_and_both_keep_their_own() {
    let zone = zone([
        service("a", "b-c"),
        service("a-b", "c"),
        container("aa", "a/b-c", "10.210.0.1").set("ports", r#"[{"name":"http","port":1}]"#),
        container("ab", "a-b/c", "10.210.0.2").set("ports", r#"[{"name":"http","port":2}]"#).set("instance_id", "x"),
    ]);
    assert_eq!(addresses(&zone, "a-b-c.internal"), "10.210.0.1");
    assert_eq!(addresses(&zone, "b-c.a.svc.internal"), "10.210.0.1");
    assert_eq!(addresses(&zone, "c.a-b.svc.internal"), "10.210.0.2");
    let srv = text(&ask(&zone, &query("_http._tcp.c.a-b.svc.internal", "SRV")));
    assert!(srv.contains("SRV 0 1 2 x.c.a-b.svc.internal."), "{srv}");
    insta::assert_snapshot!(problems(&zone), @r#"
    1
    services a-b/c: name a-b-c is taken by a/b-c
    "#);
    let clashes: Vec<_> = zone.clashes().iter().map(|clash| (clash.key.as_str(), clash.reason.as_str())).collect();
    assert_eq!(clashes, [("a-b/c", "name a-b-c is taken by a/b-c")]);
}

#[test]
fn of_two_rows_whose_names_differ_only_in_case_the_smaller_counts_and_the_other_is_named() {
    let node = |id: &str, ip: &str| server(id).set("wireguard_ip", ip);
    let zone = zone([
        service("Casa", "api").set("ttl", 30),
        service("casa", "api").set("ttl", 60),
        container("aa", "casa/api", "10.210.128.1"),
        node("N1", "10.210.9.1"),
        node("n1", "10.210.9.2"),
        node("N2", "10.210.9.3").set("removed_at", 5),
        node("n2", "10.210.9.4"),
        node("n3", "10.210.9.5").set("removed_at", 5),
        node("N3", "10.210.9.6"),
        nats("L1", "nats", "10.210.9.7").set("role", "leaf"),
        nats("l1", "nats", "10.210.9.8").set("role", "leaf"),
    ]);
    for name in ["l1.vm.nats.internal", "nats.internal"] {
        assert_eq!(addresses(&zone, name), "10.210.9.7", "{name}");
    }
    assert_eq!(ask(&zone, &query("casa-api.internal", "A")).answers[0].ttl, 30);
    assert_eq!(addresses(&zone, "n1.node.internal"), "10.210.9.1");
    assert_eq!(addresses(&zone, "n2.node.internal"), "10.210.9.4", "a removed server keeps no name from another");
    assert_eq!(addresses(&zone, "n3.node.internal"), "10.210.9.6");
    let ptr = text(&ask(&zone, &query("2.9.210.10.in-addr.arpa", "PTR")));
    assert!(!ptr.contains("n1.node"), "{ptr}");
    insta::assert_snapshot!(problems(&zone), @r#"
    3
    servers n1: name n1.node is taken by N1
    services casa/api: name casa-api is taken by Casa/api
    nats_servers l1: name l1.vm.nats is taken by L1
    "#);
}

#[test]
fn precedence_is_service_then_nats_then_instance() {
    let zone = zone([
        service("a", "b"),
        service("a", "b-c"),
        container("aa", "a/b", "10.210.0.1").set("instance_id", "c"),
        container("ab", "a/b", "10.210.0.2").set("instance_id", "d"),
        container("ac", "a/b-c", "10.210.0.3"),
        nats("n", "a-b-d", "10.210.0.4"),
        nats("m", "a-b", "10.210.0.5"),
    ]);
    assert_eq!(addresses(&zone, "a-b.internal"), "10.210.0.1 10.210.0.2");
    assert_eq!(addresses(&zone, "a-b-c.internal"), "10.210.0.3");
    assert_eq!(addresses(&zone, "a-b-d.internal"), "10.210.0.4");
    assert_eq!(addresses(&zone, "c.b.a.svc.internal"), "10.210.0.1");
    insta::assert_snapshot!(problems(&zone), @r#"
    5
    nats_servers m: role "" is neither center nor leaf
    nats_servers n: role "" is neither center nor leaf
    containers a/b/c: name a-b-c is taken by a/b-c
    containers a/b/d: name a-b-d is taken by a-b-d
    nats_servers a-b: name a-b is taken by a/b
    "#);
}

#[test]
fn a_bad_row_is_left_out_and_named_and_the_rest_is_served() {
    let zone = zone([
        server("local").set("wireguard_ip", "10.210.9.1"),
        server("s2").set("wireguard_ip", "nonsense").set("region", "vms"),
        server("s 3").set("removed_at", 5),
        service("casa", "api").set("ports", "{").set("ttl", -1),
        service("casa", "a b"),
        container("aa", "casa/api", "10.210.128.1").set("instance_id", "one"),
        container("ab", "casa/api", "8.8.8.8"),
        container("ac", "casa/api", "10.210.128.300"),
        container("xy", "casa/api", "10.210.128.4"),
        container("ad", "casa/api", ""),
        container("ae", "casa/api", "10.210.128.5").set("server_id", "s 3"),
        container("af", "casa/api", "10.210.128.6").set("health_status", "splendid"),
        container("b0", "casa/api", "10.210.128.7").set("ports", r#"[{"name":"http","port":70000}]"#),
        container("b1", "casa/web", "10.210.128.8"),
        container("b2", "/web", "10.210.128.9"),
        container("b3", "casa/api", "10.210.128.9").set("service", 7),
        container("b4", "casa/api", "10.210.128.10").set("instance_id", "no dots.please"),
        nats("n", "svc", "10.210.1.1"),
        nats("m", "nats", "10.210.1.2").set("role", "boss").set("client_port", 70000),
        metadata("cluster_cidr", "everything"),
    ]);
    assert_eq!(addresses(&zone, "casa-api.internal"), "10.210.128.1 10.210.128.10 10.210.128.7");
    assert_eq!(addresses(&zone, "nats.internal"), "10.210.1.2");
    assert_eq!(addresses(&zone, "local.node.internal"), "-");
    insta::assert_snapshot!(problems(&zone), @r#"
    21
    cluster_metadata cluster_cidr: cluster_cidr "everything" is not a list of ranges
    servers local: id "local" is a word with a meaning of its own in names
    servers s 3: id: label "s 3" has more than letters, digits, - and _, or begins or ends with -
    servers s2: wireguard_ip "nonsense" is not an address of its kind
    servers s2: region "vms" is a word with a meaning of its own in names
    services casa/a b: name: label "a b" has more than letters, digits, - and _, or begins or ends with -
    services casa/api: ports: invalid type: map, expected a sequence at line 1 column 0
    services casa/api: ttl -1 is out of range
    containers acacacacacacacacacacacacacacacacacacacacacacacac: ip "10.210.128.300" is not an address of its kind
    containers adadadadadadadadadadadadadadadadadadadadadadadad: no address
    containers afafafafafafafafafafafafafafafafafafafafafafafaf: health_status "splendid" is unknown to this release and counts as unknown
    containers b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0: ports: invalid value: integer `70000`, expected u16
    containers b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3: service is an integer, not a text
    containers b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4: instance_id: label "no dots.please" has more than letters, digits, - and _, or begins or ends with -
    containers xyxyxyxyxyxyxyxyxyxyxyxyxyxyxyxyxyxyxyxyxyxyxyxy: id "xyxyxyxyxyxyxyxyxyxyxyxyxyxyxyxyxyxyxyxyxyxyxyxy" does not begin with 12 hex digits
    nats_servers m: role "boss" is neither center nor leaf
    nats_servers m: client_port 70000 is out of range
    nats_servers n: cluster "svc" is a word with a meaning of its own in names
    containers b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2: no services row for web
    containers abababababababababababababababababababababababab: 8.8.8.8 is outside the cluster's ranges
    containers b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1: no services row for casa/web
    "#);
}

#[test]
fn words_with_a_meaning_come_before_regions_clusters_and_servers() {
    let words = ["global", "peers", "regions", "vms", "vm", "process", "nearest", "of", "_tcp"];
    let plain = zone(rows());
    let mut all = rows();
    all.extend(words.iter().map(|word| server(&format!("on-{word}")).set("region", *word)));
    all.extend((0..).zip(words).map(|(n, word)| {
        container(&format!("d{n}"), "casa/api", &format!("10.210.130.{n}")).set("server_id", &*format!("on-{word}"))
    }));
    let clusters = ["svc", "node", "_x"];
    all.extend(clusters.iter().map(|cluster| nats(&format!("n-{cluster}"), cluster, "10.210.1.9")));
    all.push(server("local").set("wireguard_ip", "10.210.9.9"));
    let zone = zone(all);
    for word in words {
        let below = format!("{word}.casa-api.internal");
        // What is there has one instance more or less, but is of the same kind: no word became a region.
        let kind = |zone: &Zone| {
            let said = ask(zone, &query(&below, "A"));
            (said.metadata.response_code, said.answers.is_empty())
        };
        assert_eq!(kind(&zone), kind(&plain), "{below}");
        assert!(problems(&zone).contains(&format!("servers on-{word}: region \"{word}\"")), "{}", problems(&zone));
    }
    for cluster in clusters {
        assert!(problems(&zone).contains(&format!("cluster \"{cluster}\"")), "{}", problems(&zone));
        let name = format!("n-{cluster}.vm.{cluster}.internal");
        assert_eq!(addresses(&zone, &name), addresses(&plain, &name));
    }
    assert_eq!(addresses(&zone, "local.node.internal"), "10.210.1.1 fdcc::1");
    let regions = text(&ask(&zone, &query("regions.casa-api.internal", "TXT")));
    assert!(regions.ends_with("TXT ams,iad"), "{regions}");
}

#[test]
fn two_containers_whose_ids_begin_alike_are_both_left_out() {
    let twin = container("ab", "casa/api", "10.210.128.2").set("id", "abababababab0000");
    let zone = zone([
        service("casa", "api"),
        container("aa", "casa/api", "10.210.128.1"),
        container("ab", "casa/api", "10.210.128.3"),
        twin,
    ]);
    assert_eq!(addresses(&zone, "casa-api.internal"), "10.210.128.1");
    assert_eq!(addresses(&zone, "abababababab.vm.casa-api.internal"), "Non-Existent Domain");
    insta::assert_snapshot!(problems(&zone), @r#"
    2
    containers abababababab0000: id begins with the same 12 digits as "abababababababababababababababababababababababab"
    containers abababababababababababababababababababababababab: id begins with the same 12 digits as "abababababab0000"
    "#);
}

#[test]
fn a_container_without_a_project_belongs_to_the_one_service_of_its_name() {
    let rows = [service("casa", "api"), container("aa", "/api", "10.210.128.1")];
    assert_eq!(addresses(&zone(rows.clone()), "casa-api.internal"), "10.210.128.1");
    let two = zone(rows.into_iter().chain([service("other", "api")]));
    assert_eq!(addresses(&two, "casa-api.internal"), "-");
    insta::assert_snapshot!(problems(&two), @r#"
    1
    containers aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa: no project, and 2 services are named "api"
    "#);
}

#[test]
fn without_its_services_row_a_name_does_not_exist() {
    let zone = zone([container("aa", "casa/api", "10.210.128.1").set("instance_id", "one")]);
    assert_eq!(addresses(&zone, "casa-api.internal"), "Non-Existent Domain");
    assert_eq!(addresses(&zone, "aaaaaaaaaaaa.vm.casa-api.internal"), "Non-Existent Domain");
    assert_eq!(addresses(&zone, "casa-api-one.internal"), "10.210.128.1");
    insta::assert_snapshot!(problems(&zone), @r#"
    1
    containers aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa: no services row for casa/api
    "#);
}

#[test]
fn ranges_come_from_the_store_when_none_are_configured() {
    let mut config = crate::testing::config();
    config.ranges.clear();
    let rows = [
        metadata("cluster_cidr", "10.7.0.0/16"),
        service("casa", "api"),
        container("aa", "casa/api", "10.7.0.1"),
        container("ab", "casa/api", "10.210.0.1"),
    ];
    let zone = Zone::build(&crate::testing::facts(snapshot(rows)), &(&config).into(), 1);
    assert_eq!(addresses(&zone, "casa-api.internal"), "10.7.0.1");
    let ptr = text(&ask(&zone, &query("1.0.7.10.in-addr.arpa", "PTR")));
    assert!(ptr.contains("aaaaaaaaaaaa.vm.casa-api.internal."), "{ptr}");
}

#[test]
fn who_is_in_the_stores_range_or_has_a_management_address_is_of_the_cluster() {
    let mut config = crate::testing::config();
    config.ranges.clear();
    let zone =
        |range| Zone::build(&crate::testing::facts(snapshot([metadata("cluster_cidr", range)])), &(&config).into(), 1);
    let may = |zone: &Zone, source: &str| zone.has_subnet_of(source.parse().unwrap());
    let private = zone("10.7.0.0/16");
    assert!(may(&private, "10.7.0.1") && may(&private, "fdcc::1") && !may(&private, "10.8.0.1"));
    assert!(!may(&zone("203.0.113.0/24"), "203.0.113.1"), "one row lets no strangers in");
    let configured = crate::testing::config();
    let rows = crate::testing::facts(snapshot([metadata("cluster_cidr", "10.7.0.0/16")]));
    assert!(!may(&Zone::build(&rows, &(&configured).into(), 1), "10.7.0.1"), "the operator's word comes first");
    config.zones.clear();
    assert!(!may(&Zone::build(&crate::testing::facts(snapshot([])), &(&config).into(), 1), "fdcc::1"));
}

#[test]
fn an_instance_may_have_its_own_servers_address() {
    let zone = zone([
        server("s1").set("management_ip", "fdcc::1"),
        service("casa", "api"),
        container("aa", "casa/api", "").set("ip6", "fdcc::1"),
        container("ab", "casa/api", "").set("ip6", "fdcc::2"),
    ]);
    assert_eq!(addresses(&zone, "casa-api.internal"), "fdcc::1");
}

#[test]
fn a_row_lets_no_strangers_in() {
    let rows = ["203.0.113.0/24", "2001:db8:1::/48", "10.99.3.0/24", "100.64.7.0/24", "fd00:99:1::/48"];
    let rows = rows.iter().enumerate().map(|(n, subnet)| server(&format!("s{n}")).set("subnet", *subnet));
    let zone = zone(rows);
    let may = |source: &str| zone.has_subnet_of(source.parse().unwrap());
    assert!(["10.99.3.7", "100.64.7.1", "fd00:99:1::7"].into_iter().all(may));
    assert!(!["203.0.113.7", "2001:db8:1::7"].into_iter().any(may));
    insta::assert_snapshot!(problems(&zone), @"
    2
    servers s0: subnet 203.0.113.0/24 is public, and no range that is configured here has it: nobody in it may ask
    servers s1: subnet 2001:db8:1::/48 is public, and no range that is configured here has it: nobody in it may ask
    ");
}

#[test]
fn a_public_range_of_the_store_is_named_and_so_is_a_servers_within_it() {
    let mut config = crate::testing::config();
    config.ranges.clear();
    let rows = || {
        snapshot([
            metadata("cluster_cidr", "203.0.113.0/24,10.7.0.0/16"),
            server("s1").set("subnet", "203.0.113.0/25"),
            server("s2").set("subnet", "10.7.1.0/24"),
        ])
    };
    let zone = Zone::build(&crate::testing::facts(rows()), &(&config).into(), 1);
    insta::assert_snapshot!(problems(&zone), @"
    2
    cluster_metadata cluster_cidr: 203.0.113.0/24 is public, and no range that is configured here has it: it is served, and nobody in it may ask
    servers s1: subnet 203.0.113.0/25 is public, and no range that is configured here has it: nobody in it may ask
    ");
    config.own_addresses.push("203.0.113.0/24".parse().unwrap());
    assert_eq!(Zone::build(&crate::testing::facts(rows()), &(&config).into(), 1).problems().1, 0);
}

#[test]
fn a_public_range_that_is_configured_is_the_clusters() {
    let mut config = crate::testing::config();
    config.ranges.push("203.0.113.0/24".parse().unwrap());
    let rows = snapshot([server("s1").set("subnet", "203.0.113.0/25")]);
    let zone = Zone::build(&crate::testing::facts(rows), &(&config).into(), 1);
    assert_eq!(zone.problems().1, 0);
}

#[test]
fn an_address_that_its_server_may_not_have_no_instance_has() {
    let zone = zone([
        server("s1").set("wireguard_ip", "8.8.8.8").set("management_ip", "2001:db8::1"),
        service("casa", "api"),
        container("aa", "casa/api", "8.8.8.8"),
        container("ab", "casa/api", "").set("ip6", "2001:db8::1"),
        nats("n1", "nats", "8.8.8.8").set("role", "leaf"),
    ]);
    for name in ["casa-api.internal", "nats.internal", "s1.node.internal"] {
        assert_eq!(addresses(&zone, name), "-", "{name}");
    }
    assert_eq!(zone.problems().1, 5);
}

#[test]
fn an_rrset_has_a_hundred_records_at_most() {
    let many = (0..150).map(|n| {
        container(&format!("{n:012x}"), "casa/api", &format!("10.210.128.{n}"))
            .set("instance_id", format!("i{n}").as_str())
    });
    let zone = zone([service("casa", "api")].into_iter().chain(many));
    for name in ["casa-api.internal", "peers.casa-api.internal", "top100.nearest.of.casa-api.internal"] {
        assert_eq!(ask(&zone, &query(name, "A")).answers.len(), 100, "{name}");
    }
}

#[test]
fn who_asks_from_a_host_with_many_instances_is_told_of_those_elsewhere() {
    let many = (0..150).map(|n| {
        let server = if n < 120 { "s1" } else { "s2" };
        container(&format!("{n:012x}"), "casa/api", &format!("10.210.128.{n}"))
            .set("instance_id", format!("i{n}").as_str())
            .set("server_id", server)
    });
    let zone = zone([service("casa", "api")].into_iter().chain(many));
    let ask = |source| {
        let asked = query("peers.casa-api.internal", "A").to_vec().unwrap();
        ask_as(&zone, &asked, Transport::Tcp, source, 0).answers.len()
    };
    assert_eq!(ask("127.0.0.1"), 30);
    assert_eq!((ask("10.210.128.7"), ask("10.210.128.140"), ask(ELSEWHERE)), (100, 100, 100));
}

#[test]
fn a_list_is_cut_at_the_last_whole_entry_that_fits() {
    let many = (0..2000).map(|n| {
        let ip = format!("10.210.{}.{}", n / 250, n % 250);
        container(&format!("{n:012x}"), "casa/api", &ip).set("instance_id", format!("i{n}").as_str())
    });
    let zone = zone([service("casa", "api")].into_iter().chain(many));
    let answer = ask(&zone, &query("_instances.internal", "TXT"));
    let hickory_proto::rr::RData::TXT(txt) = &answer.answers[0].data else { panic!("not TXT") };
    let whole: Vec<u8> = txt.txt_data.iter().flat_map(|string| string.iter().copied()).collect();
    let whole = String::from_utf8(whole).unwrap();
    assert!((64_900..=65_000).contains(&whole.len()), "{} bytes", whole.len());
    assert!(whole.split(';').all(|entry| entry.starts_with("instance=") && entry.ends_with("region=")));
    assert_eq!(zone.entries_cut(), 2000 - whole.split(';').count());
}

#[test]
fn a_list_of_one_service_that_is_cut_is_named() {
    let many = (0..5200).map(|n| {
        let ip = format!("10.210.{}.{}", n / 250, n % 250);
        container(&format!("{n:012x}"), "casa/api", &ip).set("instance_id", format!("i{n}").as_str())
    });
    let zone = zone([service("casa", "api")].into_iter().chain(many));
    // 65,000 bytes of 12 digits and a comma.
    insta::assert_snapshot!(problems(&zone), @"
    1
    services casa/api: the list of vms has no room for 200 of them
    ");
}

fn problems(zone: &Zone) -> String {
    let (problems, count) = zone.problems();
    let lines = problems.iter().map(|one| format!("{} {}: {}", one.table.name(), one.key, one.reason));
    format!("{count}\n{}", lines.collect::<Vec<_>>().join("\n"))
}

/// Every name of the zone of [`rows`] by its code, and one below each that does not exist, as wire.
fn names<'a>(zone: &'a Zone) -> Vec<(u8, Vec<u8>)> {
    let contents = &*zone.contents;
    let asked = |shards: &'a Shards| shards.iter().filter(|entry| entry.node().is_some()).map(|entry| entry.name);
    let forward = asked(&contents.names).map(|name| [name, &b"\x08internal\0"[..]].concat());
    let reverse = asked(&contents.pointers).map(|name| [name, &b"\0"[..]].concat());
    let apexes = contents.origins.iter().filter(|one| one.owner() != Owner::Nobody).map(|one| one.wire().to_vec());
    let formed = [&b"\x04top3\x07nearest\x02of\x08casa-api\x08internal\0"[..], b"\x03iad\x07casa-db\x08internal\0"];
    let known = forward.chain(reverse).chain(apexes).chain(formed.map(<[u8]>::to_vec));
    known.flat_map(|name| [(3, [b"\x02zz", &name[..]].concat()), (0, name)]).collect()
}

fn rcode(zone: &Zone, name: &[u8], qtype: u16) -> u8 {
    let head = [0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let wire = [&head[..], name, &qtype.to_be_bytes(), &[0, 1]].concat();
    u16::from(ask_as(zone, &wire, Transport::Tcp, ELSEWHERE, 0).metadata.response_code) as u8
}

static ZONE: LazyLock<Zone> = LazyLock::new(|| zone(rows()));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_name_has_one_code_for_all_types(
        // Without OPT and those that ask for no record of the name: they have codes of their own, whatever the name.
        qtype in prop_oneof![0..=80_u16, any::<u16>()].prop_filter("not a meta type", |qtype| !matches!(qtype, 41 | 249..=254)),
    ) {
        for (wanted, name) in names(&ZONE) {
            prop_assert_eq!(rcode(&ZONE, &name, qtype), wanted, "{}", name.escape_ascii());
        }
    }
}
