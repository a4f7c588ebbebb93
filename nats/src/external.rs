//! A nats-server that somebody else runs, in the place of a child of ours: asked how it is, shown and entered in DNS like one of ours, and never
//! configured, started or ended.

use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::board::Board;
use crate::config::{Config, Url};
use crate::health::{self, Asked};
use crate::identity::Identity;
use crate::nats::{BuildError, RunError};
use crate::status::{Phase, StatusHandle};
use crate::turn::User;

/// How often it is looked.
const LOOKS: Duration = Duration::from_secs(1);
/// How long it may take to let us in, and a client that was let in to come back by itself.
const ANSWER: Duration = Duration::from_secs(5);
/// How often the client asks whether it is there: one that was stopped is found by it.
const PING: Duration = Duration::from_secs(5);
/// How often a client that was let in tries to come back, ever more rarely: for some four seconds. Then it ends; one that was given up would
/// go on for ever.
const RETRIES: usize = 12;
/// What its version is called before it has said it.
const UNKNOWN: &str = "not known yet";

/// A runner of none.
pub struct External {
    config: Config,
    url: Url,
    board: Board,
    listener: TcpListener,
}

impl External {
    /// Binds where it answers. `url` is where the nats-server is.
    pub async fn build(config: Config, url: Url) -> Result<Self, BuildError> {
        let failed = |source| BuildError::Listen { at: config.health, source };
        let listener = TcpListener::bind(config.health).await.map_err(failed)?;
        // The row is of this node, whatever the server calls itself, and however often it is another.
        let identity = Identity { name: config.node.as_str().to_owned(), user: String::new(), password: String::new() };
        let board = Board::new(&config, &identity, UNKNOWN.to_owned());
        Ok(Self { config, url, board, listener })
    }

    /// Where it answers about its health.
    #[must_use]
    pub fn addr(&self) -> Option<std::net::SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Reads its status while it runs.
    #[must_use]
    pub fn status(&self) -> StatusHandle {
        self.board.handle()
    }

    /// Runs until the token is cancelled.
    pub async fn run(self, token: CancellationToken) -> Result<(), RunError> {
        let asked = Asked::of_external(&self.config, self.board.handle());
        let mut tasks = JoinSet::new();
        tasks.spawn(health::serve(self.listener, asked, token.clone()).in_current_span());
        tasks.spawn(look(self.config, self.url, self.board, token.clone()).in_current_span());
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(RunError::Task)?;
            if !token.is_cancelled() {
                return Err(RunError::Ended);
            }
        }
        Ok(())
    }
}

/// What is known of it by the client that was let in, if one was.
#[derive(Default)]
struct Known {
    client: Option<Client>,
    /// Since when that one is not connected.
    lost: Option<Instant>,
}

async fn look(config: Config, url: Url, board: Board, token: CancellationToken) {
    let mut looks = interval(LOOKS);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known = Known::default();
    let mut before = None;
    // A look that is dropped has changed nothing.
    token
        .run_until_cancelled(async {
            loop {
                looks.tick().await;
                let found = state(&config, &url, &mut known).await;
                let is_up = found.is_ok();
                if before.replace(is_up) != Some(is_up) {
                    match &found {
                        Ok(version) => tracing::info!(%url, version, "the nats-server is there"),
                        Err(reason) => tracing::error!(%url, reason, "the nats-server is not there"),
                    }
                }
                match found {
                    Ok(version) => up(&board, version),
                    Err(reason) => board.phase(Phase::Unwell, Some(reason)),
                }
            }
        })
        .await;
    board.phase(Phase::Stopped, None);
}

fn up(board: &Board, version: String) {
    if board.handle().get().phase != Phase::Running {
        board.started(None);
    }
    board.write(|status| status.version = version);
    board.phase(Phase::Running, None);
}

/// Its version, or why it is not there. A client that was let in comes back by itself, as whom it was then; after a while another takes its
/// place, by what files hold now.
async fn state(config: &Config, url: &Url, known: &mut Known) -> Result<String, String> {
    let client = match &mut known.client {
        Some(client) => client,
        none @ None => {
            let connected = timeout(ANSWER, connect(config, url)).await;
            none.insert(connected.map_err(|_| format!("no answer within {} s", ANSWER.as_secs()))??)
        }
    };
    match client.connection_state() {
        State::Connected => {
            known.lost = None;
            Ok(client.server_info().version)
        }
        State::Pending | State::Disconnected => {
            if known.lost.get_or_insert_with(Instant::now).elapsed() >= ANSWER {
                *known = Known::default();
            }
            Err("the connection to it is lost".to_owned())
        }
    }
}

async fn connect(config: &Config, url: &Url) -> Result<Client, String> {
    let mut options = ConnectOptions::new()
        .name("kith nats")
        .connection_timeout(ANSWER)
        .ping_interval(PING)
        .max_reconnects(RETRIES)
        // It is asked of this server, not of another of its cluster.
        .ignore_discovered_servers();
    if let Some(tls) = &config.tls {
        options = options
            .require_tls(true)
            .add_root_certificates(tls.ca.clone())
            .add_client_certificate(tls.cert.clone(), tls.key.clone());
    }
    let user = config.credentials.clone().map_or(User::Anybody, User::File);
    let options = user.shown(options).await?;
    options.connect(url.server()).await.map_err(|error| error.to_string())
}
