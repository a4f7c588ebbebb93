//! The address of a bridge, listened on as soon as there is one: Docker's network for containers may be made long after the start, and
//! nobody has to name its address.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::bind::{Bound, bind};
use super::networks::{Changes, address_of};
use crate::config::Config;

/// How long after an address could not be bound it is tried again: somebody else has its port.
const AGAIN: Duration = Duration::from_secs(10);

/// Waits for the address of a bridge.
#[derive(Debug)]
pub(crate) struct BridgeWatch {
    interface: String,
    port: u16,
    threads: NonZeroUsize,
    /// What is listened on anyway.
    listens: Vec<SocketAddr>,
}

impl BridgeWatch {
    /// For the bridge of this configuration, if it names one.
    pub(crate) fn new(config: &Config, listens: &[SocketAddr]) -> Option<Self> {
        let (interface, port) = (config.bridge.clone()?, listens.first()?.port());
        Some(Self { interface, port, threads: config.threads, listens: listens.to_vec() })
    }

    /// How many desks it takes: one for streams and one for each worker.
    pub(crate) fn desks(&self) -> usize {
        1 + self.threads.get()
    }

    /// The sockets at its address, once it has one. `None` where it is listened on anyway, and where the wait is over. It has this
    /// address from then on: Docker's network is made anew in the same place, or with other containers.
    pub(crate) async fn bound(&self, token: &CancellationToken) -> Option<Bound> {
        let changes = match Changes::watch() {
            Ok(changes) => changes,
            Err(error) => {
                tracing::warn!(%error, "cannot watch the networks of this host: a bridge that comes later is not listened on");
                return None;
            }
        };
        loop {
            // After the watch began, so that no change falls between.
            let found = address_of(&self.interface).map(|ip| SocketAddr::new(ip, self.port));
            let tried = match found {
                Some(addr) if self.is_listened_on(addr) => return None,
                Some(addr) => Some((addr, bind(addr, self.threads))),
                None => None,
            };
            let again = match tried {
                Some((_, Ok(bound))) => {
                    tracing::info!(interface = self.interface, addr = %bound.addr, "listening at the bridge");
                    return Some(bound);
                }
                Some((addr, Err(error))) => {
                    tracing::warn!(interface = self.interface, %addr, %error, "cannot listen at the bridge");
                    true
                }
                None => false,
            };
            tokio::select! {
                // Cancel-safe: a change that is not taken is told again.
                () = token.cancelled() => return None,
                () = sleep(AGAIN), if again => {}
                changed = changes.next(), if !again => self.told(changed)?,
            }
        }
    }

    fn told(&self, changed: io::Result<()>) -> Option<()> {
        if let Err(error) = &changed {
            tracing::warn!(interface = self.interface, %error, "the wait for the bridge failed");
        }
        changed.ok()
    }

    /// Whether who asks at this address is answered by what is listened on anyway.
    fn is_listened_on(&self, addr: SocketAddr) -> bool {
        let all = |listens: &SocketAddr| listens.ip().is_unspecified() && listens.ip().is_ipv4() == addr.is_ipv4();
        self.listens.iter().any(|listens| listens.port() == addr.port() && (listens.ip() == addr.ip() || all(listens)))
    }
}
