//! What is kept running beside nats-server: an exporter of figures, say. It has no configuration of ours, and nobody asks it how it is.

use std::time::Duration;

use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::board::Board;
use crate::config::Extra;
use crate::status::Phase;
use crate::supervise::{Event, Process, Report, Signal, Stop};

/// How long it may take to end.
const END: Stop = Stop { signal: Signal::Terminate, within: Duration::from_secs(10) };

/// Keeps it running until the token is cancelled and it has ended.
pub(crate) async fn keep(extra: Extra, mut process: Process, board: Board, token: CancellationToken) {
    process.start();
    let mut told = false;
    loop {
        // The process keeps its events.
        tokio::select! {
            event = process.next() => match event {
                Event::Spawn => process.spawn(command(&extra)).await,
                Event::Report(report) => {
                    tell(&extra, &process, &report, &board);
                    if report == Report::Stopped {
                        return;
                    }
                }
                Event::Reload(_) | Event::Namesake => {}
            },
            () = token.cancelled(), if !told => {
                told = true;
                process.stop(END);
            }
        }
    }
}

fn command(extra: &Extra) -> Command {
    let mut words = extra.command.iter();
    let mut command = Command::new(words.next().map_or("", String::as_str));
    command.args(words);
    command
}

fn tell(extra: &Extra, process: &Process, report: &Report, board: &Board) {
    let end = process.last_end().map(ToString::to_string);
    let phase = match report {
        Report::Running | Report::Well => Phase::Running,
        Report::Failed { delay, looping, .. } => {
            tracing::error!(process = extra.name, end, ?delay, looping, "process ended, starting it again");
            if *looping { Phase::CrashLooping } else { Phase::Restarting }
        }
        Report::Ending(_) | Report::Killed => Phase::Ending,
        Report::Restarting => Phase::Restarting,
        Report::Stopped => Phase::Stopped,
    };
    board.write(|status| {
        for beside in status.processes.iter_mut().filter(|beside| beside.name == extra.name) {
            beside.restarts += u64::from(matches!(report, Report::Failed { .. }));
            (beside.phase, beside.last_end) = (phase, end.clone());
        }
    });
}
