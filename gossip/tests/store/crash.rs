//! kill -9 while transactions are committed.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use kith_gossip::store::{Statement, Store};
use kith_gossip_proto::Value;
use tempfile::TempDir;

use crate::rig::{config, is_sound, rows, state};

const SCHEMA: &str = "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, n INTEGER, m INTEGER)";

/// Tells the child, which is this same test in another process, that it is the child, and where to write.
const FOLDER: &str = "KITH_TEST_CRASH_FOLDER";

const KILLS: usize = 20;

/// Ends the child whatever happens to the test.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What the child does. Each acknowledged transaction is a line: its number and its version.
async fn write_until_killed(folder: &Path) {
    let path = folder.join("kith.db");
    let store =
        Store::open(kith_gossip::store::StoreConfig { path, ..config(&TempDir::new().unwrap(), SCHEMA) }).unwrap();
    let mut clients = tokio::task::JoinSet::new();
    let boot = store.boot();
    for client in 0..4 {
        let store = store.clone();
        clients.spawn(async move {
            for n in 0.. {
                let id = format!("{boot}/{client}/{n}");
                let number = Value::Integer(n);
                // Two rows that must be seen together, and one that all clients contend for.
                let put = |id: String| {
                    Statement::with(
                        "INSERT INTO t VALUES (?1, ?2, ?2) ON CONFLICT (id) DO UPDATE SET n = ?2, m = ?2",
                        [Value::text(&id), number.clone()],
                    )
                };
                let done = store
                    .execute(vec![put(format!("{id}/a")), put(format!("{id}/b")), put("shared".to_owned())], None)
                    .await
                    .unwrap();
                let mut out = std::io::stdout().lock();
                writeln!(out, "\nacknowledged {id} {}", done.version.unwrap()).unwrap();
                out.flush().unwrap();
            }
        });
    }
    clients.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_and_no_version_is_given_twice() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return write_until_killed(Path::new(&folder)).await;
    }
    let dir = TempDir::new().unwrap();
    let mut acknowledged = std::collections::BTreeMap::new();
    for round in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap());
        let this = "crash::nothing_acknowledged_is_lost_and_no_version_is_given_twice";
        child.args(["--exact", this, "--nocapture"]).env(FOLDER, dir.path());
        let mut child = Guard(child.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
        let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines().map_while(Result::ok);
        // Killed after another number of lines each time; what was written until then still comes out of the pipe.
        let mut heard = 0;
        let mut note = |line: String| {
            if let Some((id, version)) = line.strip_prefix("acknowledged ").and_then(|rest| rest.split_once(' ')) {
                let known = acknowledged.insert(version.parse::<u64>().unwrap(), id.to_owned());
                assert_eq!(known, None, "version {version} was given twice");
                heard += 1;
            }
            heard
        };
        for line in lines.by_ref() {
            if note(line) > 5 + 7 * round {
                break;
            }
        }
        child.0.kill().unwrap();
        for line in lines {
            note(line);
        }
        child.0.wait().unwrap();
        assert!(heard > 5 + 7 * round, "round {round}: the child ended after {heard} transactions");

        let store = Store::open(config(&dir, SCHEMA)).unwrap();
        is_sound(&store).await;
        let found = rows(&store, Statement::new("SELECT id FROM t")).await.unwrap();
        let found: std::collections::BTreeSet<_> = found.iter().map(|row| row[0].as_str().unwrap()).collect();
        for (version, id) in &acknowledged {
            for row in ["a", "b"] {
                assert!(found.contains(format!("{id}/{row}").as_str()), "version {version}, {id}/{row} is lost");
            }
        }
        let torn = rows(&store, Statement::new("SELECT count(*) FROM t WHERE n <> m")).await.unwrap();
        assert_eq!(torn, [[Value::Integer(0)]]);
        assert_eq!(state(&store).await.len(), found.len());
        store.close().await;
    }
}
