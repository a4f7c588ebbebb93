//! The last zone on disk: written while the store is followed, read at a start.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, DirEntry, File};
use std::io::{self, BufWriter, Read as _, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::facts::Freshness;
use crate::status::Published;
use crate::zone::{Saved, Settings, Zone};

/// How often a zone is written at most.
const PERIOD: Duration = Duration::from_secs(1);
/// Of a large zone, writing takes one part in so many of the time, as long as the file is not older than [`REST_MAX`] for
/// that: on a busy machine the thread that writes is kept waiting, which is no work.
const SHARE: u32 = 20;
const REST_MAX: Duration = Duration::from_secs(10);
/// Bytes of a zone that are written at once, a tenth of a millisecond's work; and how long all others have the core between two
/// pieces. On a machine of few cores a change would else wait for a whole zone on its way to an answer. It is no matter of
/// priority: a thread that goes after all others is stopped with the allocator's lock in its hand, and all wait for it.
const PIECE: usize = 64 * 1024;
const BETWEEN: Duration = Duration::from_millis(2);
/// Largest file that is read: a hundred times that of a million names is no zone of ours.
const MOST: u64 = 8 * 1024 * 1024 * 1024;

/// Reads the last zone, and removes what was being written aside when a process before this one ended. That there is
/// none, or one that is of no use, is said and is no failure: the store will bring another.
pub(crate) fn load(path: &Path, settings: &Settings) -> Option<Saved> {
    for left in leftovers(path) {
        if let Err(error) = fs::remove_file(&left) {
            tracing::debug!(path = %left.display(), %error, "a half written zone stays");
        }
    }
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

/// Where a zone is written before it has its name: each keeper has a place of its own, since what a blocked disk holds up
/// outlives the keeper that began it.
fn aside(path: &Path, process: u32, keeper: u64) -> PathBuf {
    path.with_extension(format!("{process}-{keeper}.new"))
}

/// What processes before this one have left aside: also one that had this one's number, as in a container all have, and a release
/// that had one place for all.
fn leftovers(path: &Path) -> Vec<PathBuf> {
    let (Some(folder), Some(stem)) = (path.parent(), path.file_stem().and_then(OsStr::to_str)) else {
        return Vec::new();
    };
    let begun = KEEPERS.load(Ordering::Relaxed);
    let is_left = |name: &str| -> Option<bool> {
        let whose = name.strip_prefix(stem)?.strip_suffix(".new")?;
        if whose.is_empty() {
            return Some(true);
        }
        let (process, keeper) = whose.strip_prefix('.')?.split_once('-')?;
        let (process, keeper): (u32, u64) = (process.parse().ok()?, keeper.parse().ok()?);
        Some(process != std::process::id() || keeper >= begun)
    };
    let others = |entry: &DirEntry| entry.file_name().to_str().and_then(is_left) == Some(true);
    // A folder that cannot be read is said where the zone is.
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(others).map(|entry| entry.path()).collect()
}

/// Passes on what is written, with a rest between two pieces.
struct Unhurried<W, R> {
    out: W,
    rest: R,
    pieces: u32,
    /// All rests so far.
    rested: Duration,
}

impl<W: Write, R: FnMut()> Write for Unhurried<W, R> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.pieces > 0 {
            let begun = Instant::now();
            (self.rest)();
            self.rested += begun.elapsed();
        }
        self.pieces += 1;
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// How long nothing is written after this long a time of writing.
fn rest(writing: Duration) -> Duration {
    (writing * SHARE).clamp(PERIOD, REST_MAX)
}

/// How many keepers this process has begun: the number of the next.
static KEEPERS: AtomicU64 = AtomicU64::new(0);

/// By file, the keeper of this process whose zone it has. One that a blocked disk held up may be done when another has followed it.
static KEPT: Mutex<BTreeMap<PathBuf, u64>> = Mutex::new(BTreeMap::new());

/// Writes zones as they come.
pub(crate) struct Keeper {
    /// Which one of this process.
    number: u64,
    path: PathBuf,
    aside: PathBuf,
    settings: Arc<Settings>,
    published: Arc<ArcSwap<Published>>,
    /// The zone that the file has.
    kept: u64,
    /// How long it rested while it wrote that one.
    rested: Duration,
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
        let number = KEEPERS.fetch_add(1, Ordering::Relaxed);
        let aside = aside(&path, std::process::id(), number);
        let kept = published.load().zone.generation();
        Self { number, path, aside, settings, published, kept, rested: Duration::ZERO, health: Health::Well }
    }

    /// Writes at most once a second, and once more at the end.
    pub(crate) async fn run(mut self, token: CancellationToken) -> Result<(), JoinError> {
        loop {
            // Asked before: what is cancelled while a zone is written may have come after that zone.
            let ending = token.is_cancelled();
            let begun = Instant::now();
            if self.is_due() {
                // Who stops waits for the last one, and it is written without rests.
                let (runtime, token) = (Handle::current(), token.clone());
                let rest = move || {
                    runtime.block_on(token.run_until_cancelled(sleep(BETWEEN)));
                };
                self = spawn_blocking(|| self.keep(rest)).await?;
            }
            if ending {
                return Ok(());
            }
            // Cut short, it is the end, and what came since is written.
            token.run_until_cancelled(sleep(rest(begun.elapsed().saturating_sub(self.rested)))).await;
        }
    }

    /// Whether there is a zone that the file has not.
    fn is_due(&self) -> bool {
        let published = self.published.load();
        published.zone.generation() != self.kept && published.zone.freshness() != Freshness::Loading
    }

    fn keep(mut self, rest: impl FnMut()) -> Self {
        let published = self.published.load_full();
        let zone = &published.zone;
        match self.write(zone, rest) {
            Ok(rested) => {
                self.rested = rested;
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

    /// Aside, then renamed: whatever happens meanwhile, the file is a whole zone, and never an older one than it was.
    fn write(&self, zone: &Zone, rest: impl FnMut()) -> io::Result<Duration> {
        let file = File::create(&self.aside)?;
        let mut out =
            BufWriter::with_capacity(PIECE, Unhurried { out: &file, rest, pieces: 0, rested: Duration::ZERO });
        zone.write(&self.settings, SystemTime::now(), &mut out)?;
        let rested = out.get_ref().rested;
        drop(out);
        file.sync_data()?;
        // Held while the file is renamed, or somebody could come between.
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.get(&self.path).is_some_and(|keeper| *keeper > self.number) {
            return fs::remove_file(&self.aside).map(|()| rested);
        }
        fs::rename(&self.aside, &self.path)?;
        kept.insert(self.path.clone(), self.number);
        Ok(rested)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn others_have_the_core_between_two_pieces() {
        let mut rests = 0;
        let unhurried = Unhurried { out: Vec::new(), rest: || rests += 1, pieces: 0, rested: Duration::ZERO };
        let mut out = BufWriter::with_capacity(PIECE, unhurried);
        for _ in 0..10 {
            out.write_all(&[7; PIECE / 2]).unwrap();
        }
        out.flush().unwrap();
        assert_eq!(out.get_ref().out, [7; 5 * PIECE]);
        drop(out);
        assert_eq!(rests, 4);
    }

    #[test]
    fn a_zone_waits_for_ten_seconds_at_most() {
        let waits = [0, 100, 400, 30_000].map(|ms| rest(Duration::from_millis(ms)).as_secs());
        assert_eq!(waits, [1, 2, 8, 10]);
    }

    fn keeper(path: &Path, generation: u64) -> Keeper {
        let settings = Arc::new(Settings::from(&testing::config()));
        let zone = Zone::build(&testing::facts(testing::snapshot([])), &settings, generation);
        let published = Published { zone, built: Instant::now(), took: Duration::ZERO, stale_since: None };
        let keeper = Keeper::new(path.to_owned(), settings, Arc::new(ArcSwap::from_pointee(published)));
        Keeper { kept: 1, ..keeper }
    }

    #[test]
    fn nothing_is_done_for_a_zone_that_the_file_has() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dns-zone");
        assert!(!keeper(&path, 1).is_due());
        let keeper = keeper(&path, 2);
        assert!(keeper.is_due());
        assert!(!keeper.keep(|| ()).is_due());
        assert!(path.exists());
    }

    #[test]
    fn what_a_keeper_writes_aside_no_other_one_writes_and_no_other_process_leaves() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dns-zone");
        let (one, other) = (keeper(&path, 1), keeper(&path, 1));
        assert_ne!(one.aside, other.aside);
        let stays = [one.aside, folder.path().join("dns-zone"), folder.path().join("dns-zone.mine.new")];
        let mine = aside(&path, std::process::id(), u64::MAX);
        let goes = [aside(&path, 0, 3), mine, folder.path().join("dns-zone.new")];
        stays.iter().chain(&goes).for_each(|path| fs::write(path, "half").unwrap());
        assert!(load(&path, &Settings::from(&testing::config())).is_none());
        assert!(stays.iter().all(|path| path.exists()));
        assert!(!goes.iter().any(|path| path.exists()));
    }

    #[test]
    fn what_was_held_up_does_not_replace_what_came_later() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dns-zone");
        let (late, next) = (keeper(&path, 2), keeper(&path, 3));
        let aside = late.aside.clone();
        next.keep(|| ());
        late.keep(|| ());
        let saved = load(&path, &Settings::from(&testing::config())).expect("a zone");
        assert_eq!(saved.zone.generation(), 3);
        assert!(!aside.exists());
    }
}
