//! Each section as text, and all of them as a file.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::quote::{duration, path, string, userinfo};
use super::{Credentials, LeafCredentials, Section, Settings, Store, Tls};
use crate::config::SyncInterval;
use crate::shape::{Host, Shape, Standing};

/// JetStream of all regions is one domain and one meta group: different domains behind gateways break it.
const CENTER_DOMAIN: &str = "center";
/// The account that has the bucket of turns, where there are accounts.
const TURNS: &str = "KITH";
/// A peer that is gone is noticed in half a minute rather than in the five that nats-server takes by itself.
const PING: &str = "ping_interval: \"10s\"\nping_max: 2\n";

type Sections = BTreeMap<Section, String>;

pub(super) fn sections(settings: &Settings, shape: &Shape) -> Sections {
    let mut sections = Sections::new();
    let mut say = |section, text: String| {
        if !text.is_empty() {
            sections.insert(section, text);
        }
    };
    say(Section::Server, server(settings));
    say(Section::Limits, limits(settings));
    say(Section::Tls, settings.tls.as_ref().map(tls).unwrap_or_default());
    say(Section::Accounts, accounts(settings));
    say(Section::JetStream, settings.store.as_ref().map(|store| jetstream(settings, store)).unwrap_or_default());
    match shape {
        Shape::Lone => say(Section::Leaves, leaves(settings)),
        Shape::Center { routes, gateways } => {
            say(Section::Cluster, listener(settings, settings.place.ports.route));
            say(Section::Routes, format!("routes: [\n{}]\n", urls("nats-route", settings.routes.as_ref(), routes)));
            let others = gateways.iter().map(|(region, servers)| {
                let servers = urls("nats", settings.routes.as_ref(), servers);
                format!("{{ name: {}, urls: [\n{servers}] }}\n", string(region.as_str()))
            });
            say(Section::Gateways, format!("gateways: [\n{}]\n", others.collect::<String>()));
            say(Section::Gateway, listener(settings, settings.place.ports.gateway));
            say(Section::Leaves, leaves(settings));
        }
        Shape::Leaf { remotes } => say(Section::Remotes, remote(settings, remotes)),
    }
    say(Section::Append, settings.append.clone().unwrap_or_default());
    sections
}

pub(super) fn join(sections: &Sections) -> String {
    let of = |section: Section| sections.get(&section).map_or("", String::as_str);
    let tls = of(Section::Tls);
    let mut text = String::from("# Written by Kith, and again whenever DNS says otherwise.\n");
    text.push_str(of(Section::Server));
    text.push_str(of(Section::Limits));
    block(&mut text, "tls", &[tls]);
    block(&mut text, "accounts", &[of(Section::Accounts)]);
    block(&mut text, "jetstream", &[of(Section::JetStream)]);
    let among = mutual(tls);
    block(&mut text, "cluster", &[of(Section::Cluster), of(Section::Routes), &among]);
    block(&mut text, "gateway", &[of(Section::Gateway), of(Section::Gateways), &among]);
    block(&mut text, "leafnodes", &[of(Section::Leaves), &among]);
    let mut remotes = of(Section::Remotes).to_owned();
    if !remotes.is_empty() {
        // The certificate belongs to the remote: a leaf listens for none itself.
        let shown = if tls.is_empty() { String::new() } else { format!("tls {{\n{tls}}}\n") };
        remotes = format!("remotes: [ {{\n{remotes}{shown}}} ]\n");
        block(&mut text, "leafnodes", &[&remotes]);
    }
    text.push_str(of(Section::Append));
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// A block, unless its first part is empty.
fn block(text: &mut String, name: &str, parts: &[&str]) {
    if parts.first().is_some_and(|first| first.is_empty()) {
        return;
    }
    text.push_str(name);
    text.push_str(" {\n");
    parts.iter().for_each(|part| text.push_str(part));
    text.push_str("}\n");
}

/// Servers show each other their certificates; clients need none.
fn mutual(tls: &str) -> String {
    if tls.is_empty() { String::new() } else { format!("tls {{\n{tls}verify: true\n}}\n") }
}

fn server(settings: &Settings) -> String {
    let place = &settings.place;
    // nats-server sends nobody away in the grace period, which is 10 s by itself and part of the duration.
    let listen = place.listens(place.ports.client);
    format!(
        "server_name: {}\nlisten: {}\n{}http: {}\nsystem_account: \"$SYS\"\nlame_duck_duration: {}\nlame_duck_grace_period: \"5s\"\n{PING}",
        string(settings.name.as_str()),
        string(&listen.to_string()),
        told("client_advertise", settings, place.ports.client),
        string(&settings.monitor.to_string()),
        duration(settings.lame_duck),
    )
}

fn limits(settings: &Settings) -> String {
    let one = |name: &str, value: Option<u32>| value.map(|value| format!("{name}: {value}\n")).unwrap_or_default();
    one("max_connections", settings.limits.max_connections) + &one("max_payload", settings.limits.max_payload)
}

fn tls(tls: &Tls) -> String {
    format!(
        "# {:016x} is what the files hold\ncert_file: {}\nkey_file: {}\nca_file: {}\n",
        tls.mark,
        path(&tls.cert),
        path(&tls.key),
        path(&tls.ca),
    )
}

fn accounts(settings: &Settings) -> String {
    let mut text = format!("$SYS {{ users: [ {{ {} }} ] }}\n", user(&settings.system));
    if let Some(turns) = settings.turns.as_ref().filter(|_| settings.place.standing == Standing::Clustered) {
        text.push_str(&format!("{TURNS} {{ jetstream: enabled, users: [ {{ {} }} ] }}\n", user(turns)));
    }
    text.push_str(settings.accounts.as_deref().unwrap_or_default());
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn user(credentials: &Credentials) -> String {
    format!("user: {}, password: {}", string(&credentials.user), string(&credentials.password))
}

fn jetstream(settings: &Settings, store: &Store) -> String {
    let domain = match settings.place.standing {
        Standing::Lone | Standing::Clustered => CENTER_DOMAIN.to_owned(),
        Standing::Leaf => format!("leaf-{}", settings.name),
    };
    let bound = |name: &str, value: Option<u64>| value.map(|value| format!("{name}: {value}\n")).unwrap_or_default();
    let sync = match store.sync {
        SyncInterval::Always => "always".to_owned(),
        SyncInterval::Within(time) => duration(time),
    };
    format!("store_dir: {}\ndomain: {}\nsync_interval: {sync}\n", path(&store.dir), string(&domain))
        + &bound("max_file_store", store.max_file)
        + &bound("max_memory_store", store.max_memory)
}

/// What a listener for other servers says: its name is the region, its users those who know the secret.
fn listener(settings: &Settings, port: u16) -> String {
    let listen = settings.place.listens(port);
    let secret = settings.routes.as_ref().map(|routes| format!("authorization {{ {} }}\n", user(routes)));
    format!(
        "name: {}\nlisten: {}\n{}{}",
        string(settings.place.region_name().as_str()),
        string(&listen.to_string()),
        told("advertise", settings, port),
        secret.unwrap_or_default(),
    )
}

fn leaves(settings: &Settings) -> String {
    let port = settings.place.ports.leaf;
    format!("listen: {}\n{}", string(&settings.place.listens(port).to_string()), told("advertise", settings, port))
}

/// The address that others are told of. One that listens at all of them would tell all of them.
fn told(name: &str, settings: &Settings, port: u16) -> String {
    match settings.place.host {
        Host::Own => String::new(),
        Host::All => format!("{name}: {}\n", string(&SocketAddr::new(settings.place.address, port).to_string())),
    }
}

fn remote(settings: &Settings, remotes: &BTreeSet<SocketAddr>) -> String {
    match &settings.leaf {
        None => format!("urls: [\n{}]\n", urls("nats-leaf", None, remotes)),
        Some(LeafCredentials::User(user)) => format!("urls: [\n{}]\n", urls("nats-leaf", Some(user), remotes)),
        Some(LeafCredentials::File(file)) => {
            format!("urls: [\n{}]\ncredentials: {}\n", urls("nats-leaf", None, remotes), path(file))
        }
    }
}

/// One URL a line: literals, for the child must not ask the resolver of the host.
fn urls(scheme: &str, shown: Option<&Credentials>, servers: &BTreeSet<SocketAddr>) -> String {
    let shown = shown.map(|shown| format!("{}:{}@", userinfo(&shown.user), userinfo(&shown.password)));
    let shown = shown.as_deref().unwrap_or_default();
    servers.iter().map(|server| string(&format!("{scheme}://{shown}{server}")) + "\n").collect()
}
