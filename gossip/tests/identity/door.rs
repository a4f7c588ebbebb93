//! Those at the gossip port who have no business there.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kith_gossip::identity::{NewKey, Token};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, Endpoint};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use serde_json::{Value, json};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::cluster::{Cluster, LOOPBACK, eventually};

/// Passes datagrams between one dialler and a node, and keeps what the dialler sent.
async fn recorder(target: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<Vec<u8>>>>, JoinSet<()>) {
    let (front, back) = (UdpSocket::bind(LOOPBACK).await.unwrap(), UdpSocket::bind(LOOPBACK).await.unwrap());
    back.connect(target).await.unwrap();
    let (address, kept) = (front.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let (record, mut task) = (Arc::clone(&kept), JoinSet::new());
    task.spawn(async move {
        let (mut dialler, mut there, mut back_buffer) = (None, [0; 2_048], [0; 2_048]);
        loop {
            // Cancel-safe: a datagram that is not taken stays in its socket.
            tokio::select! {
                Ok((size, from)) = front.recv_from(&mut there) => {
                    dialler = Some(from);
                    record.lock().unwrap().push(there[..size].to_vec());
                    back.send(&there[..size]).await.unwrap();
                }
                Ok(size) = back.recv(&mut back_buffer) => {
                    if let Some(dialler) = dialler {
                        front.send_to(&back_buffer[..size], dialler).await.unwrap();
                    }
                }
            }
        }
    });
    (address, kept, task)
}

#[tokio::test]
async fn g16_a_handshake_that_is_sent_again_lets_nobody_in() {
    let cluster = Cluster::found();
    let one = cluster.founder().await;
    let (address, kept, _passing) = recorder(one.gossip).await;
    let two = cluster.node("two", &[address]).await;
    eventually(async || match one.counts("gossip_connections_total").await {
        0 => Err("nobody came"),
        _ => Ok(()),
    })
    .await;
    two.stop().await;
    let before = one.counts("gossip_connections_total").await;
    let recorded = kept.lock().unwrap().clone();
    assert!(recorded.len() >= 3 && recorded[0].len() >= 1_200, "no handshake was recorded");
    let socket = UdpSocket::bind(LOOPBACK).await.unwrap();
    // Until it answers, as it would anybody who begins a handshake: once it has forgotten the first one.
    eventually(async || {
        for datagram in &recorded {
            socket.send_to(datagram, one.gossip).await.unwrap();
        }
        timeout(Duration::from_millis(100), socket.recv(&mut [0; 2_048])).await
    })
    .await
    .unwrap();
    let three = cluster.node("three", &[one.gossip]).await;
    eventually(async || match one.counts("gossip_connections_total").await {
        seen if seen > before => Ok(()),
        seen => Err(seen),
    })
    .await;
    assert_eq!(one.counts("gossip_connections_total").await, before + 1);
    one.stop().await;
    three.stop().await;
}

/// Believes anybody: a stranger does not care whom it speaks to.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A stranger without a certificate, who speaks this protocol.
async fn stranger(address: SocketAddr, protocol: &str) -> Result<(Endpoint, Connection), quinn::ConnectionError> {
    dial(address, protocol, None).await
}

type Shown = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Dials as this protocol, with what is to be shown.
async fn dial(
    address: SocketAddr,
    protocol: &str,
    shown: Option<Shown>,
) -> Result<(Endpoint, Connection), quinn::ConnectionError> {
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous));
    let mut tls = match shown {
        Some((chain, key)) => tls.with_client_auth_cert(chain, key).unwrap(),
        None => tls.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let mut endpoint = Endpoint::client(LOOPBACK).unwrap();
    let quic = QuicClientConfig::try_from(tls).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(quic)));
    let connection = endpoint.connect(address, "kith").unwrap().await?;
    Ok((endpoint, connection))
}

/// Says these bytes at the door of newcomers; what comes back, if anything does.
async fn wish(address: SocketAddr, bytes: &[u8]) -> Option<Value> {
    let (_endpoint, connection) = stranger(address, "kith-join/1").await.unwrap();
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    // More than may be said is not taken, which is what is tried.
    drop(send.write_all(bytes).await);
    drop(send.finish());
    let answer = timeout(Duration::from_secs(10), recv.read_to_end(1 << 16)).await.unwrap().ok()?;
    Some(serde_json::from_slice(&answer).unwrap())
}

/// What a newcomer with this token and key would say.
fn said(token: &Token, request: &str) -> Value {
    let revealed = token.reveal();
    let coded = revealed.strip_prefix("kith1.").unwrap();
    let text = data_encoding::BASE64URL_NOPAD.decode(coded.as_bytes()).unwrap();
    let written: Value = serde_json::from_slice(&text).unwrap();
    let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    json!({
        "node": written["node"],
        "secret": written["secret"],
        "request": request,
        "wall_ms": u64::try_from(wall.as_millis()).unwrap(),
    })
}

#[tokio::test]
async fn g16_a_stranger_without_a_certificate_gets_nowhere_whatever_it_speaks() {
    let cluster = Cluster::found();
    let (one, two) = (cluster.founder().await, cluster.node("two", &[]).await);
    for node in [&one, &two] {
        // The handshake's failure may come after its success, on this side: TLS 1.3 has the client speak last.
        for protocol in ["kith/1/test", "kith/1/other", "h3"] {
            if let Ok((_endpoint, connection)) = stranger(node.gossip, protocol).await {
                timeout(Duration::from_secs(5), connection.closed()).await.unwrap();
            }
        }
        eventually(async || {
            let refused = node.counts("gossip_refusals_stranger_total").await;
            if refused >= 3 { Ok(()) } else { Err(refused) }
        })
        .await;
        assert_eq!(node.counts("gossip_connections_total").await, 0);
    }
    // Where the authority's key is not, there is no door for newcomers.
    assert!(stranger(two.gossip, "kith-join/1").await.is_err());
    one.stop().await;
    two.stop().await;
}

/// A certificate by the cluster's own authority, with these names.
fn certificate(cluster: &Cluster, names: &[&str]) -> Shown {
    let authority = cluster.authority.authority();
    let key = rcgen::KeyPair::from_pem(&authority.key_pem()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_der(authority.certificate(), key).unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let (params, key) = (rcgen::CertificateParams::new(names).unwrap(), rcgen::KeyPair::generate().unwrap());
    let certificate = params.signed_by(&key, &issuer).unwrap();
    (vec![certificate.der().clone()], key.serialize_der().try_into().unwrap())
}

#[tokio::test]
async fn g16_a_certificate_that_does_not_name_one_node_is_refused_though_it_is_ours() {
    let cluster = Cluster::found();
    let one = cluster.founder().await;
    for (n, names) in [&[][..], &["two", "three"], &["Not.A.Node"]].into_iter().enumerate() {
        let shown = certificate(&cluster, names);
        let (_endpoint, connection) = dial(one.gossip, "kith/1/test", Some(shown)).await.unwrap();
        let end = timeout(Duration::from_secs(5), connection.closed()).await.unwrap();
        assert!(end.to_string().contains("names no node"), "{names:?}: {end}");
        assert_eq!(one.counts("gossip_refusals_stranger_total").await, n as u64 + 1);
    }
    assert_eq!(one.counts("gossip_connections_total").await, 0);
    one.stop().await;
}

#[tokio::test]
async fn g16_what_is_no_wish_is_refused_counted_and_uses_no_token_up() {
    let cluster = Cluster::found();
    let one = cluster.founder().await;
    let token = cluster.invite("two", one.gossip);
    let request = |key: &rcgen::KeyPair| {
        let params = rcgen::CertificateParams::new(vec!["two".to_owned()]).unwrap();
        params.serialize_request(key).unwrap().pem().unwrap()
    };
    let good = request(&rcgen::KeyPair::generate().unwrap());
    let other_kind = request(&rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap());
    // Somebody else's public key: what is signed is not what was changed.
    let forged = {
        let mut lines: Vec<_> = good.lines().map(str::to_owned).collect();
        let line = lines.len() - 3;
        let letter = if lines[line].starts_with('A') { "B" } else { "A" };
        lines[line].replace_range(0..1, letter);
        lines.join("\n")
    };
    let mut deep = "[".repeat(4_000).into_bytes();
    deep.extend("]".repeat(4_000).into_bytes());
    let wishes: [(Vec<u8>, &str); 8] = [
        (Vec::new(), "none of this release"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "none of this release"),
        (deep, "none of this release"),
        (vec![b'x'; 1 << 20], "did not come whole"),
        (
            json!({ "node": "Not A Name", "secret": "", "request": "", "wall_ms": 0 }).to_string().into(),
            "none of a server",
        ),
        (said(&token, "no request").to_string().into(), "the key is none"),
        (said(&token, &other_kind).to_string().into(), "the key is none"),
        (said(&token, &forged).to_string().into(), "the key is none"),
    ];
    for (n, (bytes, reason)) in wishes.iter().enumerate() {
        if let Some(answer) = wish(one.gossip, bytes).await {
            let text = answer["refused"].as_str().unwrap_or_else(|| panic!("wish {n}: {answer}"));
            assert!(text.contains(reason), "wish {n}: {text}");
        } else {
            assert_eq!(*reason, "did not come whole", "wish {n} has no answer");
        }
    }
    assert_eq!(one.counts("gossip_joins_refused_total").await, wishes.len() as u64);
    assert_eq!(one.counts("gossip_joins_total").await, 0);
    // Two of ten attempts are left, and the token is as good as it was.
    let key = NewKey::generate().unwrap();
    kith_gossip::identity::join(&token, &key, "", &cluster.wall.clock()).await.unwrap();
    one.stop().await;
}

#[tokio::test]
async fn g16_newcomers_who_say_nothing_do_not_keep_others_out() {
    let cluster = Cluster::found();
    let one = cluster.founder().await;
    let mut silent = Vec::new();
    for _ in 0..24 {
        let (endpoint, connection) = stranger(one.gossip, "kith-join/1").await.unwrap();
        // Half of them have begun to say something.
        let stream = if silent.len() % 2 == 0 { Some(connection.open_bi().await.unwrap()) } else { None };
        silent.push((endpoint, connection, stream));
    }
    let two = cluster.node("two", &[one.gossip]).await;
    eventually(async || match one.counts("gossip_connections_total").await {
        0 => Err("two is kept out"),
        _ => Ok(()),
    })
    .await;
    // Sixteen have a place for a while; the others are sent away at once, and counted.
    assert_eq!(one.counts("gossip_joins_refused_total").await, 8);
    let error = cluster.join(&cluster.invite("three", one.gossip)).await.map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("too many wish to join at once"), "{error}");
    for (_, connection, _) in &silent {
        timeout(Duration::from_secs(15), connection.closed()).await.unwrap();
    }
    cluster.join(&cluster.invite("three", one.gossip)).await.unwrap();
    one.stop().await;
    two.stop().await;
}

/// A port that passes datagrams on and brings nothing back: to whoever is behind it, an address that was invented.
async fn one_way(target: SocketAddr) -> (SocketAddr, JoinSet<()>) {
    let (front, back) = (UdpSocket::bind(LOOPBACK).await.unwrap(), UdpSocket::bind(LOOPBACK).await.unwrap());
    let (address, mut task) = (front.local_addr().unwrap(), JoinSet::new());
    task.spawn(async move {
        let mut datagram = [0; 2_048];
        while let Ok((size, _)) = front.recv_from(&mut datagram).await {
            drop(back.send_to(&datagram[..size], target).await);
        }
    });
    (address, task)
}

#[tokio::test]
async fn g16_a_flood_of_handshakes_from_invented_addresses_keeps_no_node_out() {
    let cluster = Cluster::found();
    let one = cluster.founder().await;
    let mut flood = JoinSet::new();
    let mut passing = Vec::new();
    for _ in 0..64 {
        let (address, task) = one_way(one.gossip).await;
        passing.push(task);
        flood.spawn(async move { drop(stranger(address, "kith/1/test").await) });
    }
    eventually(async || match one.counts("gossip_addresses_doubted_total").await {
        0 => Err("no address is doubted"),
        _ => Ok(()),
    })
    .await;
    let two = cluster.node("two", &[one.gossip]).await;
    eventually(async || match one.counts("gossip_connections_total").await {
        0 => Err("two is kept out"),
        _ => Ok(()),
    })
    .await;
    one.stop().await;
    two.stop().await;
}
