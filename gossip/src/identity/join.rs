//! Joining, from the new node's side: a key that is made here and stays here, and a certificate for it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kith_gossip_proto::NodeId;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint};
use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::version::TLS13;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use thiserror::Error;
use tokio::time::timeout;

use super::enrolment::{ANSWER_MAX, Answer, Grant, Wish};
use super::token::{Fingerprint, Token};
use super::{AuthorityError, Clock, Identity, IdentityError, certificate_of, files, provider};
use crate::net::tls::{JOIN, SERVER_NAME};
use crate::net::{Close, transport};

/// How long an address may take to answer at all, and then to decide. It signs and writes a row, so the second is longer.
const CONNECT: Duration = Duration::from_secs(5);
const DECIDE: Duration = Duration::from_secs(15);

/// The private key of a node to be.
pub struct NewKey(KeyPair);

/// Why there is no certificate.
#[derive(Debug, Error)]
pub enum JoinError {
    /// Nobody was there. One line for each address.
    #[error("no address of the token answers: {}", .0.join("; "))]
    Unreachable(Vec<String>),
    /// Somebody else was there.
    #[error(
        "{address} is a node of another cluster, or somebody who passes for ours: its authority is not the token's"
    )]
    OtherAuthority {
        /// Where.
        address: SocketAddr,
    },
    /// A certificate there is not in force by our clock.
    #[error(
        "by this host's clock the certificate of {address} is not in force: set the clock right and run the same command again"
    )]
    Clock {
        /// Where.
        address: SocketAddr,
    },
    /// It said no.
    #[error("{0}")]
    Refused(String),
    /// The answer did not come.
    #[error("the answer was lost on its way ({0}): the token may be used up, ask for another one")]
    Lost(String),
    /// What came cannot be used.
    #[error("the certificate that came cannot be used")]
    Unusable(#[source] IdentityError),
    /// The answer is not what it should be.
    #[error("the answer is none of this release")]
    Malformed,
    /// Our own side.
    #[error("cannot ask for a certificate")]
    Prepare(#[source] AuthorityError),
    /// The socket, or TLS.
    #[error("cannot open a socket: {0}")]
    Socket(String),
}

impl NewKey {
    /// A new key.
    pub fn generate() -> Result<Self, AuthorityError> {
        Ok(Self(KeyPair::generate()?))
    }

    /// The key in this file, which must be readable by its owner only.
    pub fn read(path: &Path) -> Result<Self, AuthorityError> {
        Ok(Self(files::key_pair(path)?))
    }

    /// Its PEM form, for a file that only its owner may read.
    pub fn pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// Its public half.
    pub(super) fn public(&self) -> &impl PublicKeyData {
        &self.0
    }

    fn request(&self, node: &NodeId) -> Result<String, AuthorityError> {
        let params = CertificateParams::new(vec![node.to_string()])?;
        Ok(params.serialize_request(&self.0)?.pem()?)
    }
}

/// Shows the token at its addresses, one after the other, and returns what was granted: checked, for this key.
pub async fn join(token: &Token, key: &NewKey, hostname: &str, clock: &Clock) -> Result<Grant, JoinError> {
    let request = key.request(&token.node).map_err(JoinError::Prepare)?;
    let wish = Wish {
        node: token.node.to_string(),
        secret: token.secret.reveal(),
        request,
        wall_ms: clock.unix().as_millis().try_into().unwrap_or(u64::MAX),
        hostname: hostname.to_owned(),
    };
    let wish = serde_json::to_vec(&wish).expect("texts and numbers are JSON");
    let mut unreachable = Vec::new();
    for named in &token.addresses {
        let found = timeout(CONNECT, tokio::net::lookup_host(named)).await;
        let address = match found.map(|found| found.map(|mut addresses| addresses.next())) {
            Ok(Ok(Some(address))) => address,
            Ok(Err(error)) => {
                unreachable.push(format!("{named}: {error}"));
                continue;
            }
            Ok(Ok(None)) | Err(_) => {
                unreachable.push(format!("{named}: the name cannot be looked up"));
                continue;
            }
        };
        match ask(address, token, &wish, clock).await {
            Ok(grant) => return checked(grant, key, clock),
            Err(Failed::Unreachable(why)) => unreachable.push(format!("{address}: {why}")),
            Err(Failed::Told(error)) => return Err(error),
        }
    }
    Err(JoinError::Unreachable(unreachable))
}

/// What became of one address.
enum Failed {
    /// The next may do.
    Unreachable(String),
    /// There is no point in another.
    Told(JoinError),
}

async fn ask(address: SocketAddr, token: &Token, wish: &[u8], clock: &Clock) -> Result<Grant, Failed> {
    let socket = |error: &dyn ToString| Failed::Told(JoinError::Socket(error.to_string()));
    let any: SocketAddr = if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0; 8], 0).into() };
    let mut endpoint = Endpoint::client(any).map_err(|error| socket(&error))?;
    endpoint.set_default_client_config(config(token.authority, clock).map_err(|error| socket(&error))?);
    let connecting = endpoint.connect(address, SERVER_NAME).map_err(|error| Failed::Unreachable(error.to_string()))?;
    let connection = match timeout(CONNECT, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return Err(sorted(address, &error)),
        Err(_) => return Err(Failed::Unreachable(format!("no answer within {} s", CONNECT.as_secs()))),
    };
    let answer = timeout(DECIDE, talk(&connection, wish)).await;
    connection.close(Close::Done.into(), b"");
    // So that the other end hears of it; it waits for nothing else.
    drop(timeout(Duration::from_millis(500), endpoint.wait_idle()).await);
    let late = |_| JoinError::Lost(format!("nothing within {} s", DECIDE.as_secs()));
    let answer = answer.map_err(late).flatten().map_err(Failed::Told)?;
    match serde_json::from_slice(&answer) {
        Ok(Answer::Granted(grant)) => Ok(grant),
        Ok(Answer::Refused(reason)) => Err(Failed::Told(JoinError::Refused(reason))),
        Err(_) => Err(Failed::Told(JoinError::Malformed)),
    }
}

/// The answer, or why there is none.
async fn talk(connection: &Connection, wish: &[u8]) -> Result<Vec<u8>, JoinError> {
    let lost = |error: &dyn ToString| match connection.close_reason() {
        // Before the wish was looked at, or it would have an answer.
        Some(ConnectionError::ApplicationClosed(close)) if close.error_code == Close::Done.into() => {
            JoinError::Refused(String::from_utf8_lossy(&close.reason).into_owned())
        }
        Some(reason) => JoinError::Lost(reason.to_string()),
        None => JoinError::Lost(error.to_string()),
    };
    let (mut send, mut recv) = connection.open_bi().await.map_err(|error| lost(&error))?;
    send.write_all(wish).await.map_err(|error| lost(&error))?;
    send.finish().map_err(|error| lost(&error))?;
    recv.read_to_end(ANSWER_MAX).await.map_err(|error| lost(&error))
}

/// By the TLS alert, which our verifier below has raised.
fn sorted(address: SocketAddr, error: &ConnectionError) -> Failed {
    let code = match error {
        ConnectionError::TransportError(error) => u64::from(error.code),
        ConnectionError::ConnectionClosed(close) => u64::from(close.error_code),
        other => return Failed::Unreachable(other.to_string()),
    };
    match code.checked_sub(0x100) {
        Some(48 | 51) => Failed::Told(JoinError::OtherAuthority { address }),
        Some(45) => Failed::Told(JoinError::Clock { address }),
        Some(120) => Failed::Unreachable("the authority's key is not there".to_owned()),
        _ => Failed::Unreachable(error.to_string()),
    }
}

/// The certificate must be for our key, from the token's authority, and in force by our clock.
fn checked(grant: Grant, key: &NewKey, clock: &Clock) -> Result<Grant, JoinError> {
    let certificate = certificate_of(&grant.certificate).ok_or(JoinError::Malformed)?;
    let authority = certificate_of(&grant.authority).ok_or(JoinError::Malformed)?;
    let private = key.0.serialize_der().try_into().map_err(|_| JoinError::Malformed)?;
    Identity::in_memory(&authority, certificate, private, clock.clone()).map_err(JoinError::Unusable)?;
    Ok(grant)
}

fn config(authority: Fingerprint, clock: &Clock) -> Result<ClientConfig, Error> {
    let algorithms = provider().signature_verification_algorithms;
    let mut client = rustls::ClientConfig::builder_with_details(provider(), Arc::new(clock.clone()))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { authority, algorithms }))
        .with_no_client_auth();
    client.alpn_protocols = vec![JOIN.to_vec()];
    client.enable_sni = false;
    client.resumption = Resumption::disabled();
    let client = QuicClientConfig::try_from(client).map_err(|error| Error::General(error.to_string()))?;
    let mut client = ClientConfig::new(Arc::new(client));
    client.transport_config(Arc::new(transport::config()));
    Ok(client)
}

/// Believes whom the authority of this hash vouches for. The authority's certificate comes with the handshake.
#[derive(Debug)]
struct Pinned {
    authority: Fingerprint,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = intermediates.iter().find(|shown| Fingerprint::of(shown) == self.authority);
        let authority = authority.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&certificate, &roots, &[], now, self.algorithms.all)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
