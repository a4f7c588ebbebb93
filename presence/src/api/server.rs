//! The server: accepts connections within the limits of the process, serves them, and stops within two seconds.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use futures_util::future::Either;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::App;
use super::head::Heads;
use super::patience::Patient;
use super::plain;
use super::users::Peer;
use crate::tls::Certificate;

/// How long requests may go on after the server was told to stop: longer than a write takes that is not kept.
const GRACE: Duration = Duration::from_millis(1_750);
/// A head that takes longer, and a connection on which nobody asks, is closed.
const HEAD_TIME: Duration = Duration::from_secs(75);
/// A handshake that takes longer is not waited for.
const TLS_TIME: Duration = Duration::from_secs(10);
/// What is buffered for a connection; a request's head must fit in it. Small: there are thousands that only listen.
const BUFFER_BYTES: usize = 16 << 10;
/// How long to wait when the system gives no more sockets: some connection must end first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections beyond the limit that are answered at once, of the descriptors that are left for it, and how long each.
pub(crate) const FAREWELLS: usize = 256;
const FAREWELL: Duration = Duration::from_millis(1_000);
/// What a connection beyond the limit is told.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 5\r\n\
    connection: close\r\ncontent-length: 53\r\n\r\n{\"success\":false,\"error\":\"too many open connections\"}";

/// TLS for all connections of a listener.
pub(crate) type Tls = Option<Arc<Certificate>>;

/// Serves connections.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) app: Arc<App>,
    pub(crate) router: Router,
    pub(crate) tls: Tls,
    pub(crate) connections: TaskTracker,
    /// Most connections at once.
    pub(crate) most: usize,
    /// Room to refuse others.
    pub(crate) farewells: Arc<Semaphore>,
}

/// The place of a connection among those that fit. While somebody has it the connection is counted, and waited for at shutdown:
/// its task, and then whoever goes on with it as a WebSocket.
pub(crate) struct Place {
    app: Arc<App>,
    _waited_for: TaskTrackerToken,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.app.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Server {
    /// How long a connection may go on after the server was told to stop.
    pub(crate) const GRACE: Duration = GRACE;

    /// Accepts until the app is stopping.
    pub(crate) async fn accept(self, listener: TcpListener) {
        loop {
            // A connection that is dropped here is one that nobody would serve.
            let accepted = tokio::select! {
                () = self.app.stopping.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.begin(stream, peer),
                Err(error) if is_of_one_connection(&error) => tracing::debug!(%error, "connection not accepted"),
                Err(error) => {
                    tracing::warn!(%error, "no connection can be accepted for now");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn begin(&self, stream: TcpStream, peer: SocketAddr) {
        let place = self.place();
        if self.app.connections.load(Ordering::Relaxed) > self.most || self.app.is_crowded() {
            self.app.refused.fetch_add(1, Ordering::Relaxed);
            // Whoever finds no room even for an answer is closed without one.
            if let Ok(turn) = Arc::clone(&self.farewells).try_acquire_owned() {
                self.connections.spawn(async move {
                    refuse(stream).await;
                    drop(turn);
                });
            }
            return;
        }
        let server = self.clone();
        self.connections.spawn(async move { server.serve(stream, peer, place).await });
    }

    /// One more connection.
    pub(super) fn place(&self) -> Arc<Place> {
        self.app.connections.fetch_add(1, Ordering::Relaxed);
        Arc::new(Place { app: Arc::clone(&self.app), _waited_for: self.connections.token() })
    }

    async fn serve(&self, stream: TcpStream, peer: SocketAddr, place: Arc<Place>) {
        // Small answers and events must not wait for an acknowledgement.
        if stream.set_nodelay(true).is_err() {
            return;
        }
        let stream = Patient::new(stream, Arc::clone(&self.app.cut));
        match &self.tls {
            None => self.http(stream, peer, &place).await,
            // Apart: a connection without TLS is not to take the memory of one with it.
            Some(tls) => match Box::pin(tokio::time::timeout(TLS_TIME, tls.acceptor().accept(stream))).await {
                Ok(Ok(stream)) => Box::pin(self.http(stream, peer, &place)).await,
                Ok(Err(error)) => tracing::debug!(%error, "no TLS"),
                Err(_) => tracing::debug!("TLS took too long"),
            },
        }
    }

    pub(super) async fn http(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: SocketAddr,
        place: &Arc<Place>,
    ) {
        let routes = TowerToHyperService::new(self.router.clone());
        let service = service_fn(|mut request: http::Request<Incoming>| {
            if let Some(plain) = plain::answer(&self.app, &request) {
                return Either::Left(std::future::ready(Ok(plain)));
            }
            request.extensions_mut().insert(Peer(peer));
            if request.headers().contains_key(http::header::UPGRADE) {
                request.extensions_mut().insert(Arc::clone(place));
            }
            // Apart: the room for an answer under way stays with its connection, and a stream is one for hours.
            Either::Right(Box::pin(hyper::service::Service::call(&routes, request)))
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(BUFFER_BYTES);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(Heads::new(stream)), service).with_upgrades());
        // The connection is polled again.
        let served = tokio::select! {
            served = connection.as_mut() => served,
            () = self.app.stopping.cancelled() => {
                connection.as_mut().graceful_shutdown();
                match Box::pin(tokio::time::timeout(GRACE, connection)).await {
                    Ok(served) => served,
                    Err(_) => return tracing::debug!("connection cut off at shutdown"),
                }
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, "connection ended");
        }
    }
}

/// Says so, and waits a moment for the other side to have read it: closed while a request of its is unread, the system would
/// throw the answer away.
async fn refuse(mut stream: TcpStream) {
    let said = async {
        stream.write_all(FULL).await?;
        stream.shutdown().await?;
        while stream.read(&mut [0; 1_024]).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    match tokio::time::timeout(FAREWELL, said).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection too many, not told"),
        Err(_) => tracing::debug!("a connection too many, which stays"),
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
