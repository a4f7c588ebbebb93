//! A node of presence as a process of its own: this program, started again.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use kith_presence::{AuthConfig, Config, KeySource, Nats, Page, Presence, Rates, Role, Server};
use nix::unistd::getppid;
use tokio_util::sync::CancellationToken;

/// The word that makes one.
pub(crate) const WORD: &str = "a-node-of-presence";

/// How often it is looked whether whoever started it is there.
const LOOK: Duration = Duration::from_millis(500);

/// What it is told, in this order.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) role: Role,
    pub(crate) secret: PathBuf,
}

impl Node {
    pub(crate) fn words(&self) -> [String; 5] {
        let role = if self.role == Role::Leaf { "leaf" } else { "center" };
        let secret = self.secret.display().to_string();
        [WORD.to_owned(), self.name.clone(), self.url.clone(), role.to_owned(), secret]
    }

    pub(crate) fn parse(words: &[String]) -> Result<Self, String> {
        let [_, name, url, role, secret] = words else { return Err("not a node's words".to_owned()) };
        let role = if role == "leaf" { Role::Leaf } else { Role::Center { replicas: 1 } };
        Ok(Self { name: name.clone(), url: url.clone(), role, secret: secret.into() })
    }

    /// Says where it listens, and runs until whoever started it is gone.
    pub(crate) async fn run(self) -> Result<(), String> {
        let server =
            Server { url: self.url, credentials: None, ca: None, role: self.role, domain: "center".to_owned() };
        let presence = Presence::build(Config {
            node: self.name.parse().map_err(|_| "not a node's name")?,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            tls: None,
            auth: AuthConfig { keys: vec![KeySource::Secret(self.secret)], issuer: None, audience: None },
            rates: Rates { token: None, address: None },
            page: Page::None,
            nats: Nats::Server(server),
        });
        let presence = presence.await.map_err(|e| e.to_string())?;
        writeln!(std::io::stdout(), "{}", presence.addrs()[0]).map_err(|e| e.to_string())?;
        let parent = getppid();
        let gone = async {
            let mut look = tokio::time::interval(LOOK);
            while getppid() == parent {
                look.tick().await;
            }
        };
        // Whoever is gone wants no answer.
        tokio::select! {
            ended = presence.run(CancellationToken::new()) => ended.map_err(|e| e.to_string()),
            () = gone => Ok(()),
        }
    }
}
