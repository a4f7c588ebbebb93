use std::path::Path;

use tokio::runtime::Handle;
use tokio::time::timeout;

use super::*;
use crate::supervise::Spawner;
use crate::supervise::machine::Phase;

/// For a busy machine.
const BOUND: Duration = Duration::from_secs(20);
const SOON: Stop = Stop { signal: Signal::Terminate, within: Duration::from_millis(100) };
const LATE: Stop = Stop { signal: Signal::Terminate, within: Duration::from_secs(3600) };

fn script(text: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(text);
    command
}

/// Runs a script, again and again if it ends, until a report fits.
async fn until(process: &mut Process, text: &str, fits: impl Fn(&Report) -> bool) -> Report {
    let wait = async {
        loop {
            match process.next().await {
                Event::Spawn => process.spawn(script(text)).await,
                Event::Report(report) if fits(&report) => return report,
                Event::Report(_) | Event::Reload(_) | Event::Namesake => {}
            }
        }
    };
    timeout(BOUND, wait).await.unwrap_or_else(|_| panic!("no such report within {BOUND:?}"))
}

async fn started(spawner: &Spawner, text: &str) -> Process {
    let mut process = Process::new("script", spawner.spawn());
    process.start();
    until(&mut process, text, |report| *report == Report::Running).await;
    process
}

/// Waits for the file by which a script says that its traps are set. Before that a signal ends it.
async fn is_there(file: &Path) {
    let written = async {
        while !file.exists() {
            tokio::task::yield_now().await;
        }
    };
    timeout(BOUND, written).await.expect("the script begins");
}

fn spawner() -> Spawner {
    Spawner::start(Handle::current(), "mark").unwrap()
}

#[tokio::test]
async fn one_that_is_killed_runs_again() {
    let spawner = spawner();
    let mut process = started(&spawner, "exec sleep 1000").await;
    let first = process.pid().unwrap();
    kill(Pid::from_raw(first), Unix::SIGKILL).unwrap();
    until(&mut process, "exec sleep 1000", |report| *report == Report::Running).await;
    assert_eq!(process.last_end().unwrap().to_string(), "SIGKILL");
    assert_ne!(process.pid(), Some(first));
}

#[tokio::test]
async fn one_that_ends_at_once_is_told_with_its_reason_in_one_line() {
    let spawner = spawner();
    let taken = "[1] 2026/11/27 14:33:32.1 [FTL] Error listening on port: 4222, in use";
    let text = format!("echo '{taken}'; echo '[1] 2026/11/27 14:33:32.2 [INF] bye' >&2; exit 1");
    let mut process = started(&spawner, &text).await;
    until(&mut process, &text, |report| matches!(report, Report::Failed { looping: false, .. })).await;
    assert_eq!(process.last_end().unwrap().to_string(), "exit code 1: Error listening on port: 4222, in use");
}

#[tokio::test]
async fn one_that_cannot_be_started_is_tried_again() {
    let spawner = spawner();
    let mut process = Process::new("absent", spawner.spawn());
    process.start();
    for _ in 0..3 {
        assert!(matches!(process.next().await, Event::Spawn));
        process.spawn(Command::new("/nonexistent/nats-server")).await;
        assert!(matches!(process.next().await, Event::Report(Report::Failed { .. })));
        let end = process.last_end().unwrap().to_string();
        assert!(end.starts_with("not started: it cannot be started: No such file"), "{end}");
    }
}

#[tokio::test]
async fn one_that_ignores_the_first_word_is_killed_at_its_deadline() {
    let spawner = spawner();
    let dir = tempfile::tempdir().unwrap();
    let ready = dir.path().join("ready");
    let text = format!("trap '' TERM; : > {}; while :; do sleep 1000; done", ready.display());
    let mut process = started(&spawner, &text).await;
    is_there(&ready).await;
    process.stop(SOON);
    until(&mut process, &text, |report| *report == Report::Stopped).await;
    assert_eq!(process.last_end().unwrap().how, "SIGKILL");
    assert_eq!(process.phase(), Phase::Stopped);
}

#[tokio::test]
async fn a_second_word_kills_at_once() {
    let spawner = spawner();
    let text = "trap '' TERM; while :; do sleep 1000; done";
    let mut process = started(&spawner, text).await;
    process.stop(LATE);
    process.stop(LATE);
    until(&mut process, text, |report| *report == Report::Stopped).await;
}

#[tokio::test]
async fn a_line_of_ten_megabytes_is_read_and_what_follows_too() {
    let spawner = spawner();
    let text = "head -c 10485760 /dev/zero | tr '\\0' x; echo; echo the last; exit 2";
    let mut process = started(&spawner, text).await;
    until(&mut process, text, |report| matches!(report, Report::Failed { .. })).await;
    assert_eq!(process.last_end().unwrap().to_string(), "exit code 2: the last");
}

#[tokio::test]
async fn what_it_has_started_does_not_outlive_it() {
    let spawner = spawner();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let text = format!("sleep 1000 & echo $! > {}; exit 3", file.display());
    let mut process = started(&spawner, &text).await;
    until(&mut process, &text, |report| matches!(report, Report::Failed { .. })).await;
    let pid: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let gone = async {
        // Whoever inherits it may be slow to reap it.
        while !matches!(state().rsplit(") ").next().and_then(|rest| rest.chars().next()), None | Some('Z')) {
            tokio::task::yield_now().await;
        }
    };
    timeout(BOUND, gone).await.unwrap_or_else(|_| panic!("it is still there: {}", state()));
}

#[tokio::test]
async fn all_end_with_the_thread_that_started_them() {
    let spawner = spawner();
    let mut process = started(&spawner, "exec sleep 1000").await;
    drop(spawner);
    until(&mut process, "true", |report| matches!(report, Report::Failed { .. })).await;
    assert_eq!(process.last_end().unwrap().how, "SIGKILL");
}

#[tokio::test]
async fn an_end_is_told_though_every_wait_for_its_last_words_is_dropped() {
    let spawner = spawner();
    let text = "sleep 1000 & exit 3";
    let mut process = started(&spawner, text).await;
    // As the runner does, to which something else happens meanwhile; the process that it leaves holds its output open.
    let told = async {
        loop {
            if let Ok(event) = timeout(LAST_WORDS / 4, process.next()).await {
                return event;
            }
        }
    };
    let event = timeout(BOUND, told).await.expect("it is told");
    assert!(matches!(event, Event::Report(Report::Failed { .. })), "{event:?}");
    assert_eq!(process.last_end().unwrap().to_string(), "exit code 3");
}

#[tokio::test]
async fn what_is_said_of_a_reload_is_told() {
    let spawner = spawner();
    let dir = tempfile::tempdir().unwrap();
    let ready = dir.path().join("ready");
    let text = format!(
        "trap 'echo \"[1] 2026/11/27 14:33:32.1 [INF] Reloaded server configuration\"' HUP; : > {}; while :; do sleep 0.01; done",
        ready.display()
    );
    let mut process = started(&spawner, &text).await;
    is_there(&ready).await;
    process.reload();
    let event = timeout(BOUND, process.next()).await.expect("it is told");
    assert!(matches!(event, Event::Reload(Ok(()))), "{event:?}");
}
