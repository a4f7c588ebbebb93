//! One question to one upstream: over a datagram from a port of its own, over a stream, or over TLS.
//!
//! Each datagram goes out by a socket made for it, at a port that the kernel picks at random, with a random id; the
//! socket is connected, so that the kernel drops what comes from elsewhere and tells at once when nobody listens there.
//! What does not match is ignored and waited on: an answer that somebody forged must not keep away the true one.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::clean::{Cleaned, Failed, Match, Sent, clean, matches};
use super::entry::Entry;
use super::rebind::Guard;
use super::settings::{By, Upstream};
use crate::answer::message::PAYLOAD;
use crate::query::{DNSSEC_OK, HEADER, Query};
use crate::zone::rtype;

/// Messages of others that one socket is given to hear before its question counts as failed: whoever sends so many is
/// trying ids.
const STRANGERS_MAX: usize = 64;
/// TLS connections kept open to one upstream while nobody uses them.
const IDLE_MAX: usize = 4;
/// How long they are kept; servers close them after about as long (RFC 7766 §6.2.3).
const IDLE: Duration = Duration::from_secs(8);
/// Where systems keep all certificates that they trust in one file: Debian and Alpine, Red Hat, SUSE.
const SYSTEM_CERTIFICATES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];
/// Type of the OPT record's owner and more: root, OPT, our payload.
const OPT: [u8; 5] = [0, 0, rtype::OPT as u8, (PAYLOAD >> 8) as u8, PAYLOAD as u8];

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    /// Name, type and class, in the letter case chosen for it.
    pub(crate) bytes: Box<[u8]>,
    pub(crate) dnssec_ok: bool,
    /// The CD bit, in place.
    pub(crate) checking_disabled: u8,
}

/// Why a question got no answer from an upstream.
#[derive(Debug)]
pub(crate) enum ExchangeError {
    /// It said so.
    Failed(Failed),
    /// The network, or nobody there.
    Io(io::Error),
}

impl From<io::Error> for ExchangeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Whether a question is sent with EDNS. Servers of another age understand it only without.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Edns {
    With,
    Without,
}

/// By what certificates an upstream proves its name.
#[derive(Debug)]
pub(crate) struct Trust {
    file: Option<PathBuf>,
    /// Made when an upstream needs it and the file is there.
    config: OnceLock<Arc<ClientConfig>>,
}

/// TLS to one upstream: the connections that are open and unused.
#[derive(Debug)]
pub(crate) struct Secure {
    trust: Arc<Trust>,
    idle: Mutex<Vec<(TlsStream<TcpStream>, Instant)>>,
}

/// Asks one upstream, as long as it takes: whoever calls this bounds it.
pub(crate) async fn ask(
    upstream: &Upstream,
    secure: &Secure,
    question: &Question,
    guard: &Guard,
) -> Result<(Entry, usize), ExchangeError> {
    let once = async |edns| match &upstream.by {
        By::Plain => plain(upstream.addr, question, edns, guard).await,
        By::Tls(name) => tls(upstream.addr, name, secure, question, edns, guard).await,
    };
    let cleaned = match once(Edns::With).await? {
        Cleaned::Failed(Failed::NotUnderstood) if !question.dnssec_ok => once(Edns::Without).await?,
        cleaned => cleaned,
    };
    match cleaned {
        Cleaned::Answer(entry, denied) => Ok((entry, denied)),
        // Over a stream there is room for everything.
        Cleaned::Truncated => Err(ExchangeError::Failed(Failed::Malformed)),
        Cleaned::Failed(failed) => Err(ExchangeError::Failed(failed)),
    }
}

/// By a datagram; by a stream where that does not do.
async fn plain(addr: SocketAddr, question: &Question, edns: Edns, guard: &Guard) -> io::Result<Cleaned> {
    let (message, sent) = question.message(edns);
    let local: SocketAddr = match addr {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(addr).await?;
    socket.send(&message).await?;
    let mut buffer = vec![0; 4096];
    for _ in 0..STRANGERS_MAX {
        let len = socket.recv(&mut buffer).await?;
        match matches(&buffer[..len], &sent) {
            Match::Yes => match clean(&buffer[..len], &sent, guard) {
                Cleaned::Truncated => break,
                cleaned => return Ok(cleaned),
            },
            // A stream cannot be guessed into: no letters need be compared there.
            Match::OtherCase => break,
            Match::No => {}
        }
    }
    drop(socket);
    let mut stream = TcpStream::connect(addr).await?;
    Ok(over(&mut stream, question, edns, guard).await?.unwrap_or(Cleaned::Failed(Failed::Malformed)))
}

/// Over a stream that is open; `None`: what came is no answer to this question.
async fn over(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    question: &Question,
    edns: Edns,
    guard: &Guard,
) -> io::Result<Option<Cleaned>> {
    let (message, sent) = question.message(edns);
    stream.write_all(&[&(message.len() as u16).to_be_bytes(), &*message].concat()).await?;
    stream.flush().await?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut reply).await?;
    match matches(&reply, &sent) {
        Match::Yes | Match::OtherCase => Ok(Some(clean(&reply, &sent, guard))),
        Match::No => Ok(None),
    }
}

/// Over TLS, by a connection that is open if there is one.
async fn tls(
    addr: SocketAddr,
    name: &str,
    secure: &Secure,
    question: &Question,
    edns: Edns,
    guard: &Guard,
) -> io::Result<Cleaned> {
    // The other side may have closed it meanwhile: then another one is made.
    while let Some(stream) = secure.take() {
        if let Ok(cleaned) = secure.over(stream, question, edns, guard).await {
            return Ok(cleaned);
        }
    }
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let stream = TlsConnector::from(secure.trust.config()?).connect(name, stream).await?;
    secure.over(stream, question, edns, guard).await
}

impl Trust {
    /// By the certificates in this file; by those that the system trusts if there is none.
    pub(crate) fn new(file: Option<PathBuf>) -> Self {
        Self { file, config: OnceLock::new() }
    }

    fn config(&self) -> io::Result<Arc<ClientConfig>> {
        if let Some(config) = self.config.get() {
            return Ok(Arc::clone(config));
        }
        // Read again by the next question if it cannot be read: the file may come after us.
        let config = Arc::new(self.read()?);
        Ok(Arc::clone(self.config.get_or_init(|| config)))
    }

    fn read(&self) -> io::Result<ClientConfig> {
        let system = || SYSTEM_CERTIFICATES.into_iter().map(PathBuf::from).find(|path| path.is_file());
        let file = self.file.clone().or_else(system);
        let file = file.ok_or_else(|| io::Error::other("no file of trusted certificates on this system"))?;
        let mut roots = RootCertStore::empty();
        let certificates = CertificateDer::pem_file_iter(&file).map_err(io::Error::other)?;
        roots.add_parsable_certificates(certificates.flatten());
        if roots.is_empty() {
            return Err(io::Error::other(format!("no certificate in {}", file.display())));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        Ok(config.map_err(io::Error::other)?.with_root_certificates(roots).with_no_client_auth())
    }
}

impl Secure {
    pub(crate) fn new(trust: Arc<Trust>) -> Self {
        Self { trust, idle: Mutex::default() }
    }

    /// Asks over this connection, and keeps it for the next question if it gave the answer to this one: what else came
    /// on it leaves the next answer in doubt as well.
    async fn over(
        &self,
        mut stream: TlsStream<TcpStream>,
        question: &Question,
        edns: Edns,
        guard: &Guard,
    ) -> io::Result<Cleaned> {
        let cleaned = over(&mut stream, question, edns, guard).await?;
        if cleaned.is_some() {
            self.put(stream);
        }
        Ok(cleaned.unwrap_or(Cleaned::Failed(Failed::Malformed)))
    }

    fn take(&self) -> Option<TlsStream<TcpStream>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, since)| since.elapsed() < IDLE);
        idle.pop().map(|(stream, _)| stream)
    }

    fn put(&self, stream: TlsStream<TcpStream>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push((stream, Instant::now()));
        }
    }
}

impl Question {
    /// The question of this query, each letter in a case chosen at random: an answer must have the same, and who
    /// guesses must guess that as well (0x20).
    pub(crate) fn new(query: &Query<'_>) -> Self {
        let dnssec_ok = query.edns.as_ref().is_some_and(|edns| edns.dnssec_ok != 0);
        let mut bytes: Box<[u8]> = query.question.into();
        let name = bytes.len() - 4;
        for (letter, coin) in bytes[..name].iter_mut().zip(rand::random::<[u8; 255]>()) {
            // No label is longer than 63, so that a length is no letter.
            if letter.is_ascii_alphabetic() && coin & 1 == 1 {
                *letter ^= 0x20;
            }
        }
        Self { bytes, dnssec_ok, checking_disabled: query.head.checking_disabled }
    }

    /// A message with an id of its own.
    fn message(&self, edns: Edns) -> (Vec<u8>, Sent<'_>) {
        let id = rand::random::<[u8; 2]>();
        let mut message = Vec::with_capacity(HEADER + self.bytes.len() + 11);
        let additional = u8::from(edns == Edns::With);
        message.extend_from_slice(&id);
        message.extend_from_slice(&[1, self.checking_disabled, 0, 1, 0, 0, 0, 0, 0, additional]);
        message.extend_from_slice(&self.bytes);
        if edns == Edns::With {
            let flags = if self.dnssec_ok { DNSSEC_OK } else { 0 };
            message.extend_from_slice(&OPT);
            message.extend_from_slice(&[0, 0]);
            message.extend_from_slice(&flags.to_be_bytes());
            message.extend_from_slice(&[0, 0]);
        }
        (message, Sent { id, question: &self.bytes, dnssec_ok: self.dnssec_ok })
    }
}
