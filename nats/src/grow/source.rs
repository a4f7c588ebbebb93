//! A nats-server on loopback that serves the streams of one account of a lone server that is no more.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use async_nats::Client;
use data_encoding::BASE32_NOPAD;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::Deserialize;
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

use crate::identity;
use crate::render::Credentials;
use crate::render::quote::{path, string};
use crate::supervise::Spawner;
use crate::turn::{Access, User};

/// The account of whoever says no name.
const ANYBODY: &str = "$G";
/// How long it may take to be ready: it recovers all streams first.
const READY: Duration = Duration::from_secs(1800);
/// How often it is looked whether it is.
const LOOKS: Duration = Duration::from_millis(100);
/// How long it may take to end.
const END: Duration = Duration::from_secs(30);

/// The server, and a client of it.
pub(super) struct Source {
    child: Child,
    pub(super) client: Client,
}

/// Where it listens, as it writes it.
#[derive(Deserialize)]
struct Ports {
    nats: Vec<String>,
}

impl Source {
    /// Of the streams below `folder`, in a process that dies with this one.
    pub(super) async fn start(binary: &Path, spawner: &Spawner, folder: &Path, account: &str) -> Result<Self, String> {
        let user = Credentials { user: "kith".to_owned(), password: password()? };
        let file = folder.join("nats.conf");
        let written = |error: std::io::Error| format!("{}: {error}", file.display());
        identity::write(&file, configuration(folder, account, &user).as_bytes()).map_err(written)?;
        let mut command = Command::new(binary);
        command.arg("-c").arg(&file);
        let mut child = spawner.spawn().start(command).await.map_err(|error| error.to_string())?;
        let at = ready(&mut child, folder).await?;
        let access = Access { servers: vec![at], user: User::Password(user), tls: None };
        let client = access.connect().await.map_err(|error| error.to_string())?;
        Ok(Self { child, client })
    }

    /// Ends it, so that what it has is written out.
    pub(super) async fn stop(mut self) {
        // It may have ended by itself, and is killed when it does not end.
        if let Some(pid) = pid(&self.child)
            && let Err(error) = kill(pid, Signal::SIGTERM)
        {
            tracing::debug!(%error, "it is not told to end");
        }
        if timeout(END, self.child.wait()).await.is_err() {
            tracing::warn!("the nats-server of the streams that were put aside is killed");
        }
    }
}

fn pid(child: &Child) -> Option<Pid> {
    child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw)
}

/// Its address, once it listens.
async fn ready(child: &mut Child, folder: &Path) -> Result<SocketAddr, String> {
    let said = || {
        let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
        log.lines().last().unwrap_or("nothing").chars().take(400).collect::<String>()
    };
    let id = child.id().ok_or("it has ended")?;
    let file = folder.join(format!("nats-server_{id}.ports"));
    let end = Instant::now() + READY;
    loop {
        if let Ok(text) = fs::read(&file)
            && let Ok(ports) = serde_json::from_slice::<Ports>(&text)
        {
            let at = ports.nats.first().and_then(|url| url.strip_prefix("nats://")?.parse().ok());
            drop(fs::remove_file(&file));
            return at.ok_or_else(|| format!("it listens at {:?}", ports.nats));
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("its nats-server ended, {status}: {}", said()));
        }
        if Instant::now() >= end {
            return Err(format!("its nats-server is not ready: {}", said()));
        }
        tokio::time::sleep(LOOKS).await;
    }
}

/// Without the bounds of the server that filled it: nothing is written that would need them.
fn configuration(folder: &Path, account: &str, user: &Credentials) -> String {
    let users = format!("user: {}, password: {}", string(&user.user), string(&user.password));
    let access = if account == ANYBODY {
        format!("authorization {{ {users} }}\n")
    } else {
        format!("accounts {{ {} {{ jetstream: enabled, users: [ {{ {users} }} ] }} }}\n", string(account))
    };
    let (ports, log) = (path(folder), path(&folder.join("log")));
    format!(
        "listen: \"127.0.0.1:-1\"\nports_file_dir: {ports}\nlog_file: {log}\n{access}\
         jetstream {{ store_dir: {}, domain: center, max_file_store: 9000000000000000000 }}\n",
        path(folder)
    )
}

fn password() -> Result<String, String> {
    let mut bytes = [0; 20];
    SystemRandom::new().fill(&mut bytes).map_err(|_| "no random bytes".to_owned())?;
    Ok(BASE32_NOPAD.encode(&bytes))
}
