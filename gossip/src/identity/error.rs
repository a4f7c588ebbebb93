//! Why a node has no identity, or a certificate names no node.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kith_gossip_proto::id::NodeIdError;
use thiserror::Error;

/// Why there is no identity. Each names what to look at.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Others than the owner may read the private key.
    #[error("the private key {path} has mode {mode:04o}; only its owner may read it: chmod 600 {path}")]
    KeyMode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is no PEM, or not the kind of PEM it should be.
    #[error("{path} holds no {kind} in PEM form")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        kind: &'static str,
    },
    /// A certificate or key that cannot be used.
    #[error("{path} cannot be used: {reason}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The certificate was issued by somebody else.
    #[error("the certificate {cert} was not issued by the authority in {ca}")]
    OtherAuthority {
        /// The certificate's file.
        cert: PathBuf,
        /// The authority's file.
        ca: PathBuf,
    },
    /// The certificate is no longer in force.
    #[error("the certificate {path} expired {} days ago", .ago.as_secs() / 86_400)]
    Expired {
        /// The certificate's file.
        path: PathBuf,
        /// Since when.
        ago: Duration,
    },
    /// The certificate is not in force yet.
    #[error("the certificate {path} is valid only {} s from now; is this host's clock right?", .ahead.as_secs())]
    NotYet {
        /// The certificate's file.
        path: PathBuf,
        /// How long until it is.
        ahead: Duration,
    },
    /// The certificate's DNS names do not name one node.
    #[error("the certificate {path} must hold exactly one DNS name, the node's id; it holds {count}")]
    Names {
        /// The certificate's file.
        path: PathBuf,
        /// How many it holds.
        count: usize,
    },
    /// The certificate's DNS name is no node id.
    #[error("the certificate {path} names no node")]
    Name {
        /// The certificate's file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: NodeIdError,
    },
    /// The certificate is another node's.
    #[error("the certificate is for {certified}")]
    OtherNode {
        /// Whose.
        certified: kith_gossip_proto::NodeId,
    },
    /// The certificate cannot be kept.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The private key belongs to another certificate.
    #[error("the private key {key} does not belong to the certificate {cert}")]
    KeyMismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        cert: PathBuf,
    },
}

/// Why a certificate names no node.
#[derive(Debug, Error)]
pub(crate) enum NodeNameError {
    #[error("the certificate cannot be parsed")]
    Unreadable,
    #[error("the certificate must hold exactly one DNS name, the node's id; it holds {0}")]
    Count(usize),
    #[error("the certificate names no node")]
    Name(#[source] NodeIdError),
}

impl NodeNameError {
    pub(super) fn in_file(self, path: &Path) -> IdentityError {
        let path = path.to_owned();
        match self {
            Self::Unreadable => IdentityError::Unusable { path, reason: self.to_string() },
            Self::Count(count) => IdentityError::Names { path, count },
            Self::Name(source) => IdentityError::Name { path, source },
        }
    }
}
