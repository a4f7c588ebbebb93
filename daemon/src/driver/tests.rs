use std::collections::VecDeque;

use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::*;
use crate::retry::LONGEST;

/// Plans what the test has put in, and tells it of each pass and step.
struct Scripted {
    passes: VecDeque<Pass>,
    told: mpsc::UnboundedSender<(String, Instant)>,
}

enum Pass {
    Plan(&'static [&'static str]),
    Fails,
    Hangs,
    StepFails,
}

const PERIOD: Duration = Duration::from_secs(60);

impl Reconciler for Scripted {
    const NAME: &'static str = "scripted";
    type Observed = Pass;
    type Step = &'static str;

    async fn observe(&mut self, now: Now) -> Result<Pass, Error> {
        self.told.send(("observe".to_owned(), now.at)).unwrap();
        match self.passes.pop_front() {
            None => Ok(Pass::Plan(&[])),
            Some(Pass::Fails) => Err(failure("row")),
            Some(Pass::Hangs) => std::future::pending().await,
            Some(pass) => Ok(pass),
        }
    }

    fn plan(&self, observed: &Pass, _now: Now) -> Vec<&'static str> {
        match observed {
            Pass::Plan(steps) => steps.to_vec(),
            Pass::StepFails => vec!["fail", "never reached"],
            Pass::Fails | Pass::Hangs => Vec::new(),
        }
    }

    async fn apply(&mut self, step: &'static str, now: Now) -> Result<(), Error> {
        self.told.send((step.to_owned(), now.at)).unwrap();
        if step == "fail" { Err(failure("step")) } else { Ok(()) }
    }

    fn period(&self, _now: Now) -> Duration {
        PERIOD
    }

    fn detail(&self, _now: Now) -> Value {
        json!({ "left": self.passes.len() })
    }
}

fn failure(path: &str) -> Error {
    Error::File { path: path.into(), source: std::io::Error::other("gone") }
}

struct Running {
    told: mpsc::UnboundedReceiver<(String, Instant)>,
    wake: Wake,
    board: Board,
    token: CancellationToken,
    task: JoinSet<()>,
    begun: Instant,
}

fn run(passes: Vec<Pass>) -> Running {
    let (sender, told) = mpsc::unbounded_channel();
    let wake = Wake::default();
    let driver =
        Driver::new(Scripted { passes: passes.into(), told: sender }, Clock::system(), wake.clone(), Wake::default());
    let (token, mut task, board) = (CancellationToken::new(), JoinSet::new(), driver.board().1);
    task.spawn(driver.run(token.clone()));
    Running { told, wake, board, token, task, begun: Instant::now() }
}

impl Running {
    async fn next(&mut self) -> (String, Duration) {
        let (what, at) = self.told.recv().await.expect("it runs");
        (what, at - self.begun)
    }

    async fn end(mut self) {
        self.token.cancel();
        while let Some(ended) = self.task.join_next().await {
            ended.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_pass_is_made_at_once_on_each_wake_and_on_the_period() {
    let mut running = run(vec![Pass::Plan(&["one", "two"])]);
    for expected in ["observe", "one", "two"] {
        assert_eq!(running.next().await, (expected.to_owned(), Duration::ZERO));
    }
    assert_eq!(running.next().await, ("observe".to_owned(), PERIOD));
    let at = PERIOD + Duration::from_secs(7);
    tokio::time::advance(Duration::from_secs(7)).await;
    running.wake.poke();
    assert_eq!(running.next().await, ("observe".to_owned(), at));
    assert_eq!(running.next().await, ("observe".to_owned(), at + PERIOD));
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn many_wakes_during_a_pass_are_one_further_pass() {
    let mut running = run(Vec::new());
    for _ in 0..100 {
        running.wake.poke();
    }
    assert_eq!(running.next().await.1, Duration::ZERO);
    assert_eq!(running.next().await.1, Duration::ZERO);
    assert_eq!(running.next().await.1, PERIOD);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pass_that_fails_is_made_again_soon_and_shown() {
    let mut running = run(vec![Pass::Fails, Pass::StepFails]);
    assert_eq!(running.next().await.1, Duration::ZERO);
    let (_, second) = running.next().await;
    assert!(second > Duration::ZERO && second <= LONGEST, "{second:?}");
    assert_eq!(running.next().await.0, "fail");
    let (what, third) = running.next().await;
    assert_eq!(what, "observe", "the step after one that failed was applied");
    assert!(third - second <= LONGEST, "{third:?}");
    let (_, fourth) = running.next().await;
    assert_eq!(fourth - third, PERIOD);
    let status = running.board.read(Instant::now());
    assert_eq!(status.error, None);
    assert_eq!(status.last_error.map(|error| error.reason).as_deref(), Some("step: gone"));
    assert_eq!((status.last_plan, status.planned), (vec!["fail".to_owned(), "never reached".to_owned()], 2));
    assert_eq!(status.detail, json!({ "left": 0 }));
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pass_that_hangs_is_cut_off_before_it_counts_as_stuck() {
    let mut running = run(vec![Pass::Hangs]);
    assert_eq!(running.next().await.1, Duration::ZERO);
    let (_, again) = running.next().await;
    assert!(again > PASS && again <= PASS + LONGEST, "{again:?}");
    assert!(PASS < crate::beat::LIMIT);
    running.end().await;
}
