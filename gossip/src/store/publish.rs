//! Telling of commits: in their order, and each after its sync.
//!
//! With full durability a commit is synced when it ends, and the writer tells of it itself. With less, clients are
//! answered before the sync, and the writer does not wait for it either: a thread of its own syncs the log, and then tells
//! of everything that was committed before it began. So one sync serves all that was written during the last.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use kith_gossip_proto::{Digests, Hlc, Purged, SiteId, Vector};
use tokio::sync::mpsc::WeakSender;

use super::commit::{Commit, Own, SchemaChange, StoreState};
use super::group::{Answers, Sum};
use super::shared::Shared;
use super::writer::Command;

/// Commits that may wait for a sync. Then the writer waits: on a disk that syncs slowly, groups become larger instead.
const AHEAD: usize = 64;

/// The stack of the thread that syncs, which does little else.
const STACK: usize = 256 << 10;

/// What is told once it is synced.
pub(crate) struct Told {
    /// None when nothing changed, and only the sync of what was committed before is waited for.
    pub(crate) commit: Option<Published>,
    /// Who waits for the sync.
    pub(crate) answers: Answers,
}

/// A commit, and the state after it.
pub(crate) struct Published {
    pub(crate) number: u64,
    pub(crate) sum: Sum,
    pub(crate) site: SiteId,
    pub(crate) heads: Arc<Vector>,
    pub(crate) digests: Digests,
    pub(crate) purged: Arc<Purged>,
    pub(crate) hlc: Hlc,
    pub(crate) set_aside: u64,
    pub(crate) tables: u64,
    pub(crate) schema: SchemaChange,
}

/// A commit that was not synced, and of which nobody was told. Nobody knows what of the log is on disk: a later sync that
/// succeeds would say nothing of what this one lost, as the pages count as written. So the writer ends, and the store is
/// opened anew from what is there.
pub(crate) struct Unsynced;

/// Tells of commits.
pub(crate) enum Teller {
    /// They are synced already.
    AtOnce,
    Synced {
        queue: SyncSender<Told>,
        thread: JoinHandle<()>,
    },
}

impl Teller {
    /// Starts a thread that syncs this log. When it cannot, it ends, and sends [`Command::Unsynced`] to the writer.
    pub(crate) fn synced(wal: PathBuf, shared: Arc<Shared>, writer: WeakSender<Command>) -> std::io::Result<Self> {
        let (queue, told) = sync_channel(AHEAD);
        let thread = std::thread::Builder::new().name("store-sync".to_owned()).stack_size(STACK).spawn(move || {
            if let (Err(Unsynced), Some(writer)) = (sync_all(&wal, &told, &shared), writer.upgrade()) {
                // It has ended already, if it does not listen.
                drop(writer.blocking_send(Command::Unsynced));
            }
        })?;
        Ok(Self::Synced { queue, thread })
    }

    pub(crate) fn tell(&self, told: Told, shared: &Shared) -> Result<(), Unsynced> {
        match self {
            Self::AtOnce => {
                told.pass_on(shared);
                Ok(())
            }
            Self::Synced { queue, .. } => queue.send(told).map_err(|_| Unsynced),
        }
    }

    /// Waits until everything is told.
    pub(crate) fn finish(self) {
        if let Self::Synced { queue, thread } = self {
            drop(queue);
            if thread.join().is_err() {
                tracing::error!("the thread that syncs the store ended by a panic");
            }
        }
    }
}

fn sync_all(wal: &PathBuf, queue: &Receiver<Told>, shared: &Shared) -> Result<(), Unsynced> {
    while let Ok(first) = queue.recv() {
        let told: Vec<_> = std::iter::once(first).chain(queue.try_iter()).collect();
        File::open(wal).and_then(|wal| wal.sync_data()).map_err(|error| {
            tracing::error!(%error, "the write-ahead log could not be synced: the store ends");
            Unsynced
        })?;
        told.into_iter().for_each(|told| told.pass_on(shared));
    }
    Ok(())
}

impl Told {
    fn pass_on(self, shared: &Shared) {
        if let Some(published) = self.commit {
            let Published { number, sum, site, heads, digests, purged, hlc, set_aside, tables, schema } = published;
            let state = shared.advance(|last| StoreState {
                site,
                boot: last.boot,
                own: match last.own {
                    Own { head, first } if site == last.site => {
                        Own { head, first: first.or_else(|| sum.versions.first().map(|version| version.hlc)) }
                    }
                    Own { .. } => Own { head: heads.head(site), first: None },
                },
                heads,
                digests,
                purged,
                hlc,
                commits: number,
                schema: tables,
                set_aside,
                renounced: last.renounced + u64::from(site != last.site),
            });
            shared.tell(Commit {
                number,
                versions: sum.versions,
                touched: sum.touched,
                heads: Arc::clone(&state.heads),
                schema,
            });
        }
        self.answers.give();
    }
}
