//! A zone made by changes is the zone that a full build of the same facts gives, and no earlier zone changes with it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;

use crate::config::Config;
use crate::explain::Fate;
use crate::facts::{Effect, Facts};
use crate::feed::{Cell, Event, Member, MemberState, Table};
use crate::testing::{Row, addresses, ask, config, container, metadata, nats, query, server, service, snapshot};
use crate::zone::shard::Shards;
use crate::zone::{Builder, Settings, Zone};

/// Few keys and few values, so that rows meet: names that several claim, twins, shared addresses, servers that go.
fn row() -> impl Strategy<Value = Row> {
    prop_oneof![1 => server_row(), 2 => service_row(), 4 => container_row(), 2 => nats_row()]
}

fn server_row() -> impl Strategy<Value = Row> {
    let texts = (
        select(vec!["s1", "S1", "s2", "s3", "local", "bad name"]),
        select(vec!["", "10.210.1.1", "10.210.0.1", "8.8.8.8", "nonsense"]),
        select(vec!["", "fdcc::1", "fd00:210::1", "2001:db8::1"]),
        select(vec!["", "ams", "iad", "vm"]),
        select(vec!["", "b1", "b2"]),
    );
    let removed = prop_oneof![3 => Just(Cell::Null), 1 => Just(Cell::Integer(5))];
    (texts, removed, 0..8_i64).prop_map(|((id, v4, v6, region, boot), removed, draining)| {
        server(id)
            .set("wireguard_ip", v4)
            .set("management_ip", v6)
            .set("region", region)
            .set("boot_id", boot)
            .set("removed_at", removed)
            .set("draining", i64::from(draining == 0))
    })
}

fn ports() -> impl Strategy<Value = &'static str> {
    select(vec![
        "[]",
        "[]",
        r#"[{"name":"http","port":80}]"#,
        r#"[{"name":"http","port":81},{"port":53,"proto":"udp"}]"#,
    ])
}

fn service_row() -> impl Strategy<Value = Row> {
    let name = (select(vec!["a", "A", "a-b", "long"]), select(vec!["b-c", "c", "C", "b", LONG]));
    (name, ports(), select(vec![Cell::Null, Cell::Integer(30), Cell::Integer(-1)]), 0..2_i64).prop_map(
        |((project, name), ports, ttl, open)| {
            service(project, name).set("ports", ports).set("ttl", ttl).set("fail_open", open)
        },
    )
}

/// With a project before it, longer than a label.
const LONG: &str = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";

fn container_row() -> impl Strategy<Value = Row> {
    let whose = (
        select(vec!["a1", "a2", "a3", "A3", "a4", "zz"]),
        select(vec!["0", "1"]),
        select(vec!["a/b-c", "a-b/c", "a/c", "/c", "/b", "long/b"]),
        select(vec!["s1", "S1", "s2", "s9"]),
        select(vec![Cell::Null, "c".into(), "d".into(), "D".into(), "b-c".into(), "no dots.".into()]),
    );
    let how = (
        select(vec!["10.210.0.1", "10.210.0.2", "10.210.0.3", "10.210.7.1", "8.8.8.8", ""]),
        select(vec!["", "", "fd00:210::1", "fd00:210::77"]),
        select(vec!["healthy", "healthy", "degraded", "unhealthy", "unknown", "splendid"]),
        0..4_i64,
        0..3_i64,
    );
    (whose, how, ports()).prop_map(|((digits, last, service, server, slot), (v4, v6, health, draining, at), ports)| {
        let id = digits.repeat(6) + last;
        container(digits, service, v4)
            .set("id", id.as_str())
            .set("server_id", server)
            .set("instance_id", slot)
            .set("ip6", v6)
            .set("health_status", health)
            .set("draining", i64::from(draining == 0))
            .set("started_at", at)
            .set("ports", ports)
    })
}

fn nats_row() -> impl Strategy<Value = Row> {
    let texts = (
        select(vec!["n1", "N1", "n2"]),
        select(vec!["nats", "a-b-c", "a-b-c-c", "svc"]),
        select(vec!["10.210.0.1", "10.210.1.1", "8.8.8.8"]),
        select(vec!["center", "leaf", "boss"]),
        select(vec!["s1", "s2", "s9"]),
        select(vec!["", "ams", "nrt"]),
    );
    (texts, 0..2_i64).prop_map(|((id, cluster, ip, role, server, region), port)| {
        let row = nats(id, cluster, ip).set("role", role).set("server_id", server).set("region", region);
        row.set("client_port", 4222 * port)
    })
}

fn member_event() -> impl Strategy<Value = Event> {
    let states = vec![MemberState::Up, MemberState::Up, MemberState::Silent, MemberState::Removed];
    let rtt = proptest::option::of((1..4_u64).prop_map(Duration::from_millis));
    let fields = (select(vec!["s1", "S1", "s2", "s9"]), select(states), select(vec!["", "b1", "b2"]), rtt);
    fields.prop_map(|(server, state, boot_id, rtt)| {
        Event::Member(Member { server: server.to_owned(), state, boot_id: boot_id.to_owned(), heard: None, rtt })
    })
}

/// What happens at once: mostly one event.
fn events() -> impl Strategy<Value = Vec<Event>> {
    let one = |event: Event| vec![event];
    let range = select(vec!["10.210.0.0/16", "10.210.0.0/24,fd00:210::/32", "nonsense"]);
    prop_oneof![
        12 => row().prop_map(move |row| one(row.upsert())),
        6 => row().prop_map(move |row| one(row.delete())),
        4 => member_event().prop_map(one),
        1 => range.prop_map(move |range| one(metadata("cluster_cidr", range).upsert())),
        1 => (select(Table::ALL.to_vec()), proptest::collection::vec(row(), 0..4)).prop_map(resync),
        1 => Just(vec![Event::FeedLost]),
    ]
}

/// One table anew. Rows of other tables change along.
fn resync((table, rows): (Table, Vec<Row>)) -> Vec<Event> {
    let rows = rows.into_iter().map(Row::upsert);
    std::iter::once(Event::Reset(table)).chain(rows).chain([Event::Synced(table)]).collect()
}

/// Everything that a zone is, but for its generation.
fn dump(zone: &Zone) -> BTreeMap<String, String> {
    let contents = &*zone.contents;
    let mut all = BTreeMap::new();
    for (table, shards) in [("name", &contents.names), ("pointer", &contents.pointers)] {
        for entry in shards.iter().filter(|entry| entry.node().is_some()) {
            let node = shards.get(entry.name).expect("what is there is found");
            all.insert(format!("{table} {}", entry.name.escape_ascii()), format!("{node:?}"));
        }
    }
    assert_eq!(all.len(), zone.names() + zone.pointers(), "names are counted as they are");
    all.insert("regions".into(), format!("{:?}", contents.regions));
    all.insert("here".into(), format!("{:?}", contents.here));
    all.insert("problems".into(), format!("{:?} {}", contents.problems, contents.problem_count));
    all.insert("origins".into(), format!("{:?}", contents.origins));
    for list in ["_apps.internal", "_instances.internal"] {
        all.insert(list.into(), format!("{:?}", ask(zone, &query(list, "TXT")).answers));
    }
    all
}

fn settings(ranges: &[&str]) -> Arc<Settings> {
    let ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
    Arc::new(Settings::from(&Config { ranges, ..config() }))
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn a_zone_made_by_changes_is_the_zone_of_a_full_build(
        first in proptest::collection::vec(row(), 0..25),
        batches in proptest::collection::vec(proptest::collection::vec(events(), 1..5), 1..20),
        ranges in select(vec![&[][..], &["10.210.0.0/16", "fd00:210::/32"][..]]),
    ) {
        let settings = settings(ranges);
        let mut facts = Facts::default();
        for event in snapshot(first.into_iter().chain([metadata("cluster_cidr", "10.210.0.0/16")])) {
            facts.apply(event);
        }
        let mut builder = Builder::new(Arc::clone(&settings));
        let changes = facts.take_changes();
        let mut last = Zone::next(&mut builder, &facts, changes, 1);
        let mut was = dump(&last);
        prop_assert_eq!(&was, &dump(&Zone::build(&facts, &settings, 1)));
        for (generation, batch) in (2..).zip(batches) {
            let effects: Vec<Effect> = batch.into_iter().flatten().map(|event| facts.apply(event)).collect();
            let changes = facts.take_changes();
            let next = Zone::next(&mut builder, &facts, changes, generation);
            let is = dump(&next);
            prop_assert_eq!(&is, &dump(&Zone::build(&facts, &settings, generation)));
            prop_assert_eq!(&dump(&last), &was, "a zone stays as it was");
            prop_assert!(effects.contains(&Effect::Facts) || is == was, "what shows has an effect");
            (last, was) = (next, is);
        }
    }
}

/// Every name of one of these forms that a zone has.
fn forms(zone: &Zone) -> Vec<String> {
    let names = zone.contents.names.iter().filter(|entry| entry.node().is_some());
    let names = names.map(|entry| format!("{}.internal", crate::name::text(entry.name)));
    let below = |name: &String| name.starts_with("nearest.").then(|| format!("top100.{name}"));
    let all: Vec<String> = names.collect();
    all.iter().filter_map(below).chain(all.clone()).collect()
}

proptest! {
    #[test]
    fn what_is_explained_is_what_is_answered(
        rows in proptest::collection::vec(row(), 0..25),
        members in proptest::collection::vec(member_event(), 0..3),
    ) {
        let settings = settings(&["10.210.0.0/16", "fd00:210::/32"]);
        let mut facts = Facts::default();
        for event in snapshot(rows).into_iter().chain(members) {
            facts.apply(event);
        }
        let zone = Zone::build(&facts, &settings, 1);
        for name in forms(&zone).into_iter().chain(["nope.internal".into(), "example.com".into()]) {
            let told = crate::zone::explain(&facts, &crate::zone::fixed::Fixed::default(), &settings, &name);
            let answered = addresses(&zone, &name);
            let mut found: Vec<String> = told.addresses.iter().map(ToString::to_string).collect();
            found.sort();
            found.dedup();
            match told.rcode {
                "NOERROR" if found.is_empty() => prop_assert_eq!(&answered, "-", "{}", name),
                "NOERROR" => prop_assert_eq!(&answered, &found.join(" "), "{}", name),
                "NXDOMAIN" => prop_assert_eq!(&answered, "Non-Existent Domain", "{}", name),
                _ => prop_assert_eq!(&answered, "Query Refused", "{}", name),
            }
            let is_in = told.instances.iter().filter(|one| one.fate == Fate::In);
            let mut of_instances: Vec<String> =
                is_in.flat_map(|one| &one.addresses).map(ToString::to_string).collect();
            of_instances.sort();
            of_instances.dedup();
            // Names of servers, lists and ports have no addresses of instances.
            if !found.is_empty() && !told.means.starts_with("server") {
                prop_assert_eq!(of_instances, found, "{} {:?}", name, told);
            }
        }
    }
}

#[test]
fn each_instance_of_a_name_is_told_with_its_rule() {
    let rows = [
        server("s1"),
        server("s2").set("draining", 1),
        service("casa", "api"),
        container("aa", "casa/api", "10.210.0.1").set("instance_id", "one").set("started_at", 2),
        container("ab", "casa/api", "10.210.0.2").set("instance_id", "one").set("started_at", 1),
        container("ac", "casa/api", "10.210.0.3").set("server_id", "s2"),
        container("ad", "casa/api", "10.210.0.4").set("server_id", "s3"),
        container("ae", "casa/api", "8.8.8.8"),
        container("af", "casa/api", "10.210.0.6").set("health_status", "degraded"),
        nats("n1", "casa-api", "10.210.0.7").set("role", "leaf"),
    ];
    let silent = Event::Member(Member { state: MemberState::Silent, ..crate::testing::member("s3", MemberState::Up) });
    let config = config();
    let told = crate::explain(&config, snapshot(rows).into_iter().chain([silent]), "Casa-API.internal.");
    let lines = told.instances.iter().map(|one| format!("{} {:?}: {}", &one.id[..4], one.fate, one.rule));
    let lines: Vec<String> = lines.chain(told.notes).collect();
    insta::assert_snapshot!(format!("{} = {}, {}\n{}", told.name, told.means, told.rcode, lines.join("\n")), @r"
    casa-api.internal = service casa/api, NOERROR
    aaaa In: healthy, the best there is, and the newest of its slot
    abab Out: aaaaaaaaaaaa is newer in the same slot
    acac Out: its server s2 is draining
    adad Out: its server s3 is silent
    aeae Out: its row is left out: 8.8.8.8 is outside the cluster's ranges
    afaf Out: it is degraded, and others are healthy
    nats_servers casa-api: name casa-api is taken by casa/api
    ");
}

#[test]
fn a_name_of_a_zone_file_or_a_forwarded_domain_is_told_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let files = ["over", "corp"].map(|name| folder.path().join(name)).to_vec();
    let head = "$TTL 30\n@ SOA a b 1 2 3 4 5\n";
    std::fs::write(&files[0], format!("$ORIGIN internal.\n{head}casa-api A 10.210.9.9\n*.wild A 10.210.9.8\n"))
        .unwrap();
    std::fs::write(&files[1], format!("$ORIGIN corp.\n{head}www A 192.0.2.1\n")).unwrap();
    let forward = crate::forward::Forwarding::system();
    let config = Config { files: [files.clone(), vec![folder.path().join("none")]].concat(), forward, ..config() };
    let rows = [service("casa", "api"), service("casa", "web"), container("aa", "casa/api", "10.210.0.1")];
    let told = |name: &str| {
        let told = crate::explain(&config, snapshot(rows.clone()), name);
        assert!(told.notes[0].contains("none"), "a file that cannot be read is noted: {:?}", told.notes);
        let means = told.means.replace(&*folder.path().to_string_lossy(), "");
        format!("{name} is {means}: {} {:?}, {} instances", told.rcode, told.addresses, told.instances.len())
    };
    let names =
        ["casa-api", "a.wild", "global.casa-api", "casa-web", "vm.google"].map(|name| format!("{name}.internal"));
    let names = names.iter().map(String::as_str).chain(["www.corp", "no.corp", "example.com"]);
    insta::assert_snapshot!(names.map(told).collect::<Vec<_>>().join("\n"), @"
    casa-api.internal is in the zone file /over: NOERROR [10.210.9.9], 0 instances
    a.wild.internal is in the zone file /over: NOERROR [10.210.9.8], 0 instances
    global.casa-api.internal is service casa/api: NOERROR [10.210.0.1], 1 instances
    casa-web.internal is service casa/web: NOERROR [], 0 instances
    vm.google.internal is forwarded, by a domain of dns.forward: FORWARDED [], 0 instances
    www.corp is in the zone file /corp: NOERROR [192.0.2.1], 0 instances
    no.corp is in the zone file /corp: NXDOMAIN [], 0 instances
    example.com is a name in none of our zones: REFUSED [], 0 instances
    ");
}

#[test]
fn a_change_makes_only_its_own_shards_anew() {
    let rows = (0..2000).map(|n| {
        let row =
            container(&format!("{n:012x}"), &format!("casa/s{}", n / 4), &format!("10.210.{}.{}", n / 250, n % 250));
        row.set("instance_id", format!("i{n}").as_str())
    });
    let services = (0..500).map(|n| service("casa", &format!("s{n}")));
    let mut facts = Facts::default();
    for event in snapshot(services.chain(rows)) {
        facts.apply(event);
    }
    let mut builder = Builder::new(settings(&["10.210.0.0/16"]));
    let changes = facts.take_changes();
    let before = Zone::next(&mut builder, &facts, changes, 1);
    facts.apply(
        container("00000000007b", "casa/s30", "10.210.0.123")
            .set("health_status", "unhealthy")
            .set("instance_id", "i123")
            .upsert(),
    );
    let changes = facts.take_changes();
    let after = Zone::next(&mut builder, &facts, changes, 2);
    let different = |of: fn(&Zone) -> &Shards| of(&after).different(of(&before));
    // APP, global, svc, peers, nearest, vms; the container's own three. Of nine names some may share one of 4,096 shards.
    let names = different(|zone| &zone.contents.names);
    assert!((6..=9).contains(&names), "{names} shards");
    assert_eq!(different(|zone| &zone.contents.pointers), 1);
}
