//! Time and memory of this process.

use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) struct Meter {
    wall: Instant,
    cpu: Duration,
}

/// What some work took.
#[derive(Clone, Copy)]
pub(crate) struct Reading {
    count: usize,
    wall: Duration,
    cpu: Duration,
}

impl Meter {
    pub(crate) fn start() -> Self {
        Self { wall: Instant::now(), cpu: cpu() }
    }

    pub(crate) fn stop(self, count: usize) -> Reading {
        Reading { count, wall: self.wall.elapsed(), cpu: cpu() - self.cpu }
    }
}

impl Reading {
    pub(crate) fn per_second(&self) -> f64 {
        self.count as f64 / self.wall.as_secs_f64()
    }

    /// Microseconds of CPU for each.
    pub(crate) fn cost(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.count as f64
    }

    /// One line: a rate by the clock, the rate that one core would reach alone, and both for plain SQLite.
    pub(crate) fn tell(&self, name: &str, what: &str, plain: Self) {
        println!(
            "{name:<42} {:>9.0} {what}/s, {:>6.2} µs of CPU; plain {:>9.0} {what}/s, {:>6.2} µs; {:>5.2} ×; {:.1} ms",
            self.per_second(),
            self.cost(),
            plain.per_second(),
            plain.cost(),
            self.cost() / plain.cost(),
            self.wall.as_secs_f64() * 1e3,
        );
    }
}

/// CPU time of all threads that live, to the nanosecond.
pub(crate) fn cpu() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let spent = |task: std::fs::DirEntry| -> Option<u64> {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    Duration::from_nanos(tasks.filter_map(Result::ok).filter_map(spent).sum())
}

/// A line of `/proc/self/status` in MiB, such as `VmRSS` or `VmHWM`.
pub(crate) fn memory(line: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let kib = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':')?.split_whitespace().next());
    kib.unwrap().parse::<f64>().unwrap() / 1024.0
}

/// Bytes of the database in this folder, its log aside.
pub(crate) fn size(folder: &Path) -> u64 {
    let of = |entry: std::fs::DirEntry| match entry.path().extension() {
        Some(db) if db == "db" => pages(&entry.path()),
        _ => 0,
    };
    std::fs::read_dir(folder).unwrap().filter_map(Result::ok).map(of).sum()
}

/// The log is counted where its pages will be: in the database.
fn pages(path: &Path) -> u64 {
    let conn = rusqlite::Connection::open(path).unwrap();
    let number = |sql| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap().cast_unsigned();
    number("PRAGMA page_count") * number("PRAGMA page_size")
}
