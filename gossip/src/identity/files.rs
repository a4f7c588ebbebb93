//! Certificates and keys as files, in PEM form.
//!
//! A private key is read only from a file that its owner alone may read, and written only into one. What replaces a file
//! is written beside it, synced and moved over it: after a power cut there is the old one or the new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rcgen::KeyPair;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::IdentityError;

/// The most bytes of a PEM file. A chain and a key take a few kilobytes; more is a wrong path.
const FILE_MAX: u64 = 1 << 20;

pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let pem = || IdentityError::Pem { path: path.to_owned(), kind: "certificate" };
    let (_, text) = read(path)?;
    let found = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>().map_err(|_| pem())?;
    if found.is_empty() { Err(pem()) } else { Ok(found) }
}

pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, IdentityError> {
    let text = secret(path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| IdentityError::Pem { path: path.to_owned(), kind: "private key" })
}

/// A private key to sign with.
pub(super) fn key_pair(path: &Path) -> Result<KeyPair, IdentityError> {
    let pem = || IdentityError::Pem { path: path.to_owned(), kind: "private key" };
    let text = String::from_utf8(secret(path)?).map_err(|_| pem())?;
    KeyPair::from_pem(&text).map_err(|_| pem())
}

/// The text of a file that only its owner may read. The mode is taken from the open file, so what is checked is what is
/// read.
pub(super) fn secret(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let (mode, text) = read(path)?;
    if mode & 0o077 != 0 {
        return Err(IdentityError::KeyMode { path: path.to_owned(), mode: mode & 0o7777 });
    }
    Ok(text)
}

fn read(path: &Path) -> Result<(u32, Vec<u8>), IdentityError> {
    let attempt = || {
        let file = File::open(path)?;
        let mode = file.metadata()?.permissions().mode();
        let mut text = Vec::new();
        file.take(FILE_MAX).read_to_end(&mut text)?;
        Ok((mode, text))
    };
    attempt().map_err(|source| IdentityError::Read { path: path.to_owned(), source })
}

/// Writes a file that must not be there yet, for its owner alone.
pub fn write_new(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()?;
    sync_folder(path)
}

/// Replaces a file whole, for its owner alone.
pub fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".tmp");
    let beside = PathBuf::from(beside);
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&beside)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    sync_folder(path)
}

/// A file's name is in its folder, which is a file of its own.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// The PEM form of a certificate.
pub(super) fn pem(certificate: &CertificateDer<'_>) -> String {
    let text = data_encoding::BASE64.encode(certificate);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem + "-----END CERTIFICATE-----\n"
}
