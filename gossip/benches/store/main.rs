//! What a row costs the store, beside plain SQLite doing the same work in the same run: rows per second, CPU time of all
//! threads, and the ratio of the two. A reading, not a test.
//!
//! `cargo bench -p kith-gossip --bench store`, with `TMPDIR` on a tmpfs so that the disk does not count;
//! `-- growth 10000 100000 1000000` measures instead how insert rate, start-up and memory go with the number of rows.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program for people at a terminal")]

mod growth;
mod kith;
mod meter;
mod plain;
mod work;

use kith::Kith;
use kith_gossip_proto::Vector;
use meter::{Meter, size};
use plain::Plain;
use work::{BATCH, CELLS, ROWS, Unit, delete, insert, range, rewrite, transactions, update, upsert};

/// Transactions on their way.
const AT_ONCE: usize = 16;

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["growth", sizes @ ..] => runtime.block_on(growth::curve(sizes)),
        ["lone", rows] => runtime.block_on(lone(rows.parse().expect("a number of rows"))),
        ["open", folder] => growth::open(folder),
        _ => runtime.block_on(rates()),
    }
}

async fn rates() {
    let (kith, plain) = (Kith::new(), Plain::new());
    let both = async |name: &str, batch: usize, statement: Unit| {
        let (work, same) = (transactions(batch, statement), transactions(batch, statement));
        let meter = Meter::start();
        kith.run(work).await;
        let ours = meter.stop(ROWS);
        let meter = Meter::start();
        plain.run(&same);
        ours.tell(name, "rows", meter.stop(ROWS));
    };
    both("insert, 8 columns, 100 a transaction", BATCH, insert).await;
    let [ours, theirs] = [kith.folder(), plain.folder()].map(|folder| size(folder) as f64 / ROWS as f64);
    println!("{:<42} {:>9.1} bytes a row, plain {theirs:.1}: {:.1} more", "on disk", ours, ours - theirs);
    both("update of one column, 100 a transaction", BATCH, update).await;
    collect(&kith, &plain).await;
    both("delete, 100 a transaction", BATCH, delete).await;
    both("insert, one a transaction", 1, insert).await;
    together().await;
    merges().await;
}

/// One row a transaction and nothing else, for a profiler to look at. Half of its time is two threads that wake each other:
/// where that goes through a hypervisor, `taskset -c 1` shows what the store itself takes.
async fn lone(rows: usize) {
    let kith = Kith::new();
    let meter = Meter::start();
    kith.run(range(0, rows, 1, insert)).await;
    let ours = meter.stop(rows);
    let (plain, work) = (Plain::new(), range(0, rows, 1, insert).collect::<Vec<_>>());
    let meter = Meter::start();
    plain.run(&work);
    ours.tell("insert, one a transaction", "rows", meter.stop(rows));
}

/// A lone transaction waits for the writer's thread to wake and for its own to be woken, which is most of what it costs.
async fn together() {
    let (kith, plain) = (Kith::new(), Plain::new());
    let meter = Meter::start();
    kith.run_together(transactions(1, insert), AT_ONCE).await;
    let ours = meter.stop(ROWS);
    let meter = Meter::start();
    plain.run(&transactions(1, insert));
    ours.tell("insert, one a transaction, 16 at once", "rows", meter.stop(ROWS));
}

/// The last 8,000 cells of one site's log, as a peer that lacks them is answered.
async fn collect(kith: &Kith, plain: &Plain) {
    let above = kith.heads();
    let changed = 8_000 / (CELLS - 1);
    kith.run(range(0, changed, BATCH, rewrite)).await;
    let meter = Meter::start();
    let cells = kith.collect(above).await.iter().map(|pulled| pulled.row.cells.len()).sum();
    let ours = meter.stop(cells);
    let meter = Meter::start();
    plain.read(cells.div_ceil(CELLS - 1));
    ours.tell(&format!("collect of {cells} changed cells"), "cells", meter.stop(cells));
}

async fn merges() {
    let source = Kith::new();
    let inserts = source.versions(transactions(BATCH, insert)).await;
    let updates = source.versions(transactions(BATCH, update)).await;
    let (target, plain) = (Kith::new(), Plain::new());
    for (name, cells, versions, unit) in [
        ("merge of new rows", CELLS - 1, inserts, insert as Unit),
        ("merge of one fresh cell a row", 1, updates, update as Unit),
    ] {
        let meter = Meter::start();
        target.merge(versions).await;
        let ours = meter.stop(cells * ROWS);
        let work = transactions(10 * BATCH, unit);
        let meter = Meter::start();
        plain.run(&work);
        ours.tell(name, "cells", meter.stop(cells * ROWS));
    }
    // The same keys, written by another site before: every cell is contested.
    let other = Kith::new();
    other.run(transactions(BATCH, insert)).await;
    let rows = other.collect(Vector::default()).await;
    let meter = Meter::start();
    target.join(rows, other.heads()).await;
    let ours = meter.stop((CELLS - 1) * ROWS);
    let work = transactions(ROWS, upsert);
    let meter = Meter::start();
    plain.run(&work);
    ours.tell("merge of conflicting rows", "cells", meter.stop((CELLS - 1) * ROWS));
    after_a_purge(&source).await;
}

/// A deletion that is forgotten makes it be asked of each row whether it may be one of those.
async fn after_a_purge(source: &Kith) {
    let (target, plain) = (Kith::new(), Plain::new());
    plain.run(&transactions(BATCH, insert));
    target.join(source.collect(Vector::default()).await, source.heads()).await;
    target.forget_a_deletion().await;
    let updates = source.versions(transactions(BATCH, update)).await;
    let meter = Meter::start();
    target.merge(updates).await;
    let ours = meter.stop(ROWS);
    let work = transactions(10 * BATCH, update);
    let meter = Meter::start();
    plain.run(&work);
    ours.tell("merge of one fresh cell after a purge", "cells", meter.stop(ROWS));
}
