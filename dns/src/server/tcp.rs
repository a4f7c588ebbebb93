//! The accept loop of streams, and how many there may be.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::tls::Certificate;
use super::{Desk, stream};
use crate::answer::Transport;
use crate::seats::Seats;

/// Connections of all listeners. At the bound a new one is closed at once; each costs a task and some 8 KiB.
const CONNECTIONS_MAX: usize = 1024;
/// Connections of one source address, so that no single client takes them all.
const PER_SOURCE_MAX: usize = 256;
/// Pause after the system refused to accept (no descriptors left): trying at once would only burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a client may take to hear that a connection ends in good order. Its answers are there already.
const FAREWELL: Duration = Duration::from_secs(1);

/// What is spoken on the connections of a listener.
#[derive(Debug, Clone)]
pub(crate) enum Wire {
    /// DNS as it is.
    Plain,
    /// DNS over TLS.
    Tls(Certificate),
}

/// Room for the connections of all listeners.
pub(super) fn seats() -> Seats {
    Seats::new(CONNECTIONS_MAX, PER_SOURCE_MAX)
}

/// Accepts and serves connections until told to stop, then lets each finish the answer it is writing.
pub(crate) async fn serve(listener: TcpListener, wire: Wire, desk: Desk, token: CancellationToken) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // Cancel-safe, all three: nothing is accepted or joined unless its arm runs.
            () = token.cancelled() => break,
            Some(ended) = connections.join_next() => ended?,
            accepted = listener.accept() => match accepted {
                Ok((stream, source)) => {
                    let ip = source.ip().to_canonical();
                    if !desk.hears(&desk.access.load(), &desk.published().zone, ip) {
                        desk.counters().add(|counters| &counters.denied, 1);
                        continue;
                    }
                    let Some(seat) = desk.connections.enter(ip) else {
                        desk.counters().add(|counters| &counters.connections_refused, 1);
                        continue;
                    };
                    let (wire, desk, token) = (wire.clone(), desk.clone(), token.clone());
                    connections.spawn(async move {
                        if let Err(error) = connection(stream, source, &wire, &desk, &token).await {
                            tracing::debug!(%source, %error, "connection ended");
                        }
                        drop(seat);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        ended?;
    }
    Ok(())
}

async fn connection(
    mut stream: TcpStream,
    source: SocketAddr,
    wire: &Wire,
    desk: &Desk,
    token: &CancellationToken,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let certificate = match wire {
        Wire::Plain => return stream::serve(&mut stream, (source, Transport::Tcp), desk, token).await,
        Wire::Tls(certificate) => certificate,
    };
    let mut secure = tokio::select! {
        // Cancel-safe: nobody was told anything yet.
        () = token.cancelled() => return Ok(()),
        secure = certificate.accept(stream) => secure.inspect_err(|_| {
            desk.counters().add(|counters| &counters.handshakes_failed, 1);
        })?,
    };
    stream::serve(&mut secure, (source, Transport::Tls), desk, token).await?;
    // Else a client cannot tell an end from a connection that was cut (RFC 8446 §6.1).
    timeout(FAREWELL, secure.shutdown()).await?
}
