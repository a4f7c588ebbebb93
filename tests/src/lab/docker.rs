//! A Docker of the test's making: an HTTP server on a Unix socket that answers the few requests Kith makes, as Docker does,
//! and sends events. What runs on it is what the test says.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::{Body, Bytes};
use axum::extract::{Path as Segment, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Events that a slow listener may be behind. A test makes fewer.
const EVENTS: usize = 1024;
/// Events that it has for who asks for those since some time, as many as Docker.
const HISTORY: usize = 256;

/// The Docker. Dropping it ends its server.
#[derive(Debug)]
pub struct ScriptedDocker {
    socket: PathBuf,
    shared: Arc<Shared>,
    server: Option<JoinSet<()>>,
    end: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    containers: Mutex<BTreeMap<String, Value>>,
    /// By name.
    networks: Mutex<BTreeMap<String, Value>>,
    version: &'static str,
    events: broadcast::Sender<String>,
    /// The last ones, with their time since 1970.
    history: Mutex<VecDeque<(Duration, String)>>,
    hangs: watch::Sender<bool>,
}

impl ScriptedDocker {
    /// A Docker that listens at `socket`. Must be called within a runtime.
    ///
    /// # Panics
    /// If the socket cannot be made.
    #[must_use]
    pub fn at(socket: &Path) -> ScriptedDocker {
        ScriptedDocker::speaking("1.43", socket)
    }

    /// The same, whose newest API is this one.
    ///
    /// # Panics
    /// If the socket cannot be made.
    #[must_use]
    pub fn speaking(version: &'static str, socket: &Path) -> ScriptedDocker {
        let shared = Shared {
            containers: Mutex::default(),
            networks: Mutex::default(),
            version,
            events: broadcast::Sender::new(EVENTS),
            history: Mutex::default(),
            hangs: watch::Sender::new(false),
        };
        let mut docker = ScriptedDocker {
            socket: socket.to_owned(),
            shared: Arc::new(shared),
            server: None,
            end: CancellationToken::new(),
        };
        docker.serve();
        docker
    }

    /// Answers again, after [`leave`](Self::leave).
    ///
    /// # Panics
    /// If the socket cannot be made.
    pub fn serve(&mut self) {
        // What a former self left there.
        drop(std::fs::remove_file(&self.socket));
        let listener = UnixListener::bind(&self.socket).expect("the test's folder takes a socket");
        // Clients may name the version before the path, or not.
        let api = Router::new()
            .route("/version", get(version))
            .route("/containers/json", get(list))
            .route("/containers/{id}/json", get(inspect))
            .route("/networks/create", post(create_network))
            .route("/networks/{name}", get(network).delete(remove_network))
            .route("/events", get(events));
        let routes = Router::new()
            .nest("/{version}", api.clone())
            .merge(api)
            .with_state((self.shared.clone(), self.end.clone()));
        let (end, mut server) = (self.end.clone(), JoinSet::new());
        server.spawn(async move {
            let serving = axum::serve(listener, routes).with_graceful_shutdown(end.cancelled_owned());
            serving.await.expect("the socket is served");
        });
        self.server = Some(server);
    }

    /// Is gone: the socket is closed, with all connections.
    pub async fn leave(&mut self) {
        self.end.cancel();
        if let Some(mut server) = self.server.take() {
            server.shutdown().await;
        }
        self.end = CancellationToken::new();
        drop(std::fs::remove_file(&self.socket));
    }

    /// Takes requests and does not answer, until told otherwise.
    pub fn hang(&self) {
        self.shared.hangs.send_replace(true);
    }

    /// Answers all requests that hang.
    pub fn go_on(&self) {
        self.shared.hangs.send_replace(false);
    }

    /// Starts a container in the network `kith`, or starts it again. `health` is what Docker's own check says, if it has one.
    pub fn run(&self, id: &str, ip: &str, labels: &Value, health: Option<&str>) {
        self.run_in("kith", id, ip, labels, health);
    }

    /// The same in another network.
    pub fn run_in(&self, network: &str, id: &str, ip: &str, labels: &Value, health: Option<&str>) {
        let container = json!({
            "Id": id,
            "Name": format!("/container-{}", &id[..4]),
            "Config": { "Image": "lab/image:1", "Labels": labels },
            "HostConfig": { "NetworkMode": network },
            "State": {
                "Status": "running", "Running": true, "Paused": false, "Restarting": false, "Dead": false,
                "StartedAt": started(),
                "Health": health.map(|status| json!({ "Status": status })),
            },
            "NetworkSettings": { "Networks": { network: { "IPAddress": ip, "GlobalIPv6Address": "" } } },
        });
        self.containers(|all| all.insert(id.to_owned(), container));
        self.event("container", id, "start");
    }

    /// It has run since then, an RFC 3339 time.
    pub fn started(&self, id: &str, at: &str) {
        self.state(id, |state| state["StartedAt"] = json!(at));
        self.event("container", id, "start");
    }

    /// Docker's own check says this from here on.
    pub fn health(&self, id: &str, status: &str) {
        self.state(id, |state| state["Health"] = json!({ "Status": status }));
        self.event("container", id, &format!("health_status: {status}"));
    }

    /// The container ends.
    pub fn kill(&self, id: &str) {
        self.state(id, |state| state["Running"] = json!(false));
        self.containers(|all| {
            all.get_mut(id).expect("it is there")["NetworkSettings"]["Networks"]["kith"]["IPAddress"] = json!("");
        });
        self.event("container", id, "kill");
        self.event("container", id, "die");
    }

    /// It is frozen.
    pub fn pause(&self, id: &str) {
        self.state(id, |state| state["Paused"] = json!(true));
        self.event("container", id, "pause");
    }

    /// It goes on.
    pub fn unpause(&self, id: &str) {
        self.state(id, |state| state["Paused"] = json!(false));
        self.event("container", id, "unpause");
    }

    /// It is removed.
    pub fn remove(&self, id: &str) {
        self.containers(|all| all.remove(id));
        self.event("container", id, "destroy");
    }

    /// The network of this name, as it was made.
    #[must_use]
    pub fn network(&self, name: &str) -> Option<Value> {
        self.networks(|all| all.get(name).cloned())
    }

    /// Somebody makes a network of this name, with these options and this range.
    pub fn make_network(&self, name: &str, subnet: &str, options: &Value) {
        self.networks(|all| {
            let asked = json!({
                "Name": name, "Driver": "bridge", "Internal": false, "Options": options,
                "IPAM": { "Config": [{ "Subnet": subnet }] },
            });
            all.insert(name.to_owned(), made(asked));
        });
        self.event("network", name, "create");
    }

    /// The container's `resolv.conf` is this file.
    ///
    /// # Panics
    /// If there is no such container.
    pub fn resolver(&self, id: &str, path: &Path) {
        self.containers(|all| all.get_mut(id).expect("it is there")["ResolvConfPath"] = json!(path));
    }

    /// Something happens to a network.
    pub fn event_of_network(&self, name: &str) {
        self.event("network", name, "create");
    }

    /// Somebody removes it.
    pub fn drop_network(&self, name: &str) {
        self.networks(|all| all.remove(name));
        self.event("network", name, "destroy");
    }

    fn networks<T>(&self, change: impl FnOnce(&mut BTreeMap<String, Value>) -> T) -> T {
        change(&mut self.shared.networks.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn state(&self, id: &str, change: impl FnOnce(&mut Value)) {
        self.containers(|all| change(&mut all.get_mut(id).expect("it is there")["State"]));
    }

    fn containers<T>(&self, change: impl FnOnce(&mut BTreeMap<String, Value>) -> T) -> T {
        change(&mut self.shared.containers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn event(&self, kind: &str, id: &str, action: &str) {
        let event = json!({ "Type": kind, "Action": action, "Actor": { "ID": id, "Attributes": {} } });
        let line = format!("{event}\n");
        let mut history = self.shared.history.lock().unwrap_or_else(PoisonError::into_inner);
        if history.len() >= HISTORY {
            history.pop_front();
        }
        history.push_back((since_1970(), line.clone()));
        // Nobody may be listening.
        drop(self.shared.events.send(line));
    }
}

impl Drop for ScriptedDocker {
    fn drop(&mut self) {
        self.end.cancel();
        drop(std::fs::remove_file(&self.socket));
    }
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970")
}

/// This moment as Docker writes it. Two starts are never at the same one.
fn started() -> String {
    let since = since_1970();
    let (second, nano) = (since.as_secs() % 60, since.subsec_nanos());
    let (minute, hour) = (since.as_secs() / 60 % 60, since.as_secs() / 3600 % 24);
    // Which day it is does not matter to anybody here.
    format!("2026-11-26T{hour:02}:{minute:02}:{second:02}.{nano:09}Z")
}

type Served = State<(Arc<Shared>, CancellationToken)>;

impl Shared {
    /// Returns once it answers.
    async fn answers(&self) {
        self.hangs.subscribe().wait_for(|hangs| !hangs).await.map(drop).expect("it outlives its server");
    }
}

async fn version(State((shared, _)): Served) -> Response {
    shared.answers().await;
    Json(json!({ "ApiVersion": shared.version, "MinAPIVersion": "1.24", "Version": "24.0.0" })).into_response()
}

async fn list(State((shared, _)): Served, Query(asked): Query<BTreeMap<String, String>>) -> Response {
    shared.answers().await;
    let all = shared.containers.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let filters: Value = asked.get("filters").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let network = filters["network"][0].as_str().map(str::to_owned);
    let inside = |container: &Value| match &network {
        // The id of a network is made of its name.
        Some(id) => !container["NetworkSettings"]["Networks"][id.trim_start_matches("id-of-")].is_null(),
        None => true,
    };
    let listed = all.iter().filter(|(_, container)| inside(container));
    Json(listed.map(|(id, container)| json!({ "Id": id, "Names": [container["Name"]] })).collect::<Vec<_>>())
        .into_response()
}

/// A network as Docker shows it, of what was asked for.
fn made(mut asked: Value) -> Value {
    asked["Id"] = json!(format!("id-of-{}", asked["Name"].as_str().unwrap_or_default()));
    asked
}

async fn create_network(State((shared, _)): Served, Json(asked): Json<Value>) -> Response {
    shared.answers().await;
    let network = made(asked);
    let (id, name) = (network["Id"].clone(), network["Name"].as_str().unwrap_or_default().to_owned());
    let mut all = shared.networks.lock().unwrap_or_else(PoisonError::into_inner);
    if all.contains_key(&name) {
        let message = json!({ "message": format!("network with name {name} already exists") });
        return (StatusCode::CONFLICT, Json(message)).into_response();
    }
    all.insert(name, network);
    (StatusCode::CREATED, Json(json!({ "Id": id, "Warning": "" }))).into_response()
}

async fn network(State((shared, _)): Served, Segment(path): Segment<BTreeMap<String, String>>) -> Response {
    shared.answers().await;
    match shared.networks.lock().unwrap_or_else(PoisonError::into_inner).get(&path["name"]) {
        Some(network) => Json(network.clone()).into_response(),
        None => (StatusCode::NOT_FOUND, Json(json!({ "message": "no such network" }))).into_response(),
    }
}

async fn remove_network(State((shared, _)): Served, Segment(path): Segment<BTreeMap<String, String>>) -> Response {
    shared.answers().await;
    let mut all = shared.networks.lock().unwrap_or_else(PoisonError::into_inner);
    match all.remove(path["name"].trim_start_matches("id-of-")) {
        Some(_) => StatusCode::NO_CONTENT.into_response(),
        None => (StatusCode::NOT_FOUND, Json(json!({ "message": "no such network" }))).into_response(),
    }
}

async fn inspect(State((shared, _)): Served, Segment(path): Segment<BTreeMap<String, String>>) -> Response {
    shared.answers().await;
    let id = &path["id"];
    match shared.containers.lock().unwrap_or_else(PoisonError::into_inner).get(id) {
        Some(container) => Json(container.clone()).into_response(),
        None => (StatusCode::NOT_FOUND, Json(json!({ "message": format!("No such container: {id}") }))).into_response(),
    }
}

/// Answers before it listens, as Docker does, and tells who asks for them the events since some time.
async fn events(State((shared, end)): Served, Query(asked): Query<BTreeMap<String, String>>) -> Response {
    shared.answers().await;
    let (told, receiver) = {
        let history = shared.history.lock().unwrap_or_else(PoisonError::into_inner);
        let since = asked.get("since").and_then(|text| text.parse().ok()).map(Duration::from_secs_f64);
        let told = history.iter().filter(|(at, _)| since.is_some_and(|since| since <= *at));
        (told.map(|(_, line)| line.clone()).collect::<Vec<_>>(), shared.events.subscribe())
    };
    let told = futures_util::stream::iter(told).map(|line| Ok::<_, Infallible>(Bytes::from(line)));
    let lines = futures_util::stream::unfold((receiver, end), |(mut receiver, end)| async move {
        let line = end.run_until_cancelled(receiver.recv()).await?.ok()?;
        Some((Ok(Bytes::from(line)), (receiver, end)))
    });
    Body::from_stream(told.chain(lines)).into_response()
}
