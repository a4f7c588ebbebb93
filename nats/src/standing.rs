//! Keeps a store from being opened by a server that stands elsewhere than the one that filled it: nats-server serves the
//! streams of a clustered server no more when it is alone, nor those of a lone one in a cluster, and after a while deletes
//! them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::shape::Standing;
use crate::{grow, identity};

/// The file that says how the store was last opened.
const FILE: &str = "standing";
/// The account of nats-server itself, whose streams there are none of.
const SYSTEM: &str = "$SYS";

/// Why a store is not opened.
#[derive(Debug, thiserror::Error)]
pub enum BadStanding {
    /// The disk.
    #[error("{} cannot be used", path.display())]
    Disk {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its streams are aside, and not all of them in a cluster yet.
    #[error("the streams of this store are in {}, where a growth that was not finished has put them", .0.display())]
    Growing(PathBuf),
    /// It would lose its streams.
    #[error(
        "the store holds {streams} streams of a server that was {was}, and nats-server deletes them in one that is {is}"
    )]
    Moved {
        /// How many.
        streams: usize,
        /// What the server was.
        was: String,
        /// What it is by its configuration.
        is: &'static str,
    },
}

/// Opens the store for a server that stands here, if that costs no stream.
pub(crate) fn keep(store: &Path, standing: Standing) -> Result<(), BadStanding> {
    let path = identity::folder(store).join(FILE);
    let is = name(standing);
    let failed = |source| BadStanding::Disk { path: path.clone(), source };
    let was = was(store).map_err(failed)?;
    let aside = grow::folder(store);
    if is == name(Standing::Lone) && aside.join("jetstream").try_exists().map_err(failed)? {
        return Err(BadStanding::Growing(aside));
    }
    if was != is {
        let streams = streams(&store.join("jetstream")).map_err(failed)?;
        if streams > 0 {
            return Err(BadStanding::Moved { streams, was, is });
        }
    }
    identity::write(&path, is.as_bytes()).map_err(failed)
}

/// How the store was last opened. One may come from elsewhere, filled: it tells by itself.
fn was(store: &Path) -> io::Result<String> {
    match fs::read_to_string(identity::folder(store).join(FILE)) {
        Ok(was) => Ok(was.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(filled_by(store)?.to_owned()),
        Err(error) => Err(error),
    }
}

/// A leaf is as alone as a lone server, as far as its streams go.
fn name(standing: Standing) -> &'static str {
    match standing {
        Standing::Lone | Standing::Leaf => "alone",
        Standing::Clustered => "clustered",
    }
}

/// What filled a store that Kith has not opened: only a clustered server keeps a log of the meta group.
fn filled_by(store: &Path) -> io::Result<&'static str> {
    let meta = store.join("jetstream").join(SYSTEM).join("_js_/_meta_");
    Ok(name(if meta.try_exists()? { Standing::Clustered } else { Standing::Lone }))
}

/// How many streams of a lone server a store holds.
pub(crate) fn alone(store: &Path) -> io::Result<usize> {
    if was(store)? == name(Standing::Lone) { streams(&store.join("jetstream")) } else { Ok(0) }
}

/// `jetstream/ACCOUNT/streams/STREAM`.
fn streams(root: &Path) -> io::Result<usize> {
    let counts = accounts(root)?.into_iter().map(|account| Ok(entries(&root.join(account).join("streams"))?.len()));
    counts.sum()
}

/// The accounts that have streams below `root`, but for that of nats-server itself.
pub(crate) fn accounts(root: &Path) -> io::Result<BTreeSet<String>> {
    let mut accounts = BTreeSet::new();
    for account in entries(root)? {
        if account.file_name() != SYSTEM && !entries(&account.path().join("streams"))?.is_empty() {
            accounts.insert(account.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(accounts)
}

/// The streams in an account's folder.
pub(crate) fn names(folder: &Path) -> io::Result<BTreeSet<String>> {
    Ok(entries(folder)?.into_iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

fn entries(folder: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::{BadStanding, accounts, alone, keep};
    use crate::identity;
    use crate::shape::Standing;

    #[test]
    fn a_store_with_streams_is_opened_by_its_like_alone() {
        let store = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(identity::folder(store.path())).expect("room");
        keep(store.path(), Standing::Lone).expect("it is empty");
        std::fs::create_dir_all(store.path().join("jetstream/$SYS/_js_/_meta_")).expect("room");
        keep(store.path(), Standing::Clustered).expect("it has no streams");
        std::fs::create_dir_all(store.path().join("jetstream/$G/streams/orders")).expect("room");
        keep(store.path(), Standing::Clustered).expect("the same as before");
        for other in [Standing::Lone, Standing::Leaf] {
            let error = keep(store.path(), other).expect_err("it would lose a stream");
            assert!(
                matches!(&error, BadStanding::Moved { streams: 1, was, is: "alone" } if was == "clustered"),
                "{error}"
            );
        }
        keep(store.path(), Standing::Clustered).expect("nothing was changed by that");
        assert_eq!(alone(store.path()).expect("it is read"), 0, "none of a lone one");
    }

    #[test]
    fn what_was_put_aside_and_is_not_all_copied_keeps_a_lone_server_from_starting_empty() {
        let store = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(store.path().join("jetstream/$G/streams/orders")).expect("room");
        std::fs::create_dir_all(store.path().join("jetstream/$SYS/streams/none")).expect("room");
        std::fs::create_dir_all(store.path().join("jetstream/EMPTY")).expect("room");
        assert_eq!(alone(store.path()).expect("it is read"), 1);
        assert_eq!(accounts(&store.path().join("jetstream")).expect("it is read"), ["$G".to_owned()].into());
        std::fs::create_dir_all(identity::folder(store.path()).join("alone")).expect("room");
        let to = identity::folder(store.path()).join("alone/jetstream");
        std::fs::rename(store.path().join("jetstream"), to).expect("room");
        for other in [Standing::Lone, Standing::Leaf] {
            let error = keep(store.path(), other).expect_err("its streams are not there");
            assert!(matches!(&error, BadStanding::Growing(_)), "{error}");
        }
        keep(store.path(), Standing::Clustered).expect("it is to be filled");
    }

    #[test]
    fn a_filled_store_of_unknown_past_is_opened_by_what_filled_it_alone() {
        let store = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(identity::folder(store.path())).expect("room");
        std::fs::create_dir_all(store.path().join("jetstream/$G/streams/orders")).expect("room");
        let error = keep(store.path(), Standing::Clustered).expect_err("a lone server filled it");
        assert!(matches!(&error, BadStanding::Moved { streams: 1, was, is: "clustered" } if was == "alone"), "{error}");
        std::fs::create_dir_all(store.path().join("jetstream/$SYS/_js_/_meta_")).expect("room");
        for other in [Standing::Lone, Standing::Leaf] {
            let error = keep(store.path(), other).expect_err("a clustered server filled it");
            assert!(
                matches!(&error, BadStanding::Moved { streams: 1, was, is: "alone" } if was == "clustered"),
                "{error}"
            );
        }
        keep(store.path(), Standing::Clustered).expect("its like");
    }
}
