//! A certificate authority in memory, for `kith dev` and for tests. It is gone when the process is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kith_gossip_proto::NodeId;
use rcgen::{CertificateParams, KeyPair};

use super::authority::leaf;
use super::{Authority, AuthorityError, Clock, Identity, files};

/// Issues identities for the nodes of one cluster.
pub struct DevAuthority {
    authority: Arc<Authority>,
    clock: Clock,
}

/// An identity as files, as [`Identity::from_files`] reads it.
#[derive(Clone, Debug)]
pub struct PemFiles {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// The node's certificate.
    pub cert: PathBuf,
    /// The node's private key, mode 0600.
    pub key: PathBuf,
}

impl DevAuthority {
    /// A new authority for the cluster of this name.
    pub fn new(cluster: &str) -> Result<Self, AuthorityError> {
        Self::by(cluster, Clock::system())
    }

    /// The same, with another clock: all that it issues goes by it.
    pub fn by(cluster: &str, clock: Clock) -> Result<Self, AuthorityError> {
        Ok(Self { authority: Arc::new(Authority::found(cluster, clock.now())?), clock })
    }

    /// The same authority, whose nodes go by another clock from here on.
    #[cfg(test)]
    pub(crate) fn with_clock(&self, clock: Clock) -> Self {
        Self { authority: Arc::clone(&self.authority), clock }
    }

    /// An identity for this node, in memory only.
    pub fn issue(&self, node: &NodeId) -> Result<Identity, AuthorityError> {
        self.authority.identity(node, self.clock.clone())
    }

    /// An identity for this node, as three files in `dir`.
    pub fn write(&self, node: &NodeId, dir: &Path) -> Result<PemFiles, AuthorityError> {
        self.write_leaf(leaf(node)?, node.as_str(), dir)
    }

    /// The authority itself.
    pub fn authority(&self) -> Arc<Authority> {
        Arc::clone(&self.authority)
    }

    pub(super) fn write_leaf(
        &self,
        params: CertificateParams,
        stem: &str,
        dir: &Path,
    ) -> Result<PemFiles, AuthorityError> {
        let key = KeyPair::generate()?;
        let certificate = self.authority.sign(params, &key)?;
        let file = |ending: &str| dir.join(format!("{stem}.{ending}.pem"));
        let made = PemFiles { ca: dir.join("ca.pem"), cert: file("cert"), key: file("key") };
        write(&made.ca, &self.authority.certificate_pem())?;
        write(&made.cert, &files::pem(&certificate))?;
        write(&made.key, &key.serialize_pem())?;
        Ok(made)
    }
}

fn write(path: &Path, text: &str) -> Result<(), AuthorityError> {
    files::replace(path, text.as_bytes()).map_err(|source| AuthorityError::Write { path: path.to_owned(), source })
}
