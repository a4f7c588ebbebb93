//! Chitchat's messages as bytes and back.
//!
//! Chitchat writes and reads its messages only inside its own UDP socket. So there is one of those on loopback, and a
//! socket of ours connected to it: what chitchat's end sends to ours is the encoding, what ours sends to chitchat's is
//! decoded there. Any process of the host can send to chitchat's end; what does not come from ours is ignored, or it
//! would be a way into the cluster past the certificates.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use chitchat::ChitchatEnvelope;
use chitchat::transport::{Socket, Transport, UdpTransport};
use prometheus_client::metrics::counter::Counter;
use thiserror::Error;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::net::driver::GOSSIP_MAX;

/// How long the kernel may take to carry a datagram over loopback. It takes microseconds; what has not come by then was
/// dropped (a full buffer) or was no message.
const LOOPBACK: Duration = Duration::from_millis(200);

/// A pair of loopback sockets. Used in one direction at a time.
pub(crate) struct Codec {
    inner: Box<dyn Socket>,
    outer: UdpSocket,
    outer_address: SocketAddr,
    buffer: Vec<u8>,
    foreign: Counter,
}

/// Why a message did not get through.
#[derive(Debug, Error)]
pub(crate) enum CodecError {
    /// The message is longer than chitchat's limit: more nodes or keys than one message holds.
    #[error("the message is over {GOSSIP_MAX} bytes")]
    Oversize,
    /// Nothing came out: lost, or not a message.
    #[error("nothing came out of the codec")]
    Lost,
    /// The pair is of no further use.
    #[error("the loopback sockets failed")]
    Broken(#[source] anyhow::Error),
}

impl Codec {
    /// Opens a pair on ports of the kernel's choice. `foreign` counts datagrams of others.
    pub(crate) async fn open(foreign: Counter) -> anyhow::Result<Self> {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let inner = UdpTransport.open(loopback).await?;
        let outer = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
        outer.set_nonblocking(true)?;
        // One message of the greatest size is under way at most; the default of 208 KiB may be lowered on a host.
        outer.set_recv_buffer_size(1 << 20)?;
        outer.set_send_buffer_size(1 << 20)?;
        outer.bind(&loopback.into())?;
        let outer = UdpSocket::from_std(outer.into())?;
        outer.connect(inner.local_addr()?).await?;
        let outer_address = outer.local_addr()?;
        Ok(Self { inner, outer, outer_address, buffer: vec![0; GOSSIP_MAX + 1], foreign })
    }

    /// The bytes of a message. After anything but [`CodecError::Oversize`] the pair is to be opened anew: what is late
    /// would be taken for the next message.
    pub(crate) async fn encode(&mut self, envelope: ChitchatEnvelope) -> Result<Bytes, CodecError> {
        if let Err(error) = self.inner.send(self.outer_address, envelope).await {
            let io = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
            return Err(if io == Some(libc::EMSGSIZE) { CodecError::Oversize } else { CodecError::Broken(error) });
        }
        match timeout(LOOPBACK, self.outer.recv(&mut self.buffer)).await {
            Ok(Ok(length)) => Ok(Bytes::copy_from_slice(&self.buffer[..length])),
            Ok(Err(error)) => Err(CodecError::Broken(error.into())),
            Err(_) => Err(CodecError::Lost),
        }
    }

    /// The message of some bytes. After an error the pair is to be opened anew, as above.
    pub(crate) async fn decode(&mut self, bytes: &[u8]) -> Result<ChitchatEnvelope, CodecError> {
        self.outer.send(bytes).await.map_err(|error| CodecError::Broken(error.into()))?;
        let ours = async {
            loop {
                let received = self.inner.recv().await.map_err(CodecError::Broken)?;
                if received.from_addr == self.outer_address {
                    return Ok(received.envelope);
                }
                self.foreign.inc();
            }
        };
        // Chitchat's socket skips what it cannot read without a word to us, hence the time-out.
        timeout(LOOPBACK, ours).await.unwrap_or(Err(CodecError::Lost))
    }

    #[cfg(test)]
    pub(super) fn inner_address(&self) -> SocketAddr {
        self.inner.local_addr().unwrap()
    }
}
