//! An HTTPS source: it answers who asks with the address that it sees. One request of HTTP/1.0, whose answer is the address as a text.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::plan::is_public;

/// How long an answer may take, with all that comes before it.
const PATIENCE: Duration = Duration::from_secs(6);
/// Most bytes of an answer: an address and some heads.
const MOST: u64 = 8 * 1024;
/// Where systems keep whom they trust.
const TRUSTED: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

/// Where is asked: `https://HOST[:PORT][/PATH]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    host: String,
    port: u16,
    path: String,
}

/// Why a text is no source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not https://HOST[:PORT][/PATH]")]
pub struct SourceError;

/// By which protocol is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

/// What came of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// It sees us as this.
    Seen(IpAddr),
    /// It has no address of this family, or this host has none.
    NoSuchFamily,
}

/// Why a source did not say anything.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("it did not answer within {} s", PATIENCE.as_secs())]
    Late,
    #[error("its name is no host's")]
    Name(#[from] InvalidDnsNameError),
    #[error("it cannot be asked")]
    Io(#[from] io::Error),
    #[error("its answer is no public address: {0:?}")]
    Answer(String),
}

impl AskError {
    /// The error with all its sources, on one line.
    pub(super) fn chain(&self) -> String {
        kith_gossip_client::error::Chain(self).to_string()
    }
}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Source, SourceError> {
        let rest = text.strip_prefix("https://").ok_or(SourceError)?;
        let (authority, path) = match rest.split_once('/') {
            Some((authority, path)) => (authority, format!("/{path}")),
            None => (rest, "/".to_owned()),
        };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0).ok_or(SourceError)?),
            None => (authority, 443),
        };
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
        let is_path = |byte: u8| byte.is_ascii_graphic();
        let fits = !host.is_empty() && host.len() <= 253 && host.bytes().all(is_host);
        if !fits || path.len() > 1024 || !path.bytes().all(is_path) {
            return Err(SourceError);
        }
        Ok(Source { host: host.to_owned(), port, path })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Source { host, port, path } = self;
        match port {
            443 => write!(f, "https://{host}{path}"),
            port => write!(f, "https://{host}:{port}{path}"),
        }
    }
}

impl Family {
    pub(super) const ALL: [Family; 2] = [Family::V4, Family::V6];

    pub(super) fn name(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }

    fn has(self, address: &SocketAddr) -> bool {
        match self {
            Family::V4 => address.is_ipv4(),
            Family::V6 => address.is_ipv6(),
        }
    }
}

impl Source {
    /// Asks as what it sees us.
    pub(super) async fn ask(&self, family: Family, trusted: Arc<ClientConfig>) -> Result<Asked, AskError> {
        timeout(PATIENCE, self.asked(family, trusted)).await.unwrap_or(Err(AskError::Late))
    }

    async fn asked(&self, family: Family, trusted: Arc<ClientConfig>) -> Result<Asked, AskError> {
        let mut found = lookup_host((self.host.as_str(), self.port)).await?;
        let Some(address) = found.find(|address| family.has(address)) else { return Ok(Asked::NoSuchFamily) };
        let stream = match TcpStream::connect(address).await {
            Ok(stream) => stream,
            Err(error) if error.kind() == io::ErrorKind::NetworkUnreachable => return Ok(Asked::NoSuchFamily),
            Err(error) => return Err(error.into()),
        };
        let name = ServerName::try_from(self.host.clone())?;
        let mut stream = TlsConnector::from(trusted).connect(name, stream).await?;
        let Source { host, path, .. } = self;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nAccept: text/plain\r\nUser-Agent: kith\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        // Some close without saying so, which is no harm to an answer that is whole: it is checked below.
        match stream.take(MOST).read_to_end(&mut answer).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(error.into()),
        }
        address_of(&answer, family).map(Asked::Seen)
    }
}

/// The address in an answer.
fn address_of(answer: &[u8], family: Family) -> Result<IpAddr, AskError> {
    let text = String::from_utf8_lossy(answer);
    let wrong = || AskError::Answer(text.chars().take(80).collect());
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(wrong)?;
    let ok = head.split_whitespace().nth(1) == Some("200");
    let address: IpAddr = body.trim().parse().map_err(|_| wrong())?;
    let fits = ok && is_public(address) && family.has(&(address, 0).into());
    if fits { Ok(address) } else { Err(wrong()) }
}

/// Trusting whom this system trusts.
pub(super) fn trusted() -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = TRUSTED.iter().find(|path| std::path::Path::new(path).is_file()) {
        let certificates = CertificateDer::pem_file_iter(path).map_err(io::Error::other)?;
        roots.add_parsable_certificates(certificates.flatten());
    }
    if roots.is_empty() {
        return Err(io::Error::other("this system trusts no certificate"));
    }
    trusting(roots)
}

fn trusting(roots: RootCertStore) -> io::Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(Arc::new(config.map_err(io::Error::other)?.with_root_certificates(roots).with_no_client_auth()))
}

#[cfg(test)]
mod tests {
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// A source that sees everybody as one address, and whoever trusts it.
    async fn source(tasks: &mut JoinSet<()>) -> (Source, Arc<ClientConfig>) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let certificate = made.cert.der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Who does not trust us goes away.
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut request = [0; 1024];
                let length = stream.read(&mut request).await.unwrap();
                let path =
                    if request[..length].starts_with(b"GET /ip HTTP/1.0\r\n") { "200 OK" } else { "404 Not Found" };
                let answer = format!("HTTP/1.0 {path}\r\n\r\n203.0.113.9\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
        (format!("https://localhost:{port}/ip").parse().unwrap(), trusting(roots).unwrap())
    }

    #[tokio::test]
    async fn a_source_that_is_trusted_is_believed_and_no_other() {
        let mut tasks = JoinSet::new();
        let (source, trusted) = source(&mut tasks).await;
        let asked = source.ask(Family::V4, trusted.clone()).await.unwrap();
        assert_eq!(asked, Asked::Seen([203, 0, 113, 9].into()));
        let elsewhere = Source { path: "/".to_owned(), ..source.clone() };
        assert!(matches!(elsewhere.ask(Family::V4, trusted).await, Err(AskError::Answer(_))));
        let stranger = source.ask(Family::V4, trusting(RootCertStore::empty()).unwrap()).await;
        assert!(matches!(stranger, Err(AskError::Io(_))), "{stranger:?}");
        tasks.shutdown().await;
    }

    #[test]
    fn a_source_is_an_https_address() {
        for text in ["https://ip.example/", "https://ip.example:8443/raw?a=1"] {
            assert_eq!(text.parse::<Source>().map(|source| source.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("https://ip.example".parse::<Source>().map(|source| source.path), Ok("/".to_owned()));
        for wrong in [
            "http://ip.example",
            "https://",
            "https://a b/",
            "https://a/\r\nX: y",
            "https://a:0/",
            "https://[::1]/",
            "",
        ] {
            assert_eq!(wrong.parse::<Source>(), Err(SourceError), "{wrong}");
        }
    }

    #[test]
    fn an_answer_is_one_public_address_of_the_family_that_was_asked_over() {
        let answer = |text: &str, family| address_of(text.as_bytes(), family).map_err(|error| error.to_string());
        let ok = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n";
        assert_eq!(answer(&format!("{ok}203.0.113.9\n"), Family::V4), Ok([203, 0, 113, 9].into()));
        assert_eq!(answer(&format!("{ok}2001:db8::9"), Family::V6), Ok("2001:db8::9".parse().unwrap()));
        for (text, family) in [
            (format!("{ok}203.0.113.9"), Family::V6),
            (format!("{ok}10.0.0.1"), Family::V4),
            (format!("{ok}<html>203.0.113.9</html>"), Family::V4),
            ("HTTP/1.1 302 Found\r\n\r\n203.0.113.9".to_owned(), Family::V4),
            ("203.0.113.9".to_owned(), Family::V4),
            (String::new(), Family::V4),
        ] {
            assert!(answer(&text, family).is_err(), "{text}");
        }
    }
}
