//! The decoders of foreign bytes as the fuzzer calls them, each with what must hold of whatever it accepts.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use chitchat::transport::{Socket, Transport, UdpTransport};
use kith_gossip_proto::{SiteId, Value};
use tokio::runtime::{Builder, Runtime};

use crate::api::statement::SentStatement;
use crate::identity::Token;
use crate::store::stamps::Stamps;
use crate::store::{Params, Statement};

/// A decoder, and the name of its corpus.
pub type Target = (&'static str, fn(&[u8]));

/// Every one, by the name of its corpus below `fuzz/corpus`.
pub const TARGETS: &[Target] =
    &[("statement", statement), ("stamps", stamps), ("token", token), ("membership", membership)];

/// Statements of the API: a parameter is a value that the store can hold and compare.
fn statement(bytes: &[u8]) {
    let Ok(statements) = serde_json::from_slice::<Vec<SentStatement>>(bytes) else { return };
    for SentStatement(Statement { params, .. }) in statements {
        let values = match params {
            Params::None => Vec::new(),
            Params::Positional(values) => values,
            Params::Named(named) => named.into_iter().map(|(_, value)| value).collect(),
        };
        for value in values {
            if let Value::Real(float) = value {
                assert!(
                    !float.is_nan() && float.to_bits() != (-0.0_f64).to_bits(),
                    "{float} has no place in the order"
                );
            }
        }
    }
}

/// The stamps of a row on disk: what is read is written again as the same.
fn stamps(bytes: &[u8]) {
    // Numbers of sites as a store has them: few, from 0.
    let site = |ord: u32| u8::try_from(ord).ok().map(|ord| SiteId::new([ord; 16]));
    let Ok(stamps) = Stamps::unpack(bytes, site) else { return };
    let again = stamps.pack(|stamp| u32::from(stamp.site.as_bytes()[0]));
    assert!(again.len() <= bytes.len(), "{} bytes became {}", bytes.len(), again.len());
    assert_eq!(Stamps::unpack(&again, site), Ok(stamps));
}

/// A join token: what is read is written again as the same.
fn token(bytes: &[u8]) {
    let Some(token) = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<Token>().ok()) else { return };
    let again = token.reveal();
    let token = again.parse::<Token>().expect("a token that was accepted is read again");
    assert_eq!(token.reveal(), again);
}

/// Messages of chitchat: whatever comes is accepted or skipped, and the next one is heard.
fn membership(bytes: &[u8]) {
    thread_local!(static WIRE: RefCell<Wire> = RefCell::new(Wire::open()));
    WIRE.with_borrow_mut(|wire| wire.carry(bytes));
}

/// Chitchat decodes within its socket and is silent about what it cannot read. So each input is followed by a message
/// from another address, whose coming says that the input was dealt with.
struct Wire {
    runtime: Runtime,
    inner: Box<dyn Socket>,
    inner_address: SocketAddr,
    input: UdpSocket,
    marker: UdpSocket,
}

/// Magic number, version 1, "another cluster": the shortest message there is.
const MARKER: [u8; 4] = [0x53, 0xB0, 1, 3];

impl Wire {
    fn open() -> Self {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let inner = runtime.block_on(UdpTransport.open(loopback)).expect("a socket of chitchat's");
        let inner_address = inner.local_addr().expect("it is bound");
        let [input, marker] = [(); 2].map(|()| UdpSocket::bind(loopback).expect("a socket on loopback"));
        Self { runtime, inner, inner_address, input, marker }
    }

    fn carry(&mut self, bytes: &[u8]) {
        let ours = self.input.local_addr().expect("it is bound");
        // More than a datagram holds is refused by the kernel, as it would be between nodes.
        if self.input.send_to(bytes, self.inner_address).is_err() {
            return;
        }
        self.marker.send_to(&MARKER, self.inner_address).expect("loopback takes four bytes");
        self.runtime.block_on(async {
            let mut next = async || self.inner.recv().await.expect("the socket lives");
            let mut received = next().await;
            if received.from_addr == ours {
                received = next().await;
            }
            assert_ne!(received.from_addr, ours, "one datagram came twice");
        });
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn what_the_fuzzer_found_is_survived() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        for (name, target) in super::TARGETS {
            let inputs = std::fs::read_dir(corpus.join(name)).unwrap();
            let ran = inputs.map(|input| target(&std::fs::read(input.unwrap().path()).unwrap())).count();
            assert!(ran > 0, "the corpus of {name} is empty");
        }
    }
}
