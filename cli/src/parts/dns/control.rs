//! Looking into a running DNS server: a Unix socket for `kith top` and `kith dns trace`, and figures for Prometheus over
//! it or over a TCP address.
//!
//! A client sends one line and is answered by lines, until it hangs up. `{"top":{…}}` and `{"trace":"NAME"}` go on; what
//! begins with `GET` is HTTP, as Prometheus and curl speak it, and is answered once.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kith_dns::tap::{Following, Seen, Tap, Wanted};
use kith_dns::top::Top;
use kith_dns::{StatusHandle, rcode_name, rtype_name};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::metrics;

/// Who may be connected at once, by listener. A further one waits until another is gone.
const CONNECTIONS_MAX: usize = 16;
/// Longest first line, and longest head of an HTTP request.
const LINE_MAX: u64 = 8 << 10;
/// How long a client may take to say what it wants, and to take a line.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause after the system refused to accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Who may open the socket: its owner and group, as the API's.
const SOCKET_MODE: u32 = 0o660;
/// Names in one answer at most.
const NAMES_MAX: usize = 1000;

/// The listeners, bound.
pub(crate) struct Control {
    unix: Option<(UnixListener, SocketFile)>,
    tcp: Option<TcpListener>,
}

/// What is looked into.
#[derive(Clone)]
pub(crate) struct Looked {
    pub(crate) tap: Tap,
    pub(crate) status: StatusHandle,
}

/// A socket's name, removed when dropped.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A file that is gone already is what was wanted.
        drop(std::fs::remove_file(&self.0));
    }
}

/// What somebody may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Everything,
    Metrics,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Request {
    Top { interval_ms: u64, names: usize },
    Trace(String),
}

impl Control {
    /// Binds what is named. A socket that cannot be had is said and done without: names are answered all the same.
    pub(crate) async fn bind(unix: Option<&Path>, tcp: Option<SocketAddr>) -> io::Result<Control> {
        let unix = unix.and_then(|path| match bind_unix(path) {
            Ok(listener) => Some((listener, SocketFile(path.to_owned()))),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "no socket for kith top and kith dns trace");
                None
            }
        });
        let tcp = match tcp {
            Some(addr) => Some(TcpListener::bind(addr).await?),
            None => None,
        };
        Ok(Control { unix, tcp })
    }

    /// Where it listens, for people.
    pub(crate) fn listens(&self) -> impl Iterator<Item = (&'static str, String)> {
        let unix = self.unix.iter().map(|(_, file)| ("dns-socket", file.0.display().to_string()));
        let tcp = self.tcp.iter().filter_map(|tcp| Some(("dns-metrics", tcp.local_addr().ok()?.to_string())));
        unix.chain(tcp)
    }

    /// Where figures are given over TCP.
    pub(crate) fn metrics_addr(&self) -> Option<SocketAddr> {
        self.tcp.as_ref()?.local_addr().ok()
    }

    /// Serves until the token is cancelled.
    pub(crate) async fn run(self, looked: Looked, token: CancellationToken) {
        let unix = async {
            if let Some((listener, _file)) = &self.unix {
                accept_all(listener, &looked, Door::Everything, &token).await;
            }
        };
        let tcp = async {
            if let Some(listener) = &self.tcp {
                accept_all(listener, &looked, Door::Metrics, &token).await;
            }
        };
        tokio::join!(unix, tcp);
    }
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    // One that a process left behind; one that answers stays.
    if let Err(error) = std::os::unix::net::UnixStream::connect(path)
        && error.kind() == io::ErrorKind::ConnectionRefused
    {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))?;
    Ok(listener)
}

/// A kind of listener.
trait Listener: Sync {
    type Connection: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection. Cancel-safe, as tokio's are.
    fn next(&self) -> impl Future<Output = io::Result<Self::Connection>> + Send;
}

impl Listener for TcpListener {
    type Connection = tokio::net::TcpStream;

    async fn next(&self) -> io::Result<Self::Connection> {
        Ok(self.accept().await?.0)
    }
}

impl Listener for UnixListener {
    type Connection = tokio::net::UnixStream;

    async fn next(&self) -> io::Result<Self::Connection> {
        Ok(self.accept().await?.0)
    }
}

/// Serves each connection in a task, all of which end with the token.
async fn accept_all<L: Listener>(listener: &L, looked: &Looked, door: Door, token: &CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // Cancel-safe, all three: nothing is accepted or joined unless its arm runs.
            () = token.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.next(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok(stream) => {
                    let looked = looked.clone();
                    connections.spawn(async move {
                        if let Err(error) = serve(stream, &looked, door).await {
                            tracing::debug!(%error, "who looked is gone");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept who wants to look");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    connections.shutdown().await;
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, looked: &Looked, door: Door) -> io::Result<()> {
    let (read, mut write) = tokio::io::split(stream);
    let mut read = BufReader::new(read.take(LINE_MAX));
    let mut line = String::new();
    timeout(PATIENCE, read.read_line(&mut line)).await??;
    if let Some(rest) = line.strip_prefix("GET ") {
        let path = rest.split(' ').next().unwrap_or_default().to_owned();
        return http(&path, read, &mut write, looked).await;
    }
    if door == Door::Metrics {
        return Ok(());
    }
    let lines = async {
        match serde_json::from_str(&line) {
            Ok(Request::Top { interval_ms, names }) => top(&mut write, looked, interval_ms, names).await,
            Ok(Request::Trace(name)) => trace(&mut write, looked, &name).await,
            Err(error) => say(&mut write, &json!({ "error": format!("not understood: {error}") })).await,
        }
    };
    tokio::select! {
        // Who hangs up, or says more, has seen enough: what was under way is dropped.
        ended = lines => ended,
        _ = read.read_u8() => Ok(()),
    }
}

/// Answers one HTTP request, and closes.
async fn http<S: AsyncWrite + Unpin>(
    path: &str,
    mut read: impl AsyncBufReadExt + Unpin,
    write: &mut S,
    looked: &Looked,
) -> io::Result<()> {
    let head = async {
        let mut line = String::new();
        while read.read_line(&mut line).await? > 0 && !line.trim_end().is_empty() {
            line.clear();
        }
        io::Result::Ok(())
    };
    timeout(PATIENCE, head).await??;
    let (status, kind, body) = match path {
        "/metrics" => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ("200 OK", kind, metrics::lines(looked.status.get()) + metrics::END)
        }
        _ => ("404 Not Found", "text/plain", "there is /metrics\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    timeout(PATIENCE, async {
        write.write_all(head.as_bytes()).await?;
        write.write_all(body.as_bytes()).await?;
        write.shutdown().await
    })
    .await?
}

/// Says the busiest names of each interval.
async fn top<S: AsyncWrite + Unpin>(write: &mut S, looked: &Looked, interval_ms: u64, names: usize) -> io::Result<()> {
    let Some(mut following) = follow(write, looked, Wanted::Sample).await? else { return Ok(()) };
    let period = Duration::from_millis(interval_ms.clamp(100, 3_600_000));
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut counts, mut begun) = (Top::default(), Instant::now());
    loop {
        tokio::select! {
            // Cancel-safe, both: nothing is taken unless its arm runs.
            seen = following.next() => match seen {
                Some(seen) => counts.add(&seen.name, &seen.zone, u64::from(seen.weight)),
                None => return Ok(()),
            },
            _ = ticks.tick() => {
                let busiest = counts.busiest(names.min(NAMES_MAX));
                let busiest: Vec<Value> = busiest.iter().map(|one| json!({
                    "name": one.name, "zone": one.zone, "count": one.count, "error": one.error,
                })).collect();
                let line = json!({
                    "seconds": begun.elapsed().as_secs_f64(),
                    "total": counts.total(),
                    "lost": following.lost(),
                    "top": busiest,
                });
                say(write, &line).await?;
                (counts, begun) = (Top::default(), Instant::now());
            }
        }
    }
}

/// Says each answer to a name, and to those below it.
async fn trace<S: AsyncWrite + Unpin>(write: &mut S, looked: &Looked, name: &str) -> io::Result<()> {
    let Some(wanted) = Wanted::below(name) else {
        return say(write, &json!({ "error": format!("`{name}` is not a name") })).await;
    };
    let Some(mut following) = follow(write, looked, wanted).await? else { return Ok(()) };
    // Who asks then knows that whatever comes from now on is seen.
    say(write, &json!({ "following": name })).await?;
    while let Some(seen) = following.next().await {
        say(write, &described(&seen)).await?;
        let lost = following.lost();
        if lost > 0 {
            say(write, &json!({ "lost": lost })).await?;
        }
    }
    Ok(())
}

async fn follow<S: AsyncWrite + Unpin>(
    write: &mut S,
    looked: &Looked,
    wanted: Wanted,
) -> io::Result<Option<Following>> {
    match looked.tap.follow(wanted) {
        Ok(following) => Ok(Some(following)),
        Err(error) => {
            say(write, &json!({ "error": error.to_string() })).await?;
            Ok(None)
        }
    }
}

fn described(seen: &Seen) -> Value {
    json!({
        "name": seen.name,
        "zone": seen.zone,
        "type": rtype_name(seen.qtype),
        "rcode": rcode_name(seen.rcode),
        "asker": seen.source.to_string(),
        "transport": seen.transport.as_str(),
        "from": seen.from.as_str(),
        "us": seen.took.as_secs_f64() * 1e6,
    })
}

async fn say<S: AsyncWrite + Unpin>(write: &mut S, line: &Value) -> io::Result<()> {
    timeout(PATIENCE, async {
        write.write_all(format!("{line}\n").as_bytes()).await?;
        write.flush().await
    })
    .await?
}
