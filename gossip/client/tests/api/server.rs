//! A server that answers from a script: replies in order, whatever is asked, and what was asked is written down.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use futures_util::{StreamExt, stream};
use kith_gossip_client::{Client, Endpoint};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio::time::interval;

/// How a scripted body ends.
#[derive(Clone, Copy)]
pub(crate) enum End {
    /// In order.
    Done,
    /// Not at all: the connection stays open.
    Open,
    /// Not at all, and a line comes so many times, a tenth of a second apart, and then nothing.
    Hangs(&'static str, usize),
    /// The connection breaks.
    Cut,
}

/// One scripted answer.
pub(crate) struct Reply {
    status: u16,
    id: Option<&'static str>,
    /// Whether it says that something will come every second.
    alive: bool,
    chunks: Vec<Bytes>,
    end: End,
}

impl Reply {
    pub(crate) fn new(status: u16, body: &str) -> Reply {
        Reply { status, id: None, alive: false, chunks: vec![Bytes::copy_from_slice(body.as_bytes())], end: End::Done }
    }

    /// Lines, each in a chunk of its own.
    pub(crate) fn lines(lines: &[&str], end: End) -> Reply {
        let chunks = lines.iter().map(|line| Bytes::from(format!("{line}\n"))).collect();
        Reply { status: 200, id: None, alive: false, chunks, end }
    }

    /// The same bytes cut into single ones.
    pub(crate) fn byte_by_byte(mut self) -> Reply {
        let whole = self.chunks.concat();
        self.chunks = whole.iter().map(|b| Bytes::copy_from_slice(&[*b])).collect();
        self
    }

    pub(crate) fn alive(self) -> Reply {
        Reply { alive: true, ..self }
    }

    pub(crate) fn id(mut self, id: &'static str) -> Reply {
        self.id = Some(id);
        self
    }
}

#[derive(Default)]
struct Scene {
    replies: VecDeque<Reply>,
    seen: Vec<String>,
}

/// The running server. Dropping it ends its task and its connections.
pub(crate) struct Server {
    pub(crate) client: Client,
    scene: Arc<Mutex<Scene>>,
    _tasks: JoinSet<()>,
}

impl Server {
    pub(crate) async fn tcp(replies: Vec<Reply>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::from(listener.local_addr().unwrap());
        let (scene, app) = app(replies);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Server { client: Client::new(endpoint, Some("t0ken".parse().unwrap())).unwrap(), scene, _tasks: tasks }
    }

    pub(crate) async fn unix(path: &Path, replies: Vec<Reply>) -> Server {
        let listener = UnixListener::bind(path).unwrap();
        let (scene, app) = app(replies);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Server { client: Client::new(Endpoint::unix(path), None).unwrap(), scene, _tasks: tasks }
    }

    /// What was asked: `METHOD path?query body`, and `Bearer …` in front if a token came.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.scene.lock().unwrap().seen.clone()
    }
}

fn app(replies: Vec<Reply>) -> (Arc<Mutex<Scene>>, Router) {
    let scene = Arc::new(Mutex::new(Scene { replies: replies.into(), seen: Vec::new() }));
    (scene.clone(), Router::new().fallback(answer).with_state(scene))
}

async fn answer(State(scene): State<Arc<Mutex<Scene>>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let token = head.headers.get("authorization").map(|t| format!("{} ", t.to_str().unwrap())).unwrap_or_default();
    let reply = {
        let mut scene = scene.lock().unwrap();
        scene
            .seen
            .push(format!("{token}{} {} {}", head.method, head.uri, String::from_utf8_lossy(&body)).trim().to_owned());
        scene.replies.pop_front().unwrap_or_else(|| Reply::new(503, r#"{"error":"the script is over"}"#))
    };
    let chunks = stream::iter(reply.chunks.into_iter().map(Ok));
    let body = match reply.end {
        End::Done => Body::from_stream(chunks),
        End::Open => Body::from_stream(chunks.chain(stream::pending())),
        End::Hangs(line, times) => {
            let slowly = stream::unfold(interval(Duration::from_millis(100)), move |mut tenth| async move {
                tenth.tick().await;
                Some((Ok(Bytes::from(format!("{line}\n"))), tenth))
            });
            let slowly = slowly.take(times);
            Body::from_stream(chunks.chain(slowly).chain(stream::pending()))
        }
        // Yielding once lets the chunks out before the break, which else overtakes them.
        End::Cut => Body::from_stream(chunks.chain(stream::once(async {
            tokio::task::yield_now().await;
            Err(std::io::Error::other("cut"))
        }))),
    };
    let mut response = Response::builder().status(reply.status);
    if let Some(id) = reply.id {
        response = response.header("corro-query-id", id);
    }
    if reply.alive {
        response = response.header("kith-alive-ms", "1000");
    }
    response.body(body).unwrap()
}
