//! What a process uses while it is at work, and whether that grows (G13).

use std::fs;
use std::time::{Duration, Instant};

/// The first part of a run, in which caches fill.
const WARMING: Duration = Duration::from_secs(600);

/// Between two looks.
pub const EVERY: Duration = Duration::from_secs(5);

/// Looks at one process.
#[derive(Clone, Debug)]
pub struct Usage {
    began: Instant,
    /// Seconds, and resident memory in MiB.
    memory: Vec<(f64, f64)>,
    /// The most open files.
    pub files: usize,
    /// The most threads.
    pub threads: usize,
}

impl Default for Usage {
    fn default() -> Usage {
        Usage { began: Instant::now(), memory: Vec::new(), files: 0, threads: 0 }
    }
}

impl Usage {
    /// Looks at the process with this id. One that is gone is not counted.
    pub fn look(&mut self, id: u32) {
        let Ok(status) = fs::read_to_string(format!("/proc/{id}/status")) else { return };
        let number = |key: &str| -> Option<usize> {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.trim().trim_end_matches(" kB").parse().ok()
        };
        let (Some(kilobytes), Some(threads)) = (number("VmRSS:"), number("Threads:")) else { return };
        let files = fs::read_dir(format!("/proc/{id}/fd")).map_or(0, Iterator::count);
        self.memory.push((self.began.elapsed().as_secs_f64(), kilobytes as f64 / 1024.0));
        self.files = self.files.max(files);
        self.threads = self.threads.max(threads);
    }

    /// The most resident memory, in MiB.
    #[must_use]
    pub fn peak(&self) -> f64 {
        self.memory.iter().map(|(_, mebibytes)| *mebibytes).fold(0.0, f64::max)
    }

    /// How resident memory grows once it is warm, in MiB an hour: the line of least squares. None before there is enough to see.
    #[must_use]
    pub fn growth(&self) -> Option<f64> {
        let warm: Vec<_> = self.memory.iter().filter(|(at, _)| *at > WARMING.as_secs_f64()).collect();
        let (first, last) = (warm.first()?.0, warm.last()?.0);
        if last - first < WARMING.as_secs_f64() {
            return None;
        }
        let count = warm.len() as f64;
        let mean = |of: fn(&(f64, f64)) -> f64| warm.iter().map(|look| of(look)).sum::<f64>() / count;
        let (at, held) = (mean(|look| look.0), mean(|look| look.1));
        let covariance: f64 = warm.iter().map(|look| (look.0 - at) * (look.1 - held)).sum();
        let variance: f64 = warm.iter().map(|look| (look.0 - at).powi(2)).sum();
        Some(covariance / variance * 3_600.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_that_of_the_time_after_warming() {
        let looks = |hourly: f64, seconds: u32| {
            let held = |at: f64| if at < 600.0 { at } else { 700.0 + hourly * at / 3_600.0 };
            Usage { memory: (0..seconds).map(|at| (f64::from(at), held(f64::from(at)))).collect(), ..Usage::default() }
        };
        assert_eq!(looks(1.0, 1_100).growth(), None);
        assert!((looks(2.5, 3_000).growth().unwrap() - 2.5).abs() < 1e-6);
        assert!(looks(0.0, 3_000).growth().unwrap().abs() < 1e-6);
    }

    #[test]
    fn this_process_uses_something() {
        let mut usage = Usage::default();
        usage.look(std::process::id());
        assert!(usage.peak() > 1.0 && usage.files > 2 && usage.threads > 0, "{usage:?}");
    }
}
