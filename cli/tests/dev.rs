//! `kith dev` and the commands against it: real processes, real sockets, only loopback.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// For a fact to get from the API to the DNS of the same process; a thousand times the usual.
const BOUND: Duration = Duration::from_secs(20);
/// What the command promises for its end, and a little for the machine.
const STOP: Duration = Duration::from_secs(3);

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kith"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KITH_")) {
        command.env_remove(name);
    }
    command.args(args).stdin(Stdio::null());
    command
}

/// A running `kith dev --json`. Ended with its value.
struct Dev {
    process: Child,
    stdout: BufReader<ChildStdout>,
    nodes: Vec<Value>,
}

impl Dev {
    /// Starts it on free ports, and waits for its line.
    fn start(args: &[&str]) -> Dev {
        let ports = ["--api", "127.0.0.1:0", "--dns", "127.0.0.1:0", "--gossip", "127.0.0.1:0"];
        let mut command = command(&[&["dev", "--json"], args, &ports].concat());
        let mut process = command.stdout(Stdio::piped()).spawn().expect("kith can be started");
        let mut stdout = BufReader::new(process.stdout.take().expect("it is piped"));
        let mut line = String::new();
        // Ends at the latest when the process does, which gives up after 30 s.
        stdout.read_line(&mut line).expect("its output is text");
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e} in {line:?}"));
        assert_eq!(ready["ready"], true, "{line}");
        let nodes = ready["nodes"].as_array().expect("a list of nodes").clone();
        Dev { process, stdout, nodes }
    }

    /// Runs a command against the first node.
    fn run(&self, args: &[&str]) -> Output {
        let mut command = command(args);
        command.env("KITH_API", self.text("api")).env("KITH_RESOLVER", self.text("dns"));
        command.output().expect("kith can be started")
    }

    /// Its output, when it must succeed.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("it is text")
    }

    fn text(&self, key: &str) -> &str {
        self.nodes[0][key].as_str().expect("a text")
    }

    /// The addresses that DNS has for this name.
    fn addresses(&self, name: &str) -> (String, Vec<String>) {
        let output = self.run(&["resolve", name, "--json"]);
        let answer: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let mut addresses: Vec<_> =
            answer["answers"].as_array().expect("a list").iter().map(|record| text(&record["value"])).collect();
        addresses.sort();
        (text(&answer["rcode"]), addresses)
    }

    /// Waits until DNS says this.
    fn answers(&self, name: &str, rcode: &str, addresses: &[&str]) {
        let until = Instant::now() + BOUND;
        loop {
            let seen = self.addresses(name);
            if seen.0 == rcode && seen.1 == addresses {
                return;
            }
            assert!(Instant::now() < until, "{name}: {seen:?}, not {rcode} {addresses:?}");
        }
    }

    fn stop(&mut self, signal: Signal) -> (ExitStatus, Duration) {
        let begun = Instant::now();
        let pid = i32::try_from(self.process.id()).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("it runs");
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).expect("its output is text");
        (self.process.wait().expect("it ends"), begun.elapsed())
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Told first, so that it removes its files; by force if it does not hear. All fail if it has ended.
        let pid = i32::try_from(self.process.id()).unwrap_or(i32::MAX);
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap_or_default();
        let until = Instant::now() + STOP;
        while Instant::now() < until && matches!(self.process.try_wait(), Ok(None)) {
            std::thread::yield_now();
        }
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn socket_folders(of: u32) -> Vec<PathBuf> {
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let mine = std::fs::read_dir(format!("/proc/{of}/fd")).into_iter().flatten().flatten();
    let inodes: Vec<String> = mine
        .filter_map(|fd| std::fs::read_link(fd.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let path = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let held = inodes.iter().any(|inode| fields.get(6) == Some(&inode.as_str()));
        fields.get(7).filter(|_| held).and_then(|path| Path::new(path).parent()).map(Path::to_owned)
    };
    sockets.lines().filter_map(path).collect()
}

#[test]
fn the_sample_is_there_and_a_write_is_answered_read_and_watched() {
    let dev = Dev::start(&["--nodes", "1"]);
    dev.answers("casa-api.internal", "NOERROR", &["10.210.129.10"]);
    assert_eq!(dev.addresses("nobody.internal"), ("NXDOMAIN".to_owned(), vec![]));

    let mut watch = command(&["watch", "SELECT id, ip FROM containers WHERE service = ?", "web"]);
    let mut watch = watch.env("KITH_API", dev.text("api")).stdout(Stdio::piped()).spawn().expect("kith can be started");
    let mut lines = BufReader::new(watch.stdout.take().expect("it is piped")).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().expect("a line").expect("text")).expect("JSON") };
    assert_eq!(next(), json!({ "columns": ["id", "ip"] }));
    assert_eq!(next()["row"][1], json!(["0114c0ffee00", "10.210.129.20"]));
    assert_eq!(next()["eoq"]["change_id"], 0);

    let insert = "INSERT INTO containers (id, project, service, server_id, ip, instance_id) VALUES (?, ?, ?, ?, ?, ?)";
    let said = dev.ok(&["exec", insert, "0123456789ab", "casa", "web", "n1", "10.210.129.99", "b"]);
    assert!(said.starts_with("1 row, version "), "{said}");
    assert_eq!(next()["change"][2], json!(["0123456789ab", "10.210.129.99"]));
    dev.answers("casa-web.internal", "NOERROR", &["10.210.129.20", "10.210.129.99"]);

    let rows = dev.ok(&["query", "SELECT id, health_port FROM containers WHERE ip = ?", "10.210.129.99"]);
    assert_eq!(rows, "id            health_port\n0123456789ab  NULL\n");
    let rows = dev.ok(&["query", "SELECT id, ? AS n FROM containers WHERE ip = ?", "-5", "10.210.129.99", "--json"]);
    assert_eq!(rows, "{\"id\":\"0123456789ab\",\"n\":-5}\n");

    dev.ok(&["exec", "UPDATE containers SET health_status = 'unhealthy' WHERE service = 'web'"]);
    dev.answers("casa-web.internal", "NOERROR", &[]);
    dev.ok(&["exec", "DELETE FROM services WHERE name = 'web'"]);
    dev.answers("casa-web.internal", "NXDOMAIN", &[]);
    watch.kill().and_then(|()| watch.wait().map(drop)).expect("it ran");
}

#[test]
fn status_and_members_show_the_node() {
    let dev = Dev::start(&["--nodes", "1", "--empty"]);
    let members = dev.ok(&["members"]);
    assert!(members.starts_with("SERVER  STATE") && members.contains("\nn1      up"), "{members}");
    let member: Value = serde_json::from_str(&dev.ok(&["members", "--json"])).expect("one line of JSON");
    assert_eq!((&member["server"], &member["state"]), (&json!("n1"), &json!("up")));
    let status = dev.ok(&["status"]);
    for wanted in ["n1 at http://127.0.0.1:", "\n  store: ", "\nmembers\n", "\nheads\n"] {
        assert!(status.contains(wanted), "{wanted:?} is missing in {status}");
    }
    let status: Value = serde_json::from_str(&dev.ok(&["status", "--json"])).expect("JSON");
    assert_eq!((&status["status"]["node"], &status["members"][0]["server"]), (&json!("n1"), &json!("n1")));
    assert_eq!(dev.ok(&["query", "SELECT count(*) AS n FROM services"]), "n\n0\n", "--empty is empty");
}

#[test]
fn status_shows_dns_and_the_parts() {
    let dev = Dev::start(&["--nodes", "1"]);
    let until = Instant::now() + BOUND;
    let wanted = ["\ndns\n", "freshness current", "zone internal", "\nparts\n", "  gossip: ", "phase running"];
    loop {
        let status = dev.ok(&["status"]);
        if wanted.iter().all(|words| status.contains(words)) {
            return;
        }
        assert!(Instant::now() < until, "{wanted:?} are not all in {status}");
    }
}

#[test]
fn what_the_store_refuses_is_1_with_its_words() {
    let dev = Dev::start(&["--nodes", "1", "--empty"]);
    for (args, words) in [
        (&["query", "SELECT * FROM nowhere"][..], "nowhere"),
        (&["query", "DELETE FROM services"], ""),
        (&["exec", "nonsense"], "nonsense"),
        (&["exec", "--replicas", "1", "DELETE FROM services"], "there are 0 other nodes"),
        (&["watch", "SELECT * FROM nowhere"], "nowhere"),
    ] {
        let output = dev.run(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.starts_with("error: ") && said.contains(words), "{args:?}: {said}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn it_stops_when_told_and_leaves_nothing_behind() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut dev = Dev::start(&["--nodes", "2"]);
        let api = dev.text("api").trim_start_matches("http://").to_owned();
        let folders = socket_folders(dev.process.id());
        assert!(!folders.is_empty(), "each node has a socket");
        let (status, took) = dev.stop(signal);
        assert_eq!(status.code(), Some(0), "{signal}");
        assert!(took < STOP, "{signal}: {took:?}");
        for folder in folders {
            assert!(!folder.exists(), "{} is left", folder.display());
        }
        TcpListener::bind(&api).unwrap_or_else(|e| panic!("{api} cannot be bound again: {e}"));
    }
}

#[test]
fn a_folder_keeps_the_data_and_no_sample_is_written_over_it() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let dir = folder.path().display().to_string();
    let mut dev = Dev::start(&["--nodes", "1", "--dir", &dir]);
    dev.ok(&["exec", "DELETE FROM services WHERE name = 'web'"]);
    dev.stop(Signal::SIGTERM);
    let dev = Dev::start(&["--nodes", "1", "--dir", &dir]);
    assert_eq!(dev.ok(&["query", "SELECT name FROM services"]), "name\napi\n");
    dev.answers("casa-api.internal", "NOERROR", &["10.210.129.10"]);
}

#[test]
fn a_port_that_is_taken_is_69_and_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr().map(|addr| (l, addr.to_string())));
    let (_listener, taken) = taken.expect("a free port");
    let args = ["dev", "--nodes", "1", "--json", "--dns", "127.0.0.1:0", "--gossip", "127.0.0.1:0", "--api", &taken];
    let output = command(&args).output().expect("kith can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{said}");
    let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(matches!(errors[..], [line] if line.contains(&taken)), "{said}");
    assert!(output.stdout.is_empty());
}

#[test]
fn a_schema_is_compared_then_applied_or_refused() {
    let dev = Dev::start(&["--nodes", "1", "--empty"]);
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = |name: &str, sql: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, sql).expect("it can be written");
        path.display().to_string()
    };
    let table = "CREATE TABLE orders (id TEXT NOT NULL PRIMARY KEY, state TEXT NOT NULL DEFAULT '');";
    file("orders.sql", &format!("{table} CREATE INDEX by_state ON orders (state);"));
    let all = folder.path().display().to_string();
    let insert = ["exec", "INSERT INTO orders (id) VALUES ('a')"];
    assert_eq!(dev.ok(&["schema", "diff", &all]), "+ table orders\n+ index by_state\n");
    assert_eq!(dev.run(&insert).status.code(), Some(1), "a comparison changes nothing");
    assert_eq!(dev.ok(&["schema", "apply", &all]), "+ table orders\n+ index by_state\n");
    dev.ok(&insert);
    assert_eq!(dev.ok(&["schema", "diff", &all]), "nothing to add\n");

    let wider = file("orders.sql", &table.replace(");", ", note TEXT);"));
    let told: Value = serde_json::from_str(&dev.ok(&["schema", "diff", &wider, "--json"])).expect("it is JSON");
    assert_eq!(told, json!({ "tables": [], "columns": ["orders.note"], "indexes": [] }));

    let narrower = file("worse.sql", "CREATE TABLE orders (id INTEGER NOT NULL PRIMARY KEY);");
    let refused = dev.run(&["schema", "apply", &wider, &narrower]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{told}");
    assert!(told.contains("statement 2: ") && told.contains("worse.sql"), "{told}");
    assert_eq!(dev.ok(&["schema", "diff", &wider]), "+ column orders.note\n", "all or nothing");
    let absent = dev.run(&["schema", "diff", "/nowhere.sql"]);
    assert_eq!(absent.status.code(), Some(74), "{}", String::from_utf8_lossy(&absent.stderr));
}

#[test]
fn a_backup_is_made_checked_and_restored_while_nothing_is_overwritten() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (backup, data) = (path("backup.db"), path("data"));
    let mut dev = Dev::start(&["--nodes", "1"]);
    let sound: Value = serde_json::from_str(&dev.ok(&["store", "verify", "--json"])).expect("it is JSON");
    assert_eq!(sound["wrong"], json!([]), "{sound}");
    let made: Value = serde_json::from_str(&dev.ok(&["backup", &backup, "--json"])).expect("it is JSON");
    assert_eq!(made["bytes"], std::fs::metadata(&backup).expect("it is there").len());
    assert_eq!(dev.run(&["backup", &backup]).status.code(), Some(1), "it is there already");
    dev.ok(&["backup", &backup, "--force"]);
    assert_eq!(dev.run(&["backup", "/no/such/folder/backup.db"]).status.code(), Some(74));
    dev.stop(Signal::SIGTERM);
    let offline = |args: &[&str]| command(args).output().expect("kith can be started");
    let found = offline(&["store", "verify", &backup]);
    let text = String::from_utf8(found.stdout).expect("it is text");
    assert!(found.status.success() && text.contains(&format!("rows {}", sound["rows"])), "{text}");
    std::fs::create_dir(&data).expect("a folder can be made");
    let config = path("kith.toml");
    let text = format!("[node]\nname = \"n1\"\ndata_dir = \"{data}\"\n");
    std::fs::write(&config, text).expect("it can be written");
    let restored = offline(&["restore", &backup, "--config", &config]);
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    assert_eq!(offline(&["restore", &backup, "--config", &config]).status.code(), Some(1));
    let again = offline(&["restore", &backup, "--config", &config, "--force"]);
    assert!(String::from_utf8_lossy(&again.stdout).contains("before-restore"), "{again:?}");
    std::fs::write(&backup, "no store").expect("it can be written");
    let refused = offline(&["restore", &backup, "--config", &config, "--force"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("damaged"), "{refused:?}");
}
