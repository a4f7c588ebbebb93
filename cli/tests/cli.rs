//! The command line as its users meet it: the real binary, its output, its exit codes.

use std::io::Write;
use std::net::{TcpListener, UdpSocket};
use std::process::{Command, Output, Stdio};

/// Runs `kith` with nothing of ours in its environment.
fn kith(args: &[&str]) -> Output {
    command(args).output().expect("kith can be started")
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kith"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KITH_")) {
        command.env_remove(name);
    }
    command.args(args).env("COLUMNS", "100").stdin(Stdio::null());
    command
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("stdout is UTF-8")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("stderr is UTF-8")
}

/// A file in a folder that is gone with it.
fn file(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("kith.toml");
    std::fs::write(&path, text).expect("it can be written");
    let path = path.display().to_string();
    (folder, path)
}

#[test]
fn help_is_what_it_was() {
    let output = kith(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    insta::assert_snapshot!(out(&output), @r#"
    Tells every container on every server where everything is

    Usage: kith [OPTIONS] <COMMAND>

    Commands:
      agent        Run this server: the store, DNS and the daemon, each restarted if it fails
      gossip       Run the store alone
      dns          Run the DNS server alone, fed by a store's API or by zone files
      daemon       Run the daemon alone, which keeps this server's own rows true at a store's API
      nats         Run a nats-server, which finds its peers by DNS, and keep it running
      presence     Run presence alone, who is online, over NATS; or ask a node of it
      dev          Run a whole cluster on loopback, for a first look
      init         Found a cluster: its authority, and this server as its first
      invite       Make a token with which one more server joins
      join         Join a cluster with a token, as one more server
      server       The servers of the cluster: list them, drain one, remove one
      status       Show what a node knows: members, lag, digest, DNS, parts
      doctor       Look into each layer, here and toward each other server, and say what to do
      ps           List containers: this server's, or those of all
      sweep        Say what will be deleted of servers that were removed, and when
      query        Read: one SELECT
      exec         Write: one statement, one transaction
      watch        Follow a live query: its rows, then every change, as NDJSON
      members      List the members of the cluster, as one node sees them
      resolve      Ask a DNS server, as a container would
      why          Explain a name: each instance, in or out of the answer, and by which rule
      top          Show the busiest names of a DNS server
      config       The configuration: what is in force, what is wrong
      schema       The schema of a running node: what files would add to it, and adding it
      backup       Write a copy of a running node's store to a file
      restore      Make a backup the store of this server, which must not be running
      store        The store itself: whether it is sound
      uninstall    Take Kith off this host: put back what it changed
      completions  Print a script that completes this command line in your shell
      man          Write the man pages of all commands into a folder
      help         Print this message or the help of the given subcommand(s)

    Options:
          --log <LEVEL>          What is logged: error, warn, info, debug, trace, or by module
                                 (KITH_LOG)
          --log-format <FORMAT>  How it is logged (KITH_LOG_FORMAT; default text) [possible values:
                                 text, json]
      -h, --help                 Print help
      -V, --version              Print version

    Exit codes:
       0  done, or stopped as asked
       1  the operation failed: the store refused it, the name does not exist
       2  wrong usage of the command line
       3  the API cannot be reached, or did not answer
      69  a part cannot start, an address is taken, or a DNS server does not answer
      70  a part failed again and again, or could not be stopped
      74  a file or stdout cannot be read or written
      78  the configuration is wrong

    Environment:
      KITH_API, KITH_TOKEN_FILE, KITH_CONFIG, KITH_LOG, KITH_LOG_FORMAT  for the flags of these names
      KITH_RESOLVER                                 for `kith resolve --server`
      KITH_DNS_SOCKET                               for --socket of `kith top` and `kith dns trace`
      KITH_PRESENCE                                 for --at of `kith presence`
      KITH_SECTION_KEY, as KITH_GOSSIP_LISTEN       for a key of the configuration

    Data goes to stdout, logs and errors to stderr.

    Start here:
      kith dev                                three servers on this machine, to look at
      kith init                               the first server of a real cluster
      kith query 'SELECT * FROM services'
      kith resolve casa-api.internal --server 127.0.0.1:5302
    "#);
}

#[test]
fn every_command_shows_examples_and_the_same_flags() {
    for command in [
        "agent",
        "gossip",
        "dns",
        "daemon",
        "dev",
        "status",
        "doctor",
        "ps",
        "sweep",
        "query",
        "exec",
        "watch",
        "members",
        "resolve",
        "init",
        "invite",
        "join",
        "server",
        "uninstall",
        "completions",
        "man",
    ] {
        let help = out(&kith(&[command, "--help"]));
        assert!(help.contains("Example") && help.contains(&format!("  kith {command}")), "{command}: {help}");
        assert!(help.contains("--log <LEVEL>"), "{command}: {help}");
    }
    for action in ["diff", "apply"] {
        let help = out(&kith(&["schema", action, "--help"]));
        assert!(help.contains(&format!("  kith schema {action}")), "{action}: {help}");
    }
    for action in ["show", "check"] {
        let help = out(&kith(&["config", action, "--help"]));
        assert!(help.contains(&format!("  kith config {action}")), "{help}");
    }
    for action in ["ls", "remove"] {
        let help = out(&kith(&["server", action, "--help"]));
        assert!(help.contains(&format!("  kith server {action}")), "{help}");
    }
    let version = kith(&["--version"]);
    assert_eq!(out(&version), format!("kith {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_is_2() {
    for args in [
        &[][..],
        &["nonsense"],
        &["query"],
        &["status", "--api", "127.0.0.1:1"],
        &["dev", "--nodes", "0"],
        &["dev", "--nodes", "2", "--api", "127.0.0.1:65535"],
        &["dev", "--nodes", "2", "--presence"],
        &["resolve", "a", "NOTYPE"],
        &["resolve", "-x", "a"],
        &["resolve", "a", "--server", "b"],
        &["invite", "Not a name"],
        &["init", "--cidr", "10.210.0.0/24"],
        &["join", "no token"],
        &["join", "-"],
    ] {
        let output = kith(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", err(&output));
        assert_eq!(out(&output), "", "{args:?}");
        assert!(!output.stderr.is_empty(), "{args:?}");
    }
    let said = err(&kith(&["status", "--api", "127.0.0.1:1"]));
    assert!(said.contains("http://HOST:PORT or unix:/PATH"), "{said}");
}

#[test]
fn an_api_that_is_not_there_is_3_with_one_line_and_a_hint() {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let api = format!("http://127.0.0.1:{port}");
    for args in [&["status"][..], &["query", "SELECT 1"], &["exec", "x"], &["watch", "SELECT 1"], &["members"]] {
        let output = command(args).env("KITH_API", &api).output().expect("kith can be started");
        assert_eq!(output.status.code(), Some(3), "{args:?}: {}", err(&output));
        let said = err(&output);
        assert!(said.starts_with(&format!("error: cannot reach {api}: Connection refused")), "{said}");
        assert!(said.contains("\nhint: start it with `kith dev`"), "{said}");
        assert_eq!(said.lines().count(), 2, "{said}");
    }
}

#[test]
fn a_configuration_with_mistakes_is_78_and_lists_all() {
    let (_folder, path) =
        file("[node]\nname = \"NOT a label\"\n\n[dns]\nlisten = [\"somewhere\"]\nzons = [\"internal\"]\n");
    for args in [
        &["config", "check"][..],
        &["config", "show"],
        &["config", "show", "--json"],
        &["agent"],
        &["gossip"],
        &["dns"],
    ] {
        let mut args = args.to_vec();
        args.extend(["--config", &path]);
        let output = kith(&args);
        assert_eq!(output.status.code(), Some(78), "{args:?}: {}", err(&output));
        let said = err(&output);
        assert_eq!(said.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{said}");
        for wanted in
            ["kith.toml:2: node.name", "kith.toml:5: dns.listen", "kith.toml:6: dns.zons ", "did you mean dns.zones?"]
        {
            assert!(said.contains(wanted), "{wanted} is missing in {said}");
        }
        assert_eq!(out(&output), "", "{args:?}");
    }
    let missing = kith(&["config", "check", "--config", "/no/such/file"]);
    assert_eq!(missing.status.code(), Some(78));
    assert!(err(&missing).contains("/no/such/file: No such file"), "{}", err(&missing));
}

#[test]
fn a_good_configuration_is_ok_and_shown() {
    let (_folder, path) = file("[gossip]\nenabled = false\n[node]\nname = \"n1\"\n");
    let check = kith(&["config", "check", "--config", &path]);
    assert_eq!((check.status.code(), out(&check)), (Some(0), "ok\n".to_owned()), "{}", err(&check));
    let mut command = command(&["config", "show", "--json", "--set", "dns.ttl=7"]);
    let show = command.env("KITH_CONFIG", &path).env("KITH_NODE_REGION", "fra").output().expect("kith can be started");
    let shown: serde_json::Value = serde_json::from_slice(&show.stdout).expect("it is JSON");
    assert_eq!(shown["node"]["region"], serde_json::json!({ "value": "fra", "from": "KITH_NODE_REGION" }));
    assert_eq!(shown["dns"]["ttl"], serde_json::json!({ "value": "7", "from": "--set" }));
    assert_eq!(shown["node"]["name"]["from"], format!("{path}:4"));
}

#[test]
fn a_reader_that_is_gone_is_a_quiet_end() {
    let (_folder, path) = file("[gossip]\nenabled = false\n[node]\nname = \"n1\"\n");
    let mut child = command(&["config", "show", "--config", &path])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kith can be started");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    // It may have written before the pipe was closed, which is success as well.
    assert_eq!((output.status.code(), err(&output)), (Some(0), String::new()));
}

#[test]
fn a_dns_port_that_is_taken_is_69_and_named() {
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let addr = taken.local_addr().expect("it is bound").to_string();
    let output = kith(&["dns", "--set", "node.name=n1", "--set", &format!("dns.listen={addr}")]);
    assert_eq!(output.status.code(), Some(69), "{}", err(&output));
    let said = err(&output);
    let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(matches!(errors[..], [line] if line.contains(&addr)), "{said}");
}

#[test]
fn a_dns_server_that_is_not_there_is_69() {
    let addr = UdpSocket::bind("127.0.0.1:0").and_then(|s| s.local_addr()).expect("a free port").to_string();
    let output = kith(&["resolve", "a.internal", "--server", &addr]);
    assert_eq!(output.status.code(), Some(69), "{}", err(&output));
    assert!(err(&output).starts_with(&format!("error: no answer from {addr}: ")), "{}", err(&output));
}

#[test]
fn a_query_goes_over_tcp_when_the_answer_was_cut_and_prints_like_dig() {
    let server = Truncating::start();
    let output = kith(&["resolve", "casa-api.internal", "--server", &server.addr]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let lines: Vec<String> = out(&output).lines().map(str::to_owned).collect();
    assert!(lines[0].starts_with(";; NOERROR, flags: qr aa rd, id: "), "{lines:?}");
    assert_eq!(lines[1..5], [";casa-api.internal. IN A", "", ";; answer", "casa-api.internal. 5 IN A 10.210.129.10"]);
    assert!(lines[6].starts_with(&format!(";; {} over TCP, ", server.addr)), "{lines:?}");
}

/// A DNS server that answers one question, over UDP with TC and then over TCP whole.
struct Truncating {
    addr: String,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Truncating {
    fn start() -> Truncating {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = tcp.local_addr().expect("it is bound");
        let udp = UdpSocket::bind(addr).expect("the same port over UDP");
        let thread = std::thread::spawn(move || {
            let mut query = [0; 512];
            let (size, from) = udp.recv_from(&mut query).expect("a question comes");
            let mut cut = head(&query[..size], 0x86);
            cut[7] = 0;
            udp.send_to(&cut, from).expect("it can be answered");
            let (mut stream, _) = tcp.accept().expect("it comes again");
            let mut query = [0; 514];
            let size = std::io::Read::read(&mut stream, &mut query).expect("with the question");
            let mut whole = head(&query[2..size], 0x84);
            whole.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 210, 129, 10]);
            let length = u16::try_from(whole.len()).expect("it is short").to_be_bytes();
            stream.write_all(&[&length[..], &whole].concat()).expect("it can be answered");
        });
        Truncating { addr: addr.to_string(), thread: Some(thread) }
    }
}

impl Drop for Truncating {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take().filter(|_| !std::thread::panicking()) {
            thread.join().expect("the server did its part");
        }
    }
}

/// The question back, with these flags, announcing one answer and no additional record.
fn head(query: &[u8], flags: u8) -> Vec<u8> {
    let end = 12 + query[12..].iter().position(|byte| *byte == 0).expect("a name ends") + 5;
    let mut head = query[..end].to_vec();
    head[2] = flags | (query[2] & 1);
    head[3] = 0;
    head[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
    head
}

#[test]
fn shells_can_read_their_completions() {
    for (shell, args) in [("bash", ["-n"]), ("zsh", ["-n"]), ("fish", ["--no-execute"])] {
        let script = kith(&["completions", shell]);
        assert_eq!(script.status.code(), Some(0), "{}", err(&script));
        let text = out(&script);
        assert!(text.contains("completions") && text.contains("token-file"), "{shell}: {text}");
        let Ok(mut reader) = Command::new(shell).args(args).stdin(Stdio::piped()).spawn() else {
            // Debian has bash alone.
            assert_ne!(shell, "bash", "bash is there");
            continue;
        };
        reader.stdin.take().expect("it is piped").write_all(text.as_bytes()).expect("it reads");
        assert!(reader.wait().expect("it ends").success(), "{shell} cannot read:\n{text}");
    }
    let unknown = kith(&["completions", "ed"]);
    assert_eq!(unknown.status.code(), Some(2), "{}", err(&unknown));
}

#[test]
fn every_command_has_a_man_page() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let pages = folder.path().join("man1");
    let written = kith(&["man", pages.to_str().expect("a path is text")]);
    assert_eq!(written.status.code(), Some(0), "{}", err(&written));
    for (page, word) in [("kith.1", "SUBCOMMANDS"), ("kith-schema-apply.1", "orders.sql"), ("kith-agent.1", "--config")]
    {
        let text = std::fs::read_to_string(pages.join(page)).unwrap_or_else(|e| panic!("{page}: {e}"));
        assert!(text.replace("\\-", "-").contains(word), "{page}: {text}");
    }
    let refused = kith(&["man", "/dev/null/pages"]);
    assert_eq!(refused.status.code(), Some(74), "{}", err(&refused));
}

#[test]
fn a_log_filter_that_is_none_is_said() {
    let output = kith(&["config", "check", "--log", "a=b=c", "--config", "/dev/null"]);
    assert_eq!(output.status.code(), Some(78), "{}", err(&output));
    assert!(err(&output).contains("hint: give a level"), "{}", err(&output));
}
