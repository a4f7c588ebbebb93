//! The last good peers on disk, so that a server that starts while DNS is away starts with those it knew.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::{Held, Peers, Ports, REGIONS};
use crate::blocking::blocking;
use crate::name::Label;
use crate::resolve::MOST;

/// Largest file that is read: all that [`MOST`] and [`REGIONS`] allow, written out, is below.
const LARGEST: u64 = 4 * 1024 * 1024;

/// The file.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
    /// What it holds.
    written: Option<Vec<u8>>,
}

/// Why it was not read or written. The path is in the text: who is told has to find it.
#[derive(Debug, thiserror::Error)]
pub enum NotKept {
    /// The disk.
    #[error("{}", .0.display())]
    Disk(PathBuf, #[source] io::Error),
    /// It is there, and says nothing that can be used.
    #[error("{} is damaged", .0.display())]
    Damaged(PathBuf, #[source] serde_json::Error),
}

/// As it is on disk. Absences are not: time that passed while nobody asked is no absence.
#[derive(serde::Serialize, serde::Deserialize)]
struct Saved {
    center: Vec<IpAddr>,
    regions: BTreeMap<String, Vec<IpAddr>>,
    routes: Ports,
    gateways: Ports,
    leaves: Ports,
}

impl Kept {
    /// The file at `path`, not looked at.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self { path, written: None }
    }

    /// What it holds; nobody, if there is no file.
    pub async fn read(&mut self) -> Result<Peers, NotKept> {
        let path = self.path.clone();
        let read = blocking(move || {
            let mut bytes = Vec::new();
            fs::File::open(&path)?.take(LARGEST).read_to_end(&mut bytes)?;
            Ok(bytes)
        });
        let bytes = match read.await {
            Ok(bytes) => bytes,
            Err(error) if io::Error::kind(&error) == io::ErrorKind::NotFound => return Ok(Peers::default()),
            Err(error) => return Err(self.disk(error)),
        };
        let saved: Saved =
            serde_json::from_slice(&bytes).map_err(|error| NotKept::Damaged(self.path.clone(), error))?;
        self.written = Some(bytes);
        Ok(saved.into_peers())
    }

    /// Writes `peers`, if the file holds others: aside, then renamed, so that it is whole whatever happens.
    pub async fn write(&mut self, peers: &Peers) -> Result<(), NotKept> {
        let bytes =
            serde_json::to_vec(&Saved::from(peers)).map_err(io::Error::other).map_err(|error| self.disk(error))?;
        if self.written.as_ref() == Some(&bytes) {
            return Ok(());
        }
        replace(&self.path, bytes.clone()).await.map_err(|error| self.disk(error))?;
        self.written = Some(bytes);
        Ok(())
    }

    fn disk(&self, error: io::Error) -> NotKept {
        NotKept::Disk(self.path.clone(), error)
    }
}

/// Writes a file that only its owner reads aside, has it on disk, and puts it in the place of another.
pub(crate) async fn replace(path: &Path, bytes: Vec<u8>) -> io::Result<()> {
    let path = path.to_owned();
    blocking(move || {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".new");
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        file.write_all(&bytes)?;
        file.sync_data()?;
        fs::rename(&aside, &path)
    })
    .await
}

impl From<&Peers> for Saved {
    fn from(peers: &Peers) -> Self {
        let named: BTreeSet<&Label> = peers.regions.iter().chain(peers.within.keys()).collect();
        let regions = named.into_iter().map(|region| {
            let within = peers.within.get(region).into_iter().flat_map(Held::iter).copied().collect();
            (region.to_string(), within)
        });
        Self {
            center: peers.center.iter().copied().collect(),
            regions: regions.collect(),
            routes: peers.routes.clone(),
            gateways: peers.gateways.clone(),
            leaves: peers.leaves.clone(),
        }
    }
}

impl Saved {
    /// What somebody else wrote into the file is bounded and checked like an answer.
    fn into_peers(self) -> Peers {
        let known: BTreeMap<Label, Vec<IpAddr>> =
            self.regions.into_iter().filter_map(|(name, within)| Some((name.parse().ok()?, within))).collect();
        let regions = Held::remembered(known.keys().cloned(), REGIONS);
        let within = known.into_iter().filter(|(region, _)| regions.contains(region));
        Peers {
            center: Held::remembered(self.center, MOST),
            within: within.map(|(region, addresses)| (region, Held::remembered(addresses, MOST))).collect(),
            regions,
            routes: self.routes.bounded(),
            gateways: self.gateways.bounded(),
            leaves: self.leaves.bounded(),
        }
    }
}

impl Ports {
    fn bounded(mut self) -> Self {
        self.of = self.of.into_iter().take(MOST).collect();
        self
    }
}
