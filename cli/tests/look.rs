//! Looking into a running DNS server: the busiest names, each answer as it is given, figures.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// For a process to start, or something to be seen.
const BOUND: Duration = Duration::from_secs(20);

const ZONE: &str =
    "$ORIGIN example.\n$TTL 60\n@ SOA ns.example. a.example. 1 2 3 4 5\n@ NS ns\nns A 192.0.2.1\nwww A 192.0.2.2\n";

/// A server of one zone file, ended with its value.
struct Server {
    process: Child,
    folder: tempfile::TempDir,
    dns: SocketAddr,
    metrics: SocketAddr,
}

impl Server {
    fn start() -> Server {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        fs::write(folder.path().join("zone"), ZONE).expect("it can be written");
        let dns = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
        let metrics = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
        let mut command = kith(&["dns", "--threads", "1", "--listen"]);
        command.arg(dns.to_string()).arg("--metrics").arg(metrics.to_string());
        command.arg("--socket").arg(folder.path().join("sock")).arg("--zone-file").arg(folder.path().join("zone"));
        let process = command.stderr(Stdio::null()).spawn().expect("kith can be started");
        let server = Server { process, folder, dns, metrics };
        let until = Instant::now() + BOUND;
        while !server.ask("www.example") {
            assert!(Instant::now() < until, "no answer from {dns}");
        }
        server
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("sock")
    }

    /// Asks for a name as a container would; whether there is an answer.
    fn ask(&self, name: &str) -> bool {
        kith(&["resolve", name, "--server", &self.dns.to_string()]).output().expect("kith runs").status.success()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail if it has ended, which is what is wanted.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn kith(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kith"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KITH_")) {
        command.env_remove(name);
    }
    command.args(words).stdin(Stdio::null());
    command
}

#[test]
fn each_answer_to_a_name_is_shown_as_it_is_given() {
    let server = Server::start();
    let mut trace = kith(&["dns", "trace", "WWW.example.", "--count", "2", "--socket"]);
    let mut trace = trace.arg(server.socket()).stdout(Stdio::piped()).spawn().expect("kith can be started");
    let mut lines = BufReader::new(trace.stdout.take().expect("stdout")).lines();
    let mut line = || lines.next().expect("a line").expect("text");
    assert!(line().starts_with("ASKER"), "the head, once it follows");
    server.ask("ns.example");
    server.ask("www.example");
    server.ask("none.www.example");
    let words = |line: String| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(line())[..6], ["127.0.0.1", "udp", "www.example", "A", "NOERROR", "file"]);
    assert_eq!(words(line())[..5], ["127.0.0.1", "udp", "none.www.example", "A", "NXDOMAIN"]);
    assert!(trace.wait().expect("it ends").success(), "after as many as were asked for");
}

#[test]
fn the_busiest_names_are_counted_while_somebody_looks() {
    let server = Server::start();
    let mut top = kith(&["top", "--interval", "1", "--count", "30", "--json", "--socket"]);
    let mut top = top.arg(server.socket()).stdout(Stdio::piped()).spawn().expect("kith can be started");
    let mut lines = BufReader::new(top.stdout.take().expect("stdout")).lines();
    let until = Instant::now() + BOUND;
    loop {
        for name in ["www.example", "www.example", "ns.example"] {
            server.ask(name);
        }
        let line = lines.next().expect("a line").expect("text");
        let line: Value = serde_json::from_str(&line).expect("JSON");
        let names: Vec<_> = line["top"].as_array().into_iter().flatten().collect();
        if names.len() == 2 && names[0]["count"].as_u64() > names[1]["count"].as_u64() {
            assert_eq!((&names[0]["name"], &names[0]["zone"]), (&"www.example".into(), &"example".into()), "{line}");
            break;
        }
        assert!(Instant::now() < until, "last: {line}");
    }
    top.kill().and_then(|()| top.wait()).expect("it runs until then");
}

#[test]
fn figures_are_given_to_a_scraper() {
    let server = Server::start();
    let mut stream = TcpStream::connect(server.metrics).expect("it listens");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").expect("it is read");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it ends");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\n# EOF\n"), "{answer}");
    let series = "kith_dns_queries_total{zone=\"files\",type=\"A\",rcode=\"NOERROR\"} ";
    let count: f64 = answer.lines().find_map(|line| line.strip_prefix(series)?.parse().ok()).expect(series);
    assert!(count >= 1.0);
}

#[test]
fn where_no_dns_server_is_it_is_said_what_to_do() {
    let nowhere = tempfile::tempdir().expect("a temporary folder can be made");
    let output = kith(&["top", "--socket"]).arg(nowhere.path().join("sock")).output().expect("kith runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.starts_with("error: no DNS server at ") && text.contains("hint: is `kith agent`"), "{text}");
}
