//! The configuration as people meet it: what is shown, and what is said of mistakes.

use super::*;

fn build(file: &str, environment: &[(&str, &str)], flags: &[&str], purpose: Purpose) -> Result<Config, String> {
    let sources = Sources {
        file: Some(("kith.toml".into(), file.to_owned())),
        environment: environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        hostname: "Fra-1.example.org\n".to_owned(),
    };
    Config::build(&sources, purpose).map_err(|problems| problems.to_string())
}

fn problems(file: &str) -> String {
    build(file, &[], &[], Purpose::Dns).expect_err("the configuration is accepted")
}

const IDENTITY: &str = "[gossip]\nca = \"ca.pem\"\ncert = \"n.pem\"\nkey = \"n.key\"\n";

#[test]
fn what_is_in_force_is_shown_with_where_it_came_from() {
    let file = format!(
        "{IDENTITY}seeds = [\"fra-2:31280\", \"10.0.0.3:31280\"]\n\n[dns]\nttl = 30\n[node]\nregion = \"fra\"\n"
    );
    let environment =
        [("KITH_NODE_REGION", "ams"), ("KITH_API", "http://x"), ("KITH_DNS_LISTEN", "[::1]:53, 127.0.0.1:53")];
    let config = build(&file, &environment, &["api.unix=/run/kith.sock", "dns.ttl=9"], Purpose::Agent).unwrap();
    insta::assert_snapshot!(config.show(), @r#"
    [node]
    name = "fra-1"                                    # default
    region = "ams"                                    # KITH_NODE_REGION
    boot_id_file = "/proc/sys/kernel/random/boot_id"  # default
    data_dir = "/var/lib/kith"                        # default

    [cluster]
    id = "kith"             # default
    cidr = "10.210.0.0/16"  # default

    [gossip]
    enabled = true                             # default
    listen = "0.0.0.0:31280"                   # default
    # advertise =                              # default
    seeds = ["fra-2:31280", "10.0.0.3:31280"]  # kith.toml:5
    ca = "ca.pem"                              # kith.toml:2
    cert = "n.pem"                             # kith.toml:3
    key = "n.key"                              # kith.toml:4
    # authority =                              # default
    schema = []                                # default
    durability = "full"                        # default

    [api]
    listen = ["127.0.0.1:31220"]  # default
    unix = "/run/kith.sock"       # --set
    # token_file =                # default

    [dns]
    enabled = true                         # default
    listen = ["[::1]:53", "127.0.0.1:53"]  # KITH_DNS_LISTEN
    tls_listen = []                        # default
    # tls_cert =                           # default
    # tls_key =                            # default
    # metrics =                            # default
    # threads =                            # default
    allow = []                             # default
    rrl_rate = "200"                       # default
    zones = ["internal"]                   # default
    ttl = "9"                              # --set
    ranges = ["10.210.0.0/16"]             # default
    own_addresses = []                     # default
    upstreams = ["system"]                 # default
    # upstream_ca =                        # default
    forward = []                           # default
    rebind_protection = "cluster"          # default
    cache_bytes = "33554432"               # default
    zone = []                              # default

    [daemon]
    enabled = false                  # default
    docker = "/var/run/docker.sock"  # default
    network = true                   # default
    public_sources = []              # default
    wireguard = false                # default
    interface = "kith0"              # default
    port = "31820"                   # default
    endpoints = []                   # default

    [nats]
    enabled = false             # default
    role = "center"             # default
    servers = "1"               # default
    cluster = "nats"            # default
    zone = "internal"           # default
    # ip =                      # default
    # ip6 =                     # default
    client_port = "4222"        # default
    route_port = "6222"         # default
    gateway_port = "7222"       # default
    leaf_port = "7422"          # default
    monitor = "127.0.0.1:8222"  # default
    health = "127.0.0.1:5500"   # default
    resolvers = []              # default
    # url =                     # default
    # bin =                     # default
    store_dir = "/nats-store"   # default
    # max_file_store =          # default
    # max_mem_store =           # default
    sync = "always"             # default
    # append_config =           # default
    # tls_ca =                  # default
    # tls_cert =                # default
    # tls_key =                 # default
    # accounts =                # default
    # credentials =             # default
    # secret_file =             # default
    # max_connections =         # default
    # max_payload =             # default
    # remove_after_ms =         # default
    process = []                # default

    [presence]
    enabled = false                # default
    listen = ["0.0.0.0:8080"]      # default
    # tls_cert =                   # default
    # tls_key =                    # default
    role = "leaf"                  # default
    replicas = "1"                 # default
    url = "nats://127.0.0.1:4222"  # default
    # credentials =                # default
    # nats_ca =                    # default
    domain = "center"              # default
    # jwt_secret_file =            # default
    # jwt_ed25519_file =           # default
    # jwt_rsa_file =               # default
    # jwks_file =                  # default
    # jwt_issuer =                 # default
    # jwt_audience =               # default
    token_rate = "50"              # default
    address_rate = "1000"          # default
    "#);
}

#[test]
fn what_is_shown_is_itself_a_configuration() {
    let first = build(IDENTITY, &[], &[], Purpose::Agent).unwrap();
    let again = build(&first.show(), &[], &[], Purpose::Agent).unwrap();
    let values = |config: &Config| config.shown.iter().map(|s| (s.key.path(), s.texts.clone())).collect::<Vec<_>>();
    assert_eq!(values(&first), values(&again));
    assert_eq!(first.show_json()["gossip"]["ca"], serde_json::json!({ "value": "ca.pem", "from": "kith.toml:2" }));
    assert_eq!(first.show_json()["dns"]["enabled"]["value"], true);
    assert_eq!(first.node.name.as_str(), "fra-1", "the host's own name is the default");
}

#[test]
fn every_mistake_is_reported_at_once_with_its_line() {
    let file = r#"
[node]
name = "NOT a label"
region = 7.5

[dns]
listen = [
  "127.0.0.1:53",
  "somewhere",
]
zone = ["internal"]
ranges = ["10.210.0.1/16"]
ttl = 100000

[gossip]
durability = "maybe"
seeds = "one"
advertise = "0.0.0.0:31280"

[dsn]
listen = []

[api]
listen = ["0.0.0.0:31220"]
"#;
    insta::assert_snapshot!(problems(file), @r#"
    kith.toml:3: node.name: `NOT a label`: node id "NOT a label" must be 1 to 63 lower-case letters, digits, '-' or '_', and must not begin or end with '-'
    kith.toml:4: node.region: a fraction, where a text in quotes is wanted
    kith.toml:9: dns.listen: `somewhere`: not an address with a port, as 127.0.0.1:53 or [::1]:53
    kith.toml:11: dns.zone: a list, where a table for each file: [[dns.zone]] and file = "…" is wanted
    kith.toml:12: dns.ranges: `10.210.0.1/16`: names a host, not a range: bits beyond the prefix are set
    kith.toml:13: dns.ttl: `100000`: a TTL is a number of seconds from 0 to 86400
    kith.toml:16: gossip.durability: `maybe`: neither "full" nor "normal"
    kith.toml:17: gossip.seeds: a text, where a list of texts: ["…", "…"] is wanted
    kith.toml:18: gossip.advertise: not an address of one host
      hint: name the address and port at which other nodes reach this one
    kith.toml:20: [dsn] is not a known section
      hint: did you mean [dns]?
    kith.toml:24: api.listen: 0.0.0.0:31220 is not on loopback, and there is no token
      hint: set api.token_file, or listen on 127.0.0.1
    "#);
}

#[test]
fn the_addresses_of_systemd_resolved_are_not_listened_on() {
    let file = "[dns]\nlisten = [\"127.0.0.53:53\", \"[::ffff:127.0.0.54]:5353\", \"127.0.0.55:53\"]\n";
    insta::assert_snapshot!(problems(file), @"
    kith.toml:2: dns.listen: `127.0.0.53:53`: 127.0.0.53 and 127.0.0.54 are systemd-resolved's: take another address, as 127.0.0.1:53
    kith.toml:2: dns.listen: `[::ffff:127.0.0.54]:5353`: 127.0.0.53 and 127.0.0.54 are systemd-resolved's: take another address, as 127.0.0.1:53
    ");
}

#[test]
fn a_file_that_is_no_toml_is_named_with_the_line() {
    insta::assert_snapshot!(problems("[node]\nname = \"a\nregion = fra\n[dns\n"), @r#"
    kith.toml:2: invalid basic string, expected `"`
    kith.toml:3: invalid boolean, expected `false`
      hint: a text stands in quotes
    kith.toml:4: unclosed table, expected `]`
    "#);
}

#[test]
fn unknown_variables_and_flags_are_mistakes_too() {
    let environment = [("KITH_DNS_LISTENS", "x"), ("KITH_SKIPPED", "x"), ("KITH_LOG_FORMAT", "json")];
    let said = build("", &environment, &["dns.tll=5", "nonsense", "dns.enabled=perhaps"], Purpose::Dns).unwrap_err();
    insta::assert_snapshot!(said, @r#"
    KITH_DNS_LISTENS: dns.listens is not a known key
      hint: did you mean dns.listen?
    --set: `nonsense` is not SECTION.KEY=VALUE
    --set: dns.enabled: `perhaps`: neither true nor false
    --set: dns.tll is not a known key
      hint: did you mean dns.ttl?
    "#);
}

#[test]
fn a_part_that_is_to_run_must_be_complete_and_no_other() {
    let said = build("", &[], &[], Purpose::Agent).unwrap_err();
    assert_eq!(said.matches("not set").count(), 3, "{said}");
    build("", &[], &["gossip.enabled=false"], Purpose::Agent).unwrap();
    build("", &[], &[], Purpose::Dns).unwrap();
    let said = build("[dns]\nenabled = false\n[gossip]\nenabled = false", &[], &[], Purpose::Agent).unwrap_err();
    assert!(said.starts_with("kith.toml:4: gossip.enabled: no part is enabled"), "{said}");
    let said = build("", &[], &["dns.listen=", "dns.zones="], Purpose::Dns).unwrap_err();
    assert!(said.contains("dns.listen: no address") && said.contains("dns.zones: no zone"), "{said}");
}

#[test]
fn a_socket_path_that_the_system_cannot_take_is_refused() {
    let long = format!("api.unix=/{}", "x".repeat(107));
    let said = build("", &[], &[&long], Purpose::Dns).unwrap_err();
    assert!(said.contains("at most 107 bytes"), "{said}");
}

#[test]
fn a_domain_is_forwarded_by_a_table_or_by_one_text() {
    let text = "[dns]\nupstreams = [\"tls://9.9.9.9#dns.quad9.net\", \"192.0.2.1:5353\"]\n\
                [dns.forward.\"corp.example\"]\nservers = [\"10.0.0.53\", \"10.0.1.53:5353\"]\n";
    let config = build(&format!("{IDENTITY}\n{text}"), &[], &[], Purpose::Dns).unwrap();
    let shown = |config: &Config| config.show_json()["dns"]["forward"]["value"].clone();
    assert_eq!(shown(&config), serde_json::json!(["corp.example=10.0.0.53+10.0.1.53:5353"]));
    let domains: Vec<String> = config.dns.forward.domains.iter().map(|domain| domain.suffix.to_string()).collect();
    let below = ["corp.example", "google.internal", "ec2.internal", "compute.internal", "docker.internal"];
    assert_eq!(domains, below);
    assert_eq!(config.dns.forward.domains[0].servers.len(), 2);
    let again = build(&config.show(), &[], &[], Purpose::Dns).unwrap();
    assert_eq!(again.dns.forward, config.dns.forward);
    let refused = build("dns.upstreams = []", &[], &[], Purpose::Dns).unwrap();
    assert!(refused.dns.forward.is_refused());
}

#[test]
fn what_is_no_upstream_is_said_with_its_line() {
    let text = "[dns]\nupstreams = [\"system\", \"9.9.9.9\"]\ncache_bytes = 5\nrebind_protection = \"some\"\n\
                [dns.forward.\"corp.example\"]\nservers = [\"corp\"]\nserver = \"10.0.0.53\"\n";
    let problems = build(text, &[], &[], Purpose::Dns).unwrap_err().to_string();
    for wanted in ["system and others together", "65536", "cluster", "corp.example=corp", "only servers"] {
        assert!(problems.contains(wanted), "{wanted} is not in: {problems}");
    }
}

#[test]
fn zone_files_are_tables_or_paths() {
    let file = "[[dns.zone]]\nfile = \"a.zone\"\n[[dns.zone]]\nfile = \"b.zone\"\n";
    let files = |config: &Config| config.dns.files.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
    let config = build(file, &[], &[], Purpose::Dns).unwrap();
    assert_eq!(files(&config), ["a.zone", "b.zone"]);
    let shown = r#"zone = [{ file = "a.zone" }, { file = "b.zone" }]"#;
    assert!(config.show().contains(shown), "{}", config.show());
    assert_eq!(files(&build(&config.show(), &[], &[], Purpose::Dns).unwrap()), ["a.zone", "b.zone"]);
    assert_eq!(files(&build(file, &[("KITH_DNS_ZONE", "c, d")], &[], Purpose::Dns).unwrap()), ["c", "d"]);
    let wrong = "kith.toml:1: dns.zone: a list, where a table for each file: [[dns.zone]] and file = \"…\" is wanted";
    assert_eq!(problems("[[dns.zone]]\npath = \"a.zone\"\n"), wrong);
}

#[test]
fn dns_over_tls_needs_a_certificate_and_its_key() {
    let set = ["dns.tls_listen=127.0.0.1:853", "dns.tls_cert=/etc/kith/dns.crt", "dns.tls_key=/etc/kith/dns.key"];
    let tls = build(IDENTITY, &[], &set, Purpose::Agent).unwrap().dns.tls.unwrap();
    assert_eq!((tls.listen.len(), tls.cert.to_str()), (1, Some("/etc/kith/dns.crt")));
    let problems = build(IDENTITY, &[], &set[..2], Purpose::Agent).unwrap_err();
    assert!(problems.contains("dns.tls_key: not set"), "{problems}");
    assert_eq!(build(IDENTITY, &[], &set[1..], Purpose::Agent).unwrap().dns.tls, None, "nowhere");
}

#[test]
fn a_nats_server_is_told_by_the_file_and_by_what_its_ancestor_heard() {
    let runner = |file: &str, environment: &[(&str, &str)], flags: &[&str]| {
        build(file, environment, flags, Purpose::Nats).unwrap().nats.runner
    };
    let alone = runner("", &[], &[]);
    assert_eq!(alone.listen.ip, Some(Ipv4Addr::LOCALHOST));
    let inherited = [
        ("NATS_STORE_DIR", "/disk"),
        ("NATS_MAX_FILE_STORE", "1TB"),
        ("NATS_MAX_MEMORY_STORE", "1GB"),
        ("NATS_APPEND_CONFIG", "cGluZ19tYXg6\nIDUK"),
    ];
    let told = runner("[nats]\nstore_dir = \"/other\"", &inherited, &[]);
    assert_eq!((told.store.dir.to_str(), told.append.as_deref()), (Some("/disk"), Some("ping_max: 5\n")));
    assert_eq!((told.store.files.unwrap().0, told.store.memory.unwrap().0), (1 << 40, 1 << 30));
    let own = [("KITH_NATS_STORE_DIR", "/own"), ("NATS_STORE_DIR", "/disk")];
    assert_eq!(runner("", &own, &[]).store.dir.to_str(), Some("/own"));
    assert_eq!(runner("", &own, &["nats.store_dir=/flag"]).store.dir.to_str(), Some("/flag"));
}

#[test]
fn raw_configuration_of_nats_server_may_hold_secrets_and_is_not_shown() {
    let secret = "cGFzc3dvcmQ6IHMzY3IzdAo=";
    let set = [("NATS_APPEND_CONFIG", secret)];
    let config = build("", &set, &[], Purpose::Nats).unwrap();
    assert_eq!(config.nats.runner.append.as_deref(), Some("password: s3cr3t\n"));
    let shown = config.show();
    assert!(shown.contains("# append_config = (set, not shown)"), "{shown}");
    let json = config.show_json();
    assert_eq!(json["nats"]["append_config"]["value"], "(set, not shown)");
    let wrong = build("", &[("NATS_APPEND_CONFIG", "s3cr3t?")], &[], Purpose::Nats).unwrap_err();
    for said in [shown, json.to_string(), wrong] {
        assert!(!said.contains(secret) && !said.contains("s3cr3t"), "{said}");
    }
}

#[test]
fn presence_speaks_to_the_nats_server_of_this_server() {
    let url = |flags: &[&str]| build("", &[], flags, Purpose::Nats).unwrap().presence.url;
    assert_eq!(url(&[]), "nats://127.0.0.1:4222");
    assert_eq!(url(&["nats.ip=10.210.1.1", "nats.client_port=4300"]), "nats://10.210.1.1:4300");
    assert_eq!(
        url(&["nats.ip6=fd00::1", "nats.tls_ca=a", "nats.tls_cert=b", "nats.tls_key=c"]),
        "tls://[fd00::1]:4222"
    );
    assert_eq!(url(&["nats.ip=10.210.1.1", "presence.url=nats://10.0.0.1"]), "nats://10.0.0.1");
    assert_eq!(url(&["nats.url=nats://10.0.0.2:4333"]), "nats://10.0.0.2:4333");
}

#[test]
fn processes_beside_nats_server_come_back_as_they_are_shown() {
    let file = "[[nats.process]]\nname = \"exporter\"\ncommand = [\"/bin/x\", \"-a b\"]\n[[nats.process]]\nname = \"y\"\ncommand = [\"y\"]";
    let shown = build(file, &[], &[], Purpose::Nats).unwrap();
    let again = build(&shown.show(), &[], &[], Purpose::Nats).unwrap().nats.runner.processes;
    assert_eq!(again, shown.nats.runner.processes);
    assert_eq!(again[0].command, ["/bin/x", "-a b"]);
    let flag = build("", &[], &["nats.process=z=/bin/z -v 1"], Purpose::Nats).unwrap().nats.runner.processes;
    assert_eq!(flag[0].command, ["/bin/z", "-v", "1"]);
}

#[test]
fn a_clustered_nats_server_has_an_address_and_a_region_and_files_of_tls_come_together() {
    let said = build("[nats]\nservers = 3\ntls_ca = \"ca.pem\"", &[], &[], Purpose::Nats).unwrap_err();
    for what in ["node.region: not set", "nats.ip: not set", "nats.tls_cert: not all of its files"] {
        assert!(said.contains(what), "{said}");
    }
    let said = build("[nats]\nip = \"0.0.0.0\"\nip6 = \"::1\"", &[], &[], Purpose::Nats).unwrap_err();
    assert!(said.contains("0.0.0.0 is nobody's address"), "{said}");
    let accounts =
        "[node]\nregion = \"fra\"\n[nats]\nservers = 3\nip = \"10.0.0.1\"\nip6 = \"fd00::1\"\naccounts = \"a\"";
    let said = build(accounts, &[], &[], Purpose::Nats).unwrap_err();
    assert!(said.contains("nats.secret_file: not set, and nats.accounts is"), "{said}");
    build(accounts, &[], &["nats.secret_file=s"], Purpose::Nats).expect("both addresses, and a secret");
    let external = ["nats.url=nats://10.0.0.1:4222"];
    build("[nats]\nservers = 3", &[], &external, Purpose::Nats).expect("somebody else has configured it");
    for wrong in [
        "url=nats://u:p@10.0.0.1",
        "max_payload=65MB",
        "max_connections=0",
        "remove_after_ms=599999",
        "role=both",
        "servers=2",
        "max_file_store=much",
        "sync=never",
        "append_config=?",
        "process=nats-server=x",
        "process=a=",
    ] {
        assert!(build("", &[], &[&format!("nats.{wrong}")], Purpose::Nats).is_err(), "{wrong}");
    }
    build("[nats]\nservers = 3", &[], &[], Purpose::Dns).expect("a part that is not to run need not be complete");
}
