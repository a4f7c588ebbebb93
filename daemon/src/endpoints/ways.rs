//! What the peers and their endpoints tell each other: who is to be reached and where that may be, and where it was.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::peers::{PublicKey, management};

/// Where a peer may be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Way {
    /// Its server.
    pub(crate) id: String,
    /// Where its row says that its tunnels end, most useful first.
    pub(crate) endpoints: Vec<SocketAddr>,
    /// Where one ended that worked.
    pub(crate) worked: Option<SocketAddr>,
    /// Whether its daemon is known to echo.
    pub(crate) echoed: Echoed,
}

/// Whether a peer's daemon has ever answered or asked, before this start too: of one that has, silence says something at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Echoed {
    /// It has.
    Ever,
    /// Not that we know.
    #[default]
    Never,
}

/// Both tellings. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ways(Arc<Mutex<Told>>);

#[derive(Debug, Default)]
struct Told {
    own: Option<PublicKey>,
    mtu: Option<u32>,
    peers: Arc<BTreeMap<PublicKey, Way>>,
    addresses: Arc<BTreeMap<Ipv6Addr, PublicKey>>,
    worked: BTreeMap<PublicKey, SocketAddr>,
    echoed: BTreeSet<PublicKey>,
}

impl Ways {
    /// Says who we are, how long our packets may be, and who is to be reached. Only the peers know.
    pub(crate) fn tell(&self, own: PublicKey, mtu: Option<u32>, peers: BTreeMap<PublicKey, Way>) {
        let mut told = self.told();
        told.worked.retain(|key, _| peers.contains_key(key));
        told.echoed.retain(|key| peers.contains_key(key));
        if *told.peers != peers {
            told.addresses = Arc::new(peers.keys().map(|key| (management(key), *key)).collect());
            told.peers = Arc::new(peers);
        }
        (told.own, told.mtu) = (Some(own), mtu);
    }

    /// Our own key, once there is one.
    pub(super) fn own(&self) -> Option<PublicKey> {
        self.told().own
    }

    /// How long a packet may be, once there is an interface.
    pub(super) fn mtu(&self) -> Option<u32> {
        self.told().mtu
    }

    /// Who is to be reached.
    pub(super) fn peers(&self) -> Arc<BTreeMap<PublicKey, Way>> {
        self.told().peers.clone()
    }

    /// Their management addresses.
    pub(super) fn addresses(&self) -> Arc<BTreeMap<Ipv6Addr, PublicKey>> {
        self.told().addresses.clone()
    }

    /// Says where a peer is reached. Only who looks at the answers knows.
    pub(super) fn works(&self, key: PublicKey, at: SocketAddr) {
        self.told().worked.insert(key, at);
    }

    /// Where peers were reached.
    pub(crate) fn worked(&self) -> BTreeMap<PublicKey, SocketAddr> {
        self.told().worked.clone()
    }

    /// Says that a peer's daemon echoes.
    pub(super) fn echoes(&self, key: PublicKey) {
        self.told().echoed.insert(key);
    }

    /// Whose daemons echoed.
    pub(crate) fn echoed(&self) -> BTreeSet<PublicKey> {
        self.told().echoed.clone()
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
