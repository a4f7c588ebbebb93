//! What grows with the number of rows, and what does not.

use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use kith_gossip::store::{Pace, Store};
use tempfile::TempDir;

use crate::kith;
use crate::meter::{Meter, memory, size};
use crate::plain::Plain;
use crate::work::{BATCH, insert, range};

/// For each number of rows: how fast the last of them came, what a look through them, a snapshot and a start take, and how
/// much memory.
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
        let (made, taken) = snapshot(&store).await;
        let (before, meter) = (memory("VmRSS"), Meter::start());
        let found = store.verify(Pace::AtOnce).await.unwrap();
        assert!(found.wrong.is_empty(), "{:?}", found.wrong);
        let (looked, held) = (meter.stop(end), memory("VmRSS") - before);
        store.close().await;
        let meter = Meter::start();
        plain.run(&range(rows, end, BATCH, insert).collect::<Vec<_>>());
        ours.tell(&format!("{end} rows: insert, 100 a transaction"), "rows", meter.stop(end - rows));
        println!("{end} rows: {:.1} MiB in the file, {resident:.1} MiB resident after writing", mib(size(dir.path())));
        println!("    looked through in {:.2} µs of CPU a row, {held:.1} MiB more resident", looked.cost());
        println!("    snapshot made in {made:.1?}, checked and taken over in {taken:.1?}");
        let this = std::env::current_exe().unwrap();
        assert!(Command::new(this).arg("open").arg(dir.path()).status().unwrap().success());
        rows = end;
    }
}

/// What a peer takes that has nothing: a copy made here, and taken over by an empty store there. The wire is left out.
async fn snapshot(store: &Store) -> (Duration, Duration) {
    let began = Instant::now();
    let mut copy = store.copy().await.unwrap();
    let made = began.elapsed();
    let dir = TempDir::new().unwrap();
    let newcomer = kith::open(dir.path());
    let mut incoming = newcomer.receive().unwrap();
    let mut bytes = vec![0; 1 << 18];
    loop {
        let read = copy.file.read(&mut bytes).unwrap();
        if read == 0 {
            break;
        }
        incoming.write(&bytes[..read]).unwrap();
    }
    let began = Instant::now();
    newcomer.install(incoming, kith_gossip_proto::Hlc::MAX).await.unwrap();
    let taken = began.elapsed();
    newcomer.close().await;
    (made, taken)
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
