//! Load on a node of presence: reads, writes, events from one node to another.
//!
//! ```text
//! cargo bench -p kith-presence --bench load -- reads  http://127.0.0.1:8080 --connections 64 --seconds 10
//! cargo bench -p kith-presence --bench load -- writes http://127.0.0.1:8080 --secret FILE --connections 64 --seconds 10
//! cargo bench -p kith-presence --bench load -- events http://127.0.0.1:8080 http://127.0.0.1:8081 --secret FILE
//! cargo bench -p kith-presence --bench load -- fill   http://127.0.0.1:8080 --secret FILE --users 100000
//! ```
//! The node runs by itself, so that its CPU is told apart from ours. Without a mode nothing is done: `cargo bench` of the
//! whole tree has no node to load.

mod client;
mod figures;

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use client::{Client, Stream};
use figures::Figures;
use kith_presence::{AuthConfig, Writes};
use tokio::task::JoinSet;

/// What was typed.
struct Load {
    mode: String,
    nodes: Vec<SocketAddr>,
    token: Option<String>,
    connections: usize,
    users: usize,
    time: Duration,
}

impl Load {
    fn parse(words: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut load = Self {
            mode: String::new(),
            nodes: Vec::new(),
            token: None,
            connections: 64,
            users: 10_000,
            time: Duration::from_secs(10),
        };
        let mut words = words.filter(|word| word != "--bench");
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            let number = |text: String| text.parse().map_err(|_| format!("{text} is no number"));
            match word.as_str() {
                "--connections" => load.connections = number(value()?)?,
                "--users" => load.users = number(value()?)?,
                "--seconds" => load.time = Duration::from_secs(number(value()?)? as u64),
                "--secret" => load.token = Some(token(&value()?)?),
                url if url.starts_with("http://") => {
                    let addr = url.trim_start_matches("http://").trim_end_matches('/');
                    load.nodes.push(addr.parse().map_err(|_| format!("{url} is not http://ADDR:PORT"))?);
                }
                mode => load.mode = mode.to_owned(),
            }
        }
        Ok((!load.mode.is_empty()).then_some(load))
    }

    fn node(&self) -> Result<SocketAddr, String> {
        self.nodes.first().copied().ok_or_else(|| "which node? http://ADDR:PORT".to_owned())
    }

    fn token(&self) -> Result<&str, String> {
        self.token.as_deref().ok_or_else(|| "writes need --secret FILE".to_owned())
    }
}

fn token(path: &str) -> Result<String, String> {
    let secret = std::fs::read(path).map_err(|e| format!("{path}: {e}"))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    kith_presence::sign(&secret, "load", now + 3_600, Writes::Any, &AuthConfig::default()).map_err(|e| e.to_string())
}

fn main() -> Result<(), String> {
    let Some(load) = Load::parse(std::env::args().skip(1))? else { return Ok(()) };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| e.to_string())?;
    let figures = runtime.block_on(async {
        match load.mode.as_str() {
            "reads" => reads(&load).await,
            "writes" => writes(&load).await,
            "fill" => fill(&load).await,
            "events" => events(&load).await,
            other => Err(format!("{other}: reads, writes, fill or events")),
        }
    })?;
    use std::io::Write;
    writeln!(std::io::stdout(), "{} {figures}", load.mode).map_err(|e| e.to_string())
}

/// Runs `one` on every connection until the time is over: (connection, turn) to a request.
async fn all(
    load: &Load,
    request: impl Fn(usize, usize) -> String + Clone + Send + 'static,
    until: impl Fn(usize, Instant) -> bool + Clone + Send + 'static,
) -> Result<Figures, String> {
    let node = load.node()?;
    let mut tasks = JoinSet::new();
    let begun = Instant::now();
    for at in 0..load.connections {
        let (request, until) = (request.clone(), until.clone());
        tasks.spawn(async move {
            let mut client = Client::connect(node).await?;
            let mut figures = Figures::default();
            let mut turn = 0;
            while until(turn, begun) {
                let asked = Instant::now();
                let status = client.ask(&request(at, turn)).await?;
                figures.add(asked.elapsed(), status);
                turn += 1;
            }
            Ok::<_, String>(figures)
        });
    }
    let mut figures = Figures::default();
    while let Some(ended) = tasks.join_next().await {
        figures.merge(ended.map_err(|e| e.to_string())??);
    }
    figures.took = begun.elapsed();
    Ok(figures)
}

async fn reads(load: &Load) -> Result<Figures, String> {
    let (users, time) = (load.users, load.time);
    // A walk through the users that meets each, in no order that helps a cache.
    let request = move |at: usize, turn: usize| client::get(&format!("user-{}", (at * 7_919 + turn * 104_729) % users));
    all(load, request, move |_, begun| begun.elapsed() < time).await
}

async fn writes(load: &Load) -> Result<Figures, String> {
    let (users, time, token) = (load.users, load.time, load.token()?.to_owned());
    let request = move |at: usize, turn: usize| {
        let user = format!("user-{}", (at * 7_919 + turn * 104_729) % users);
        // Each write changes something: one that does not is not stored.
        let status = ["online", "busy", "away"][(turn + turn / users.max(1)) % 3];
        client::put(&user, &token, &format!("{{\"status\":\"{status}\",\"ttl\":3600,\"message\":\"{turn}\"}}"))
    };
    all(load, request, move |_, begun| begun.elapsed() < time).await
}

async fn fill(load: &Load) -> Result<Figures, String> {
    let (users, connections, token) = (load.users, load.connections, load.token()?.to_owned());
    let request = move |at: usize, turn: usize| {
        client::put(&format!("user-{}", turn * connections + at), &token, "{\"status\":\"online\",\"ttl\":86400}")
    };
    all(load, request, move |turn, _| turn * connections < users).await
}

/// How long a write on the first node takes to be an event of a stream of the second.
async fn events(load: &Load) -> Result<Figures, String> {
    let token = load.token()?;
    let second = *load.nodes.get(1).ok_or("which second node? http://ADDR:PORT")?;
    let mut stream = Stream::open(second, "watched").await?;
    stream.next().await?;
    let mut client = Client::connect(load.node()?).await?;
    let (mut figures, begun, mut turn) = (Figures::default(), Instant::now(), 0);
    while begun.elapsed() < load.time {
        turn += 1;
        let body = format!("{{\"status\":\"busy\",\"message\":\"{turn}\"}}");
        let asked = Instant::now();
        let status = client.ask(&client::put("watched", token, &body)).await?;
        while !stream.next().await?.contains(&format!("\"message\":\"{turn}\"")) {}
        figures.add(asked.elapsed(), status);
        // Beyond the window within which changes of one user are one event.
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    figures.took = begun.elapsed();
    Ok(figures)
}
