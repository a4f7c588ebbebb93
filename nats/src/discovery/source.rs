//! What the runner was told, as what the loop works with.

use std::hash::{Hash as _, Hasher as _};
use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use siphasher::sip::SipHasher;

use super::Sources;
use crate::config::{Config, Role, Servers};
use crate::identity::{self, Identity};
use crate::memory;
use crate::name::{BadName, Label};
use crate::peers::Kept;
use crate::render::{Credentials, LAME_DUCK, LeafCredentials, Settings, Store, Tls};
use crate::resolve::{self, BadResolver, SystemDns};
use crate::secret::Secret;
use crate::shape::{Host, Listening, Place, Standing};
use crate::turn::Shown;

/// Largest file of accounts or of a certificate that is taken. One above it is refused, since half of it would be another.
const LARGEST: u64 = 1024 * 1024;

/// Why the configuration cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum BadSource {
    /// A name that cannot be asked for, or stand in a file.
    #[error("{what} is no name")]
    Name {
        /// Which key.
        what: &'static str,
        /// Why.
        #[source]
        source: BadName,
    },
    /// Others have to find it.
    #[error("neither an IPv4 nor an IPv6 address to be reached at")]
    Nowhere,
    /// Nobody can be asked.
    #[error("no name server can be asked")]
    Resolver(#[source] BadResolver),
}

impl Sources {
    /// From the configuration of the runner, and whom to ask.
    pub fn of(config: &Config, identity: &Identity, binary: &Path) -> Result<(Self, SystemDns), BadSource> {
        let name = |what, text: &str| text.parse::<Label>().map_err(|source| BadSource::Name { what, source });
        let region = Some(config.region.as_str()).filter(|region| !region.is_empty());
        let place = Place {
            cluster: name("cluster", &config.cluster)?,
            zone: config.zone.parse().map_err(|source| BadSource::Name { what: "zone", source })?,
            region: region.map(|region| name("region", region)).transpose()?,
            standing: standing(config.role, config.servers),
            host: match (config.listen.ip, config.listen.ip6) {
                (Some(_), Some(_)) => Host::All,
                (Some(_), None) | (None, Some(_)) | (None, None) => Host::Own,
            },
            address: address(config).ok_or(BadSource::Nowhere)?,
            ports: Listening {
                client: config.listen.ports.client,
                route: config.listen.ports.route,
                gateway: config.listen.ports.gateway,
                leaf: config.listen.ports.leaf,
            },
        };
        let own = name("server_name", &identity.name)?;
        let servers = match (config.resolvers.as_slice(), place.standing) {
            ([], Standing::Clustered | Standing::Leaf) => resolve::Servers::System,
            // One that knows no other asks nobody, and needs nobody to ask.
            (servers, _) => resolve::Servers::At(servers.to_vec()),
        };
        let dns = SystemDns::new(servers).map_err(BadSource::Resolver)?;
        let folder = identity::folder(&config.store.dir);
        let mut config = config.clone();
        // Once for the life of the runner: the limits of a control group change while it runs, and each change would have nats-server
        // restarted for a default that nobody has set.
        config.store.memory = config.store.memory.or_else(memory::for_streams);
        let sources = Self {
            place: place.clone(),
            settings: Arc::new(reader(config, identity.clone(), place, own)),
            binary: binary.to_owned(),
            file: folder.join("nats.conf"),
            kept: Kept::at(folder.join("peers.json")),
        };
        Ok((sources, dns))
    }
}

fn standing(role: Role, servers: Servers) -> Standing {
    match (role, servers) {
        (Role::Leaf, _) => Standing::Leaf,
        (Role::Center, Servers::One) => Standing::Lone,
        (Role::Center, Servers::Three) => Standing::Clustered,
    }
}

/// IPv4 where there is one: it is what all servers have in a mesh that has both.
fn address(config: &Config) -> Option<IpAddr> {
    config.listen.ip.map(IpAddr::V4).or(config.listen.ip6.map(IpAddr::V6))
}

/// Reads the files anew each time, and nothing else.
fn reader(
    config: Config,
    identity: Identity,
    place: Place,
    name: Label,
) -> impl Fn() -> Result<Settings, String> + Send + Sync {
    move || {
        let tls = match &config.tls {
            None => None,
            Some(files) => Some(Tls {
                cert: files.cert.clone(),
                key: files.key.clone(),
                ca: files.ca.clone(),
                mark: mark([&files.cert, &files.key, &files.ca])?,
            }),
        };
        let accounts = config.accounts.as_deref().map(read).transpose()?;
        let secret = config.secret.as_deref().map(Secret::read).transpose()?;
        let accounts = accounts.map(|bytes| String::from_utf8(bytes).map_err(|_| "accounts are not text".to_owned()));
        Ok(Settings {
            place: place.clone(),
            name: name.clone(),
            monitor: config.monitor,
            store: Some(Store {
                dir: config.store.dir.clone(),
                max_file: config.store.files.map(|size| size.0),
                max_memory: config.store.memory.map(|size| size.0),
                sync: config.store.sync,
            }),
            limits: config.limits,
            tls,
            turns: secret.as_ref().filter(|_| accounts.is_some()).map(Secret::turns),
            accounts: accounts.transpose()?,
            system: Credentials { user: identity.user.clone(), password: identity.password.clone() },
            routes: secret.as_ref().map(Secret::routes),
            leaf: config.credentials.as_deref().map(leaf).transpose()?,
            lame_duck: LAME_DUCK,
            append: config.append.clone(),
        })
    }
}

/// What a leaf shows: NATS credentials by the name of their file, a user and a password as they are.
fn leaf(file: &Path) -> Result<LeafCredentials, String> {
    let text = String::from_utf8_lossy(&read(file)?).into_owned();
    Ok(match Shown::of(file, text)? {
        Shown::Password(user) => LeafCredentials::User(user),
        Shown::Nats(_) => LeafCredentials::File(file.to_owned()),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    let read = file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if read as u64 > LARGEST {
        return Err(format!("{}: more than {LARGEST} bytes", path.display()));
    }
    Ok(bytes)
}

/// The same for the same files, in this process and the next.
fn mark(files: [&PathBuf; 3]) -> Result<u64, String> {
    let mut hasher = SipHasher::new();
    for file in files {
        read(file)?.hash(&mut hasher);
    }
    Ok(hasher.finish())
}
