//! What grows with the number of rows, and what does not.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use tempfile::TempDir;

use crate::kith;
use crate::meter::{Meter, memory, size};
use crate::plain::Plain;
use crate::work::{BATCH, insert, range};

/// For each number of rows: how fast the last of them came, what a start takes, and how much memory.
pub(crate) async fn curve(sizes: &[&str]) {
    let mut sizes: Vec<usize> = sizes.iter().map(|size| size.parse().expect("a number of rows")).collect();
    sizes.sort_unstable();
    let (dir, plain) = (TempDir::new().unwrap(), Plain::new());
    let mut rows = 0;
    for end in sizes {
        let meter = Meter::start();
        let store = kith::open(dir.path());
        for statements in range(rows, end, BATCH, insert) {
            store.execute(statements, None).await.unwrap();
        }
        let ours = meter.stop(end - rows);
        let resident = memory("VmRSS");
        store.close().await;
        let meter = Meter::start();
        plain.run(&range(rows, end, BATCH, insert).collect::<Vec<_>>());
        ours.tell(&format!("{end} rows: insert, 100 a transaction"), "rows", meter.stop(end - rows));
        println!("{end} rows: {:.1} MiB in the file, {resident:.1} MiB resident after writing", mib(size(dir.path())));
        let this = std::env::current_exe().unwrap();
        assert!(Command::new(this).arg("open").arg(dir.path()).status().unwrap().success());
        rows = end;
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// In a process of its own: opens the store and says what that took.
pub(crate) fn open(folder: &str) {
    let began = Instant::now();
    let _store = kith::open(Path::new(folder));
    println!("    start-up {:.1} ms, {:.1} MiB resident", began.elapsed().as_secs_f64() * 1e3, memory("VmRSS"));
}
