//! The store, its replication and the API as a part.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use kith_gossip::api::{ApiConfig, BindError, Tokens, TokensError};
use kith_gossip::identity::{Authority, Enrolment, Invites};
use kith_gossip::store::{Durability, OpenError, SchemaSource};
use kith_gossip::{BuildError, Config, Gossip, Identity};

use super::{Built, Part, pin};
use crate::config;
use crate::enrol::{AUTHORITY_KEY, INVITES};
use crate::exit::{Exit, Failure};
use crate::modes::{self, Wanted};

/// Most bytes of a schema file, as of a migration over the API.
const MAX_SCHEMA: u64 = 1024 * 1024;
/// Most bytes of the file that holds the boot's id.
const MAX_BOOT_ID: u64 = 4096;
/// Most bytes of a file of tokens.
const MAX_TOKENS: u64 = 16 << 10;

/// The store, buildable again and again.
pub(crate) struct GossipPart {
    config: Config,
}

impl GossipPart {
    /// A store with this configuration.
    pub(crate) fn new(config: Config) -> GossipPart {
        GossipPart { config }
    }
}

impl Part for GossipPart {
    fn name(&self) -> &'static str {
        "gossip"
    }

    fn build(&mut self) -> BoxFuture<'_, Result<Built, Failure>> {
        async {
            let gossip = Gossip::build(self.config.clone()).await.map_err(failure)?;
            let addrs = gossip.addrs();
            pin(std::slice::from_mut(&mut self.config.listen), &[addrs.gossip]);
            pin(&mut self.config.api.listen, &addrs.api);
            let mut listens: Vec<_> = addrs.api.iter().map(|addr| ("api", addr.to_string())).collect();
            listens.extend(addrs.unix.map(|path| ("socket", path.display().to_string())));
            listens.push(("gossip", addrs.gossip.to_string()));
            Ok(Built { listens, run: Box::new(|token| async move { Ok(gossip.run(token).await?) }.boxed()) })
        }
        .boxed()
    }
}

fn failure(error: BuildError) -> Failure {
    const PORT: &str = "is another node running here? Stop it, or choose other ports";
    match &error {
        BuildError::Node { .. }
        | BuildError::Advertise(_)
        | BuildError::Store(OpenError::Schema(_))
        | BuildError::Api(BindError::NoToken(_)) => Failure::new(Exit::Config, error),
        BuildError::Dir { .. } => Failure::new(Exit::Io, error),
        BuildError::Store(OpenError::Newer { .. }) => {
            Failure::new(Exit::Unavailable, error).context("the database is of a newer release than this")
        }
        BuildError::Net(_) | BuildError::Api(_) => Failure::new(Exit::Unavailable, error).hint(PORT),
        BuildError::Store(_) | BuildError::Membership(_) | BuildError::Subscriptions(_) | BuildError::Task(_) => {
            Failure::new(Exit::Unavailable, error)
        }
    }
}

/// The id of this boot of the host.
pub(crate) fn boot_id(config: &config::Config) -> Result<String, Failure> {
    Ok(read(&config.node.boot_id_file, MAX_BOOT_ID)?.trim().to_owned())
}

/// The store's configuration, with all that it names read from files.
pub(crate) fn config(config: &config::Config) -> Result<Config, Failure> {
    modes::check(&config.node.data_dir, Wanted::NotEverybodys)?;
    let enrolment = enrolment(config)?;
    let config::Config { node, cluster, gossip, api, .. } = config;
    let files = gossip.identity.as_ref().ok_or_else(|| Failure::message(Exit::Config, "there are no certificates"))?;
    let identity = Identity::from_files(&files.ca, &files.cert, &files.key)
        .map_err(|e| Failure::new(Exit::Config, e).context("cannot prove who this node is"))?;
    Ok(Config {
        node: node.name.clone(),
        region: node.region.as_str().to_owned(),
        dir: node.data_dir.clone(),
        schema: schema(&gossip.schema)?,
        durability: match gossip.durability {
            config::Durability::Full => Durability::Full,
            config::Durability::Normal => Durability::Normal,
        },
        remember: gossip.remember,
        cluster_id: cluster.id.as_str().to_owned(),
        listen: gossip.listen,
        advertise: gossip.advertise.or_else(|| advertised(gossip.listen, &gossip.seeds)),
        seeds: gossip.seeds.iter().map(|seed| seed.as_str().to_owned()).collect(),
        identity,
        enrolment,
        api: ApiConfig {
            listen: api.listen.clone(),
            unix: Some(api.unix.clone()),
            tokens: api.token_file.as_deref().map(tokens).transpose()?,
        },
        boot_id: boot_id(config)?,
    })
}

/// What the authority's key is needed for, if it is on this server.
pub(crate) fn enrolment(config: &config::Config) -> Result<Option<Enrolment>, Failure> {
    let (Some(folder), Some(files)) = (&config.gossip.authority, &config.gossip.identity) else { return Ok(None) };
    let subnets = config.cluster.subnets();
    let subnets = subnets.ok_or_else(|| Failure::message(Exit::Config, "cluster.cidr is no range for 127 servers"))?;
    modes::check(folder, Wanted::Owner)?;
    let authority = Authority::open(&files.ca, &folder.join(AUTHORITY_KEY))
        .map_err(|e| Failure::new(Exit::Config, e).context("cannot use the cluster's authority"))?;
    let (invites, cluster) = (Invites::new(folder.join(INVITES)), config.cluster.id.as_str().to_owned());
    Ok(Some(Enrolment { authority: Arc::new(authority), invites, cluster, subnets }))
}

/// Where other servers reach this one.
pub(crate) fn reached_at(gossip: &config::Gossip) -> SocketAddr {
    gossip.advertise.or_else(|| advertised(gossip.listen, &gossip.seeds)).unwrap_or(gossip.listen)
}

/// The token that a client shows: of those that a file holds, the one that may do most.
pub(crate) fn token(path: &Path) -> Result<kith_gossip_client::Token, Failure> {
    let parsed = tokens(path)?.widest().parse();
    parsed.map_err(|e: kith_gossip_client::endpoint::BadToken| no_token(path, e))
}

/// The tokens that a file holds.
fn tokens(path: &Path) -> Result<Tokens, Failure> {
    modes::check(path, Wanted::GroupReads)?;
    read(path, MAX_TOKENS)?.parse().map_err(|e: TokensError| no_token(path, e))
}

fn no_token(path: &Path, error: impl Into<anyhow::Error>) -> Failure {
    Failure::new(Exit::Config, error).context(format!("{} holds no token", path.display()))
}

/// Our own tables, then those of the files.
fn schema(paths: &[PathBuf]) -> Result<Vec<SchemaSource>, Failure> {
    let mut sources = vec![SchemaSource::builtin()];
    sources.extend(schema_files(paths)?);
    Ok(sources)
}

/// Each file named, then the `*.sql` of each folder named, in the order of their names.
pub(crate) fn schema_files(paths: &[PathBuf]) -> Result<Vec<SchemaSource>, Failure> {
    let mut sources = Vec::new();
    for path in paths {
        let mut files = vec![path.clone()];
        if path.is_dir() {
            let entries = path.read_dir().and_then(|dir| dir.map(|entry| Ok(entry?.path())).collect());
            files =
                entries.map_err(|e| Failure::new(Exit::Io, e).context(format!("cannot list {}", path.display())))?;
            files.retain(|file| file.extension().is_some_and(|extension| extension == "sql"));
            files.sort();
        }
        for file in files {
            sources.push(SchemaSource { name: file.display().to_string(), sql: read(&file, MAX_SCHEMA)? });
        }
    }
    Ok(sources)
}

fn read(path: &Path, most: u64) -> Result<String, Failure> {
    let text = || -> io::Result<String> {
        // A file of /proc has no size, so the text is measured too.
        let text = match std::fs::metadata(path)?.len() {
            size if size > most => return Err(io::Error::other(format!("more than {most} bytes"))),
            _ => std::fs::read_to_string(path)?,
        };
        if text.len() as u64 > most { Err(io::Error::other(format!("more than {most} bytes"))) } else { Ok(text) }
    };
    text().map_err(|e| Failure::new(Exit::Io, e).context(format!("cannot read {}", path.display())))
}

/// The address at which others find a node that listens on all of its own: the one from which it would send to its first
/// seed, or else to the world. Nothing is sent.
fn advertised(listen: SocketAddr, seeds: &[config::Seed]) -> Option<SocketAddr> {
    if !listen.ip().is_unspecified() {
        return None;
    }
    let world = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9));
    let toward = seeds.iter().find_map(|seed| seed.as_str().parse().ok()).unwrap_or(world);
    let from = || -> io::Result<IpAddr> {
        let any: SocketAddr = if toward.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0; 8], 0).into() };
        let socket = UdpSocket::bind(any)?;
        socket.connect(toward)?;
        Ok(socket.local_addr()?.ip())
    };
    let ip = from().unwrap_or(Ipv4Addr::LOCALHOST.into());
    Some((ip, listen.port()).into())
}
