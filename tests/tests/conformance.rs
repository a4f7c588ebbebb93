//! DNS as the RFCs have it, by a checker that knows nothing of us: `tests/tools/dns/check.py`, against zone files and against
//! rows with a file over them.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kith_tests::fetched::python_with_dns;
use kith_tests::lab::{Addresses, Authority, Lab, eventually, kith};
use serde_json::{Value, json};

/// For a server to start and to know its rows.
const STARTING: Duration = Duration::from_secs(60);

fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/dns")
}

/// What the checker says of a server.
fn check(python: &Path, server: SocketAddr, expectation: &Path) -> String {
    let mut command = Command::new(python);
    command.arg(tools().join("check.py")).arg(server.to_string()).arg(expectation).stdin(Stdio::null());
    let output = command.output().expect("Python can be started");
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{said}{errors}").trim().to_owned()
}

/// A plain name server, ended with its value.
struct Plain(Child);

impl Plain {
    /// Starts it on a free port of each address, and says where.
    fn start(file: &Path, addresses: &[&str]) -> (Plain, Vec<SocketAddr>) {
        let mut command = Command::new(kith());
        command.args(["dns", "--log-format", "json", "--log", "info", "--zone-file"]).arg(file);
        for address in addresses {
            command.args(["--listen", address]);
        }
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("kith can be started");
        let mut log = BufReader::new(child.stderr.take().expect("it is piped"));
        let (plain, mut found) = (Plain(child), Vec::new());
        while found.len() < addresses.len() {
            let mut line = String::new();
            assert!(log.read_line(&mut line).expect("a log") > 0, "it ended without listening");
            let line: Value = serde_json::from_str(&line).unwrap_or_default();
            found.extend(line["addr"].as_str().map(|addr| addr.parse::<SocketAddr>().expect("an address")));
        }
        (plain, found)
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        // Both fail if it has ended, which is what is wanted.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_plain_name_server_of_zone_files_passes_every_case_that_its_zone_allows() {
    let test = "a_plain_name_server_of_zone_files_passes_every_case_that_its_zone_allows";
    let Some(python) = python_with_dns(test) else { return };
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let made = Command::new(&python).arg(tools().join("gen.py")).arg(folder.path()).status();
    assert!(made.expect("Python can be started").success());
    let (_plain, servers) = Plain::start(&folder.path().join("zone.db"), &["127.0.0.1:0", "[::1]:0"]);
    for server in servers {
        // Skipped: the zone has no reverse names, and its order is not asked for.
        let said = check(&python, server, &tools().join("expect.json"));
        assert_eq!(said, "148 passed, 0 failed, 2 skipped", "{server}");
    }
}

/// What the rows lack: laid over them.
const OVER: &str = "\
$ORIGIN jiji.
$TTL 30
txt TXT \"10:app,20:web\"
alias CNAME casa-api
*.wild A 10.9.9.9
a.b.ent A 10.9.9.8
";

#[tokio::test]
async fn rows_with_a_file_over_them_pass_every_case() {
    let Some(python) = python_with_dns("rows_with_a_file_over_them_pass_every_case") else { return };
    let lab = Lab::new("conformance");
    let mut node = lab.node(&Authority::new("conformance"), "fra-1", Addresses::choose("fra-1"), &[]);
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("it can be written");
        path
    };
    let huge = (0..95).map(|n| format!("huge TXT {}{n:04}\n", "x".repeat(100)));
    let file = write("over.zone", &(OVER.to_owned() + &huge.collect::<String>()));
    node.set("dns.zones=jiji");
    node.set("dns.ranges=10.0.0.0/8");
    // Names of others are refused.
    node.set("dns.upstreams=");
    node.set(format!("dns.zone={}", file.display()));
    node.start().await;

    let addresses = |service: u8, count: u8| (0..count).map(move |n| format!("10.225.{service}.{n}"));
    for (service, name, count) in [(1, "api", 16), (2, "big", 64), (3, "one", 1)] {
        let insert = "INSERT INTO services (project, name, ports) VALUES ('casa', ?, '[{\"name\":\"http\",\"proto\":\"tcp\",\"port\":80}]')";
        node.api().execute(insert, &json!([name])).await.expect("written");
        for (ip, n) in addresses(service, count).zip(0..) {
            let insert = "INSERT INTO containers (id, project, service, server_id, instance_id, ip, health_status, started_at) \
                          VALUES (?, 'casa', ?, 'fra-1', ?, ?, 'healthy', 1)";
            let row = json!([format!("{service:06x}{n:06x}"), name, n.to_string(), ip]);
            node.api().execute(insert, &row).await.expect("written");
        }
    }
    eventually("the last row is answered", STARTING, async || {
        let answer = node.resolve("casa-one.jiji").await?;
        if answer.addresses.len() == 1 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    let expectation = json!({
        "zone": "jiji", "a_name": "casa-api.jiji", "a_addrs": addresses(1, 16).collect::<Vec<_>>(),
        "big_name": "casa-big.jiji", "missing": "nope.jiji", "huge_name": "huge.jiji", "huge_type": "TXT",
        "txt_name": "txt.jiji", "txt": "10:app,20:web", "srv_name": "_http._tcp.casa-one.jiji", "cname": "alias.jiji",
        "cname_target": "casa-api.jiji", "ent": "b.ent.jiji", "wildcard": "wild.jiji", "outside": "refused",
        "rotate": true, "ptr": "0.3.225.10.in-addr.arpa", "ptr_target": "000003000000.vm.casa-one.jiji",
    });
    let expectation = write("expect.json", &expectation.to_string());
    assert_eq!(check(&python, node.at.dns, &expectation), "150 passed, 0 failed");
    // Leaves in good order: what it says on the way is read by the lab.
    node.stop().await;
}
