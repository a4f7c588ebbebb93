//! How long one fact takes: written on the first server, answered by the DNS of the last.
//!
//! `cargo bench -p kith-tests --bench one_fact -- --api 127.0.0.1:31220 --dns 127.0.0.1:5302 [--changes 500] [--gap-ms 40]`
//! against a running cluster, whose first API and last DNS server are given. Each change moves one container to another
//! address; the clock starts when the request is sent (so it holds HTTP, commit and sync) and again when it is
//! acknowledged, and stops with the first answer that holds the new address. One JSON line, milliseconds.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

const NAME: [&str; 2] = ["bench-fact", "internal"];

/// A change that is not answered by then counts as failed: 50 times the goal.
const GIVE_UP: Duration = Duration::from_millis(2_500);

/// Pause between two questions. Adds half of itself to the median; a busy loop would take the core from the servers.
const POLL: Duration = Duration::from_micros(300);

struct Arguments {
    api: String,
    dns: SocketAddr,
    changes: u32,
    gap: Duration,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let Some(arguments) = Arguments::parse()? else {
        eprintln!("one_fact: skipped: needs a running cluster, see the head of tests/benches/one_fact.rs");
        return Ok(());
    };
    let client = reqwest::Client::new();
    let container = |ip: Ipv4Addr| {
        serde_json::json!([
            "INSERT INTO services (project, name) VALUES ('bench', 'fact') ON CONFLICT DO NOTHING",
            [
                "INSERT INTO containers (id, project, service, server_id, instance_id, ip) VALUES ('be9c40000001', 'bench', 'fact', '', '0', ?) \
              ON CONFLICT (id) DO UPDATE SET ip = excluded.ip",
                [ip.to_string()]
            ]
        ])
    };
    let mut resolver = Resolver::new(arguments.dns)?;
    let (mut from_request, mut from_commit) = (Vec::new(), Vec::new());
    for change in 0..=arguments.changes {
        let ip = Ipv4Addr::new(10, 210, 128 + (change / 250) as u8 % 100, 2 + (change % 250) as u8);
        let sent = Instant::now();
        let url = format!("http://{}/v1/transactions", arguments.api);
        let body = container(ip).to_string();
        let answer = client.post(url).header("content-type", "application/json").body(body).send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        let acknowledged = Instant::now();
        ensure!(status.is_success(), "write {change}: {status} {text}");
        let answered = resolver.wait_for(ip).with_context(|| format!("change {change}"))?;
        // The first one waits for the service to appear.
        if change > 0 {
            from_request.push(answered.duration_since(sent));
            from_commit.push(answered.saturating_duration_since(acknowledged));
        }
        tokio::time::sleep(arguments.gap).await;
    }
    report(&mut [("request", &mut from_request), ("commit", &mut from_commit)]);
    Ok(())
}

impl Arguments {
    /// `None` without `--api` and `--dns`, as `cargo bench` of the whole workspace calls it.
    fn parse() -> Result<Option<Self>> {
        let (mut api, mut dns, mut changes, mut gap) = (None, None, 500, 40);
        let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
        while let Some(word) = words.next() {
            let value = words.next().with_context(|| format!("{word} takes a value"))?;
            match word.as_str() {
                "--api" => api = Some(value),
                "--dns" => dns = Some(value.parse().context("--dns takes ADDRESS:PORT")?),
                "--changes" => changes = value.parse().context("--changes takes a number")?,
                "--gap-ms" => gap = value.parse().context("--gap-ms takes milliseconds")?,
                _ => anyhow::bail!("unknown argument {word}"),
            }
        }
        let gap = Duration::from_millis(gap);
        Ok(api.zip(dns).map(|(api, dns)| Self { api, dns, changes, gap }))
    }
}

struct Resolver {
    socket: UdpSocket,
    id: u16,
}

impl Resolver {
    fn new(server: SocketAddr) -> Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        Ok(Self { socket, id: 0 })
    }

    /// Asks until the answer holds the address; returns when it did.
    fn wait_for(&mut self, ip: Ipv4Addr) -> Result<Instant> {
        let start = Instant::now();
        loop {
            let answer = self.ask()?;
            let now = Instant::now();
            if answer.windows(4).any(|bytes| bytes == ip.octets()) {
                return Ok(now);
            }
            ensure!(
                now.duration_since(start) < GIVE_UP,
                "{ip} was not answered in {GIVE_UP:?}; last answer {answer:02x?}"
            );
            std::thread::park_timeout(POLL);
        }
    }

    /// The answer section and what follows, of one A question (RFC 1035 §4.1).
    fn ask(&mut self) -> Result<Vec<u8>> {
        self.id = self.id.wrapping_add(1);
        let mut query = Vec::from(self.id.to_be_bytes());
        query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        for label in NAME {
            query.push(label.len() as u8);
            query.extend(label.as_bytes());
        }
        query.extend([0, 0, 1, 0, 1]);
        self.socket.send(&query)?;
        let mut answer = [0; 1232];
        loop {
            let length = self.socket.recv(&mut answer).context("no answer in 500 ms")?;
            if answer[..2] == self.id.to_be_bytes() {
                return Ok(answer[query.len().min(length)..length].to_vec());
            }
        }
    }
}

fn report(series: &mut [(&str, &mut Vec<Duration>)]) {
    let mut line = serde_json::Map::new();
    for (name, times) in series {
        times.sort_unstable();
        let at = |share: f64| {
            let rank = (times.len() as f64 * share).ceil() as usize;
            times.get(rank.clamp(1, times.len()) - 1).map_or(0.0, |time| (time.as_secs_f64() * 1e5).round() / 1e2)
        };
        let figures =
            serde_json::json!({"n": times.len(), "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": at(1.0)});
        line.insert(format!("from_{name}_ms"), figures);
    }
    #[expect(clippy::print_stdout, reason = "the figures are this program's output")]
    {
        println!("{}", serde_json::Value::Object(line));
    }
}
