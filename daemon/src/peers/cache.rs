//! The peer cache: what was known of the other servers, in a file that is read before the first pass. Who is missing from the
//! store, or whose store is away, keeps its tunnel by it, also over a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::key::PublicKey;
use super::mesh::Number;
use crate::endpoints::Echoed;
use crate::error::Error;
use crate::file::OwnFile;

/// The file's name.
const NAME: &str = "peers.json";
/// Its format.
const VERSION: u32 = 1;
/// Servers that are kept. There are 128 numbers; a server of which nothing but the name is known anew is not taken beyond it.
pub(crate) const MOST: usize = 256;
/// Keys that a server had which are kept until they are removed from the interface.
pub(crate) const FORMER: usize = 8;

/// What is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cache {
    /// This server's own number.
    pub(crate) own: Option<Number>,
    /// The others.
    pub(crate) servers: BTreeMap<String, Known>,
    /// How many peers were removed of late, so that a restart does not begin to count anew.
    pub(crate) removed: usize,
}

/// What is known of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    /// Its key.
    pub(crate) key: PublicKey,
    /// Its number.
    pub(crate) number: Number,
    /// Where its tunnels end, as it says.
    pub(crate) endpoints: Vec<SocketAddr>,
    /// Where one ended that worked.
    pub(crate) worked: Option<SocketAddr>,
    /// Whether its daemon echoed.
    pub(crate) echoed: Echoed,
    /// Keys that it had before.
    pub(crate) former: BTreeSet<PublicKey>,
}

/// Where it is.
#[derive(Debug, Clone)]
pub(crate) struct CacheFile(OwnFile);

#[derive(Debug, Serialize, Deserialize)]
struct Document {
    version: u32,
    own: Option<u8>,
    #[serde(default)]
    removed_of_late: usize,
    servers: BTreeMap<String, Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    key: PublicKey,
    number: u8,
    endpoints: Vec<SocketAddr>,
    worked: Option<SocketAddr>,
    #[serde(default)]
    echoed: bool,
    #[serde(default)]
    former: BTreeSet<PublicKey>,
}

impl CacheFile {
    pub(crate) fn within(dir: &Path) -> CacheFile {
        CacheFile(OwnFile::at(dir.join(NAME)))
    }

    /// What was kept; nothing if there is no file.
    pub(crate) fn read(&self) -> Result<Cache, Error> {
        let understood = |document: Document| match document.version {
            VERSION => Cache::try_from(document),
            other => Err(format!("version {other}")),
        };
        Ok(self.0.read(understood)?.unwrap_or_default())
    }

    /// Keeps it.
    pub(crate) fn write(&self, cache: &Cache) -> Result<(), Error> {
        self.0.write(&Document::from(cache))
    }
}

impl From<&Cache> for Document {
    fn from(cache: &Cache) -> Document {
        let entry = |(id, known): (&String, &Known)| {
            let Known { key, number, endpoints, worked, echoed, former } = known.clone();
            let echoed = echoed == Echoed::Ever;
            (id.clone(), Entry { key, number: number.get(), endpoints, worked, echoed, former })
        };
        Document {
            version: VERSION,
            own: cache.own.map(Number::get),
            removed_of_late: cache.removed,
            servers: cache.servers.iter().map(entry).collect(),
        }
    }
}

impl TryFrom<Document> for Cache {
    type Error = String;

    fn try_from(document: Document) -> Result<Cache, String> {
        let number = |number| Number::new(number).ok_or_else(|| format!("number {number}"));
        let known = |(id, entry): (String, Entry)| {
            let Entry { key, number: given, endpoints, worked, echoed, former } = entry;
            let echoed = if echoed { Echoed::Ever } else { Echoed::Never };
            Ok((id, Known { key, number: number(given)?, endpoints, worked, echoed, former }))
        };
        Ok(Cache {
            own: document.own.map(number).transpose()?,
            servers: document.servers.into_iter().map(known).collect::<Result<_, String>>()?,
            removed: document.removed_of_late,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_was_known_is_read_again_and_what_is_damaged_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let file = CacheFile::within(dir.path());
        assert_eq!(file.read().unwrap(), Cache::default());
        let known = Known {
            key: PublicKey::new([1; 32]),
            number: Number::new(2).unwrap(),
            endpoints: vec!["192.0.2.2:31820".parse().unwrap()],
            worked: Some("[2001:db8::2]:31820".parse().unwrap()),
            echoed: Echoed::Ever,
            former: [PublicKey::new([9; 32])].into(),
        };
        let cache = Cache { own: Number::new(1), servers: [("two".to_owned(), known)].into(), removed: 3 };
        file.write(&cache).unwrap();
        assert_eq!(file.read().unwrap(), cache);
        let path = dir.path().join(NAME);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        let text = std::fs::read_to_string(&path).unwrap().replace("\"number\": 2", "\"number\": 200");
        std::fs::write(&path, text).unwrap();
        assert_eq!(file.read().unwrap(), Cache::default());
        assert!(dir.path().join("peers.json.damaged").exists() && !path.exists());
    }
}
