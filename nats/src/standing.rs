//! Keeps a store from being opened by a server that stands elsewhere than the one that filled it: nats-server serves the
//! streams of a clustered server no more when it is alone, nor those of a lone one in a cluster, and after a while deletes
//! them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::identity;
use crate::shape::Standing;

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
    let was = match fs::read_to_string(&path) {
        Ok(was) => was.trim().to_owned(),
        // A store may come from elsewhere, filled: it tells by itself how it was last opened.
        Err(error) if error.kind() == io::ErrorKind::NotFound => filled_by(store).map_err(failed)?.to_owned(),
        Err(error) => return Err(failed(error)),
    };
    if was != is {
        let streams = streams(&store.join("jetstream")).map_err(failed)?;
        if streams > 0 {
            return Err(BadStanding::Moved { streams, was, is });
        }
    }
    identity::write(&path, is.as_bytes()).map_err(failed)
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

/// `jetstream/ACCOUNT/streams/STREAM`.
fn streams(root: &Path) -> io::Result<usize> {
    let mut count = 0;
    for account in entries(root)? {
        if account.file_name() != SYSTEM {
            count += entries(&account.path().join("streams"))?.len();
        }
    }
    Ok(count)
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
    use super::{BadStanding, keep};
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
