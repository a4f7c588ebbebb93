//! Configuration: few typed values, checked before they get here.

use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::IpNet;

use crate::forward::Forwarding;
use crate::name::ZoneName;

/// What a DNS server of ours needs to know. [`Config::new`] has the defaults.
#[derive(Debug, Clone)]
pub struct Config {
    /// Addresses to listen on, UDP and TCP alike. Port 0 takes a free port, the same for both.
    pub listen: Vec<SocketAddr>,
    /// A bridge, behind which containers are: its address is listened on as well, as soon as there is one, at the port of the
    /// first of `listen`.
    pub bridge: Option<String>,
    /// DNS over TLS (RFC 7858), beside it; `None`: not served.
    pub tls: Option<Tls>,
    /// Workers for each address: threads with a socket of their own. By default one for each core.
    pub threads: NonZeroUsize,
    /// Networks that may ask. Empty: this host, the cluster's ranges, and networks of bridges. Whoever else asks is not
    /// heard.
    pub allow: Vec<IpNet>,
    /// Answers a second by UDP for each /24 (/56) that is not private, so that nobody is flooded with answers to
    /// questions that others ask in its name; `None`: without a bound.
    pub rate: Option<NonZeroU32>,
    /// The zones served; each serves the same names. The first one is what PTR records point into.
    pub zones: Vec<ZoneName>,
    /// Zone files (RFC 1035 §5). One whose zone is among the zones served is laid over it, any other is a zone of its own.
    pub files: Vec<PathBuf>,
    /// This node's id, `servers.id`: `local.node`, who is nearest, NSID.
    pub server: String,
    /// The cluster's ranges: addresses outside are not served, and the reverse zones of these are owned. Empty: the
    /// `cluster_cidr` of the metadata table.
    pub ranges: Vec<IpNet>,
    /// Addresses outside the ranges that may be served as well (a development cluster on loopback); no reverse zone.
    pub own_addresses: Vec<IpNet>,
    /// How long an answer may be kept, unless its service says otherwise.
    pub ttl: Ttl,
    /// How long a negative answer may be kept; values over 5 s are taken as 5 s.
    pub negative_ttl: Ttl,
    /// The file of the last zone, which is answered, marked stale, from a start until the store is followed. `None`: a
    /// start without the store answers nothing.
    pub state: Option<PathBuf>,
    /// Where names go that are in no zone of ours. By default they are refused.
    pub forward: Forwarding,
}

/// Where DNS is served over TLS, and by which certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// TCP addresses; by custom at port 853. Port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// The certificate and those that lead from it to an authority, PEM; read again when it changes.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

/// Answers a second for a network, unless told otherwise. A resolver for a whole office asks for less, since it keeps
/// what it was told; as a share of an attack it is nothing.
pub const RATE: u32 = 200;

impl Config {
    /// The defaults, for this node id.
    #[must_use]
    pub fn new(server: impl Into<String>) -> Self {
        Self {
            listen: Vec::new(),
            bridge: None,
            tls: None,
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            allow: Vec::new(),
            rate: NonZeroU32::new(RATE),
            zones: vec![ZoneName::default()],
            files: Vec::new(),
            server: server.into(),
            ranges: Vec::new(),
            own_addresses: Vec::new(),
            ttl: Ttl::DEFAULT,
            negative_ttl: Ttl::DEFAULT,
            state: None,
            forward: Forwarding::refused(),
        }
    }
}

/// How long a record may be kept, in whole seconds, at most a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ttl(u32);

impl Ttl {
    /// 5 s. The truth is local to every server, so that asking again is nearly free, while every cache between us and
    /// a program delays the moment it learns that an instance is gone.
    pub const DEFAULT: Ttl = Ttl(5);
    /// A day. Longer ones only keep dead addresses alive.
    pub const MAX: Ttl = Ttl(86_400);

    /// A checked value.
    ///
    /// # Errors
    /// When it is negative or more than a day.
    pub fn from_secs(secs: i64) -> Result<Self, TtlError> {
        u32::try_from(secs).ok().map(Ttl).filter(|ttl| *ttl <= Ttl::MAX).ok_or(TtlError)
    }

    /// In seconds, as it stands in a record.
    #[must_use]
    pub fn as_secs(self) -> u32 {
        self.0
    }
}

/// A text or number that is no [`Ttl`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a TTL is a number of seconds from 0 to 86400")]
pub struct TtlError;

impl FromStr for Ttl {
    type Err = TtlError;

    /// Reads `5` or `5s`.
    fn from_str(text: &str) -> Result<Self, TtlError> {
        text.strip_suffix('s').unwrap_or(text).parse().map_err(|_| TtlError).and_then(Ttl::from_secs)
    }
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_at_most_a_day() {
        assert_eq!("30s".parse::<Ttl>().map(Ttl::as_secs), Ok(30));
        assert_eq!("0".parse::<Ttl>().map(Ttl::as_secs), Ok(0));
        assert_eq!("86401".parse::<Ttl>(), Err(TtlError));
        assert_eq!("-1".parse::<Ttl>(), Err(TtlError));
        assert_eq!("soon".parse::<Ttl>(), Err(TtlError));
    }
}
