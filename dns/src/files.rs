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
        let mut changed = false;
        for at in 0..self.files.len() {
            if self.files[at].is_unchanged() {
                continue;
            }
            changed = true;
            let ours = |origin: &[u8]| self.ours.iter().any(|ours| **ours == *origin);
            let (sources, zone) = load(&self.files[at].state.path, &ours);
            let zone = zone.and_then(|zone| self.alone(at, zone));
            self.files[at].sources = sources;
            self.files[at].take(zone);
        }
        if changed {
            self.published.send_replace(Fixed::new(self.files.iter().map(|file| file.state.clone()).collect()));
        }
    }

    /// A zone is in one file.
    fn alone(&self, at: usize, zone: FixedZone) -> Result<FixedZone, Fault> {
        let others = self.files.iter().enumerate().filter(|(other, _)| *other != at);
        let mut held = others.filter_map(|(_, file)| Some((&file.state.path, file.state.zone.as_ref()?)));
        match held.find(|(_, held)| held.origin() == zone.origin()) {
            None => Ok(zone),
            Some((path, _)) => {
                let reason =
                    format!("{} is the zone of {} already: a zone is in one file", zone.name(), path.display());
                Err(Fault { file: self.files[at].state.path.as_path().into(), line: 0, reason })
            }
        }
    }
}

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
