//! The resolvers that containers bring along, each asking a real `kith agent` by its own rules: what they ask is theirs,
//! and what they must get is the same.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kith_tests::lab::{Fleet, Node, kith};
use kith_tests::skip::skip;
use serde_json::json;
use tempfile::TempDir;

/// More addresses than a plain datagram holds: 20 fit into 512 bytes beside the question, and 76 into 1,232.
const MANY: usize = 90;

/// One server whose DNS has something of every kind, and the programs that ask it.
struct Host {
    fleet: Fleet,
    folder: TempDir,
}

impl Host {
    async fn start(test: &str) -> Option<Host> {
        let fleet = Fleet::start(test, 1, |node| node.set("dns.ranges=10.210.0.0/16,fd10::/16")).await?;
        fill(&fleet.nodes[0]).await;
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        // As Docker writes it for a container of the project.
        let text = "nameserver 127.0.0.1\nsearch casa.svc.internal internal\noptions ndots:1\n";
        std::fs::write(folder.path().join("resolv.conf"), text).expect("the folder can be written");
        Some(Host { fleet, folder })
    }

    /// What `program` prints of these questions, a line for each.
    fn ask(&self, program: &[&str], questions: &[&str]) -> Vec<String> {
        let mut command = self.fleet.nodes[0].beside(&self.folder.path().join("resolv.conf"));
        let output = command.args(program).args(questions).output().expect("nsenter runs");
        assert!(output.status.success(), "{program:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }
}

async fn fill(node: &Node) {
    let write = async |sql: &str, parameters| {
        node.api().execute(sql, &parameters).await.expect("acknowledged");
    };
    let port = r#"[{"name": "http", "proto": "tcp", "port": 8080}]"#;
    for name in ["api", "many", "six", "none"] {
        write("INSERT INTO services (project, name, ports) VALUES ('casa', ?, ?)", json!([name, port])).await;
    }
    let insert = "INSERT INTO containers (id, project, service, server_id, instance_id, ip, ip6, started_at) \
                  VALUES (?, 'casa', ?, 'n1', ?, ?, ?, 1)";
    write(insert, json!(["aaaaaaaaaaa1", "api", "a", "10.210.1.1", "fd10::1"])).await;
    write(insert, json!(["aaaaaaaaaaa2", "api", "b", "10.210.1.2", ""])).await;
    write(insert, json!(["bbbbbbbbbbb1", "six", "a", "", "fd10::6"])).await;
    for number in 0..MANY {
        let (id, ip) = (format!("cccccccccc{number:02}"), format!("10.210.2.{number}"));
        write(insert, json!([id, "many", number.to_string(), ip, ""])).await;
    }
    let what = "DNS answers with all of them";
    kith_tests::lab::eventually(what, std::time::Duration::from_secs(10), async || {
        let last = node.resolve(&format!("casa-many-{}.internal", MANY - 1)).await?;
        if last.addresses.len() == 1 { Ok(()) } else { Err(format!("{last:?}")) }
    })
    .await;
}

const QUESTIONS: [&str; 11] = [
    "HOST:casa-api.internal",
    "A:casa-api.internal",
    "AAAA:casa-api.internal",
    "A:casa-six.internal",
    "HOST:casa-six.internal",
    "HOST:casa-none.internal",
    "HOST:nobody.internal",
    "HOST:casa-api", // by the last search suffix
    "A:api",         // by the first
    "SRV:_http._tcp.casa-api.internal",
    "TXT:vms.casa-api.internal",
];

/// The answers to [`QUESTIONS`]. Not every resolver tells a name without such records from one that is not there: `nodata`
/// is what it says of one family, `none` of both.
fn answers(nodata: &str, none: &str) -> Vec<String> {
    vec![
        "HOST:casa-api.internal 10.210.1.1 10.210.1.2 fd10::1".to_owned(),
        "A:casa-api.internal 10.210.1.1 10.210.1.2".to_owned(),
        "AAAA:casa-api.internal fd10::1".to_owned(),
        format!("A:casa-six.internal {nodata}"),
        "HOST:casa-six.internal fd10::6".to_owned(),
        format!("HOST:casa-none.internal {none}"),
        "HOST:nobody.internal NXDOMAIN".to_owned(),
        "HOST:casa-api 10.210.1.1 10.210.1.2 fd10::1".to_owned(),
        "A:api 10.210.1.1 10.210.1.2".to_owned(),
        "SRV:_http._tcp.casa-api.internal 8080/aaaaaaaaaaa1.vm.casa-api.internal 8080/aaaaaaaaaaa2.vm.casa-api.internal"
            .to_owned(),
        "TXT:vms.casa-api.internal aaaaaaaaaaa1,aaaaaaaaaaa2".to_owned(),
    ]
}

/// A question whose answer fits into no datagram of ours.
const MANY_OF_THEM: &str = "HOST:casa-many.internal";

/// The answer over TCP: all of them.
fn all_many(question: &str) -> Vec<String> {
    let mut addresses: Vec<_> = (0..MANY).map(|number| format!("10.210.2.{number}")).collect();
    addresses.sort();
    vec![format!("{question} {}", addresses.join(" "))]
}

fn tool(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/resolvers").join(name)
}

/// Compiles `libc.c`; a compiler that is not there is said aloud.
fn compiled(test: &str, compiler: &str, options: &[&str]) -> Option<String> {
    let program = kith().with_file_name(format!("resolver-{compiler}-{}", std::process::id()));
    let mut command = Command::new(compiler);
    match command.args(["-O1", "-Wall", "-o"]).arg(&program).arg(tool("libc.c")).args(options).output() {
        Err(error) => {
            skip(test, &format!("`{compiler}` cannot be run: {error}"));
            None
        }
        Ok(output) => {
            assert!(output.status.success(), "{compiler}: {}", String::from_utf8_lossy(&output.stderr));
            Some(program.display().to_string())
        }
    }
}

/// What a C library makes of all questions, and of the one whose answer fits into no datagram.
async fn a_c_library(test: &str, compiler: &str, options: &[&str]) -> Option<(Vec<String>, Vec<String>)> {
    let program = compiled(test, compiler, options)?;
    let host = Host::start(test).await?;
    let answered = (host.ask(&[&program], &QUESTIONS), host.ask(&[&program], &[MANY_OF_THEM]));
    std::fs::remove_file(program).expect("what was compiled is there");
    Some(answered)
}

#[tokio::test]
async fn glibc_gets_every_answer() {
    let asked = a_c_library("glibc_gets_every_answer", "cc", &["-lresolv"]).await;
    let Some((answered, many)) = asked else { return };
    assert_eq!(answered, answers("NODATA", "NODATA"));
    assert_eq!(many, all_many(MANY_OF_THEM));
}

#[tokio::test]
async fn musl_gets_every_answer() {
    let Some((answered, many)) = a_c_library("musl_gets_every_answer", "musl-gcc", &["-static"]).await else { return };
    // It has one word for a name without addresses and one that is not there.
    assert_eq!(answered, answers("NXDOMAIN", "NXDOMAIN"));
    // Before 1.2.4 it has no TCP, and takes of a cut answer what is there: whole records, as many as 512 bytes hold.
    let all = all_many(MANY_OF_THEM).remove(0);
    let all: Vec<_> = all.split(' ').collect();
    let some: Vec<_> = many[0].split(' ').collect();
    assert!(some.len() > 28 && some.iter().all(|one| all.contains(one)), "{some:?}");
}

#[tokio::test]
async fn go_gets_every_answer() {
    let test = "go_gets_every_answer";
    let Some(program) = built_by_go(test) else { return };
    let Some(host) = Host::start(test).await else { return };
    // Go does not tell a name without such records from one that is not there.
    assert_eq!(host.ask(&[&program], &QUESTIONS), answers("NXDOMAIN", "NXDOMAIN"));
    assert_eq!(host.ask(&[&program], &[MANY_OF_THEM]), all_many(MANY_OF_THEM));
}

#[tokio::test]
async fn c_ares_in_node_gets_every_answer() {
    let test = "c_ares_in_node_gets_every_answer";
    if !runs(test, "node", "--version") {
        return;
    }
    let Some(host) = Host::start(test).await else { return };
    let program = tool("cares.js").display().to_string();
    // Its `resolve` takes a name as it is: no search domains.
    let (asked, expected): (Vec<_>, Vec<_>) = QUESTIONS
        .iter()
        .zip(answers("NODATA", "NXDOMAIN"))
        .filter(|(question, _)| question.contains(".internal"))
        .map(|(question, answer)| (*question, answer))
        .unzip();
    assert_eq!(host.ask(&["node", &program], &asked), expected);
    assert_eq!(host.ask(&["node", &program], &[MANY_OF_THEM]), all_many(MANY_OF_THEM));
}

/// Whether that program is here; if not, that is said aloud.
fn runs(test: &str, program: &str, argument: &str) -> bool {
    let started = Command::new(program).arg(argument).stdout(Stdio::null()).status();
    started.is_ok_and(|status| status.success()) || {
        skip(test, &format!("`{program}` cannot be run"));
        false
    }
}

fn built_by_go(test: &str) -> Option<String> {
    if !runs(test, "go", "version") {
        return None;
    }
    let program = kith().with_file_name("resolver-go");
    let output = Command::new("go").args(["build", "-o"]).arg(&program).arg(tool("netgo.go")).output();
    let output = output.expect("it has just been run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(program.display().to_string())
}
