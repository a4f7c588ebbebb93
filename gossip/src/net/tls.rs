//! Mutual TLS 1.3 among the nodes of one cluster, and one door for those who want to become one.
//!
//! Three things are checked before a byte of ours is read: the certificate is issued by the cluster's own authority, the
//! node that it names was not removed, and the application protocol names our cluster (ALPN, RFC 7301), so that two
//! clusters of one authority do not mix. The server's name is not compared with anything while dialling: an address may
//! lead to any node, and the certificate says to which. No session is resumed and no early data taken, so every connection
//! has been proven itself, and a handshake that is sent again leads nowhere.
//!
//! Who has no certificate yet speaks [`JOIN`], and only at a node that has the authority's key: elsewhere a handshake
//! without a certificate fails. The authority's certificate is shown there too, since the newcomer knows its hash only.

use std::sync::Arc;

use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, ServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};

use super::removed::Removed;
use super::transport;
use crate::identity::{Identity, provider};

/// What a dialler asks for by name. TLS wants one; it is the same for all and is not sent.
pub(crate) const SERVER_NAME: &str = "kith";

/// The application protocol of whoever wants a certificate.
pub(crate) const JOIN: &[u8] = b"kith-join/1";

/// Whether those may come who have no certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Newcomers {
    /// The authority's key is here.
    Served,
    /// It is elsewhere.
    Refused,
}

/// The two sides of the endpoint.
pub(super) fn configs(
    identity: &Identity,
    cluster_id: &str,
    removed: &Removed,
    newcomers: Newcomers,
) -> Result<(ServerConfig, ClientConfig), Error> {
    let own = format!("kith/1/{cluster_id}").into_bytes();
    let transport = Arc::new(transport::config());
    let clock = Arc::new(identity.clock().clone());

    let verifier = Members::new(identity, removed.clone(), newcomers)?;
    let mut server = rustls::ServerConfig::builder_with_details(provider(), clock.clone())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(Shown(identity.clone())));
    server.alpn_protocols = vec![own.clone()];
    if newcomers == Newcomers::Served {
        server.alpn_protocols.push(JOIN.to_vec());
    }
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    let server = QuicServerConfig::try_from(server).map_err(|error| Error::General(error.to_string()))?;
    let mut server = ServerConfig::with_crypto(Arc::new(server));
    server.transport_config(Arc::clone(&transport));

    let verifier = AnyNode::new(Arc::clone(identity.roots()), removed.clone());
    let mut client = rustls::ClientConfig::builder_with_details(provider(), clock)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(Shown(identity.clone())));
    client.alpn_protocols = vec![own];
    client.enable_sni = false;
    client.resumption = Resumption::disabled();
    let client = QuicClientConfig::try_from(client).map_err(|error| Error::General(error.to_string()))?;
    let mut client = ClientConfig::new(Arc::new(client));
    client.transport_config(transport);
    Ok((server, client))
}

/// What the node shows of itself: always the certificate that is in force at the moment.
#[derive(Debug)]
struct Shown(Identity);

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let key = self.0.key();
        if !hello.alpn().is_some_and(|mut offered| offered.any(|protocol| protocol == JOIN)) {
            return Some(key);
        }
        let mut chain = key.cert.clone();
        chain.push(self.0.authority().clone());
        Some(Arc::new(CertifiedKey::new(chain, Arc::clone(&key.key))))
    }
}

impl rustls::client::ResolvesClientCert for Shown {
    fn resolve(&self, _authorities: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.key())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Whether a newcomer is at the other end, who speaks of nothing but joining.
pub(super) fn is_newcomer(connection: &Connection) -> bool {
    let data = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    data.is_some_and(|data| data.protocol.as_deref() == Some(JOIN))
}

/// The certificate the peer proved itself with. None where newcomers are served and one spoke as a node.
pub(super) fn peer_certificate(connection: &Connection) -> Option<CertificateDer<'static>> {
    let identity = connection.peer_identity()?;
    identity.downcast::<Vec<CertificateDer<'static>>>().ok()?.into_iter().next()
}

/// Accepts as a client any node of the cluster that was not removed.
#[derive(Debug)]
struct Members {
    chain: Arc<dyn ClientCertVerifier>,
    removed: Removed,
}

impl Members {
    fn new(identity: &Identity, removed: Removed, newcomers: Newcomers) -> Result<Self, Error> {
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(identity.roots()), provider());
        let builder = match newcomers {
            // A certificate that is shown is checked all the same; who shows none gets no further than `is_newcomer`.
            Newcomers::Served => builder.allow_unauthenticated(),
            Newcomers::Refused => builder,
        };
        let chain = builder.build().map_err(|error| Error::General(error.to_string()))?;
        Ok(Self { chain, removed })
    }
}

impl ClientCertVerifier for Members {
    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        self.removed.check(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Accepts as a server any node of the cluster that was not removed: the chain must end at our authority, the name is
/// read afterwards.
#[derive(Debug)]
struct AnyNode {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
    removed: Removed,
}

impl AnyNode {
    fn new(roots: Arc<RootCertStore>, removed: Removed) -> Self {
        let CryptoProvider { signature_verification_algorithms: algorithms, .. } = *provider();
        Self { roots, algorithms, removed }
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
        self.removed.check(end_entity)?;
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
