//! Who this nats-server is: made once and kept in the store's folder, so that a new machine with the old disk is the same JetStream peer.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use kith_gossip_proto::NodeId;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

/// The runner's own folder in the store's.
const FOLDER: &str = "kith";
/// The file.
const FILE: &str = "identity.json";
/// The user of the system account by whom the runner speaks to its nats-server.
const USER: &str = "kith";
/// A name is a DNS label, and 9 of its letters tell servers apart that have one name.
const LONGEST: usize = 63 - 9;

/// A server's name, and how the runner signs on at it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// `server_name`: the id of its row, and its name in DNS.
    pub name: String,
    /// The user of the system account.
    pub user: String,
    /// Its password.
    pub password: String,
}

impl fmt::Debug for Identity {
    /// Without the password.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Identity").field("name", &self.name).field("user", &self.user).finish_non_exhaustive()
    }
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The folder cannot be used: it is read-only, full, or not ours.
    #[error("the store's folder {path} cannot be used")]
    Folder {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is there is not an identity.
    #[error(
        "{path} does not hold an identity; a nats-server under a new name would leave its streams behind, so none is made"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The system gives no random bytes.
    #[error("no random bytes")]
    Random,
}

/// The runner's own folder in the store's.
#[must_use]
pub fn folder(store: &Path) -> PathBuf {
    store.join(FOLDER)
}

/// Makes it, for its owner alone, if it is not there.
pub(crate) fn make_folder(store: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder(store))
}

impl Identity {
    /// Reads the identity in this store's folder, or makes one for `node`.
    pub fn keep(store: &Path, node: &NodeId) -> Result<Identity, IdentityError> {
        let folder = folder(store);
        let path = folder.join(FILE);
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| IdentityError::Folder { path, source }
        };
        make_folder(store).map_err(failed(store))?;
        match fs::read(&path) {
            Ok(bytes) => {
                // A disk that became read-only or full is found here, in one line, rather than by nats-server in many.
                probe(&folder, 4096).map_err(failed(store))?;
                serde_json::from_slice(&bytes).map_err(|source| IdentityError::Damaged { path, source })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = Identity::make(node)?;
                write(&path, &serde_json::to_vec_pretty(&made).expect("three texts are JSON"))
                    .map_err(failed(store))?;
                Ok(made)
            }
            Err(error) => Err(failed(&path)(error)),
        }
    }

    fn make(node: &NodeId) -> Result<Identity, IdentityError> {
        let random = SystemRandom::new();
        let (mut suffix, mut password) = ([0; 4], [0; 20]);
        random.fill(&mut suffix).and_then(|()| random.fill(&mut password)).map_err(|_| IdentityError::Random)?;
        let node = node.as_str().replace('_', "-");
        let node = node[..node.len().min(LONGEST)].trim_end_matches('-');
        Ok(Identity {
            name: format!("{}-{}", node.trim_start_matches('-'), HEXLOWER.encode(&suffix)),
            user: USER.to_owned(),
            password: BASE32_NOPAD.encode(&password),
        })
    }
}

/// Writes so many bytes into the folder and takes them away again.
pub(crate) fn probe(folder: &Path, bytes: usize) -> io::Result<()> {
    let path = folder.join("probe");
    let written = write(&path, &vec![0; bytes]);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => written.and(Err(error)),
        Ok(()) | Err(_) => written,
    }
}

/// Writes a file that only its owner can read, whole or not at all.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    // The name is on disk only when its folder is.
    fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn node(name: &str) -> NodeId {
        name.parse().unwrap()
    }

    #[test]
    fn it_is_made_once_for_its_owner_alone_and_outlives_the_name_of_the_machine() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::keep(dir.path(), &node("fra-1")).unwrap();
        assert!(first.name.starts_with("fra-1-") && first.name.len() == 14, "{}", first.name);
        assert!(first.password.len() >= 32);
        assert_eq!(Identity::keep(dir.path(), &node("ams-7")).unwrap(), first);
        let mode = fs::metadata(dir.path().join("kith/identity.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(Identity::keep(other.path(), &node("fra-1")).unwrap(), first);
    }

    #[test]
    fn a_name_is_a_label_whatever_the_node_is_called() {
        for name in ["a", "_a_", "a_b", &"a".repeat(63), &format!("{}-b", "a".repeat(53))] {
            let made = Identity::make(&node(name)).unwrap().name;
            let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            assert!(made.len() <= 63 && made.bytes().all(allowed) && !made.starts_with('-'), "{made}");
        }
    }

    #[test]
    fn what_is_damaged_is_refused_and_left() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("kith")).unwrap();
        fs::write(dir.path().join("kith/identity.json"), "{\"name\":").unwrap();
        let error = Identity::keep(dir.path(), &node("a")).unwrap_err();
        assert!(matches!(error, IdentityError::Damaged { .. }), "{error:?}");
        assert_eq!(fs::read(dir.path().join("kith/identity.json")).unwrap(), b"{\"name\":");
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let error = Identity::keep(&dir.path().join("file"), &node("a")).unwrap_err();
        assert!(error.to_string().ends_with("file cannot be used"), "{error}");
    }
}
