//! How the host is: load, pressure, space on the store's disk.

use std::num::NonZeroUsize;
use std::path::Path;
use std::thread::available_parallelism;

use nix::sys::statvfs::statvfs;
use tokio::fs;

use super::check::Found;
use crate::blocking::blocking;

/// Load for each processor above which something is wrong, over one, five and fifteen minutes. Inherited: a peak may be high, what lasts may not.
const LOAD: [f64; 3] = [10.0, 4.0, 2.0];
/// Of the last minute, how many seconds something waited: half.
const PRESSURE: f64 = 30.0;
/// Of the store's disk, how much is to be free at least: JetStream refuses to write when it is full, and takes its time to say so.
const FREE: f64 = 10.0;

/// `/proc/loadavg`, for each processor.
pub(super) async fn load() -> Found {
    let text = fs::read_to_string("/proc/loadavg").await.map_err(|error| error.to_string())?;
    let cores = available_parallelism().map_or(1, NonZeroUsize::get);
    judge_load(&text, cores)
}

fn judge_load(text: &str, cores: usize) -> Found {
    let averages: Vec<f64> = text.split_whitespace().take(3).map_while(|number| number.parse().ok()).collect();
    let [one, five, fifteen] = averages[..] else { return Err(format!("`{}` says no load", text.trim())) };
    let said = format!("load averages: {one:.2} {five:.2} {fifteen:.2}, of {cores} processors");
    #[allow(clippy::cast_precision_loss, reason = "there are not that many processors")]
    let cores = cores as f64;
    let is_high = averages.iter().zip(LOAD).any(|(load, most)| load / cores > most);
    if is_high { Err(said) } else { Ok(said) }
}

/// How long tasks waited for `resource` (cpu, memory, io).
pub(super) async fn pressure(resource: &'static str) -> Found {
    match fs::read_to_string(format!("/proc/pressure/{resource}")).await {
        Ok(text) => judge_pressure(&text, resource),
        // A kernel that does not count it is not a host that is unwell.
        Err(error) => Ok(format!("not counted here: {error}")),
    }
}

fn judge_pressure(text: &str, resource: &str) -> Found {
    let some = text.lines().find_map(|line| line.strip_prefix("some "));
    let average = some.and_then(|line| line.split_whitespace().find_map(|word| word.strip_prefix("avg60=")));
    let Some(percent) = average.and_then(|number| number.parse::<f64>().ok()) else {
        return Err(format!("`{}` says no pressure", text.lines().next().unwrap_or_default()));
    };
    let waited = percent * 60.0 / 100.0;
    let said = format!("system spent {waited:.1}s of the last 60s waiting on {resource}");
    if waited > PRESSURE { Err(said) } else { Ok(said) }
}

/// How much of the disk below `folder` is free.
pub(super) async fn disk(folder: &Path) -> Found {
    // A network disk that is gone holds the thread that asks.
    let owned = folder.to_owned();
    let found = blocking(move || statvfs(&owned)).await.map_err(|error| format!("{}: {error}", folder.display()))?;
    let block = found.fragment_size();
    judge_disk(found.blocks_available() * block, found.blocks() * block, folder)
}

fn judge_disk(free: u64, whole: u64, folder: &Path) -> Found {
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    let (free, whole) = (free as f64, whole as f64);
    let percent = if whole > 0.0 { free / whole * 100.0 } else { 0.0 };
    let said = format!("{:.2} GB ({percent:.1}%) free space on {}", free / 1e9, folder.display());
    if percent < FREE { Err(said) } else { Ok(said) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_judged_for_each_processor() {
        let said = |text: &str, cores| judge_load(text, cores);
        assert!(said("0.50 0.40 0.30 1/300 12345\n", 2).is_ok());
        assert!(said("19.0 7.0 3.9 1/300 12345\n", 2).is_ok());
        for high in ["20.1 1 1", "1 8.1 1", "1 1 4.1"] {
            assert!(said(high, 2).is_err(), "{high}");
        }
        assert!(said("", 2).is_err() && said("a b c", 2).is_err());
    }

    #[test]
    fn pressure_is_told_in_seconds_of_a_minute() {
        let text = "some avg10=0.00 avg60=2.00 avg300=0.10 total=1\nfull avg10=0.00 avg60=90.00 avg300=0.00 total=1\n";
        assert_eq!(judge_pressure(text, "io"), Ok("system spent 1.2s of the last 60s waiting on io".to_owned()));
        assert!(judge_pressure(&text.replace("avg60=2.00", "avg60=50.10"), "io").is_err());
        assert!(judge_pressure("", "io").is_err());
    }

    #[test]
    fn a_disk_with_a_tenth_free_is_well() {
        let said = |free| judge_disk(free, 1000, Path::new("/nats-store"));
        assert_eq!(said(100), Ok("0.00 GB (10.0%) free space on /nats-store".to_owned()));
        assert!(said(99).is_err());
        assert!(judge_disk(0, 0, Path::new("/proc")).is_err());
    }
}
