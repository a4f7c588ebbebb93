//! DNS over TLS (RFC 7858) as its clients use it: a handshake that proves a name, then messages as over TCP.
#![allow(clippy::unwrap_used, reason = "a test's functions are tests as well")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{Name, RecordType};
use kith_dns::{BuildError, Config, Dns, RunError, Status, StatusHandle, Tls};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

/// Far beyond what anything here takes; a test that meets it has found something.
const BOUND: Duration = Duration::from_secs(10);

const ZONE: &str =
    "$ORIGIN example.\n$TTL 60\n@ SOA ns.example. a.example. 1 2 3 4 5\n@ NS ns\nns A 192.0.2.1\nwww A 192.0.2.2\n";

/// A server of a zone file, on loopback.
struct Running {
    folder: tempfile::TempDir,
    addr: SocketAddr,
    status: StatusHandle,
    token: CancellationToken,
    task: JoinSet<Result<(), RunError>>,
}

impl Running {
    /// With a certificate for this name, which is returned.
    async fn start(name: &str) -> (Self, CertificateDer<'static>) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("zone"), ZONE).unwrap();
        let certificate = write(folder.path(), name);
        let dns = Dns::build(config(folder.path()), tokio_stream::pending()).await.unwrap();
        let (addr, status, token) = (dns.tls_addrs()[0], dns.status(), CancellationToken::new());
        let mut task = JoinSet::new();
        task.spawn(dns.run(token.clone()));
        (Self { folder, addr, status, token, task }, certificate)
    }

    /// Waits until the status is as it should be.
    async fn until(&self, what: &str, is: impl Fn(&Status) -> bool) {
        let begun = Instant::now();
        while !is(&self.status.get()) {
            assert!(begun.elapsed() < BOUND, "not {what}, but {:?}", self.status.get());
            tokio::task::yield_now().await;
        }
    }

    async fn stop(mut self) {
        self.token.cancel();
        let ended = timeout(BOUND, self.task.join_next()).await.expect("stops within the bound");
        ended.expect("one task").expect("no panic").expect("stops cleanly");
    }
}

fn config(folder: &Path) -> Config {
    Config {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        tls: Some(Tls {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            cert: folder.join("cert"),
            key: folder.join("key"),
        }),
        threads: 1.try_into().unwrap(),
        zones: Vec::new(),
        files: vec![folder.join("zone")],
        ..Config::new("s1")
    }
}

/// Writes a certificate for a name, and its key.
fn write(folder: &Path, name: &str) -> CertificateDer<'static> {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(folder.join("cert"), certificate.pem()).unwrap();
    std::fs::write(folder.join("key"), key.serialize_pem()).unwrap();
    certificate.der().clone()
}

/// Connects as somebody who trusts this certificate and no other.
async fn connect(
    addr: SocketAddr,
    name: &str,
    trusted: &CertificateDer<'static>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"dot".to_vec()];
    let stream = TcpStream::connect(addr).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

fn query(id: u16, name: &str) -> Message {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message
}

fn framed(message: &Message) -> Vec<u8> {
    let bytes = message.to_vec().unwrap();
    [&(bytes.len() as u16).to_be_bytes()[..], &bytes].concat()
}

async fn receive(stream: &mut TlsStream<TcpStream>) -> Message {
    Message::from_vec(&read(stream).await).unwrap()
}

async fn read(stream: &mut TlsStream<TcpStream>) -> Vec<u8> {
    let length = timeout(BOUND, stream.read_u16()).await.unwrap().unwrap();
    let mut bytes = vec![0; usize::from(length)];
    timeout(BOUND, stream.read_exact(&mut bytes)).await.unwrap().unwrap();
    bytes
}

#[tokio::test]
async fn many_questions_on_one_connection_are_answered_to_who_trusts_the_certificate() {
    let (dns, certificate) = Running::start("dns.example").await;
    let mut stream = connect(dns.addr, "dns.example", &certificate).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"dot"[..]));
    let names = |id: u16| if id.is_multiple_of(2) { "www.example." } else { "none.example." };
    let all: Vec<u8> = (0..600).flat_map(|id| framed(&query(id, names(id)))).collect();
    stream.write_all(&all).await.unwrap();
    stream.flush().await.unwrap();
    for id in 0..600_u16 {
        let answer = receive(&mut stream).await;
        let expected = if id.is_multiple_of(2) { (ResponseCode::NoError, 1) } else { (ResponseCode::NXDomain, 0) };
        assert_eq!(
            (answer.metadata.id, answer.metadata.response_code, answer.answers.len()),
            (id, expected.0, expected.1)
        );
    }
    let answers: u64 = dns.status.get().queries.iter().map(|count| count.count).sum();
    assert_eq!(answers, 600);
    let other = connect(dns.addr, "other.example", &certificate).await;
    assert!(other.is_err(), "the name is proven");
    dns.stop().await;
}

#[tokio::test]
async fn answers_hide_their_length_from_who_counts_bytes_if_asked_to() {
    let (dns, certificate) = Running::start("dns.example").await;
    let mut stream = connect(dns.addr, "dns.example", &certificate).await.unwrap();
    for (id, name) in [(1, "www.example."), (2, "a-name-that-is-a-good-deal-longer-and-is-not-there.example.")] {
        let mut question = query(id, name);
        stream.write_all(&framed(&question)).await.unwrap();
        let plain = read(&mut stream).await;
        assert!(plain.len() < 468, "nobody asked for more: {}", plain.len());
        let padding = EdnsOption::Unknown(12, vec![0; 20]);
        question.edns.get_or_insert_default().options_mut().insert(padding);
        stream.write_all(&framed(&question)).await.unwrap();
        let padded = read(&mut stream).await;
        assert_eq!(padded.len(), 468, "{name}");
        let [plain, padded] = [plain, padded].map(|bytes| Message::from_vec(&bytes).unwrap());
        assert_eq!((plain.answers, plain.metadata.response_code), (padded.answers, padded.metadata.response_code));
    }
    dns.stop().await;
}

#[tokio::test]
async fn who_speaks_no_tls_is_counted_and_keeps_nobody_out() {
    let (dns, certificate) = Running::start("dns.example").await;
    let mut plain = TcpStream::connect(dns.addr).await.unwrap();
    plain.write_all(&framed(&query(1, "www.example."))).await.unwrap();
    dns.until("counted", |status| status.handshakes_failed == 1).await;
    let silent = TcpStream::connect(dns.addr).await.unwrap();
    let mut stream = connect(dns.addr, "dns.example", &certificate).await.unwrap();
    stream.write_all(&framed(&query(7, "www.example."))).await.unwrap();
    assert_eq!(receive(&mut stream).await.answers.len(), 1);
    stream.shutdown().await.unwrap();
    assert_eq!(timeout(BOUND, stream.read(&mut [0])).await.unwrap().unwrap(), 0, "it ends in good order");
    drop(silent);
    dns.stop().await;
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_and_a_wrong_one_is_not() {
    let (dns, first) = Running::start("dns.example").await;
    std::fs::write(dns.folder.path().join("cert"), "not a certificate").unwrap();
    dns.until("an alarm", |status| status.tls_fault.is_some()).await;
    assert!(connect(dns.addr, "dns.example", &first).await.is_ok(), "the one before is used on");
    let second = write(dns.folder.path(), "dns.example");
    dns.until("read", |status| status.tls_fault.is_none()).await;
    assert!(connect(dns.addr, "dns.example", &second).await.is_ok());
    assert!(connect(dns.addr, "dns.example", &first).await.is_err());
    dns.stop().await;
}

#[tokio::test]
async fn without_a_good_certificate_nothing_starts() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("zone"), ZONE).unwrap();
    write(folder.path(), "dns.example");
    std::fs::write(folder.path().join("key"), rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let Err(BuildError::Tls(error)) = Dns::build(config(folder.path()), tokio_stream::pending()).await else {
        panic!("it is built with a key of another certificate")
    };
    assert_eq!(error.file, folder.path().join("key"));
}
