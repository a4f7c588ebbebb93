//! Golden texts. That nats-server takes each of them is `tests/tests/nats_config.rs`, which has the real one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::quote::{string, userinfo};
use super::{Credentials, Document, LeafCredentials, Limits, Section, Settings, Store, Tls};
use crate::change::{Class, Due, reloadable};
use crate::config::SyncInterval;
use crate::shape::{Host, Listening, Place, Shape, Standing};

/// A clustered server of `ams`.
pub(crate) fn settings() -> Settings {
    Settings {
        place: Place {
            cluster: "nats".parse().expect("a name"),
            zone: "internal".parse().expect("a zone"),
            region: Some("ams".parse().expect("a name")),
            standing: Standing::Clustered,
            address: "10.0.0.1".parse().expect("an address"),
            host: Host::Own,
            ports: Listening::default(),
        },
        name: "ams1-0f3a".parse().expect("a name"),
        monitor: "127.0.0.1:8222".parse().expect("an address"),
        store: Some(store("/nats-store", Some(1 << 30), Some(1 << 28))),
        limits: Limits::default(),
        tls: None,
        accounts: None,
        system: Credentials { user: "kith".to_owned(), password: "s3cret".to_owned() },
        routes: None,
        turns: None,
        leaf: None,
        lame_duck: Duration::from_secs(30),
        append: None,
    }
}

fn store(dir: &str, max_file: Option<u64>, max_memory: Option<u64>) -> Store {
    Store { dir: dir.into(), max_file, max_memory, sync: SyncInterval::Always }
}

fn servers(list: &[&str]) -> BTreeSet<std::net::SocketAddr> {
    list.iter().map(|text| text.parse().expect("an address")).collect()
}

fn center() -> Shape {
    let gateways = BTreeMap::from([("iad".parse().expect("a name"), servers(&["10.1.0.1:7222"]))]);
    Shape::Center { routes: servers(&["10.0.0.1:6222", "10.0.0.2:6222"]), gateways }
}

fn leaf() -> Shape {
    Shape::Leaf { remotes: servers(&["10.0.0.1:7422", "[fd00::2]:7422"]) }
}

fn everything() -> Settings {
    Settings {
        tls: Some(Tls { cert: "/c.pem".into(), key: "/k.pem".into(), ca: "/ca.pem".into(), mark: 7 }),
        accounts: Some("APP { users: [ { user: app, password: app } ], jetstream: enabled }".to_owned()),
        routes: Some(Credentials { user: "route".to_owned(), password: "p@ss/word\"".to_owned() }),
        turns: Some(Credentials { user: "kith-turns".to_owned(), password: "turn".to_owned() }),
        limits: Limits { max_connections: Some(1_000), max_payload: Some(1 << 20) },
        append: Some("max_subscriptions: 1000".to_owned()),
        ..settings()
    }
}

#[test]
fn a_server_of_the_center() {
    insta::assert_snapshot!(Document::of(&settings(), &center()).text());
}

#[test]
fn a_server_of_the_center_with_everything() {
    insta::assert_snapshot!(Document::of(&everything(), &center()).text());
}

#[test]
fn a_lone_server() {
    let mut settings = settings();
    settings.place.standing = Standing::Lone;
    insta::assert_snapshot!(Document::of(&settings, &Shape::Lone).text());
}

#[test]
fn a_server_that_is_reached_by_both_families() {
    let mut settings = settings();
    settings.place.host = Host::All;
    insta::assert_snapshot!(Document::of(&settings, &center()).text());
}

#[test]
fn a_leaf() {
    let mut settings = everything();
    settings.place.standing = Standing::Leaf;
    settings.leaf = Some(LeafCredentials::File("/leaf.creds".into()));
    insta::assert_snapshot!(Document::of(&settings, &leaf()).text());
}

#[test]
fn no_value_ends_its_quotes() {
    assert_eq!(string("a\"b\\c\nd$é"), r#""a\"b\\c\x0Ad$\xC3\xA9""#);
    assert_eq!(userinfo("a@b:c/d\""), "a%40b%3Ac%2Fd%22");
    let mut settings = everything();
    settings.store = Some(store("/a\" }\nport: 1 #", None, None));
    settings.system.password = "x\" } ] }\nport: 2 #".to_owned();
    let text = Document::of(&settings, &center()).text();
    assert!(!text.lines().any(|line| line.starts_with("port:")), "{text}");
}

/// Each section changed alone, and what that takes.
#[test]
fn the_table_of_changes() {
    let change = |edit: &dyn Fn(&mut Settings), shape: Shape| {
        let mut changed = everything();
        edit(&mut changed);
        let (running, wanted) = (Document::of(&everything(), &center()), Document::of(&changed, &shape));
        Due::between(&running, &wanted).to_string()
    };
    let same = |edit: &dyn Fn(&mut Settings)| change(edit, center());
    let shaped = |routes: &[&str], region: &str| {
        let gateways = BTreeMap::from([(region.parse().expect("a name"), servers(&["10.1.0.1:7222"]))]);
        change(&|_| (), Shape::Center { routes: servers(routes), gateways })
    };
    let table = [
        ("nothing", same(&|_| ())),
        ("a route more", shaped(&["10.0.0.1:6222", "10.0.0.2:6222", "10.0.0.3:6222"], "iad")),
        ("another region", shaped(&["10.0.0.1:6222", "10.0.0.2:6222"], "syd")),
        ("both", shaped(&["10.0.0.1:6222"], "syd")),
        ("accounts", same(&|settings| settings.accounts = None)),
        ("system password", same(&|settings| settings.system.password = "other".to_owned())),
        ("certificate renewed", same(&|settings| settings.tls.as_mut().expect("it has").mark = 8)),
        ("no TLS", same(&|settings| settings.tls = None)),
        ("limits", same(&|settings| settings.limits.max_payload = None)),
        ("secret of turns", same(&|settings| settings.turns = None)),
        ("secret of routes", same(&|settings| settings.routes = None)),
        ("store", same(&|settings| settings.store.as_mut().expect("it has").max_file = None)),
        (
            "sync",
            same(&|settings| {
                settings.store.as_mut().expect("it has").sync = SyncInterval::Within(Duration::from_secs(120));
            }),
        ),
        ("no store", same(&|settings| settings.store = None)),
        ("port of clients", same(&|settings| settings.place.ports.client = 1)),
        ("port of routes", same(&|settings| settings.place.ports.route = 1)),
        ("port of gateways", same(&|settings| settings.place.ports.gateway = 1)),
        ("port of leaves", same(&|settings| settings.place.ports.leaf = 1)),
        ("name", same(&|settings| settings.name = "other".parse().expect("a name"))),
        ("lame duck", same(&|settings| settings.lame_duck = Duration::from_secs(60))),
        ("appended", same(&|settings| settings.append = Some("max_subscriptions: 2000".to_owned()))),
        ("becomes lone", change(&|_| (), Shape::Lone)),
    ];
    insta::assert_snapshot!(table.map(|(what, takes)| format!("{what}: {takes}")).join("\n"));
}

#[test]
fn another_remote_is_a_reload() {
    let (running, wanted) = (
        Document::of(&settings(), &leaf()),
        Document::of(&settings(), &Shape::Leaf { remotes: servers(&["10.0.0.1:7422"]) }),
    );
    assert_eq!(Due::between(&running, &wanted).to_string(), "reload: leaf remotes");
}

#[test]
fn what_is_reloaded_has_nothing_that_takes_more() {
    let mut changed = everything();
    changed.limits.max_payload = Some(1);
    changed.place.ports.leaf = 1;
    changed.append = None;
    let gateways = BTreeMap::new();
    let shape = Shape::Center { routes: servers(&["10.0.0.1:6222"]), gateways };
    let (running, wanted) = (Document::of(&everything(), &center()), Document::of(&changed, &shape));
    let mix = reloadable(&running, &wanted);
    assert_eq!(Due::between(&running, &mix).to_string(), "reload: limits, routes");
    let left = Due::between(&mix, &wanted);
    assert!(!left.takes(Class::Reload) && left.takes(Class::Restart) && left.takes(Class::Aside));
    assert_eq!(reloadable(&running, &running), running);
    assert!(
        Section::ALL.iter().all(|section| wanted.with(&running, |_| true).differences(&running).all(|s| s != *section))
    );
}
