//! Whom an operator has removed: refused by name in the handshake, whatever the certificate says, for as long as the
//! `servers` row says so.

use kith_gossip_proto::NodeId;
use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, Error};
use tokio::sync::watch;

use super::{Close, Net};
use crate::membership::{Belongs, Servers};

/// What a removed node is told.
pub(super) const REASON: &[u8] = b"removed from the cluster";

/// The removed ones, as the rows have them at any moment.
#[derive(Clone, Debug)]
pub(crate) struct Removed(watch::Receiver<Servers>);

impl Removed {
    pub(crate) fn new(servers: watch::Receiver<Servers>) -> Self {
        Self(servers)
    }

    pub(crate) fn holds(&self, node: &NodeId) -> bool {
        self.0.borrow().get(node).is_some_and(|row| row.belongs == Belongs::Removed)
    }

    /// Waits for other rows; for ever, once nobody reads them any more. Cancel-safe: it only waits.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// For the verifiers: the alert that goes out for a revoked certificate is what tells the peer why (RFC 8446 §6.2).
    pub(super) fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        // A certificate that names no node is refused after the handshake, with another reason.
        match crate::identity::node_of(certificate) {
            Ok(node) if self.holds(&node) => Err(Error::InvalidCertificate(CertificateError::Revoked)),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

impl Net {
    /// Closes what is open with removed nodes.
    pub(super) fn expel(&self) {
        for node in self.nodes().into_iter().filter(|node| self.shared.removed.holds(node)) {
            tracing::info!(peer = %node, "removed from the cluster: its connections are closed");
            self.shared.registry.close(&node, Close::Removed, REASON);
        }
    }
}
