//! Asking the resolver of the system, or servers that the configuration names. The only module that knows the library.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use hickory_resolver::system_conf;

use super::{Answer, Dns, Failure, Service};

/// Where the system says whom to ask.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How long one question may take, all its servers and attempts together. A pass asks four names one after the other at
/// most, and is to end before the next is due.
const PATIENCE: Duration = Duration::from_secs(1);
/// Attempts within it: a datagram that is lost is sent again.
const ATTEMPTS: usize = 2;

/// Who is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Servers {
    /// Those of `/etc/resolv.conf`, which is read again when it changes.
    System,
    /// These.
    At(Vec<SocketAddr>),
}

/// Why there is nobody to ask.
#[derive(Debug, thiserror::Error)]
pub enum BadResolver {
    /// `/etc/resolv.conf` is not to be read.
    #[error("cannot read {RESOLV_CONF}")]
    Unreadable(#[source] std::io::Error),
    /// It names no server, or what it says is wrong.
    #[error("cannot ask by {RESOLV_CONF}")]
    Unusable(#[source] NetError),
}

/// DNS by the network.
pub struct SystemDns {
    servers: Servers,
    /// What `resolv.conf` said when `resolver` was made of it.
    text: Vec<u8>,
    resolver: TokioResolver,
}

impl SystemDns {
    /// Fails if nobody can be asked.
    pub fn new(servers: Servers) -> Result<Self, BadResolver> {
        let text = match &servers {
            Servers::System => std::fs::read(RESOLV_CONF).map_err(BadResolver::Unreadable)?,
            Servers::At(_) => Vec::new(),
        };
        let resolver = resolver(&servers, &text)?;
        Ok(Self { servers, text, resolver })
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Result<Lookup, Answer<()>> {
        let asked = self.resolver.lookup(name, kind);
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(lookup)) => Ok(lookup),
            Ok(Err(error)) => Err(none(&error)),
            Err(_) => Err(Answer::Failed(Failure::TimedOut)),
        }
    }

    async fn addresses_of(&self, name: &str, kind: RecordType) -> Answer<IpAddr> {
        match self.ask(name, kind).await {
            Ok(lookup) => Answer::of(lookup.answers().iter().filter_map(address), ttl(&lookup)),
            Err(none) => none.without_records(),
        }
    }
}

impl Dns for SystemDns {
    async fn refresh(&mut self) {
        if self.servers != Servers::System {
            return;
        }
        // A file that is gone or half written for a moment is no reason to stop asking as before.
        let Ok(text) = tokio::fs::read(RESOLV_CONF).await else { return };
        if text != self.text
            && let Ok(resolver) = resolver(&self.servers, &text)
        {
            tracing::info!("the system's resolver has changed");
            (self.text, self.resolver) = (text, resolver);
        }
    }

    async fn addresses(&self, name: &str) -> Answer<IpAddr> {
        let (four, six) =
            tokio::join!(self.addresses_of(name, RecordType::A), self.addresses_of(name, RecordType::AAAA));
        four.and(six)
    }

    async fn services(&self, name: &str) -> Answer<Service> {
        match self.ask(name, RecordType::SRV).await {
            Ok(lookup) => {
                let services = lookup.answers().iter().filter_map(|record| service(record, lookup.additionals()));
                Answer::of(services, ttl(&lookup))
            }
            Err(none) => none.without_records(),
        }
    }

    async fn texts(&self, name: &str) -> Answer<String> {
        match self.ask(name, RecordType::TXT).await {
            Ok(lookup) => Answer::of(lookup.answers().iter().filter_map(text), ttl(&lookup)),
            Err(none) => none.without_records(),
        }
    }
}

impl Answer<()> {
    /// The same of another type: what has no records has none of any type.
    fn without_records<T>(self) -> Answer<T> {
        match self {
            Answer::Failed(failure) => Answer::Failed(failure),
            Answer::Records(_) | Answer::Empty => Answer::Empty,
        }
    }
}

fn resolver(servers: &Servers, text: &[u8]) -> Result<TokioResolver, BadResolver> {
    let (config, mut options) = match servers {
        Servers::System => system_conf::parse_resolv_conf(text).map_err(BadResolver::Unusable)?,
        Servers::At(servers) => {
            let servers = servers.iter().map(|server| {
                let mut config = NameServerConfig::udp_and_tcp(server.ip());
                config.connections.iter_mut().for_each(|connection| connection.port = server.port());
                config
            });
            (ResolverConfig::from_parts(None, vec![], servers.collect()), ResolverOpts::default())
        }
    };
    options.timeout = PATIENCE / u32::try_from(ATTEMPTS).unwrap_or(1);
    options.attempts = ATTEMPTS;
    // Whoever asks keeps what was said, and wants to hear what is said next.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options);
    builder.build().map_err(BadResolver::Unusable)
}

/// What an error says of the name: that there is nothing, or nothing at all.
fn none(error: &NetError) -> Answer<()> {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(_)) => Answer::Empty,
        NetError::Timeout => Answer::Failed(Failure::TimedOut),
        other => Answer::Failed(Failure::Refused(other.to_string())),
    }
}

fn ttl(lookup: &Lookup) -> Duration {
    lookup.valid_until().saturating_duration_since(Instant::now())
}

fn address(record: &Record) -> Option<IpAddr> {
    match &record.data {
        RData::A(four) => Some(IpAddr::V4(four.0)),
        RData::AAAA(six) => Some(IpAddr::V6(six.0)),
        _ => None,
    }
}

fn service(record: &Record, additionals: &[Record]) -> Option<Service> {
    let RData::SRV(srv) = &record.data else { return None };
    let addresses: BTreeSet<IpAddr> =
        additionals.iter().filter(|record| record.name == srv.target).filter_map(address).collect();
    Some(Service { target: srv.target.to_string().to_ascii_lowercase(), port: srv.port, addresses })
}

fn text(record: &Record) -> Option<String> {
    let RData::TXT(txt) = &record.data else { return None };
    Some(txt.txt_data.iter().map(|string| String::from_utf8_lossy(string)).collect())
}
