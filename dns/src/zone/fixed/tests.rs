//! Zones of files, alone and over the rows.

use std::sync::Arc;

use super::{FileState, Fixed, zone_of};
use crate::facts::Facts;
use crate::testing::{config, container, dig, query, server, service, snapshot, text};
use crate::zone::{Settings, Zone};
use crate::zonefile::Reader;

/// A zone of these rows, if any, under these files.
fn zone(facts: Option<&Facts>, files: &[&str]) -> Zone {
    let mut config = config();
    if facts.is_none() {
        config.zones.clear();
    }
    let ours = |origin: &[u8]| config.zones.iter().any(|zone| zone.wire() == origin);
    let read = |text: &&str| {
        let zone = zone_of(&mut Reader::of(text.as_bytes()), &ours).expect("a good file");
        FileState { path: "zone".into(), zone: Some(Arc::new(zone)), fault: None }
    };
    let fixed = Fixed::new(files.iter().map(read).collect());
    Zone::build(facts.unwrap_or(&Facts::default()), &Settings::from(&config), 7).with_fixed(&fixed)
}

/// What is wrong with a file, or noted of it.
fn said(text: &str) -> String {
    let mut reader = Reader::of(text.as_bytes());
    match zone_of(&mut reader, &|origin: &[u8]| origin == b"\x08internal\0") {
        Ok(zone) => zone.notes.iter().map(|note| format!("{note}\n")).collect(),
        Err(fault) => format!("error: {fault}\n"),
    }
}

const HEAD: &str = "$ORIGIN z.\n$TTL 30\n@ SOA ns1 hostmaster 1 3600 600 86400 5\n  NS ns1\nns1 A 192.0.2.1\n";

#[test]
fn a_zone_of_its_own_is_answered_with_its_soa_and_its_addresses() {
    let file = format!(
        "{HEAD}Www A 192.0.2.2\n A 192.0.2.3\n AAAA 2001:db8::2\nmail MX 10 Www\n MX 20 www\n_s._tcp SRV 1 2 53 ns1\n\
         a.b.ent TXT x\n@ TXT apex\n"
    );
    let zone = zone(None, &[&file]);
    insta::assert_snapshot!(dig(&zone, &[
        ("WWW.z.", "A"), ("www.z.", "AAAA"), ("www.z.", "TXT"), ("www.z.", "ANY"), ("mail.z.", "MX"),
        ("_s._tcp.z.", "SRV"), ("b.ent.z.", "A"), ("ent.z.", "TXT"), ("x.www.z.", "A"), ("nope.z.", "A"),
        ("z.", "SOA"), ("z.", "NS"), ("z.", "TXT"), ("z.", "A"), ("z.", "ANY"), ("other.", "A"),
    ]), @r"
    WWW.z. A: No Error AA
      WWW.z. 30 IN A 192.0.2.2
      WWW.z. 30 IN A 192.0.2.3
    www.z. AAAA: No Error AA
      www.z. 30 IN AAAA 2001:db8::2
    www.z. TXT: No Error AA
      authority: z. 5 IN SOA ns1.z. hostmaster.z. 1 3600 600 86400 5
    www.z. ANY: No Error AA
      www.z. 30 IN A 192.0.2.2
      www.z. 30 IN A 192.0.2.3
    mail.z. MX: No Error AA
      mail.z. 30 IN MX 10 Www.z.
      mail.z. 30 IN MX 20 www.z.
      additional: Www.z. 30 IN A 192.0.2.2
      additional: Www.z. 30 IN A 192.0.2.3
      additional: Www.z. 30 IN AAAA 2001:db8::2
    _s._tcp.z. SRV: No Error AA
      _s._tcp.z. 30 IN SRV 1 2 53 ns1.z.
      additional: ns1.z. 30 IN A 192.0.2.1
    b.ent.z. A: No Error AA
      authority: z. 5 IN SOA ns1.z. hostmaster.z. 1 3600 600 86400 5
    ent.z. TXT: No Error AA
      authority: z. 5 IN SOA ns1.z. hostmaster.z. 1 3600 600 86400 5
    x.www.z. A: Non-Existent Domain AA
      authority: z. 5 IN SOA ns1.z. hostmaster.z. 1 3600 600 86400 5
    nope.z. A: Non-Existent Domain AA
      authority: z. 5 IN SOA ns1.z. hostmaster.z. 1 3600 600 86400 5
    z. SOA: No Error AA
      z. 30 IN SOA ns1.z. hostmaster.z. 1 3600 600 86400 5
    z. NS: No Error AA
      z. 30 IN NS ns1.z.
      additional: ns1.z. 30 IN A 192.0.2.1
    z. TXT: No Error AA
      z. 30 IN TXT apex
    z. A: No Error AA
      authority: z. 5 IN SOA ns1.z. hostmaster.z. 1 3600 600 86400 5
    z. ANY: No Error AA
      z. 30 IN SOA ns1.z. hostmaster.z. 1 3600 600 86400 5
    other. A: Query Refused
    ");
}

#[test]
fn an_alias_is_followed_within_our_zones_and_a_circle_ends() {
    let file = format!(
        "{HEAD}w A 192.0.2.2\na CNAME w\nb CNAME A\nout CNAME www.elsewhere.\nloop CNAME pool\npool CNAME loop\n\
         gone CNAME nope\nfar CNAME w.y.\n"
    );
    let other = "$ORIGIN y.\n$TTL 60\n@ SOA ns1 h 1 2 3 4 9\nw A 192.0.2.77\n";
    let zone = zone(None, &[&file, other]);
    insta::assert_snapshot!(dig(&zone, &[
        ("a.z.", "A"), ("B.z.", "A"), ("b.z.", "AAAA"), ("a.z.", "CNAME"), ("a.z.", "ANY"), ("out.z.", "A"),
        ("loop.z.", "A"), ("gone.z.", "A"), ("gone.z.", "CNAME"), ("far.z.", "A"), ("far.z.", "TXT"),
    ]), @r"
    a.z. A: No Error AA
      a.z. 30 IN CNAME w.z.
      w.z. 30 IN A 192.0.2.2
    B.z. A: No Error AA
      B.z. 30 IN CNAME A.z.
      A.z. 30 IN CNAME w.z.
      w.z. 30 IN A 192.0.2.2
    b.z. AAAA: No Error AA
      b.z. 30 IN CNAME A.z.
      A.z. 30 IN CNAME w.z.
      authority: z. 5 IN SOA ns1.z. hostmaster.z. 1 3600 600 86400 5
    a.z. CNAME: No Error AA
      a.z. 30 IN CNAME w.z.
    a.z. ANY: No Error AA
      a.z. 30 IN CNAME w.z.
    out.z. A: No Error AA
      out.z. 30 IN CNAME www.elsewhere.
    loop.z. A: No Error AA
      loop.z. 30 IN CNAME pool.z.
      pool.z. 30 IN CNAME loop.z.
      loop.z. 30 IN CNAME pool.z.
      pool.z. 30 IN CNAME loop.z.
      loop.z. 30 IN CNAME pool.z.
      pool.z. 30 IN CNAME loop.z.
      loop.z. 30 IN CNAME pool.z.
      pool.z. 30 IN CNAME loop.z.
      loop.z. 30 IN CNAME pool.z.
    gone.z. A: Non-Existent Domain AA
      gone.z. 30 IN CNAME nope.z.
      authority: z. 5 IN SOA ns1.z. hostmaster.z. 1 3600 600 86400 5
    gone.z. CNAME: No Error AA
      gone.z. 30 IN CNAME nope.z.
    far.z. A: No Error AA
      far.z. 30 IN CNAME w.y.
      w.y. 60 IN A 192.0.2.77
    far.z. TXT: No Error AA
      far.z. 30 IN CNAME w.y.
      authority: y. 9 IN SOA ns1.y. h.y. 1 2 3 4 9
    ");
}

#[test]
fn a_wildcard_stands_for_what_does_not_exist_below_its_name() {
    let file = format!(
        "{HEAD}*.w A 192.0.2.2\n* TXT top\nhost.w TXT x\na.b.w TXT y\n_t._tcp.w SRV 1 2 3 host.w\n*.c CNAME ns1\n"
    );
    let zone = zone(None, &[&file]);
    insta::assert_snapshot!(dig(&zone, &[
        ("q.w.z.", "A"), ("q.q.w.z.", "A"), ("q.w.z.", "TXT"), ("host.w.z.", "A"), ("x.host.w.z.", "A"), ("b.w.z.", "A"),
        ("q.b.w.z.", "A"), ("_tcp.w.z.", "A"), ("q.z.", "TXT"), ("q.z.", "A"), ("*.w.z.", "A"), ("q.*.w.z.", "A"),
        ("w.z.", "A"), ("q.c.z.", "A"),
    ]), @r"
    q.w.z. A: No Error AA
      q.w.z. 30 IN A 192.0.2.2
    q.q.w.z. A: No Error AA
      q.q.w.z. 30 IN A 192.0.2.2
    q.w.z. TXT: No Error AA
      authority: z. 5 IN SOA ns1.z. hostmaster.z. 1 3600 600 86400 5
    host.w.z. A: No Error AA
      authority: z. 5 IN SOA ns1.z. hostmaster.z. 1 3600 600 86400 5
    x.host.w.z. A: Non-Existent Domain AA
      authority: z. 5 IN SOA ns1.z. hostmaster.z. 1 3600 600 86400 5
    b.w.z. A: No Error AA
      authority: z. 5 IN SOA ns1.z. hostmaster.z. 1 3600 600 86400 5
    q.b.w.z. A: Non-Existent Domain AA
      authority: z. 5 IN SOA ns1.z. hostmaster.z. 1 3600 600 86400 5
    _tcp.w.z. A: No Error AA
      authority: z. 5 IN SOA ns1.z. hostmaster.z. 1 3600 600 86400 5
    q.z. TXT: No Error AA
      q.z. 30 IN TXT top
    q.z. A: No Error AA
      authority: z. 5 IN SOA ns1.z. hostmaster.z. 1 3600 600 86400 5
    *.w.z. A: No Error AA
      *.w.z. 30 IN A 192.0.2.2
    q.*.w.z. A: Non-Existent Domain AA
      authority: z. 5 IN SOA ns1.z. hostmaster.z. 1 3600 600 86400 5
    w.z. A: No Error AA
      authority: z. 5 IN SOA ns1.z. hostmaster.z. 1 3600 600 86400 5
    q.c.z. A: No Error AA
      q.c.z. 30 IN CNAME ns1.z.
      ns1.z. 30 IN A 192.0.2.1
    ");
}

#[test]
fn a_name_that_belongs_to_somebody_else_is_a_referral() {
    let file = format!(
        "{HEAD}sub NS ns.sub\n NS ns1\n DS 1 8 2 ffff\nns.sub A 192.0.2.53\n*.sub A 192.0.2.9\n*.w A 192.0.2.2\n"
    );
    let zone = zone(None, &[&file]);
    insta::assert_snapshot!(dig(&zone, &[
        ("x.y.Sub.z.", "A"), ("sub.z.", "A"), ("ns.sub.z.", "A"), ("sub.z.", "DS"), ("q.w.z.", "A"), ("nope.z.", "A"),
    ]), @r"
    x.y.Sub.z. A: No Error
      authority: Sub.z. 30 IN NS ns.sub.z.
      authority: Sub.z. 30 IN NS ns1.z.
      additional: ns.sub.z. 30 IN A 192.0.2.53
      additional: ns1.z. 30 IN A 192.0.2.1
    sub.z. A: No Error
      authority: sub.z. 30 IN NS ns.sub.z.
      authority: sub.z. 30 IN NS ns1.z.
      additional: ns.sub.z. 30 IN A 192.0.2.53
      additional: ns1.z. 30 IN A 192.0.2.1
    ns.sub.z. A: No Error
      authority: sub.z. 30 IN NS ns.sub.z.
      authority: sub.z. 30 IN NS ns1.z.
      additional: ns.sub.z. 30 IN A 192.0.2.53
      additional: ns1.z. 30 IN A 192.0.2.1
    sub.z. DS: No Error AA
      sub.z. 30 IN DS AAEIAv//
    q.w.z. A: No Error AA
      q.w.z. 30 IN A 192.0.2.2
    nope.z. A: Non-Existent Domain AA
      authority: z. 5 IN SOA ns1.z. hostmaster.z. 1 3600 600 86400 5
    ");
}

#[test]
fn a_file_of_a_served_zone_lies_over_the_rows() {
    let rows = [
        server("s1").set("wireguard_ip", "10.210.0.1"),
        service("casa", "api"),
        container("3f2a", "casa/api", "10.210.128.7"),
        service("casa", "web"),
        container("4f2a", "casa/web", "10.210.128.8"),
    ];
    let facts = crate::testing::facts(snapshot(rows));
    let file = "$ORIGIN internal.\n$TTL 30\n@ SOA a b 1 2 3 4 99\n@ NS elsewhere\n@ MX 1 casa-web\n\
        casa-api TXT mine\nalias CNAME casa-web\n* A 192.0.2.1\n*.casa-web A 192.0.2.2\nx.svc A 192.0.2.3\n";
    let nested = "$ORIGIN a.b.internal.\n$TTL 5\n@ SOA a b 1 2 3 4 5\n@ A 192.0.2.9\n";
    let zone = zone(Some(&facts), &[file, nested]);
    insta::assert_snapshot!(dig(&zone, &[
        ("casa-api.internal.", "A"), ("casa-api.internal.", "TXT"), ("global.casa-api.internal.", "A"),
        ("alias.internal.", "A"), ("casa-web.internal.", "A"), ("q.casa-web.internal.", "A"),
        ("vm.casa-web.internal.", "A"), ("nope.internal.", "A"), ("nope.internal.", "TXT"), ("casa.svc.internal.", "A"),
        ("x.svc.internal.", "A"), ("svc.internal.", "A"), ("internal.", "SOA"), ("internal.", "NS"), ("internal.", "MX"),
        ("a.b.internal.", "A"), ("b.internal.", "A"), ("q.b.internal.", "A"), ("q.a.b.internal.", "A"),
    ]), @r"
    casa-api.internal. A: No Error AA
      authority: internal. 5 IN SOA internal. nobody.invalid. 7 3600 600 86400 5
    casa-api.internal. TXT: No Error AA
      casa-api.internal. 30 IN TXT mine
    global.casa-api.internal. A: No Error AA
      global.casa-api.internal. 5 IN A 10.210.128.7
    alias.internal. A: No Error AA
      alias.internal. 30 IN CNAME casa-web.internal.
      casa-web.internal. 5 IN A 10.210.128.8
    casa-web.internal. A: No Error AA
      casa-web.internal. 5 IN A 10.210.128.8
    q.casa-web.internal. A: No Error AA
      q.casa-web.internal. 30 IN A 192.0.2.2
    vm.casa-web.internal. A: No Error AA
      authority: internal. 5 IN SOA internal. nobody.invalid. 7 3600 600 86400 5
    nope.internal. A: No Error AA
      nope.internal. 30 IN A 192.0.2.1
    nope.internal. TXT: No Error AA
      authority: internal. 5 IN SOA internal. nobody.invalid. 7 3600 600 86400 5
    casa.svc.internal. A: No Error AA
      authority: internal. 5 IN SOA internal. nobody.invalid. 7 3600 600 86400 5
    x.svc.internal. A: No Error AA
      x.svc.internal. 30 IN A 192.0.2.3
    svc.internal. A: No Error AA
      authority: internal. 5 IN SOA internal. nobody.invalid. 7 3600 600 86400 5
    internal. SOA: No Error AA
      internal. 5 IN SOA internal. nobody.invalid. 7 3600 600 86400 5
    internal. NS: No Error AA
      internal. 5 IN NS local.node.internal.
      additional: local.node.internal. 5 IN A 10.210.0.1
    internal. MX: No Error AA
      internal. 30 IN MX 1 casa-web.internal.
      additional: casa-web.internal. 5 IN A 10.210.128.8
    a.b.internal. A: No Error AA
      a.b.internal. 5 IN A 192.0.2.9
    b.internal. A: No Error AA
      authority: internal. 5 IN SOA internal. nobody.invalid. 7 3600 600 86400 5
    q.b.internal. A: Non-Existent Domain AA
      authority: internal. 5 IN SOA internal. nobody.invalid. 7 3600 600 86400 5
    q.a.b.internal. A: Non-Existent Domain AA
      authority: a.b.internal. 5 IN SOA a.a.b.internal. b.a.b.internal. 1 2 3 4 5
    ");
}

#[test]
fn what_a_file_says_alone_is_answered_while_the_rows_are_on_their_way() {
    let facts = Facts::default();
    let zone = zone(Some(&facts), &["$ORIGIN internal.\n$TTL 30\na A 192.0.2.1\nb CNAME casa\n", HEAD]);
    let answer = |name: &str| text(&crate::testing::ask(&zone, &query(name, "A")));
    insta::assert_snapshot!(
        ["a.internal.", "x.internal.", "b.internal.", "ns1.z."].map(answer).join("\n"), @r"
    No Error AA
      a.internal. 30 IN A 192.0.2.1
    Server Failure
    Server Failure AA
      b.internal. 30 IN CNAME casa.internal.
    No Error AA
      ns1.z. 30 IN A 192.0.2.1
    ");
}

#[test]
fn what_may_not_stand_together_is_refused_or_noted() {
    let files = [
        "$ORIGIN z.\n$TTL 5\na A 192.0.2.1\n",
        "$TTL 5\na.z. A 192.0.2.1\n",
        "$ORIGIN internal.\n$TTL 5\na A 192.0.2.1\n",
        &format!("{HEAD}@ SOA a b 1 2 3 4 5\n"),
        &format!("{HEAD}x CNAME y\nw A 192.0.2.1\nx TXT t\n"),
        &format!("{HEAD}x CNAME y\nx CNAME w\n"),
        &format!("{HEAD}x CNAME y\nX CNAME y\n"),
        &format!("{HEAD}x 60 A 192.0.2.1\nx A 192.0.2.2\nx A 192.0.2.1\n"),
        &format!("{HEAD}other. A 192.0.2.1\nxz. A 192.0.2.1\n"),
        &format!("{HEAD}{}", (0..400).map(|n| format!("x TXT {}{n:03}\n", "y".repeat(200))).collect::<String>()),
        "",
        "$ORIGIN .\n$TTL 5\n@ SOA a b 1 2 3 4 5\nx A 192.0.2.1\n",
    ];
    insta::assert_snapshot!(files.map(|file| said(file) + "-\n").concat(), @r"
    error: zone: z has no SOA: a zone of its own begins with one; only a zone that is served anyway needs none
    -
    error: zone: neither an SOA nor $ORIGIN says which zone this is: begin with one of them
    -
    -
    error: zone:6: a second SOA: a zone has one, and a file one zone
    -
    error: zone:6: a CNAME beside the record on line 8: an alias stands alone at its name
    -
    error: zone:7: a CNAME beside the record on line 6: an alias stands alone at its name
    -
    zone:7: the same record stands twice, served once
    -
    zone:6: TTL 60 in a set of records that also has 30: 30 is served for all
    zone:8: the same record stands twice, served once
    -
    zone:6: other is outside of the zone, left out
    zone:7: xz is outside of the zone, left out
    -
    error: zone:6: the records of this name and type take 86400 bytes, where a message holds 64000
    -
    error: zone: neither an SOA nor $ORIGIN says which zone this is: begin with one of them
    -
    -
    ");
}
