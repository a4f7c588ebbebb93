//! The lease itself: a key in a bucket of JetStream's, asked through other servers, since our own is about to go.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_TTL};
use async_nats::jetstream::context::{KeyValueErrorKind, PublishErrorKind};
use async_nats::jetstream::kv::{self, Operation, Store};
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectOptions};

use super::{Attempt, Lease, LeaseError, TTL};
use crate::blocking::blocking;
use crate::config::Tls;
use crate::name::Label;
use crate::render::Credentials;
use crate::secret::Secret;

/// The bucket. Its name is part of what servers of different releases agree on.
const BUCKET: &str = "kith-nats";
/// The key: one for all regions, for a group of JetStream spans them.
const KEY: &str = "restart";
/// The domain of the center, also for a leaf, whose own JetStream has another.
const DOMAIN: &str = "center";
/// Replicas, where there are as many servers; else one, and then nobody has a turn while that one is away.
const REPLICAS: usize = 3;
/// Bytes of the bucket: one key, and its markers.
const BYTES: i64 = 64 * 1024;
/// How long a marker of an expired key stays.
const MARKERS: Duration = Duration::from_secs(60);
/// How long a server may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Whom to ask, and how.
#[derive(Clone, Debug)]
pub struct Access {
    /// Where clients connect, the best first.
    pub servers: Vec<SocketAddr>,
    /// As whom.
    pub user: User,
    /// The certificates.
    pub tls: Option<Tls>,
}

/// As whom a client connects. Files are read when it does, so that what they hold then counts.
#[derive(Clone, Debug)]
pub enum User {
    /// Anybody.
    Anybody,
    /// By a file of NATS credentials, or of `user:password`.
    File(PathBuf),
    /// As the account of turns, by the file of the servers' secret.
    Secret(PathBuf),
    /// By a password.
    Password(Credentials),
}

/// What a file of credentials holds.
pub(crate) enum Shown {
    /// NATS credentials, as they stand there.
    Nats(String),
    /// A user and a password.
    Password(Credentials),
}

impl Shown {
    /// What this text of `file` is; else why it is neither.
    pub(crate) fn of(file: &Path, text: String) -> Result<Self, String> {
        if text.contains("-----BEGIN") {
            return Ok(Shown::Nats(text));
        }
        let (user, password) = text
            .trim()
            .split_once(':')
            .ok_or_else(|| format!("{} holds neither user:password nor NATS credentials", file.display()))?;
        Ok(Shown::Password(Credentials { user: user.to_owned(), password: password.to_owned() }))
    }

    fn read(file: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        Self::of(file, text)
    }
}

impl User {
    /// Has a client say who it is.
    pub(crate) async fn shown(&self, options: ConnectOptions) -> Result<ConnectOptions, String> {
        let held = match self.clone() {
            User::Anybody => return Ok(options),
            User::File(path) => blocking(move || Shown::read(&path)).await?,
            User::Secret(path) => Shown::Password(blocking(move || Secret::read(&path)).await?.turns()),
            User::Password(of) => Shown::Password(of),
        };
        match held {
            Shown::Nats(text) => options.credentials(&text).map_err(|error| error.to_string()),
            Shown::Password(of) => Ok(options.user_and_password(of.user, of.password)),
        }
    }
}

/// The lease of this server.
pub struct NatsLease {
    holder: Label,
    access: Access,
    store: Option<(Context, Store)>,
}

impl Access {
    /// A client that goes on to another server when one goes away.
    pub async fn connect(&self) -> Result<Client, LeaseError> {
        let failed = |error: &dyn std::fmt::Display| LeaseError::Unreachable(error.to_string());
        let mut options = ConnectOptions::new()
            .name("kith nats")
            .connection_timeout(ANSWER)
            .request_timeout(Some(ANSWER))
            .retain_servers_order()
            .ignore_discovered_servers();
        if let Some(tls) = &self.tls {
            options = options
                .require_tls(true)
                .add_root_certificates(tls.ca.clone())
                .add_client_certificate(tls.cert.clone(), tls.key.clone());
        }
        options = self.user.shown(options).await.map_err(|error| failed(&error))?;
        let servers: Result<Vec<_>, _> = self.servers.iter().map(|server| format!("nats://{server}").parse()).collect();
        let servers: Vec<async_nats::ServerAddr> = servers.map_err(|error: std::io::Error| failed(&error))?;
        options.connect(servers).await.map_err(|error| failed(&error))
    }
}

impl NatsLease {
    /// For the server of this name.
    #[must_use]
    pub fn new(holder: Label, access: Access) -> Self {
        Self { holder, access, store: None }
    }

    async fn store(&mut self) -> Result<&(Context, Store), LeaseError> {
        let store = match self.store.take() {
            Some(store) => store,
            None => {
                let client = self.access.connect().await?;
                let mut context = jetstream::with_domain(client, DOMAIN);
                context.set_timeout(ANSWER);
                let store = bucket(&context).await?;
                (context, store)
            }
        };
        Ok(self.store.insert(store))
    }
}

/// The bucket, made by whoever is the first to need it.
async fn bucket(context: &Context) -> Result<Store, LeaseError> {
    match context.get_key_value(BUCKET).await {
        Ok(store) => return Ok(whole(context, store).await),
        Err(error) if error.kind() == KeyValueErrorKind::GetBucket => {}
        Err(error) => return Err(unavailable(&error)),
    }
    match context.create_key_value(config(REPLICAS)).await {
        Ok(store) => Ok(store),
        Err(_) => context.create_key_value(config(1)).await.map_err(|error| unavailable(&error)),
    }
}

/// Gives it the replicas that it lacks because it was made while a server was away: with one, nobody has a turn any more once that
/// server is gone for good.
async fn whole(context: &Context, store: Store) -> Store {
    let lacks = store.status().await.is_ok_and(|status| status.info.config.num_replicas < REPLICAS);
    if !lacks {
        return store;
    }
    match context.update_key_value(config(REPLICAS)).await {
        Ok(whole) => whole,
        Err(error) => {
            // Where there are fewer servers it stays so; else the next turn tries again.
            tracing::debug!(%error, "the bucket of turns has one replica");
            store
        }
    }
}

fn config(num_replicas: usize) -> kv::Config {
    kv::Config {
        bucket: BUCKET.to_owned(),
        description: "whose turn it is to restart".to_owned(),
        history: 1,
        max_bytes: BYTES,
        num_replicas,
        limit_markers: Some(MARKERS),
        ..kv::Config::default()
    }
}

fn unavailable(error: &dyn std::error::Error) -> LeaseError {
    LeaseError::Unavailable(error.to_string())
}

impl NatsLease {
    /// Writes our name with a time to live, if the last revision is still this one. The library's own `create` is not
    /// used: over a marker of what was given back it writes without a time to live, and such a lease never ends.
    async fn swap(&mut self, revision: u64) -> Result<u64, LeaseError> {
        let holder = self.holder.to_string();
        let (context, store) = self.store().await?;
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, revision.to_string());
        headers.insert(NATS_MESSAGE_TTL, TTL.as_secs().to_string());
        let api = if store.use_jetstream_prefix { format!("$JS.{DOMAIN}.API.") } else { String::new() };
        let subject = format!("{api}{}{KEY}", store.put_prefix.as_deref().unwrap_or(&store.prefix));
        let told = match context.publish_with_headers(subject, headers, holder.into()).await {
            Ok(told) => told.await,
            Err(error) => Err(error),
        };
        match told {
            Ok(ack) => Ok(ack.sequence),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Err(LeaseError::Lost),
            Err(error) => Err(unavailable(&error)),
        }
    }
}

impl Lease for NatsLease {
    async fn take(&mut self) -> Result<Attempt, LeaseError> {
        let holder = self.holder.clone();
        let (_, store) = self.store().await?;
        let entry = store.entry(KEY).await.map_err(|error| unavailable(&error))?;
        let last = match entry {
            None => 0,
            Some(entry) => {
                let who = String::from_utf8_lossy(&entry.value).into_owned();
                // A runner that was killed in its turn finds its own lease: it is still its turn.
                if entry.operation == Operation::Put && who != holder.as_str() {
                    return Ok(Attempt::Held(who));
                }
                entry.revision
            }
        };
        match self.swap(last).await {
            Ok(revision) => Ok(Attempt::Mine(revision)),
            Err(LeaseError::Lost) => Ok(Attempt::Held("a server that was faster".to_owned())),
            Err(error) => Err(error),
        }
    }

    async fn renew(&mut self, revision: u64) -> Result<u64, LeaseError> {
        self.swap(revision).await
    }

    async fn release(&mut self, revision: u64) -> Result<(), LeaseError> {
        let (_, store) = self.store().await?;
        store.delete_expect_revision(KEY, Some(revision)).await.map_err(|error| unavailable(&error))
    }
}
