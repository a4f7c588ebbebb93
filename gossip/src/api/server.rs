//! The server: binds, accepts, serves, and stops within two seconds.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use hyper::Request;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use kith_gossip_proto::NodeId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::ApiConfig;
use super::deadlines::{Activity, Running, Watched};
use super::listen::{BindError, Listeners};
use super::membership::Membership;
use super::metrics::Metrics;
use super::reports::Reports;
use super::room::{Place, Room};
use super::routes::{App, router};
use crate::store::Store;
use crate::subscriptions::Subscriptions;

/// Connections served at once. At the bound the one that has asked for nothing for longest is closed, and while all are at
/// work further ones wait in the kernel's queue.
const CONNECTIONS: usize = 1_024;
/// How long requests may go on after the server was told to stop.
const GRACE: Duration = Duration::from_millis(1_500);
/// How long what was cut off may take to notice.
const CUT_OFF: Duration = Duration::from_millis(250);
/// A peer that speaks HTTP/2 is asked this often whether it is there.
const PING: Duration = Duration::from_secs(20);
/// What may be buffered for a connection in each direction; a request's head must fit in it.
const BUFFER_BYTES: usize = 64 << 10;
/// Requests at once on one HTTP/2 connection.
const STREAMS: u32 = 256;
/// How long to wait when the system gives no more sockets: some connection must end first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the API serves.
#[derive(Debug)]
pub struct Parts {
    /// The rows.
    pub store: Store,
    /// The live queries.
    pub subscriptions: Subscriptions,
    /// The other nodes.
    pub membership: Arc<dyn Membership>,
    /// This node.
    pub node: NodeId,
    /// The software's version.
    pub release: String,
}

/// Where the API is to be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addrs {
    /// TCP addresses, with the ports that were taken.
    pub tcp: Vec<SocketAddr>,
    /// The Unix socket.
    pub unix: Option<PathBuf>,
}

/// The HTTP API, bound and not yet serving.
#[derive(Debug)]
pub struct Api {
    listeners: Listeners,
    addrs: Addrs,
    router: Router,
    room: Arc<Room>,
    stopping: CancellationToken,
}

impl Api {
    /// Binds every listener. Requests wait in the kernel until [`Api::run`].
    pub async fn bind(config: ApiConfig, parts: Parts) -> Result<Self, BindError> {
        let listeners = Listeners::bind(&config).await?;
        let tcp = listeners.tcp.iter().zip(&config.listen);
        let tcp =
            tcp.map(|(listener, addr)| listener.local_addr().map_err(|source| BindError::Tcp { addr: *addr, source }));
        let unix = listeners.unix.as_ref().map(|(_, file)| Path::to_owned(file.path()));
        let addrs = Addrs { tcp: tcp.collect::<Result<_, _>>()?, unix };
        let stopping = CancellationToken::new();
        let metrics = Arc::<Metrics>::default();
        let room = Room::new(CONNECTIONS, metrics.connections_closed());
        let app = App {
            node: parts.node,
            release: parts.release,
            store: parts.store,
            subscriptions: parts.subscriptions,
            membership: parts.membership,
            metrics,
            reports: Reports::default(),
            started: Instant::now(),
            stopping: stopping.clone(),
        };
        Ok(Self { listeners, addrs, router: router(Arc::new(app), config.tokens), room, stopping })
    }

    /// Where it listens.
    pub fn addrs(&self) -> &Addrs {
        &self.addrs
    }

    /// Serves until the token is cancelled; then streams end with a line that says so, and what still runs after 1.5 s is
    /// cut off. Every socket is free again when this returns.
    pub async fn run(self, token: CancellationToken) {
        let stopping = self.stopping.clone();
        let _stopped_in_any_case = stopping.clone().drop_guard();
        let server = Server {
            router: self.router,
            room: self.room,
            connections: TaskTracker::new(),
            stopping: stopping.clone(),
        };
        let mut accepting = JoinSet::new();
        for listener in self.listeners.tcp {
            accepting.spawn(server.clone().accept(listener));
        }
        let socket_file = self.listeners.unix.map(|(listener, file)| {
            accepting.spawn(server.clone().accept(listener));
            file
        });
        token.cancelled().await;
        stopping.cancel();
        while accepting.join_next().await.is_some() {}
        drop(socket_file);
        server.connections.close();
        // Every connection ends within the grace; what a request of HTTP/2 still does ends as it notices.
        if tokio::time::timeout(GRACE + CUT_OFF, server.connections.wait()).await.is_err() {
            warn!(left = server.connections.len(), "requests did not end at shutdown");
        }
    }
}

/// Runs what hyper wants to run beside a connection, where somebody waits for its end.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Tracked {
    fn execute(&self, future: F) {
        drop(self.0.spawn(future));
    }
}

/// A kind of listener.
trait Listener: Send + 'static {
    type Connection: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection. Cancel-safe, as tokio's are.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Connection>> + Send;
}

impl Listener for TcpListener {
    type Connection = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<Self::Connection> {
        let (connection, _) = Self::accept(self).await?;
        // Small answers and events must not wait for an acknowledgement.
        connection.set_nodelay(true)?;
        Ok(connection)
    }
}

impl Listener for UnixListener {
    type Connection = tokio::net::UnixStream;

    async fn accept(&self) -> io::Result<Self::Connection> {
        let (connection, _) = Self::accept(self).await?;
        Ok(connection)
    }
}

#[derive(Clone)]
struct Server {
    router: Router,
    room: Arc<Room>,
    connections: TaskTracker,
    stopping: CancellationToken,
}

impl Server {
    async fn accept(self, listener: impl Listener) {
        loop {
            // Dropping these waits loses nothing but a connection that nobody will serve any more. Accepted first, so that
            // nobody makes way for a connection that does not come.
            let accepted = tokio::select! {
                () = self.stopping.cancelled() => return,
                accepted = async {
                    let connection = listener.accept().await?;
                    Ok((self.room.enter().await, connection))
                } => accepted,
            };
            match accepted {
                Ok((place, connection)) => {
                    let server = self.clone();
                    self.connections.spawn(async move { server.serve(connection, place).await });
                }
                // The connection was gone before it was accepted.
                Err(error) if is_of_one_connection(&error) => debug!(%error, "connection not accepted"),
                Err(error) => {
                    warn!(%error, "no connection can be accepted for now");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn serve(&self, connection: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, place: Place) {
        let activity = Arc::new(Activity::new(place));
        let service = Service { inner: TowerToHyperService::new(self.router.clone()), activity: Arc::clone(&activity) };
        let mut builder = auto::Builder::new(Tracked(self.connections.clone()));
        // No timer for HTTP/1.1: see the deadlines. Never `pipeline_flush`: it lifts the bound on what is buffered for a
        // peer that does not read, and then no reader is ever slow.
        builder.http1().max_buf_size(BUFFER_BYTES);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .max_send_buf_size(BUFFER_BYTES)
            .max_concurrent_streams(STREAMS);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(Watched::new(connection)), service));
        // The connection is polled again, unless it is meant to be dropped.
        let served = tokio::select! {
            served = connection.as_mut() => served,
            () = self.stopping.cancelled() => {
                connection.as_mut().graceful_shutdown();
                match tokio::time::timeout(GRACE, connection).await {
                    Ok(served) => served,
                    Err(_) => return debug!("connection cut off at shutdown"),
                }
            }
            () = activity.asked_to_make_way() => {
                // Who never asked has nothing to lose; the end of an answer may still have to be sent.
                if !activity.has_begun() {
                    return debug!("connection without a request made way");
                }
                connection.as_mut().graceful_shutdown();
                match tokio::time::timeout(GRACE, connection).await {
                    Ok(served) => served,
                    Err(_) => return debug!("connection made way"),
                }
            }
            () = activity.idle_for_too_long() => return debug!("idle connection closed"),
        };
        if let Err(error) = served {
            debug!(%error, "connection ended");
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, InvalidInput};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | InvalidInput)
}

/// The routes, telling the connection's watch when a request runs.
struct Service {
    inner: TowerToHyperService<Router>,
    activity: Arc<Activity>,
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = hyper::Response<RunningBody>;
    type Error = std::convert::Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let running = self.activity.begin();
        let response = self.inner.call(request);
        Box::pin(async move { Ok(response.await?.map(|body| RunningBody { body, _running: running })) })
    }
}

/// A body during which its request counts as running.
struct RunningBody {
    body: Body,
    _running: Running,
}

impl HttpBody for RunningBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        std::pin::Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use prometheus_client::metrics::counter::Counter;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    const BOUND: Duration = Duration::from_secs(20);

    async fn ask(connection: &mut TcpStream) -> String {
        connection.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 1_024];
        let read = tokio::time::timeout(BOUND, connection.read(&mut answer)).await.expect("an answer in 20 s").unwrap();
        String::from_utf8_lossy(&answer[..read]).into_owned()
    }

    #[tokio::test]
    async fn connections_that_ask_for_nothing_keep_nobody_out() {
        let closed = Counter::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = Server {
            router: Router::new().route("/", get(async || "here")),
            room: Room::new(2, closed.clone()),
            connections: TaskTracker::new(),
            stopping: CancellationToken::new(),
        };
        let accepting = server.connections.spawn(server.clone().accept(listener));
        let mut kept = TcpStream::connect(addr).await.unwrap();
        assert!(ask(&mut kept).await.starts_with("HTTP/1.1 200"));

        // Half a head each, and never more.
        let mut half_open = Vec::new();
        for _ in 0..20 {
            let mut connection = TcpStream::connect(addr).await.unwrap();
            connection.write_all(b"GET / HTTP/1.1\r\nhos").await.unwrap();
            half_open.push(connection);
        }
        let mut other = TcpStream::connect(addr).await.unwrap();
        assert!(ask(&mut other).await.ends_with("here"));
        assert!(closed.get() >= 20, "all that came before but the last one: {}", closed.get());
        let first = &mut half_open[0];
        let read = tokio::time::timeout(BOUND, first.read(&mut [0; 1])).await.expect("its end in 20 s");
        assert!(matches!(read, Ok(0) | Err(_)), "the first half-open one is closed: {read:?}");

        server.stopping.cancel();
        accepting.await.unwrap();
        server.connections.close();
        server.connections.wait().await;
    }
}
