//! `kith dev --presence`: presence beside each of the three NATS servers, a center and two leaves. A leaf is told its own
//! nats-server and nothing of the center: that one is found by the cluster's DNS.

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::HEXLOWER;
use kith_gossip_proto::NodeId;
use kith_presence::{AuthConfig, Config, KeySource, Nats, Page, Rates, Role, Server};
use tokio::time::{Instant, sleep};

use super::nats::{SERVERS, address};
use crate::exit::{Exit, Failure};
use crate::parts::Part;
use crate::parts::presence::PresencePart;

/// From the cluster's readiness to that of presence: a row, an answer of DNS that is asked for every 5 s, two nats-servers that
/// connect, and nodes that listen for 2.5 s to what others say. A busy machine gets its time.
const READY: Duration = Duration::from_secs(60);
/// How often it is looked whether it is.
const LOOK: Duration = Duration::from_millis(100);
/// A node answers from memory.
const ANSWER: Duration = Duration::from_secs(2);
/// HS256 needs 32 bytes (RFC 7518 §3.2).
const SECRET_BYTES: usize = 32;

/// Where node `i`, counted from 0, listens.
pub(super) fn at(i: u8) -> SocketAddr {
    SocketAddr::from((address(i), 8080))
}

/// The same, for people.
pub(super) fn shown(i: u8) -> String {
    format!("  presence http://{}", at(i))
}

/// The file of the secret that tokens are signed with, in the folder of the data. It is made if missing.
pub(super) fn secret(folder: &Path) -> Result<PathBuf, Failure> {
    let path = folder.join("presence.secret");
    let failed = |e: std::io::Error| Failure::new(Exit::Io, e).context(path.display().to_string());
    fs::create_dir_all(folder).map_err(failed)?;
    match fs::File::options().write(true).create_new(true).mode(0o600).open(&path) {
        Ok(mut file) => {
            let secret: [u8; SECRET_BYTES] = rand::random();
            file.write_all(HEXLOWER.encode(&secret).as_bytes()).map_err(failed)?;
        }
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
        Err(e) => return Err(failed(e)),
    }
    Ok(path)
}

/// Presence of node `i`.
pub(super) fn part(i: u8, node: &NodeId, secret: &Path) -> Box<dyn Part> {
    let server = Server {
        url: format!("nats://{}:4222", address(i)),
        credentials: None,
        ca: None,
        role: if i == 0 { Role::Center { replicas: 1 } } else { Role::Leaf },
        domain: "center".to_owned(),
    };
    Box::new(PresencePart::new(Config {
        node: node.clone(),
        release: env!("CARGO_PKG_VERSION").to_owned(),
        listen: vec![at(i)],
        tls: None,
        auth: AuthConfig { keys: vec![KeySource::Secret(secret.to_owned())], issuer: None, audience: None },
        rates: Rates::default(),
        page: Page::Served,
        nats: Nats::Server(server),
    }))
}

/// Waits until every node answers, and hears all others.
pub(super) async fn ready() -> Result<(), Failure> {
    let client = reqwest::Client::builder().no_proxy().timeout(ANSWER).build();
    let client = client.map_err(|e| Failure::new(Exit::Software, e))?;
    let until = Instant::now() + READY;
    for i in 0..SERVERS {
        while let Err(missing) = is_ready(&client, at(i)).await {
            if Instant::now() >= until {
                let late = format!("presence at {} is not ready after {} s", at(i), READY.as_secs());
                return Err(Failure::message(Exit::Unavailable, missing).context(late));
            }
            sleep(LOOK).await;
        }
    }
    Ok(())
}

/// What is missing, if anything is.
async fn is_ready(client: &reqwest::Client, at: SocketAddr) -> Result<(), String> {
    let get = async |path: &str| {
        let answer = client.get(format!("http://{at}{path}")).send().await.map_err(|e| e.to_string())?;
        let status = answer.status();
        let text = answer.text().await.map_err(|e| e.to_string())?;
        if status.is_success() { Ok(text) } else { Err(text) }
    };
    get("/health/readiness").await?;
    let others = format!("presence_peers {}", SERVERS - 1);
    let figures = get("/metrics").await?;
    if figures.lines().any(|line| line == others) { Ok(()) } else { Err("other nodes are not heard yet".to_owned()) }
}

/// What to try, for people. `KITH` stands for the program.
pub(super) fn suggestions(secret: &Path) -> Vec<String> {
    vec![
        format!("KITH presence set ann busy --secret-file {} --at http://{}", secret.display(), at(1)),
        format!("KITH presence watch ann bob --at http://{}", at(2)),
        format!("and a browser at http://{}/", at(2)),
    ]
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_made_once_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = secret(&folder.path().join("data")).unwrap();
        let made = fs::read(&path).unwrap();
        assert_eq!((made.len(), fs::metadata(&path).unwrap().permissions().mode() & 0o777), (2 * SECRET_BYTES, 0o600));
        assert_eq!(secret(&folder.path().join("data")).unwrap(), path);
        assert_eq!(fs::read(&path).unwrap(), made);
        assert_ne!(fs::read(secret(folder.path()).unwrap()).unwrap(), made);
    }
}
