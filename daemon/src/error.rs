//! Why a pass failed. The driver, which consumes it, logs and shows it; the next pass is the retry.

use std::path::PathBuf;

use kith_gossip_client::error::Chain;

use crate::docker::DockerError;
use crate::firewall::FirewallError;

/// A pass that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The store is away, or refused.
    #[error("the store")]
    Store(#[from] kith_gossip_client::Error),
    /// Docker is away, or refused.
    #[error(transparent)]
    Docker(#[from] DockerError),
    /// The firewall cannot be read or changed.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// A file of ours.
    #[error("{}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The WireGuard interface.
    #[error("{doing}")]
    Interface {
        /// What was tried.
        doing: &'static str,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// This process may not change the network.
    #[error("{doing} needs the right to: CAP_NET_ADMIN")]
    NotAllowed {
        /// What was tried.
        doing: &'static str,
    },
    /// There is an interface that is not ours; it is left alone.
    #[error("interface {name}")]
    NotOurs {
        /// Its name.
        name: String,
        /// Why it is not.
        source: crate::wireguard::NotOurs,
    },
    /// The pass did not end in time.
    #[error("it did not end within {} s", crate::driver::PASS.as_secs())]
    Late,
}

impl Error {
    /// The error with all its sources, on one line.
    pub(crate) fn chain(&self) -> String {
        Chain(self).to_string()
    }
}
