//! Streams: two bytes of length before each message (RFC 1035 §4.2.2), any number of them in flight (RFC 7766).

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{Desk, Reply};
use crate::answer::Transport;

/// Connections of one listener. At the bound a new one is closed at once; each costs a task and some 8 KiB.
const CONNECTIONS_MAX: usize = 1024;
/// Connections of one source address, so that no single client takes them all.
const PER_SOURCE_MAX: usize = 256;
/// How long a connection may go without a whole query, and a client without taking its answers. Counted from the last
/// whole query, so that a byte now and then keeps nothing open.
const IDLE: Duration = Duration::from_secs(10);
/// Room made before each read; pipelined queries come some 40 at a time.
const READ: usize = 2048;
/// Answers gathered before they are written; one more answer, of at most 64 KiB, can come on top.
const WRITE: usize = 16 * 1024;
/// Pause after the system refused to accept (no descriptors left): trying at once would only burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts and serves connections until told to stop, then lets each finish the answer it is writing.
pub(crate) async fn serve(listener: TcpListener, desk: Desk, token: CancellationToken) -> io::Result<()> {
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
                    if !enter(&mut sources, ip, connections.len()) {
                        desk.counters().add(|counters| &counters.connections_refused, 1);
                        continue;
                    }
                    let (desk, token) = (desk.clone(), token.clone());
                    connections.spawn(async move {
                        if let Err(error) = connection(stream, source, &desk, &token).await {
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

/// Serves one connection until either side has had enough.
async fn connection(
    mut stream: TcpStream,
    source: SocketAddr,
    desk: &Desk,
    token: &CancellationToken,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // Holds less than one message, 65,537 bytes, before each read: whole ones are answered first.
    let mut input: Vec<u8> = Vec::new();
    let mut output = Vec::new();
    let mut answer = Vec::new();
    let mut turn = rand::random::<u32>();
    let mut deadline = Instant::now() + IDLE;
    loop {
        let mut used = 0;
        while let Some(query) = message(&input[used..]) {
            used += 2 + query.len();
            turn = turn.wrapping_add(1);
            // What is no query gets no answer, and who sends such things no connection.
            if desk.answer(&desk.published(), query, Transport::Tcp, source, turn, &mut answer) == Reply::Nothing {
                return Ok(());
            }
            output.extend_from_slice(&(answer.len() as u16).to_be_bytes());
            output.extend_from_slice(&answer);
            deadline = Instant::now() + IDLE;
            if output.len() >= WRITE {
                write(&mut stream, &mut output).await?;
            }
        }
        input.drain(..used);
        write(&mut stream, &mut output).await?;
        input.reserve(READ);
        let read = tokio::select! {
            // Cancel-safe: bytes are in `input` or still in the socket.
            () = token.cancelled() => return Ok(()),
            read = timeout_at(deadline, stream.read_buf(&mut input)) => read,
        };
        match read {
            Ok(Ok(0)) | Err(_) => return Ok(()),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
        }
    }
}

/// The first whole message.
fn message(input: &[u8]) -> Option<&[u8]> {
    let (length, rest) = input.split_at_checked(2)?;
    rest.get(..usize::from(u16::from_be_bytes([length[0], length[1]])))
}

async fn write(stream: &mut TcpStream, output: &mut Vec<u8>) -> io::Result<()> {
    if !output.is_empty() {
        timeout_at(Instant::now() + IDLE, stream.write_all(output)).await??;
        output.clear();
    }
    Ok(())
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
