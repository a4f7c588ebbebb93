//! A center and leaves that show each other certificates and credentials: TLS on every listener, accounts that an operator
//! signed, one file of credentials for the leaf's link and one for each node.

#![allow(clippy::unwrap_used, reason = "a test's functions are tests as well")]

#[path = "wire/servers.rs"]
mod servers;
mod wire;

use std::path::{Path, PathBuf};

use data_encoding::BASE64URL_NOPAD;
use kith_presence::Nats;
use nkeys::KeyPair;
use serde_json::{Value, json};
use servers::{NatsServer, Secured, binary};
use wire::{Running, ask, config, put, shown, until};

/// An operator, the account of presence, and that of the system.
struct Operator {
    key: KeyPair,
    account: KeyPair,
    system: KeyPair,
}

/// A claim of `what`, signed by `by`, as nats-server reads it.
fn signed(by: &KeyPair, of: &KeyPair, kind: &str, what: &Value) -> String {
    let mut nats = what.clone();
    nats["type"] = kind.into();
    nats["version"] = 2.into();
    let claims = json!({
        "jti": "of-a-test", "iat": 1_700_000_000, "iss": by.public_key(), "name": kind, "sub": of.public_key(),
        "nats": nats,
    });
    let part = |json: &Value| BASE64URL_NOPAD.encode(json.to_string().as_bytes());
    let text = format!("{}.{}", part(&json!({"typ": "JWT", "alg": "ed25519-nkey"})), part(&claims));
    format!("{text}.{}", BASE64URL_NOPAD.encode(&by.sign(text.as_bytes()).unwrap()))
}

impl Operator {
    fn new() -> Self {
        Self { key: KeyPair::new_operator(), account: KeyPair::new_account(), system: KeyPair::new_account() }
    }

    /// What every server is told.
    fn told(&self) -> String {
        let (account, system) = (self.account.public_key(), self.system.public_key());
        let any = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        });
        let mut with_streams = any.clone();
        for limit in ["mem_storage", "disk_storage", "streams", "consumer"] {
            with_streams[limit] = (-1).into();
        }
        let of = |key, limits| signed(&self.key, key, "account", &json!({ "limits": limits }));
        format!(
            "operator: {}\nsystem_account: {system}\nresolver: MEMORY\nresolver_preload: {{ {account}: {}, {system}: {} }}\n",
            signed(&self.key, &self.key, "operator", &json!({})),
            of(&self.account, &with_streams),
            of(&self.system, &any),
        )
    }

    /// A file of credentials of a user of presence's account.
    fn credentials(&self, path: PathBuf) -> PathBuf {
        let user = KeyPair::new_user();
        let token = signed(&self.account, &user, "user", &json!({ "subs": -1, "data": -1, "payload": -1 }));
        let seed = user.seed().unwrap();
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        std::fs::write(&path, text).unwrap();
        path
    }
}

/// An authority, and a certificate of it for servers on loopback: the `tls` block of each.
fn certificates(dir: &Path) -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut of = rcgen::CertificateParams::new(Vec::new()).unwrap();
    of.distinguished_name.push(rcgen::DnType::CommonName, "an authority");
    of.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = of.self_signed(&key).unwrap();
    let server = rcgen::KeyPair::generate().unwrap();
    let names = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let certificate = names.signed_by(&server, &rcgen::Issuer::new(of, key)).unwrap();
    let files = [("ca", authority.pem()), ("cert", certificate.pem()), ("key", server.serialize_pem())];
    let block = files.map(|(name, pem)| {
        let path = dir.join(format!("{name}.pem"));
        std::fs::write(&path, pem).unwrap();
        format!("{name}_file: \"{}\"\n", path.display())
    });
    format!("tls {{\n{}}}\n", block.concat())
}

/// How a node is given a server that wants TLS and credentials.
fn nats(server: &NatsServer, ca: &Path, credentials: Option<&Path>) -> Nats {
    let Nats::Server(mut given) = server.nats() else { unreachable!() };
    given.url = given.url.replace("nats://", "tls://");
    given.ca = Some(ca.to_owned());
    given.credentials = credentials.map(Path::to_owned);
    Nats::Server(given)
}

#[tokio::test]
async fn leaves_and_center_share_by_tls_and_credentials_and_nobody_does_without() {
    let Some(binary) = binary("leaves_and_center_share_by_tls_and_credentials") else { return };
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (operator, tls) = (Operator::new(), certificates(dir.path()));
    let link = operator.credentials(at("link.creds"));
    let account = operator.account.public_key();
    let more = Secured {
        server: format!("{}{tls}", operator.told()),
        listener: tls.clone(),
        remote: format!("account: {account}\ncredentials: \"{}\"\n{tls}", link.display()),
    };
    let center = NatsServer::secured(&binary, dir.path(), "center", (None, at("disk-center").as_path()), &more);
    let leaf = |name: &str| {
        let disk = at(&format!("disk-{name}"));
        NatsServer::secured(&binary, dir.path(), name, (Some(center.leaf_port), disk.as_path()), &more)
    };
    let servers = [&center, &leaf("one"), &leaf("two")];
    let (ca, user) = (at("ca.pem"), operator.credentials(at("node.creds")));
    let mut nodes = Vec::new();
    for (name, server) in ["center", "one", "two"].into_iter().zip(servers) {
        let config = config(dir.path(), name, nats(server, &ca, Some(&user)));
        nodes.push(Running::start(config).await.ready().await);
    }
    assert_eq!(put(nodes[1].addr, "ann", r#"{"status":"busy"}"#).await.status, 200);
    for node in &nodes {
        until("ann is shown", async || shown(node.addr, "ann").await == "busy").await;
    }
    let kept = "/api/v2/presence/ann?durability=center";
    until("the center keeps her", async || {
        let token = wire::token("ann", kith_presence::Writes::Own);
        ask(nodes[2].addr, "PUT", kept, Some(&token), r#"{"status":"away"}"#).await.status == 200
    })
    .await;
    // Another operator's credentials, none, or an authority that signed no certificate of theirs: never linked.
    let others = Operator::new().credentials(at("others.creds"));
    let strange = at("strange");
    std::fs::create_dir(&strange).unwrap();
    certificates(&strange);
    for given in [
        nats(servers[1], &ca, Some(&others)),
        nats(servers[1], &ca, None),
        nats(servers[1], &strange.join("ca.pem"), Some(&user)),
    ] {
        let node = Running::start(config(dir.path(), "stranger", given.clone())).await;
        let Nats::Server(server) = given else { unreachable!() };
        assert!(connects(&server).await.is_err(), "{server:?}");
        assert_eq!(ask(node.addr, "GET", "/health/readiness", None, "").await.status, 503);
        node.stop().await;
    }
    for node in nodes {
        node.stop().await;
    }
}

/// Tries what a node of this configuration tries.
async fn connects(server: &kith_presence::Server) -> Result<(), String> {
    let mut options = async_nats::ConnectOptions::new().add_root_certificates(server.ca.clone().unwrap());
    if let Some(credentials) = &server.credentials {
        options = options.credentials_file(credentials).await.map_err(|e| e.to_string())?;
    }
    options.connect(&server.url).await.map(drop).map_err(|e| e.to_string())
}
