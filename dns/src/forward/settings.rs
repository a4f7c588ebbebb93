//! What is configured of forwarding, typed.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use crate::name::ZoneName;

/// Port of DNS.
const PORT: u16 = 53;
/// Port of DNS over TLS (RFC 7858 §3.1).
const TLS_PORT: u16 = 853;

/// Where names go that are in no zone of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarding {
    /// Who is asked about names that nothing else claims.
    pub upstreams: Upstreams,
    /// Domains with servers of their own (split DNS), and those below our zones that are not ours.
    pub domains: Vec<Domain>,
    /// Which addresses an upstream may not point a name at.
    pub rebind: Rebind,
    /// Most bytes of kept answers, all tables together.
    pub cache_bytes: usize,
    /// A PEM file of the certificates by which upstreams prove their names, in place of those that the system trusts.
    pub trusted: Option<PathBuf>,
}

impl Forwarding {
    /// 32 MiB: some 100,000 answers.
    pub const CACHE_BYTES: usize = 32 << 20;

    /// Everything is refused that is not ours.
    #[must_use]
    pub fn refused() -> Self {
        Self {
            upstreams: Upstreams::None,
            domains: Vec::new(),
            rebind: Rebind::Cluster,
            cache_bytes: Self::CACHE_BYTES,
            trusted: None,
        }
    }

    /// To the system's upstreams, also the names that clouds and Docker keep below `internal`.
    #[must_use]
    pub fn system() -> Self {
        let below = ["google.internal", "ec2.internal", "compute.internal", "docker.internal"];
        let domain = |name: &str| Domain { suffix: name.parse().expect("a domain"), servers: Vec::new() };
        Self { upstreams: Upstreams::System, domains: below.map(domain).into(), ..Self::refused() }
    }

    /// Whether anything is forwarded at all.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.upstreams == Upstreams::None && self.domains.iter().all(|domain| domain.servers.is_empty())
    }
}

/// Who is asked about names that nothing else claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstreams {
    /// Nobody: such names are refused.
    None,
    /// Those of the system: `/etc/resolv.conf`, read again when it changes.
    System,
    /// These, in this order.
    These(Vec<Upstream>),
}

/// One domain that is asked elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// Names at and below it; the longest suffix decides.
    pub suffix: ZoneName,
    /// Its servers, in this order; none: the upstreams of all other names.
    pub servers: Vec<Upstream>,
}

/// Which addresses an upstream may not point a name at, so that no web page reaches what only we should (DNS
/// rebinding). Never applied below a domain with servers of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rebind {
    /// Those of the cluster, and loopback.
    Cluster,
    /// All that are private.
    Private,
}

impl FromStr for Rebind {
    type Err = RebindError;

    fn from_str(text: &str) -> Result<Self, RebindError> {
        match text {
            "cluster" => Ok(Self::Cluster),
            "private" => Ok(Self::Private),
            _ => Err(RebindError),
        }
    }
}

impl fmt::Display for Rebind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cluster => "cluster",
            Self::Private => "private",
        })
    }
}

/// A text that is no [`Rebind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("neither \"cluster\" nor \"private\"")]
pub struct RebindError;

/// One server that is asked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Upstream {
    /// Where it listens.
    pub addr: SocketAddr,
    /// How it is spoken to.
    pub by: By,
}

/// How an upstream is spoken to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum By {
    /// Datagrams, and streams for what does not fit.
    Plain,
    /// TLS only, to a server that proves to have this name (RFC 7858).
    Tls(Box<str>),
}

impl Upstream {
    /// Datagrams to port 53 of this address.
    #[must_use]
    pub fn plain(addr: SocketAddr) -> Self {
        Self { addr, by: By::Plain }
    }
}

/// A text that is no [`Upstream`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an upstream is ADDR, ADDR:PORT or tls://ADDR#NAME")]
pub struct UpstreamError;

impl FromStr for Upstream {
    type Err = UpstreamError;

    /// Reads `9.9.9.9`, `9.9.9.9:5353`, `[2620:fe::fe]:53`, `tls://9.9.9.9#dns.quad9.net`.
    fn from_str(text: &str) -> Result<Self, UpstreamError> {
        let address = |text: &str, port| {
            let alone: Result<IpAddr, _> = text.trim_start_matches('[').trim_end_matches(']').parse();
            text.parse().or_else(|_| alone.map(|ip| SocketAddr::new(ip, port))).map_err(|_| UpstreamError)
        };
        let Some(secure) = text.strip_prefix("tls://") else { return Ok(Self::plain(address(text, PORT)?)) };
        let (addr, name) = secure.split_once('#').ok_or(UpstreamError)?;
        rustls::pki_types::ServerName::try_from(name).map_err(|_| UpstreamError)?;
        Ok(Self { addr: address(addr, TLS_PORT)?, by: By::Tls(name.into()) })
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.by {
            By::Plain => write!(f, "{}", self.addr),
            By::Tls(name) => write!(f, "tls://{}#{name}", self.addr),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_reads_as_it_is_written() {
        for (text, shown) in [
            ("9.9.9.9", "9.9.9.9:53"),
            ("127.0.0.1:5353", "127.0.0.1:5353"),
            ("2620:fe::fe", "[2620:fe::fe]:53"),
            ("[2620:fe::fe]:5353", "[2620:fe::fe]:5353"),
            ("tls://9.9.9.9#dns.quad9.net", "tls://9.9.9.9:853#dns.quad9.net"),
            ("tls://[2620:fe::fe]:8853#dns.quad9.net", "tls://[2620:fe::fe]:8853#dns.quad9.net"),
        ] {
            assert_eq!(text.parse::<Upstream>().map(|upstream| upstream.to_string()), Ok(shown.to_owned()));
        }
        for text in ["", "dns.quad9.net", "9.9.9.9:", "tls://9.9.9.9", "tls://9.9.9.9#", "tls://9.9.9.9#a b"] {
            assert_eq!(text.parse::<Upstream>(), Err(UpstreamError), "{text}");
        }
    }
}
