//! The WireGuard interface of this server: in the kernel where it can, else by wireguard-go, in a process of its own that an end of
//! this one does not touch.
//!
//! One look or change at a time: both block, in a thread that keeps the turn until it is done, so that an interface that hangs holds
//! one thread and no more. A private key is seen here and in its file; it leaves neither by a log nor by an error.

mod link;
mod secret;
mod setup;
mod userspace;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;
use nix::errno::Errno;
use tokio::sync::{Mutex, OwnedMutexGuard};
use wireguard_control::{Backend, Device, DeviceUpdate, InterfaceName, Key, PeerConfigBuilder};

use crate::error::Error;
use crate::peers::{Installed, KEEPALIVE, PublicKey, Shook};
use link::Links;
pub(crate) use secret::{PrivateKey, SecretFile};
pub(crate) use setup::{Desired, NotOurs, Step, is_ours, plan};

/// The interface. Clones share the turn.
#[derive(Clone)]
pub(crate) struct Interface {
    name: InterfaceName,
    turn: Arc<Mutex<()>>,
}

/// What there is of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The link of its name.
    pub(crate) link: Option<LinkSeen>,
    /// The WireGuard behind it.
    pub(crate) device: Option<DeviceSeen>,
    /// The smallest MTU of the links by which peers are reached.
    pub(crate) underlay: Option<u32>,
}

/// A link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LinkSeen {
    /// The kernel's number for it.
    pub(crate) index: u32,
    /// Whether the kernel's WireGuard is behind it.
    pub(crate) wireguard: bool,
    /// Whether packets go through.
    pub(crate) up: bool,
    /// Its MTU.
    pub(crate) mtu: u32,
    /// Its addresses.
    pub(crate) addresses: BTreeSet<IpNet>,
    /// Our routes by it.
    pub(crate) routes: BTreeSet<IpNet>,
}

/// A WireGuard, kernel's or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DeviceSeen {
    /// Its key.
    pub(crate) key: Option<PublicKey>,
    /// Where it listens.
    pub(crate) port: Option<u16>,
    /// Its peers.
    pub(crate) peers: BTreeMap<PublicKey, PeerSeen>,
}

/// A peer, with what it did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PeerSeen {
    /// What is set.
    pub(crate) installed: Installed,
    /// When it last shook hands, by the wall clock: a value that changes, and no more.
    pub(crate) handshake: Option<SystemTime>,
    /// How much has come from it that was its own.
    pub(crate) received: u64,
}

impl Interface {
    /// The interface of this name.
    pub(crate) fn new(name: &str) -> Result<Interface, wireguard_control::InvalidInterfaceName> {
        Ok(Interface { name: name.parse()?, turn: Arc::default() })
    }

    /// Its name.
    pub(crate) fn name(&self) -> String {
        self.name.to_string()
    }

    /// Looks at it, and at the links by which `ends` are reached.
    pub(crate) async fn look(&self, ends: &[SocketAddr]) -> Result<Seen, Error> {
        let links = Links::open().map_err(failed("asking for links"))?;
        let name = self.name();
        let link = links.look(&name).await.map_err(failed("asking for links"))?;
        let underlay = links.underlay(ends, &name).await.map_err(failed("asking for links"))?;
        let device = match &link {
            None => None,
            Some(link) => self.device(link.backend()).await?,
        };
        Ok(Seen { link, device, underlay })
    }

    /// The WireGuard behind the link; none if there is something else behind it.
    async fn device(&self, backend: Backend) -> Result<Option<DeviceSeen>, Error> {
        let name = self.name;
        if backend == Backend::Userspace && !userspace::answers(&name) {
            return Ok(None);
        }
        let device = self.blocking(move || Device::get(&name, backend)).await.map_err(failed("asking WireGuard"))?;
        Ok(Some(DeviceSeen::of(&device)))
    }

    /// The peers alone; none while there is no WireGuard of this name.
    pub(crate) async fn peers(&self) -> Result<BTreeMap<PublicKey, PeerSeen>, Error> {
        let name = self.name;
        match self.blocking(move || Device::get(&name, behind(&name))).await {
            Ok(device) => Ok(DeviceSeen::of(&device).peers),
            Err(error) if is_absent(&error) => Ok(BTreeMap::new()),
            Err(error) => Err(failed("asking WireGuard")(error)),
        }
    }

    /// Has a peer's packets go there, if it is still one: a peer that is set and missing would be made.
    pub(crate) async fn move_to(&self, key: PublicKey, endpoint: SocketAddr) -> Result<(), Error> {
        let name = self.name;
        // Both within one turn, so that nobody removes it between.
        let move_it = move || {
            let backend = behind(&name);
            if DeviceSeen::of(&Device::get(&name, backend)?).peers.contains_key(&key) {
                DeviceUpdate::new().add_peer(builder(key).set_endpoint(endpoint)).apply(&name, backend)?;
            }
            Ok(())
        };
        self.blocking(move_it).await.map_err(failed("setting an endpoint"))
    }

    /// Takes it away.
    pub(crate) async fn delete(&self) -> Result<(), Error> {
        let links = Links::open().map_err(failed("asking for links"))?;
        let link = links.look(&self.name()).await.map_err(failed("asking for links"))?;
        let Some(link) = link else { return Ok(()) };
        links.delete(link.index).await.map_err(failed("removing the interface"))
    }

    /// Does a step of the setup.
    pub(crate) async fn set_up(&self, step: &Step, key: &PrivateKey) -> Result<(), Error> {
        let links = Links::open().map_err(failed("asking for links"))?;
        let name = self.name();
        if *step == Step::Create {
            return self.create(&links).await;
        }
        let link = links.look(&name).await.map_err(failed("asking for links"))?;
        let link = link.ok_or_else(|| failed("setting up the interface")(io::ErrorKind::NotFound.into()))?;
        match step {
            Step::Create => Ok(()),
            Step::Listen(port) => {
                let update = DeviceUpdate::new().set_private_key(key.key()).set_listen_port(*port);
                let (name, backend) = (self.name, link.backend());
                return self
                    .blocking(move || update.apply(&name, backend))
                    .await
                    .map_err(failed("setting key and port (is the port in use?)"));
            }
            Step::Address(net) => links.address(link.index, *net).await,
            Step::Mtu(mtu) => links.mtu(link.index, *mtu).await,
            Step::Up => links.up(link.index).await,
            Step::Route(net) => links.route(link.index, *net).await,
            Step::Unroute(net) => links.unroute(link.index, *net).await,
        }
        .map_err(failed("setting up the interface"))
    }

    async fn create(&self, links: &Links) -> Result<(), Error> {
        match links.create(&self.name()).await {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) if is_unknown(&error) => {
                tracing::info!(interface = %self.name, "no WireGuard in this kernel, starting wireguard-go");
                let name = self.name;
                self.blocking(move || userspace::start(&name)).await.map_err(failed("starting wireguard-go"))
            }
            Err(error) => Err(failed("making the interface")(error)),
        }
    }

    /// Adds a peer, or sets what is behind it. Without an endpoint its tunnel ends where it did.
    pub(crate) async fn set(
        &self,
        key: PublicKey,
        allowed: &BTreeSet<IpNet>,
        endpoint: Option<SocketAddr>,
    ) -> Result<(), Error> {
        let mut peer = builder(key).replace_allowed_ips().set_persistent_keepalive_interval(KEEPALIVE);
        for net in allowed {
            peer = peer.add_allowed_ip(net.addr(), net.prefix_len());
        }
        if let Some(endpoint) = endpoint {
            peer = peer.set_endpoint(endpoint);
        }
        self.update(peer).await
    }

    /// Removes a peer.
    pub(crate) async fn remove(&self, key: PublicKey) -> Result<(), Error> {
        self.update(builder(key).remove()).await
    }

    async fn update(&self, peer: PeerConfigBuilder) -> Result<(), Error> {
        let links = Links::open().map_err(failed("asking for links"))?;
        let link = links.look(&self.name()).await.map_err(failed("asking for links"))?;
        // Without it the library would make an interface that nobody set up.
        let link = link.ok_or_else(|| failed("setting a peer")(io::ErrorKind::NotFound.into()))?;
        let (name, update) = (self.name, DeviceUpdate::new().add_peer(peer));
        self.blocking(move || update.apply(&name, link.backend())).await.map_err(failed("setting a peer"))
    }

    /// Runs what blocks in a thread of its own, which keeps the turn also if nobody waits for it any more.
    async fn blocking<T: Send + 'static>(&self, run: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
        let turn: OwnedMutexGuard<()> = self.turn.clone().lock_owned().await;
        let run = move || {
            let result = run();
            drop(turn);
            result
        };
        tokio::task::spawn_blocking(run).await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

impl LinkSeen {
    fn backend(&self) -> Backend {
        if self.wireguard { Backend::Kernel } else { Backend::Userspace }
    }
}

impl DeviceSeen {
    fn of(device: &Device) -> DeviceSeen {
        let public = |key: &Key| PublicKey::new(key.0);
        let peer = |peer: &wireguard_control::PeerInfo| {
            let handshake = peer.stats.last_handshake_time;
            let allowed = peer.config.allowed_ips.iter().filter_map(|ip| IpNet::new(ip.address, ip.cidr).ok());
            let installed = Installed {
                endpoint: peer.config.endpoint,
                allowed: allowed.collect(),
                keepalive: peer.config.persistent_keepalive_interval,
                shook: if handshake.is_some() { Shook::Yes } else { Shook::NotYet },
            };
            (public(&peer.config.public_key), PeerSeen { installed, handshake, received: peer.stats.rx_bytes })
        };
        DeviceSeen {
            // Of a device without a key some make one of zeros.
            key: device
                .public_key
                .as_ref()
                .filter(|_| device.private_key.as_ref().is_some_and(|key| key.0 != [0; 32]))
                .map(public),
            port: device.listen_port,
            peers: device.peers.iter().map(peer).collect(),
        }
    }
}

fn builder(key: PublicKey) -> PeerConfigBuilder {
    PeerConfigBuilder::new(&Key(*key.bytes()))
}

/// What is behind an interface that is a WireGuard.
fn behind(name: &InterfaceName) -> Backend {
    if userspace::answers(name) { Backend::Userspace } else { Backend::Kernel }
}

/// Whether there is no such interface, or it is no WireGuard of the kernel's.
fn is_absent(error: &io::Error) -> bool {
    // It has no kind of its own. A kernel without WireGuard has nobody who could be asked.
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ENODEV as i32) || is_unknown(error)
}

/// Whether the kernel knows no WireGuard.
fn is_unknown(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported || error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32)
}

fn failed(doing: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| match source.kind() {
        io::ErrorKind::PermissionDenied => Error::NotAllowed { doing },
        _ => Error::Interface { doing, source },
    }
}
