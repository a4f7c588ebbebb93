use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Query;
use axum::routing::get;
use futures_util::stream;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;

/// Long enough for a busy machine.
const BOUND: Duration = Duration::from_secs(30);

#[test]
fn beyond_the_bound_all_are_to_be_looked_at() {
    let changes = Changes::default();
    for id in 0..=NOTED {
        changes.note(|noted| {
            noted.changed.insert(format!("{id}"));
        });
    }
    assert_eq!(changes.take(), Noted { missed: true, ..Noted::default() });
    assert_eq!(changes.take(), Noted::default());
}

#[test]
fn an_event_tells_whose_it_is() {
    let event = |text: &str| of(serde_json::from_str::<EventMessage>(text).unwrap());
    let told = |text: &str| match event(text) {
        Some((id, What::Changed)) => format!("{id} changed"),
        Some((id, What::Destroyed)) => format!("{id} destroyed"),
        None => "nothing".to_owned(),
    };
    assert_eq!(told(r#"{"Type":"container","Action":"die","Actor":{"ID":"a"}}"#), "a changed");
    assert_eq!(told(r#"{"Type":"container","Action":"health_status: healthy","Actor":{"ID":"a"}}"#), "a changed");
    assert_eq!(told(r#"{"Type":"container","Action":"destroy","Actor":{"ID":"a"}}"#), "a destroyed");
    assert_eq!(told(r#"{"Type":"container","Action":"exec_die","Actor":{"ID":"a"}}"#), "nothing");
    let network = r#"{"Type":"network","Action":"connect","Actor":{"ID":"n","Attributes":{"container":"b"}}}"#;
    assert_eq!(told(network), "b changed");
    assert_eq!(told(r#"{"Type":"container","Action":"die"}"#), "nothing");
}

/// A Docker that takes its time before it listens for whom asked for events: what happens until then is in its history only.
#[derive(Clone)]
struct SlowDocker {
    history: Arc<Mutex<Vec<(Duration, String)>>>,
    listens: watch::Sender<bool>,
}

impl SlowDocker {
    fn serve(socket: &std::path::Path, tasks: &mut JoinSet<()>) -> SlowDocker {
        let docker = SlowDocker { history: Arc::default(), listens: watch::Sender::new(false) };
        let this = docker.clone();
        let events = async move |Query(asked): Query<BTreeMap<String, String>>| {
            this.listens.subscribe().wait_for(|listens| *listens).await.expect("it listens at last");
            let since = asked.get("since").map(|text| Duration::from_secs_f64(text.parse().expect("a time")));
            let history = this.history.lock().expect("nobody panics").clone();
            let told = history.into_iter().filter(|(at, _)| since.is_some_and(|since| since <= *at));
            let told = told.map(|(_, line)| Ok::<_, std::convert::Infallible>(Bytes::from(line)));
            Body::from_stream(stream::iter(told.collect::<Vec<_>>()).chain(stream::pending()))
        };
        let version = async || r#"{ "ApiVersion": "1.43", "MinAPIVersion": "1.24" }"#;
        let api = Router::new().route("/version", get(version)).route("/events", get(events));
        let listener = UnixListener::bind(socket).expect("the test's folder takes a socket");
        let routes = Router::new().nest("/{version}", api.clone()).merge(api);
        tasks.spawn(async { axum::serve(listener, routes).await.expect("the socket is served") });
        docker
    }

    fn starts(&self, id: &str) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
        let line = format!(r#"{{"Type":"container","Action":"start","Actor":{{"ID":"{id}"}}}}"#);
        self.history.lock().expect("nobody panics").push((at, format!("{line}\n")));
    }
}

#[tokio::test]
async fn what_starts_between_the_full_list_and_dockers_listening_is_heard_of() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let mut tasks = JoinSet::new();
    let docker = SlowDocker::serve(&socket, &mut tasks);
    let (following, token) = (Follow::default(), CancellationToken::new());
    tasks.spawn(follow(socket, following.clone(), token.clone()));

    // Here the full list is made: it does not have what starts behind it.
    timeout(BOUND, following.containers.poked()).await.expect("all is to be looked at");
    assert!(following.changes.take().missed);
    docker.starts("a");
    docker.listens.send_replace(true);

    timeout(BOUND, following.containers.poked()).await.expect("the start is heard of");
    assert_eq!(following.changes.take(), Noted { changed: ["a".to_owned()].into(), ..Noted::default() });
    token.cancel();
    tasks.shutdown().await;
}
