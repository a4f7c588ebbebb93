//! This server's private key: made once, in a file that only its owner may read.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::{fmt, str};

use data_encoding::BASE64;
use wireguard_control::Key;

use crate::error::Error;
use crate::peers::PublicKey;

/// The file's name. It holds what `wg genkey` prints.
const NAME: &str = "wireguard.key";

/// The private key. It is shown to nobody.
#[derive(Clone)]
pub(crate) struct PrivateKey(Key);

/// Where it is.
#[derive(Debug, Clone)]
pub(crate) struct SecretFile(PathBuf);

impl PrivateKey {
    /// The key that others know this server by.
    pub(crate) fn public(&self) -> PublicKey {
        PublicKey::new(self.0.get_public().0)
    }

    /// For WireGuard itself.
    pub(super) fn key(&self) -> Key {
        self.0.clone()
    }
}

impl SecretFile {
    pub(crate) fn within(dir: &Path) -> SecretFile {
        SecretFile(dir.join(NAME))
    }

    /// The key, which is made if there is none. One that cannot be read is not replaced: with another key this server would be
    /// another to all others.
    pub(crate) fn open(&self) -> Result<PrivateKey, Error> {
        match self.find()? {
            Some(key) => Ok(key),
            None => self.make().map_err(|error| self.failed(error)),
        }
    }

    /// The key, if there is one.
    pub(crate) fn find(&self) -> Result<Option<PrivateKey>, Error> {
        let none = || self.failed(io::Error::new(io::ErrorKind::InvalidData, "no WireGuard key"));
        match fs::read(&self.0) {
            Ok(text) => read(&text).ok_or_else(none).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn make(&self) -> io::Result<PrivateKey> {
        let key = Key::generate_private();
        let aside = self.0.with_extension("key.part");
        let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&aside)?;
        file.write_all(format!("{}\n", BASE64.encode(&key.0)).as_bytes())?;
        file.sync_all()?;
        // A link, unlike a rename, replaces nothing.
        let linked = fs::hard_link(&aside, &self.0);
        fs::remove_file(&aside)?;
        linked?;
        self.0.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())?;
        Ok(PrivateKey(key))
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::File { path: self.0.clone(), source }
    }
}

fn read(text: &[u8]) -> Option<PrivateKey> {
    let bytes = BASE64.decode(str::from_utf8(text).ok()?.trim_end().as_bytes()).ok()?;
    let key: [u8; 32] = bytes.try_into().ok()?;
    (key != [0; 32]).then_some(PrivateKey(Key(key)))
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_for_its_owner_alone_and_shown_to_nobody() {
        let dir = tempfile::tempdir().unwrap();
        assert!(SecretFile::within(dir.path()).find().unwrap().is_none());
        let key = SecretFile::within(dir.path()).open().unwrap();
        let again = SecretFile::within(dir.path()).open().unwrap();
        assert_eq!(key.public(), again.public());
        let path = dir.path().join(NAME);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let secret = fs::read_to_string(&path).unwrap();
        assert!(!format!("{key:?}").contains(secret.trim()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        // The pair of `wg genkey` and `wg pubkey`.
        fs::write(&path, "SGb+ojrRNDuMePufwtIYhXzA//k6wF3R21tEBgKlzlM=\n").unwrap();
        let known = SecretFile::within(dir.path()).open().unwrap().public();
        assert_eq!(known.to_string(), "DD5yKRfzExcV5+kDnTroDgCU15latdMjiQ59j1hEuk8=");
        fs::write(&path, "SGb+ojrRNDuMePufwtIYhXzA").unwrap();
        let error = SecretFile::within(dir.path()).open().unwrap_err().chain();
        assert!(error.contains("no WireGuard key") && !error.contains("SGb"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "SGb+ojrRNDuMePufwtIYhXzA");
    }
}
