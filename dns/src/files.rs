//! Zone files, followed: read at the start, and again whenever one of them changes.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::watch::follow;
use crate::zone::fixed::{FileState, Fixed, FixedZone, load};
use crate::zone::reverse_zones;
use crate::zonefile::{Fault, Source};

/// All zone files.
#[derive(Debug)]
pub(crate) struct Files {
    files: Vec<Watched>,
    /// The zones that are served anyway, lower-cased wire form: a file of them needs no SOA.
    ours: Vec<Box<[u8]>>,
    published: watch::Sender<Fixed>,
}

#[derive(Debug)]
struct Watched {
    state: FileState,
    /// The file, and those that it includes, as they were read.
    sources: Vec<Source>,
}

impl Files {
    /// The files of the configuration, not read yet.
    pub(crate) fn new(config: &Config) -> Self {
        let files = config.files.iter().map(|path| Watched {
            state: FileState { path: path.clone(), zone: None, fault: None },
            sources: Vec::new(),
        });
        let mut ours: Vec<Box<[u8]>> = config.zones.iter().map(|zone| zone.wire().into()).collect();
        if !config.zones.is_empty() {
            ours.extend(reverse_zones(&config.ranges).into_iter().map(Vec::into_boxed_slice));
        }
        Self { files: files.collect(), ours, published: watch::Sender::new(Fixed::default()) }
    }

    /// Reads them all for the first time.
    ///
    /// # Errors
    /// Where nothing but files is served, the first thing that is wrong with one. Where rows are served as well they are
    /// answered without the file, and it is read when it is good.
    pub(crate) fn load(mut self) -> Result<(Self, watch::Receiver<Fixed>), Fault> {
        self.look();
        let fault = self.files.iter().find_map(|file| file.state.fault.as_ref());
        match fault {
            Some(fault) if self.ours.is_empty() => Err(fault.clone()),
            _ => {
                let published = self.published.subscribe();
                Ok((self, published))
            }
        }
    }

    /// What they have, read once: of a file that is wrong nothing.
    pub(crate) fn once(mut self) -> Fixed {
        self.look();
        self.published.borrow().clone()
    }

    /// Follows them until told to stop.
    pub(crate) async fn run(self, token: CancellationToken) -> Result<(), JoinError> {
        if self.files.is_empty() {
            token.cancelled().await;
            return Ok(());
        }
        follow(self, Self::look, token).await
    }

    /// Reads what has changed, and publishes it.
    fn look(&mut self) {
        if self.files.iter().all(Watched::is_unchanged) {
            return;
        }
        // What was refused for a zone that another file had may be good when that one is read.
        let mut read: Vec<Option<Read>> = (0..self.files.len()).map(|at| self.read(at)).collect();
        // Who is refused keeps the zone that it had, which somebody else may want.
        while let Some((at, fault)) = self.clash(&read) {
            read[at] = Some(Err(fault));
        }
        for (file, read) in self.files.iter_mut().zip(read) {
            if let Some(read) = read {
                file.take(read);
            }
        }
        self.published.send_replace(Fixed::new(self.files.iter().map(|file| file.state.clone()).collect()));
    }

    /// Reads a file that has changed, or that was wrong.
    fn read(&mut self, at: usize) -> Option<Read> {
        let file = &mut self.files[at];
        if !file.is_unchanged() {
            file.state.fault = None;
        } else if file.state.fault.is_none() {
            return None;
        }
        let ours = |origin: &[u8]| self.ours.iter().any(|ours| **ours == *origin);
        let (sources, zone) = load(&file.state.path, &ours);
        file.sources = sources;
        Some(zone)
    }

    /// A file that was read, of whose zone there would be two. Who has it already keeps it; of those who would come to have it, the
    /// first in the configuration gets it.
    fn clash(&self, read: &[Option<Read>]) -> Option<(usize, Fault)> {
        let has = |at: usize| self.files[at].state.zone.as_deref();
        let comes_to_have = |at: usize| match &read[at] {
            Some(Ok(zone)) => Some(zone).filter(|zone| has(at).is_none_or(|had| had.origin() != zone.origin())),
            Some(Err(_)) | None => None,
        };
        let rank = |at: usize| (comes_to_have(at).is_some(), at);
        let all = 0..self.files.len();
        all.clone().find_map(|at| {
            let zone = comes_to_have(at)?;
            let same =
                |other: usize| comes_to_have(other).or(has(other)).is_some_and(|held| held.origin() == zone.origin());
            let first = all.clone().find(|other| *other != at && rank(*other) < rank(at) && same(*other))?;
            let (file, other) = (&self.files[at].state.path, &self.files[first].state.path);
            let reason = format!("{} is the zone of {} already: a zone is in one file", zone.name(), other.display());
            Some((at, Fault { file: file.as_path().into(), line: 0, reason }))
        })
    }
}

/// What came of reading a file.
type Read = Result<FixedZone, Fault>;

impl Watched {
    /// Whether everything looks as it did when it was read.
    fn is_unchanged(&self) -> bool {
        !self.sources.is_empty() && self.sources.iter().all(Source::is_unchanged)
    }

    /// Keeps what was read, or what was wrong with it.
    fn take(&mut self, read: Result<FixedZone, Fault>) {
        match read {
            Ok(zone) => {
                let (names, notes) = (zone.names(), zone.note_count);
                tracing::info!(file = %self.state.path.display(), zone = zone.name(), names, notes, "zone file read");
                for note in zone.notes.iter().take(SHOWN_NOTES) {
                    tracing::warn!("{note}");
                }
                self.state.zone = Some(Arc::new(zone));
                self.state.fault = None;
            }
            // Read again for what may have changed elsewhere.
            Err(fault) if self.state.fault.as_ref() == Some(&fault) => {}
            Err(fault) => {
                let served = if self.state.zone.is_some() { "what it was before" } else { "nothing" };
                tracing::warn!(%fault, served, "zone file is wrong");
                self.state.fault = Some(fault);
            }
        }
    }
}

/// Notes of a file that are logged; all are counted, and more are shown by status.
const SHOWN_NOTES: usize = 10;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_refused_for_the_zone_of_another_is_read_when_that_one_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["a", "b", "c"].map(|name| folder.path().join(name));
        let write = |at: usize, zone: &str| {
            fs::write(&paths[at], format!("$ORIGIN {zone}.\n$TTL 30\n@ SOA a b 1 2 3 4 5\n")).unwrap();
        };
        write(0, "corp");
        write(1, "corp");
        write(2, "third");
        let mut files = Files::new(&Config { files: paths.clone().into(), ..Config::new("s1") });
        let served = |files: &Files| {
            let one = |file: &Watched| {
                let zone = file.state.zone.as_ref().map_or_else(|| "-".to_owned(), |zone| zone.name());
                format!("{zone}{}", if file.state.fault.is_some() { " wrong" } else { "" })
            };
            files.files.iter().map(one).collect::<Vec<_>>().join(", ")
        };
        files.look();
        assert_eq!(served(&files), "corp, - wrong, third");
        // Both at once, in either order.
        write(0, "elsewhere");
        files.look();
        assert_eq!(served(&files), "elsewhere, corp, third");
        write(0, "third");
        write(2, "somewhere");
        files.look();
        assert_eq!(served(&files), "third, corp, somewhere");
        // Two that swap, and three in a circle, either way round.
        for zones in [["corp", "third", "somewhere"], ["third", "somewhere", "corp"], ["corp", "third", "somewhere"]] {
            (0..3).for_each(|at| write(at, zones[at]));
            files.look();
            assert_eq!(served(&files), zones.join(", "));
        }
        // One moves on, and each of the others takes the zone of the one before it, whichever comes first.
        for zones in [["new", "corp", "third"], ["corp", "third", "old"]] {
            (0..3).for_each(|at| write(at, zones[at]));
            files.look();
            assert_eq!(served(&files), zones.join(", "));
        }
        // Where the last one of a chain cannot move on, nobody does.
        fs::write(&paths[2], "nonsense").unwrap();
        write(0, "third");
        write(1, "old");
        files.look();
        assert_eq!(served(&files), "corp wrong, third wrong, old wrong");
    }
}
