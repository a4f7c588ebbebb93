//! What the resolvers ask: one server whose DNS has something of every kind.

use std::time::Duration;

use kith_tests::lab::{Fleet, Node, eventually};
use serde_json::json;
use tempfile::TempDir;

/// More addresses than a plain datagram holds: 20 fit into 512 bytes beside the question, and 76 into 1,232.
pub(crate) const MANY: usize = 90;

/// One server whose DNS has something of every kind, and the programs that ask it.
pub(crate) struct Host {
    pub(crate) fleet: Fleet,
    pub(crate) folder: TempDir,
}

impl Host {
    pub(crate) async fn start(test: &str) -> Option<Host> {
        let prepare = |node: &mut Node| {
            node.set("dns.ranges=10.210.0.0/16,fd10::/16");
            // Also where a container sees it.
            node.set(format!("dns.listen=127.0.0.1:53,{}:53", node.at.gossip.ip()));
        };
        let fleet = Fleet::start(test, 1, prepare).await?;
        fill(&fleet.nodes[0]).await;
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        // As Docker writes it for a container of the project.
        let text = "nameserver 127.0.0.1\nsearch casa.svc.internal internal\noptions ndots:1\n";
        std::fs::write(folder.path().join("resolv.conf"), text).expect("the folder can be written");
        Some(Host { fleet, folder })
    }

    /// What `program` prints of these questions, a line for each.
    pub(crate) fn ask(&self, program: &[&str], questions: &[&str]) -> Vec<String> {
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
    eventually(what, Duration::from_secs(10), async || {
        let last = node.resolve(&format!("casa-many-{}.internal", MANY - 1)).await?;
        if last.addresses.len() == 1 { Ok(()) } else { Err(format!("{last:?}")) }
    })
    .await;
}
