//! `kith dns` with zone files and nothing else: a plain name server.

use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// For a server to start, and for a changed file to be read.
const BOUND: Duration = Duration::from_secs(20);

const ZONE: &str = "$ORIGIN z.\n$TTL 30\n@ SOA ns h 1 2 3 4 5\n  NS ns\nns A 192.0.2.1\nn A 192.0.2.2\n";

fn kith(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kith"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KITH_")) {
        command.env_remove(name);
    }
    command.args(args).stdin(Stdio::null());
    command
}

/// A folder with files.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().expect("a temporary folder can be made"))
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        // Renamed into place, as an editor does it.
        let aside = path.with_extension("new");
        std::fs::write(&aside, text).and_then(|()| std::fs::rename(&aside, &path)).expect("it can be written");
        path
    }
}

/// A server of ours, ended with its value.
struct Server {
    child: Child,
    log: BufReader<std::process::ChildStderr>,
    addr: String,
}

impl Server {
    fn start(files: &[&Path]) -> Server {
        let files: Vec<&str> = files.iter().map(|file| file.to_str().expect("UTF-8")).collect();
        Server::with(&files.iter().flat_map(|file| ["--zone-file", file]).collect::<Vec<_>>())
    }

    fn with(args: &[&str]) -> Server {
        let mut command = kith(&["dns", "--listen", "127.0.0.1:0", "--threads", "1", "--log-format", "json"]);
        command.args(args);
        let mut child = command.stderr(Stdio::piped()).spawn().expect("kith can be started");
        let mut log = BufReader::new(child.stderr.take().expect("it is piped"));
        let addr = line(&mut log, "listening")["addr"].as_str().expect("an address").to_owned();
        Server { child, log, addr }
    }

    fn ask(&self, name: &str) -> Value {
        let output = kith(&["resolve", name, "--json", "--server", &self.addr]).output().expect("kith can be started");
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn answers(&self, name: &str, address: &str) {
        let until = Instant::now() + BOUND;
        loop {
            let answer = self.ask(name);
            if answer["answers"][0]["value"] == address {
                return;
            }
            assert!(Instant::now() < until, "{name}: {answer}, not {address}");
        }
    }
}

/// The next line of a log with this message.
fn line(log: &mut impl std::io::BufRead, message: &str) -> Value {
    let mut seen = String::new();
    loop {
        let mut text = String::new();
        assert!(log.read_line(&mut text).expect("a log") > 0, "no line says {message:?}:\n{seen}");
        seen += &text;
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        if value["message"] == message {
            return value;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail if it has ended, which is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn zones_of_files_are_answered_and_followed_and_a_wrong_file_changes_nothing() {
    let folder = Folder::new();
    let (one, two) =
        (folder.write("z", ZONE), folder.write("y", &ZONE.replace("z.", "y.").replace("192.0.2", "198.51.100")));
    let mut server = Server::start(&[&one, &two]);
    server.answers("n.z", "192.0.2.2");
    server.answers("n.y", "198.51.100.2");
    assert_eq!(server.ask("n.x")["rcode"], "REFUSED");

    folder.write("z", &ZONE.replace("192.0.2.2", "192.0.2.3"));
    server.answers("n.z", "192.0.2.3");

    folder.write("z", &ZONE.replace("192.0.2.2", "192.0.2"));
    let said = line(&mut server.log, "zone file is wrong");
    let fault = said["fault"].as_str().expect("a fault");
    assert!(fault.ends_with("z:6: `192.0.2` where an IPv4 address, as 192.0.2.1 is wanted"), "{fault}");
    server.answers("n.z", "192.0.2.3");

    folder.write("hosts", "n A 192.0.2.4\n");
    folder.write("z", &ZONE.replace("n A 192.0.2.2\n", "$INCLUDE hosts\n"));
    server.answers("n.z", "192.0.2.4");
    folder.write("hosts", "n A 192.0.2.5\n");
    server.answers("n.z", "192.0.2.5");
    server.answers("n.y", "198.51.100.2");
}

#[test]
fn names_below_a_suffix_are_asked_of_its_server_and_others_of_nobody() {
    let folder = Folder::new();
    let server = Server::start(&[&folder.write("z", ZONE)]);
    let forwarder = Server::with(&["--forward", &format!("z={}", server.addr)]);
    forwarder.answers("n.z", "192.0.2.2");
    assert_eq!(forwarder.ask("n.x")["rcode"], "REFUSED");
}

#[test]
fn what_cannot_be_served_ends_the_start_with_its_reason() {
    let folder = Folder::new();
    let good = folder.write("z", ZONE);
    let good = good.to_str().expect("UTF-8");
    let bad = folder.write("bad", "$ORIGIN b.\n$TTL 5\n@ SOA a b 1 2 3 4 5\nx IN A ::1\n");
    let bad = bad.to_str().expect("UTF-8");
    let twice = folder.write("twice", ZONE);
    let twice = twice.to_str().expect("UTF-8");
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").and_then(|s| s.local_addr().map(|a| (s, a))).expect("a port");
    let (free, used) = ("127.0.0.1:0", taken.1.to_string());
    let run = |args: &[&str]| {
        let output = kith(&[&["dns", "--log", "error"], args].concat()).output().expect("kith can be started");
        let said =
            String::from_utf8(output.stderr).expect("UTF-8").replace(&folder.0.path().display().to_string(), "DIR");
        (output.status.code(), said.replace(&used, "ADDR"))
    };
    let absent = run(&["--listen", free, "--zone-file", "/nowhere/z"]);
    assert_eq!(absent, (Some(78), "error: /nowhere/z: there is no such file\n".to_owned()));
    let wrong = run(&["--listen", free, "--zone-file", bad]);
    let said = "error: DIR/bad:4: `::1` where an IPv4 address, as 192.0.2.1 is wanted\n";
    assert_eq!(wrong, (Some(78), said.to_owned()));
    let both = run(&["--listen", free, "--zone-file", good, "--zone-file", twice]);
    assert_eq!(
        both,
        (Some(78), "error: DIR/twice: z is the zone of DIR/z already: a zone is in one file\n".to_owned())
    );
    let port = run(&["--listen", &used, "--zone-file", good]);
    assert_eq!(port.0, Some(69));
    assert!(port.1.starts_with("error: cannot listen for DNS on ADDR: Address already in use"), "{}", port.1);
    for flags in
        [&["--zone-file", good][..], &["--listen", free], &["--listen", free, "--zone-file", good, "--api", "http://a"]]
    {
        assert_eq!(run(flags).0, Some(2), "{flags:?}");
    }
}
