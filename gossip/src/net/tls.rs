//! Mutual TLS 1.3 among the nodes of one cluster, and nothing else.
//!
//! Two things are checked before a byte of ours is read: the certificate is issued by the cluster's own authority, and
//! the application protocol names our cluster (ALPN, RFC 7301), so that two clusters of one authority do not mix. The
//! server's name is not compared with anything while dialling: an address may lead to any node, and the certificate says
//! to which. No session is resumed and no early data taken, so every connection has been proven itself.

use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, ConnectionError, ServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::transport;
use crate::identity::{Identity, provider};

/// What a dialler asks for by name. TLS wants one; it is the same for all and is not sent.
pub(super) const SERVER_NAME: &str = "kith";

/// The lowest QUIC error code that carries a TLS alert, and how many there are (RFC 9001 §4.8).
const ALERTS: std::ops::Range<u64> = 0x100..0x200;

/// The two sides of the endpoint.
pub(super) fn configs(identity: &Identity, cluster_id: &str) -> Result<(ServerConfig, ClientConfig), Error> {
    let provider = provider();
    let alpn = vec![format!("kith/1/{cluster_id}").into_bytes()];
    let key = Arc::new(SingleCertAndKey::from(Arc::unwrap_or_clone(Arc::clone(identity.key()))));
    let transport = Arc::new(transport::config());

    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(identity.roots()), Arc::clone(&provider))
        .build()
        .map_err(|error| Error::General(error.to_string()))?;
    let mut server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::clone(&key) as Arc<dyn rustls::server::ResolvesServerCert>);
    server.alpn_protocols.clone_from(&alpn);
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    let server = QuicServerConfig::try_from(server).map_err(|error| Error::General(error.to_string()))?;
    let mut server = ServerConfig::with_crypto(Arc::new(server));
    server.transport_config(Arc::clone(&transport));

    let verifier = AnyNode::new(Arc::clone(identity.roots()), &provider);
    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(key);
    client.alpn_protocols = alpn;
    client.enable_sni = false;
    client.resumption = Resumption::disabled();
    let client = QuicClientConfig::try_from(client).map_err(|error| Error::General(error.to_string()))?;
    let mut client = ClientConfig::new(Arc::new(client));
    client.transport_config(transport);
    Ok((server, client))
}

/// The certificate the peer proved itself with.
pub(super) fn peer_certificate(connection: &Connection) -> CertificateDer<'static> {
    connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
        .and_then(|chain| chain.into_iter().next())
        // Both verifiers refuse a peer without one, so this is never used; an empty one names no node.
        .unwrap_or_else(|| CertificateDer::from(Vec::new()))
}

/// Who ended a handshake for lack of trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// We refused the peer.
    ByUs,
    /// The peer refused us.
    ByPeer,
}

impl Refusal {
    pub(super) fn by(self) -> &'static str {
        match self {
            Self::ByUs => "us",
            Self::ByPeer => "the peer",
        }
    }
}

/// Whether a connection failed because of TLS, rather than of the network.
pub(super) fn refusal(error: &ConnectionError) -> Option<Refusal> {
    match error {
        ConnectionError::TransportError(error) if ALERTS.contains(&u64::from(error.code)) => Some(Refusal::ByUs),
        ConnectionError::ConnectionClosed(close) if ALERTS.contains(&u64::from(close.error_code)) => {
            Some(Refusal::ByPeer)
        }
        _ => None,
    }
}

/// Accepts any node of the cluster: the chain must end at our authority, the name is read afterwards.
#[derive(Debug)]
struct AnyNode {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl AnyNode {
    fn new(roots: Arc<RootCertStore>, provider: &CryptoProvider) -> Self {
        Self { roots, algorithms: provider.signature_verification_algorithms }
    }
}

impl ServerCertVerifier for AnyNode {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
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
