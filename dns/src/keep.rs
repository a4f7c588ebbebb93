//! The last zone on disk: written while the store is followed, read at a start.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read as _};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::facts::Freshness;
use crate::status::Published;
use crate::zone::{Saved, Settings, Zone};

/// How often a zone is written at most.
const PERIOD: Duration = Duration::from_secs(1);
/// Of a large zone, writing takes one part in so many of the time.
const SHARE: u32 = 20;
/// The least priority of a thread, beside the default of 0: one part in 68 of a core that is full.
const NICE: i32 = 19;
/// Largest file that is read: a hundred times that of a million names is no zone of ours.
const MOST: u64 = 8 * 1024 * 1024 * 1024;

/// Reads the last zone. That there is none, or one that is of no use, is said and is no failure: the store will bring
/// another.
pub(crate) fn load(path: &Path, settings: &Settings) -> Option<Saved> {
    let bytes = match read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the last zone cannot be read");
            return None;
        }
    };
    match Zone::read(&bytes, settings) {
        Ok(saved) => {
            tracing::info!(names = saved.zone.names(), "answering from the last zone until the store is followed");
            Some(saved)
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the last zone is ignored");
            None
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    if file.metadata()?.len() > MOST {
        return Err(io::Error::other("larger than any zone"));
    }
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Works on a thread that goes after all others: writing tens of thousands of names takes a core for some time slices, and on
/// a machine of few cores every change would wait for them on its way to an answer.
fn last<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let unhurried = || {
        // Of this thread alone on Linux.
        if let Err(error) = rustix::process::nice(NICE) {
            tracing::debug!(%error, "the zone is written at the priority of all others");
        }
        work()
    };
    thread::scope(|scope| scope.spawn(unhurried).join()).unwrap_or_else(|panic| resume_unwind(panic))
}

/// Writes zones as they come.
pub(crate) struct Keeper {
    path: PathBuf,
    settings: Arc<Settings>,
    published: Arc<ArcSwap<Published>>,
    /// The zone that the file has.
    kept: u64,
    health: Health,
}

/// Whether the last attempt came off, so that a full disk is said once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Health {
    Well,
    Failing,
}

impl Keeper {
    pub(crate) fn new(path: PathBuf, settings: Arc<Settings>, published: Arc<ArcSwap<Published>>) -> Self {
        let kept = published.load().zone.generation();
        Self { path, settings, published, kept, health: Health::Well }
    }

    /// Writes at most once a second, and once more at the end.
    pub(crate) async fn run(mut self, token: CancellationToken) -> Result<(), JoinError> {
        loop {
            // Asked before: what is cancelled while a zone is written may have come after that zone.
            let ending = token.is_cancelled();
            let begun = Instant::now();
            self = spawn_blocking(|| last(|| self.keep())).await?;
            if ending {
                return Ok(());
            }
            let rest = PERIOD.max(begun.elapsed() * SHARE);
            // Cut short, it is the end, and what came since is written.
            token.run_until_cancelled(sleep(rest)).await;
        }
    }

    fn keep(mut self) -> Self {
        let published = self.published.load_full();
        let zone = &published.zone;
        if zone.generation() == self.kept || zone.freshness() == Freshness::Loading {
            return self;
        }
        match self.write(zone) {
            Ok(()) => {
                if self.health == Health::Failing {
                    tracing::info!("the zone is on disk again");
                }
                (self.kept, self.health) = (zone.generation(), Health::Well);
            }
            Err(error) => {
                if self.health == Health::Well {
                    tracing::warn!(path = %self.path.display(), %error, "the zone cannot be written to disk");
                }
                self.health = Health::Failing;
            }
        }
        self
    }

    /// Aside, then renamed: whatever happens meanwhile, the file is a whole zone.
    fn write(&self, zone: &Zone) -> io::Result<()> {
        let aside = self.path.with_extension("new");
        let file = File::create(&aside)?;
        let mut out = BufWriter::new(&file);
        zone.write(&self.settings, SystemTime::now(), &mut out)?;
        drop(out);
        file.sync_data()?;
        fs::rename(&aside, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::getpriority_process;

    use super::*;

    #[test]
    fn a_zone_is_written_on_a_thread_that_goes_after_all_others_and_nobody_else_does() {
        let before = getpriority_process(None);
        assert_eq!(last(|| getpriority_process(None)), Ok(NICE));
        assert_eq!(getpriority_process(None), before);
    }

    #[test]
    #[should_panic(expected = "of the work")]
    fn what_panics_there_panics_here() {
        last(|| panic!("of the work"));
    }
}
