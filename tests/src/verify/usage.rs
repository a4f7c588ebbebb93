//! What a process uses while it is at work, and whether that grows (G13).

use std::fs;
use std::time::{Duration, Instant};

/// The first part of a run, in which caches fill.
const WARMING: Duration = Duration::from_secs(600);

/// Between two looks.
pub const EVERY: Duration = Duration::from_secs(5);

/// What a process held at some second, in MiB.
#[derive(Clone, Copy, Debug)]
struct Look {
    second: f64,
    resident: f64,
    /// Of that, what is not of a file: its own memory without the pages of its program that it happens to have read.
    anonymous: f64,
}

/// Looks at one process.
#[derive(Clone, Debug)]
pub struct Usage {
    began: Instant,
    looks: Vec<Look>,
    /// The most open files.
    pub files: usize,
    /// The most threads.
    pub threads: usize,
}

impl Default for Usage {
    fn default() -> Usage {
        Usage { began: Instant::now(), looks: Vec::new(), files: 0, threads: 0 }
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
        let held = (number("VmRSS:"), number("RssAnon:"), number("Threads:"));
        let (Some(resident), Some(anonymous), Some(threads)) = held else { return };
        let [resident, anonymous] = [resident, anonymous].map(|kilobytes| kilobytes as f64 / 1024.0);
        let files = fs::read_dir(format!("/proc/{id}/fd")).map_or(0, Iterator::count);
        self.looks.push(Look { second: self.began.elapsed().as_secs_f64(), resident, anonymous });
        self.files = self.files.max(files);
        self.threads = self.threads.max(threads);
    }

    /// The most resident memory, in MiB.
    #[must_use]
    pub fn peak(&self) -> f64 {
        self.looks.iter().map(|look| look.resident).fold(0.0, f64::max)
    }

    /// How resident memory grows once it is warm, in MiB an hour. None before there is enough to see.
    #[must_use]
    pub fn growth(&self) -> Option<f64> {
        self.slope(|look| look.resident)
    }

    /// The same of what is not of a file.
    #[must_use]
    pub fn anonymous_growth(&self) -> Option<f64> {
        self.slope(|look| look.anonymous)
    }

    /// The line of least squares.
    fn slope(&self, held: fn(&Look) -> f64) -> Option<f64> {
        let warm: Vec<_> = self.looks.iter().filter(|look| look.second > WARMING.as_secs_f64()).collect();
        let (first, last) = (warm.first()?.second, warm.last()?.second);
        if last - first < WARMING.as_secs_f64() {
            return None;
        }
        let count = warm.len() as f64;
        let mean = |of: fn(&Look) -> f64| warm.iter().map(|look| of(look)).sum::<f64>() / count;
        let (at, mean) = (mean(|look| look.second), mean(held));
        let covariance: f64 = warm.iter().map(|look| (look.second - at) * (held(look) - mean)).sum();
        let variance: f64 = warm.iter().map(|look| (look.second - at).powi(2)).sum();
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
            let look = |at| Look { second: at, resident: held(at), anonymous: 2.0 * held(at) };
            Usage { looks: (0..seconds).map(|at| look(f64::from(at))).collect(), ..Usage::default() }
        };
        assert_eq!(looks(1.0, 1_100).growth(), None);
        assert!((looks(2.5, 3_000).growth().unwrap() - 2.5).abs() < 1e-6);
        assert!((looks(2.5, 3_000).anonymous_growth().unwrap() - 5.0).abs() < 1e-6);
        assert!(looks(0.0, 3_000).growth().unwrap().abs() < 1e-6);
    }

    #[test]
    fn this_process_uses_something() {
        let mut usage = Usage::default();
        usage.look(std::process::id());
        assert!(usage.peak() > 1.0 && usage.files > 2 && usage.threads > 0, "{usage:?}");
    }
}
