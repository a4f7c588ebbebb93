//! From one server to a cluster, with the same store. nats-server serves the streams of a lone server no more once it is clustered, and after
//! a while deletes them; so they are put aside, and copied into the cluster when there is one.
//!
//! ```text
//!  jetstream/ ── renamed ─► kith/alone/jetstream/ ── a nats-server of our own, on loopback ── snapshot ─► restore ──► the clustered server
//!                                │                                                                     each stream, whole or not at all
//!                                └── when all are copied, renamed: kith/grown-TIME/, which nobody touches any more
//! ```
//! What was put aside is never changed but by its own nats-server, and is the backup. Ended half way, the same is begun again: streams that
//! were copied are there, with a mark beside what was put aside, and those that were not are not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::runtime::Handle;

use crate::binary::{Binary, BinaryError};
use crate::chain::Chain;
use crate::config::{self, Config};
use crate::identity;
use crate::lock::{Lock, NotOurs};
use crate::monitor::Monitor;
use crate::standing;
use crate::supervise::{Spawner, leftover};
use crate::turn::{Access, User};

mod copy;
mod mark;
mod source;

use copy::Copied;
pub use copy::CopyError;
use mark::Mark;
use source::Source;

/// What is put aside, in the runner's own folder.
const ASIDE: &str = "alone";
/// How often it is looked whether the clustered server is there.
const LOOKS: Duration = Duration::from_secs(1);

/// What is to be grown, and how.
#[derive(Clone, Debug)]
pub struct Grow {
    store: PathBuf,
    named: Option<PathBuf>,
    own: SocketAddr,
    monitor: SocketAddr,
    tls: Option<config::Tls>,
    /// As whom the clustered server is asked, by account. Nobody named: as anybody, which is the account `$G`.
    logins: BTreeMap<String, User>,
    /// Replicas of the streams afterwards; none: as they were.
    replicas: Option<usize>,
}

/// What is told on the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Progress {
    /// The streams of the lone server are no more where a clustered one would find and delete them.
    Aside {
        /// How many.
        streams: usize,
        /// Where they are.
        backup: PathBuf,
    },
    /// The clustered server is not there yet.
    Waits {
        /// Why.
        reason: String,
    },
    /// A stream is being copied.
    Copying {
        /// Its account.
        account: String,
        /// Its name.
        stream: String,
        /// Bytes of its snapshot that are copied.
        copied: u64,
        /// Bytes of its messages. A snapshot is compressed, and mostly smaller.
        bytes: u64,
    },
    /// A stream is in the cluster.
    Copied {
        /// Its account.
        account: String,
        /// Its name.
        stream: String,
        /// Its messages.
        messages: u64,
    },
    /// A stream was in the cluster already.
    There {
        /// Its account.
        account: String,
        /// Its name.
        stream: String,
    },
    /// All are.
    Done {
        /// How many.
        streams: usize,
        /// What was put aside, which stays.
        backup: PathBuf,
    },
}

/// Why a store does not grow. What was put aside stays there in any case.
#[derive(Debug, thiserror::Error)]
pub enum GrowError {
    /// It is not to be clustered.
    #[error("this server is not to be clustered: its configuration does not say role = \"center\" and servers = \"3\"")]
    NotClustered,
    /// There is nothing to do.
    #[error("the store {} holds no streams of a lone server", .0.display())]
    Nothing(PathBuf),
    /// A runner has the store, or another growth what was put aside.
    #[error(transparent)]
    InUse(NotOurs),
    /// What was put aside before, and the store, both have streams.
    #[error("{} has the streams of a growth that was not finished, and the store holds others of a lone server", .0.display())]
    Two(PathBuf),
    /// The disk.
    #[error("{} cannot be used", path.display())]
    Disk {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no nats-server to read the old streams with.
    #[error(transparent)]
    Binary(BinaryError),
    /// It does not serve them.
    #[error("the streams that were put aside are not served: {0}")]
    Source(String),
    /// The clustered server does not let us in.
    #[error("account {account} of the clustered server: {reason}")]
    Login {
        /// Whose.
        account: String,
        /// Why.
        reason: String,
    },
    /// Some are not served: the old server's files of them are damaged.
    #[error("{} of account {account} cannot be read: {}", names.join(", "), folder.display())]
    Unread {
        /// Whose.
        account: String,
        /// The streams.
        names: Vec<String>,
        /// Where they are.
        folder: PathBuf,
    },
    /// A stream is not copied.
    #[error("stream {stream} of account {account}")]
    Stream {
        /// Its account.
        account: String,
        /// Its name.
        stream: String,
        /// Why.
        #[source]
        source: CopyError,
    },
}

impl Grow {
    /// By the configuration of the runner that is to be clustered.
    pub fn new(config: &Config, logins: BTreeMap<String, User>, replicas: Option<usize>) -> Result<Self, GrowError> {
        let clustered = config.role == config::Role::Center && config.servers == config::Servers::Three;
        let address = config.listen.ip.map(Into::into).or(config.listen.ip6.map(Into::into));
        let (true, Some(address)) = (clustered, address) else { return Err(GrowError::NotClustered) };
        Ok(Self {
            store: config.store.dir.clone(),
            named: config.binary.clone(),
            own: SocketAddr::new(address, config.listen.ports.client),
            monitor: config.monitor,
            tls: config.tls.clone(),
            logins,
            replicas,
        })
    }

    /// Does it, from wherever it was left; `tell` hears of it. Waits for the clustered server for as long as it takes: dropped, it is as if it
    /// had been ended there.
    pub async fn run(&self, mut tell: impl FnMut(Progress)) -> Result<(), GrowError> {
        let binary = Binary::find(self.named.as_deref()).await.map_err(GrowError::Binary)?;
        let aside = self.put_aside(&mut tell)?;
        // Of two that do the same the second is refused, and what one that was killed has left behind ends.
        let lock = Lock::take(&aside).map_err(GrowError::InUse)?;
        leftover::end(lock.mark()).await;
        self.clustered(&mut tell).await;
        let spawner =
            Spawner::start(Handle::current(), lock.mark()).map_err(|error| GrowError::Source(error.to_string()))?;
        let mut streams = 0;
        for account in standing::accounts(&aside.join("jetstream")).map_err(disk(&aside))? {
            let folder = aside.join("jetstream").join(&account).join("streams");
            let names = standing::names(&folder).map_err(disk(&folder))?;
            let source = Source::start(&binary.path, &spawner, &aside, &account).await.map_err(GrowError::Source)?;
            let copied = self.account(&source, &aside, &account, &mut tell).await;
            source.stop().await;
            let copied = copied?;
            let names: Vec<String> = names.difference(&copied).cloned().collect();
            if !names.is_empty() {
                return Err(GrowError::Unread { account, names, folder });
            }
            streams += copied.len();
        }
        let backup = self.keep(&aside).map_err(disk(&aside))?;
        tell(Progress::Done { streams, backup });
        Ok(())
    }

    /// The folder that has what was put aside, which is done here unless it was before.
    fn put_aside(&self, tell: &mut impl FnMut(Progress)) -> Result<PathBuf, GrowError> {
        let aside = folder(&self.store);
        let (from, to) = (self.store.join("jetstream"), aside.join("jetstream"));
        let there = to.try_exists().map_err(disk(&to))?;
        let streams = standing::alone(&self.store).map_err(disk(&self.store))?;
        match (there, streams) {
            (true, 0) => return Ok(aside),
            (true, _) => return Err(GrowError::Two(aside)),
            (false, 0) => return Err(GrowError::Nothing(self.store.clone())),
            (false, _) => {}
        }
        let _lock = Lock::take(&self.store).map_err(GrowError::InUse)?;
        fs::create_dir_all(&aside).map_err(disk(&aside))?;
        fs::rename(&from, &to).map_err(disk(&from))?;
        for folder in [&aside, &identity::folder(&self.store), &self.store] {
            fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(disk(folder))?;
        }
        tell(Progress::Aside { streams, backup: aside.clone() });
        Ok(aside)
    }

    /// Waits until the clustered server belongs to a group that has a leader.
    async fn clustered(&self, tell: &mut impl FnMut(Progress)) {
        let monitor = Monitor::new(self.monitor);
        let mut said = String::new();
        loop {
            let reason = match monitor.jsz().await {
                Ok(jsz) => match jsz.meta_cluster {
                    Some(meta) if !meta.leader.is_empty() => return,
                    Some(meta) => format!("no leader of JetStream among {} servers", meta.cluster_size),
                    None => "the server that runs is not clustered".to_owned(),
                },
                Err(error) => Chain(&error).to_string(),
            };
            if reason != said {
                said.clone_from(&reason);
                tell(Progress::Waits { reason });
            }
            tokio::time::sleep(LOOKS).await;
        }
    }

    /// Copies the streams of an account, and says which.
    async fn account(
        &self,
        source: &Source,
        aside: &Path,
        account: &str,
        tell: &mut impl FnMut(Progress),
    ) -> Result<BTreeSet<String>, GrowError> {
        let user = self.logins.get(account).cloned().unwrap_or(User::Anybody);
        let access = Access { servers: vec![self.own], user, tls: self.tls.clone() };
        let login = |reason: String| GrowError::Login { account: account.to_owned(), reason };
        let target = access.connect().await.map_err(|error| login(error.to_string()))?;
        let streams = copy::streams(&source.client).await.map_err(GrowError::Source)?;
        for stream in &streams {
            let (account, name) = (account.to_owned(), stream.config.name.clone());
            let bytes = stream.state.bytes;
            let mark = Mark::of(aside, &account, &name);
            let copied = copy::copy(&source.client, &target, stream, self.replicas, &mark, |copied| {
                tell(Progress::Copying { account: account.clone(), stream: name.clone(), copied, bytes });
            });
            match copied.await {
                Ok(Copied::Now) => tell(Progress::Copied { account, stream: name, messages: stream.state.messages }),
                Ok(Copied::Before) => tell(Progress::There { account, stream: name }),
                Err(source) => return Err(GrowError::Stream { account, stream: name, source }),
            }
        }
        Ok(streams.into_iter().map(|stream| stream.config.name).collect())
    }

    /// Names what was put aside as what it is from here on.
    fn keep(&self, aside: &Path) -> io::Result<PathBuf> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let kept = identity::folder(&self.store).join(format!("grown-{now}"));
        fs::rename(aside, &kept)?;
        Ok(kept)
    }
}

/// Where streams are that were put aside and are not all copied yet.
pub(crate) fn folder(store: &Path) -> PathBuf {
    identity::folder(store).join(ASIDE)
}

fn disk(path: &Path) -> impl FnOnce(io::Error) -> GrowError + use<> {
    let path = path.to_owned();
    move |source| GrowError::Disk { path, source }
}
