//! What a process costs, thread by thread, and which cores its threads may use: as Linux tells it in `/proc`.

use std::fs;
use std::io;
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::{Pid, gettid};

/// One thread of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    process: u32,
    id: u32,
    /// Its name, of which the kernel keeps 15 bytes.
    pub name: String,
}

/// All threads of a process.
///
/// # Errors
/// When it is not there.
pub fn tasks(process: u32) -> io::Result<Vec<Task>> {
    let mut tasks = Vec::new();
    for entry in fs::read_dir(format!("/proc/{process}/task"))? {
        let entry = entry?;
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that has ended meanwhile is none.
        if let Ok(name) = fs::read_to_string(entry.path().join("comm")) {
            tasks.push(Task { process, id, name: name.trim_end().to_owned() });
        }
    }
    Ok(tasks)
}

impl Task {
    /// The CPU time it has used.
    ///
    /// # Errors
    /// When it has ended.
    pub fn spent(&self) -> io::Result<Duration> {
        let text = fs::read_to_string(format!("/proc/{}/task/{}/schedstat", self.process, self.id))?;
        let nanos = text.split_whitespace().next().and_then(|word| word.parse().ok());
        nanos.map(Duration::from_nanos).ok_or_else(|| io::Error::other(format!("not a schedstat: {text}")))
    }

    /// Lets it run on these cores alone; what it starts from now on as well.
    ///
    /// # Errors
    /// When it has ended, or is somebody else's.
    pub fn pin(&self, cores: &[usize]) -> io::Result<()> {
        pin(Pid::from_raw(i32::try_from(self.id).map_err(io::Error::other)?), cores)
    }
}

/// The CPU time that a process has used.
///
/// # Errors
/// When it is not there.
pub fn spent(process: u32) -> io::Result<Duration> {
    tasks(process)?.iter().map(Task::spent).sum()
}

/// The bytes of a process that are in memory.
///
/// # Errors
/// When it is not there.
pub fn resident(process: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let kibibytes =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    kibibytes.map(|kibibytes: u64| kibibytes * 1024).ok_or_else(|| io::Error::other("no VmRSS"))
}

/// The cores of this machine, shared out: a worker that is measured and whoever asks it have one each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cores {
    /// For the worker alone.
    pub worker: usize,
    /// For the generator of the load.
    pub generator: usize,
    /// For everything else; on a machine of two cores that is the generator's, which goes before everything else there.
    pub rest: Vec<usize>,
}

impl Cores {
    /// Of those that this process may use.
    ///
    /// # Errors
    /// When there is only one.
    pub fn share_out() -> io::Result<Cores> {
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        let cores: Vec<_> = (0..CpuSet::count()).filter(|core| allowed.is_set(*core).unwrap_or(false)).collect();
        Cores::of(&cores).ok_or_else(|| io::Error::other("this machine has one core, and two are needed"))
    }

    fn of(cores: &[usize]) -> Option<Cores> {
        let [rest @ .., generator, worker] = cores else { return None };
        let rest = if rest.is_empty() { vec![*generator] } else { rest.to_vec() };
        Some(Cores { worker: *worker, generator: *generator, rest })
    }
}

/// Lets the calling thread run on these cores alone.
///
/// # Errors
/// When the system refuses.
pub fn pin_this_thread(cores: &[usize]) -> io::Result<()> {
    pin(Pid::from_raw(0), cores)
}

fn pin(thread: Pid, cores: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core)?;
    }
    Ok(sched_setaffinity(thread, &set)?)
}

/// Puts the calling thread before everything else on its core: who measures is not to be kept from looking at the clock.
/// It must sleep most of the time. Where that is not allowed it stays as it is, and what it measures is worse.
pub fn go_first() {
    let ended = std::process::Command::new("chrt").args(["--fifo", "--pid", "1", &gettid().to_string()]).status();
    if !ended.is_ok_and(|status| status.success()) {
        eprintln!("not allowed to go before others: pauses of the generator will be taken for the server's");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_thread_is_in_that_of_its_process() {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("costs".to_owned()).spawn(move || {
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                std::hint::spin_loop();
            }
        });
        let process = std::process::id();
        let begun = std::time::Instant::now();
        let spent_by_it = loop {
            let found = tasks(process).expect("we are here").into_iter().find(|task| task.name == "costs");
            let spent = found.map_or(Duration::ZERO, |task| task.spent().expect("it runs"));
            if spent > Duration::from_millis(20) {
                break spent;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "only {spent:?}");
        };
        assert!(spent(process).expect("we are here") >= spent_by_it);
        assert!(resident(process).expect("we are here") > 1 << 20);
        drop(stop);
        thread.expect("a thread").join().expect("it ends");
    }

    #[test]
    fn worker_and_generator_have_a_core_each() {
        let cores = |worker, generator, rest: &[usize]| Some(Cores { worker, generator, rest: rest.to_vec() });
        assert_eq!(Cores::of(&[0, 1, 2, 3]), cores(3, 2, &[0, 1]));
        assert_eq!(Cores::of(&[4, 6]), cores(6, 4, &[4]));
        assert_eq!(Cores::of(&[0]), None);
    }
}
