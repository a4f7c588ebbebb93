//! The accept loop of streams, and how many there may be.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::tls::Certificate;
use super::{Desk, stream};
use crate::answer::Transport;

/// Connections of one listener. At the bound a new one is closed at once; each costs a task and some 8 KiB.
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

/// Accepts and serves connections until told to stop, then lets each finish the answer it is writing.
pub(crate) async fn serve(listener: TcpListener, wire: Wire, desk: Desk, token: CancellationToken) -> io::Result<()> {
    let mut connections: JoinSet<IpAddr> = JoinSet::new();
    let mut sources: HashMap<IpAddr, usize> = HashMap::new();
    loop {
        tokio::select! {
            // Cancel-safe, all three: nothing is accepted or joined unless its arm runs.
            () = token.cancelled() => break,
            Some(ended) = connections.join_next() => leave(&mut sources, ended?),
            accepted = listener.accept() => match accepted {
                Ok((stream, source)) => {
                    let ip = source.ip().to_canonical();
                    if !desk.hears(&desk.access.load(), &desk.published().zone, ip) {
                        desk.counters().add(|counters| &counters.denied, 1);
                        continue;
                    }
                    if !enter(&mut sources, ip, connections.len()) {
                        desk.counters().add(|counters| &counters.connections_refused, 1);
                        continue;
                    }
                    let (wire, desk, token) = (wire.clone(), desk.clone(), token.clone());
                    connections.spawn(async move {
                        if let Err(error) = connection(stream, source, &wire, &desk, &token).await {
                            tracing::debug!(%source, %error, "connection ended");
                        }
                        ip
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

/// Takes a seat for a connection from this address, if one is free beside so many others. Who is turned away leaves no
/// trace, since nothing would ever remove it.
fn enter(sources: &mut HashMap<IpAddr, usize>, ip: IpAddr, connections: usize) -> bool {
    let seats = sources.get(&ip).copied().unwrap_or(0);
    let free = seats < PER_SOURCE_MAX && connections < CONNECTIONS_MAX;
    if free {
        sources.insert(ip, seats + 1);
    }
    free
}

fn leave(sources: &mut HashMap<IpAddr, usize>, ip: IpAddr) {
    if let Some(seats) = sources.get_mut(&ip) {
        *seats -= 1;
        if *seats == 0 {
            sources.remove(&ip);
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_turned_away_leaves_no_trace() {
        let ip = IpAddr::from([127, 0, 0, 1]);
        let mut sources = HashMap::new();
        assert!(!enter(&mut sources, ip, CONNECTIONS_MAX));
        assert_eq!(sources, HashMap::new());
        assert!((0..PER_SOURCE_MAX).all(|others| enter(&mut sources, ip, others)));
        assert!(!enter(&mut sources, ip, PER_SOURCE_MAX));
        (0..PER_SOURCE_MAX).for_each(|_| leave(&mut sources, ip));
        assert_eq!(sources, HashMap::new());
    }
}
