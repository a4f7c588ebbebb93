use super::*;

/// A container on a clock that the test turns, and what became of it: a line for each change of its verdict, with the
/// seconds since the start.
struct Story {
    health: Health,
    base: Instant,
    ms: u64,
    lines: Vec<String>,
    last: Option<(Status, String)>,
}

fn running(verdict: Option<DockerVerdict>) -> Run {
    Run::Running { started_ms: 1, verdict }
}

impl Story {
    fn of(check: Check, run: Run) -> Story {
        let base = Instant::now();
        let health = Health::new(check, run, Now { at: base, wall_ms: 0 });
        let mut story = Story { health, base, ms: 0, lines: Vec::new(), last: None };
        story.note();
        story
    }

    fn now(&self) -> Now {
        Now { at: self.base + Duration::from_millis(self.ms), wall_ms: i64::try_from(self.ms).unwrap() }
    }

    fn note(&mut self) {
        let verdict = self.health.verdict();
        let seen = (verdict.status, verdict.reason.clone());
        if self.last.as_ref() != Some(&seen) {
            let seconds = self.ms / 1000;
            let rest = self.ms % 1000;
            let line = format!("{seconds}.{rest:03} {} {} ({})", seen.0.word(), seen.1, verdict.failures);
            self.lines.push(line);
            self.last = Some(seen);
        }
    }

    /// Turns the clock to each probe that is due within `ms`, and lets it find this.
    fn probes(&mut self, ms: u64, found: Result<(), &str>) -> usize {
        let end = self.ms + ms;
        let mut count = 0;
        while let Some(due) = self.health.due() {
            let at = u64::try_from(due.saturating_duration_since(self.base).as_millis()).unwrap().max(self.ms);
            if at >= end {
                break;
            }
            self.ms = at;
            self.health.probed(found.map_err(str::to_owned), self.now());
            self.note();
            count += 1;
        }
        self.ms = end;
        count
    }

    fn observed(&mut self, run: Run) {
        let (check, now) = (self.health.check.clone(), self.now());
        self.health.observed(&check, run, now);
        self.note();
    }

    fn text(&self) -> String {
        self.lines.join("\n")
    }
}

const REFUSED: Result<(), &str> = Err("port 80: connection refused");

#[test]
fn docker_s_own_verdict_is_ours() {
    let mut story = Story::of(Check::Docker, running(Some(DockerVerdict::Starting)));
    for run in [
        running(Some(DockerVerdict::Healthy)),
        running(Some(DockerVerdict::Unhealthy)),
        running(Some(DockerVerdict::Healthy)),
        Run::Paused,
        running(Some(DockerVerdict::Healthy)),
        Run::Stopped,
    ] {
        story.ms += 1000;
        story.observed(run);
    }
    assert_eq!(story.health.due(), None);
    insta::assert_snapshot!(story.text(), @r"
    0.000 unhealthy starting (0)
    1.000 healthy  (0)
    2.000 unhealthy docker says so (0)
    3.000 healthy  (0)
    4.000 unhealthy paused (0)
    5.000 healthy  (0)
    6.000 unhealthy stopped (0)
    ");
}

#[test]
fn who_is_not_checked_is_healthy_while_it_runs() {
    let mut story = Story::of(Check::Running, running(None));
    story.observed(Run::Stopped);
    story.observed(Run::Running { started_ms: 2, verdict: None });
    insta::assert_snapshot!(story.text(), @r"
    0.000 healthy  (0)
    0.000 unhealthy stopped (0)
    0.000 healthy  (0)
    ");
}

#[test]
fn a_start_is_probed_every_250_ms_and_every_second_after_a_minute() {
    let mut story = Story::of(Check::Tcp(80), running(None));
    assert_eq!(story.probes(60_000, REFUSED), 240);
    assert_eq!(story.probes(10_000, REFUSED), 10);
    assert_eq!(story.probes(10_000, Ok(())), 2);
    insta::assert_snapshot!(story.text(), @r"
    0.000 unhealthy starting (0)
    70.000 healthy  (0)
    ");
}

#[test]
fn two_failures_degrade_three_take_out_and_two_successes_bring_back() {
    let mut story = Story::of(Check::Tcp(80), running(None));
    story.probes(250, REFUSED);
    story.probes(4_900, Ok(()));
    story.probes(5_000, REFUSED);
    story.probes(5_000, Ok(()));
    story.probes(20_000, REFUSED);
    story.probes(20_000, Ok(()));
    insta::assert_snapshot!(story.text(), @r"
    0.000 unhealthy starting (0)
    0.250 healthy  (0)
    5.250 degraded port 80: connection refused (1)
    10.250 healthy  (0)
    15.250 degraded port 80: connection refused (1)
    25.250 unhealthy port 80: connection refused (3)
    35.250 unhealthy recovering (4)
    36.250 healthy  (0)
    ");
}

#[test]
fn each_flap_in_10_minutes_doubles_what_brings_it_back_up_to_16() {
    let mut story = Story::of(Check::Http { port: 80, path: "/".to_owned() }, running(None));
    let mut recovered = Vec::new();
    let mut flap = |story: &mut Story| {
        while story.health.verdict().status != Status::Unhealthy {
            story.probes(1_000, REFUSED);
        }
        let mut successes = 0;
        while story.health.verdict().status != Status::Healthy {
            successes += story.probes(1_000, Ok(()));
        }
        recovered.push(successes);
    };
    story.probes(1_000, Ok(()));
    for _ in 0..6 {
        flap(&mut story);
    }
    story.probes(600_000, Ok(()));
    flap(&mut story);
    assert_eq!(recovered, [2, 4, 8, 16, 16, 16, 2]);
}

#[test]
fn an_hour_old_container_that_fails_one_check_comes_back_with_the_next() {
    let mut story = Story::of(Check::Tcp(80), running(None));
    story.probes(3_600_000, Ok(()));
    story.probes(5_000, REFUSED);
    story.probes(5_000, Ok(()));
    insta::assert_snapshot!(story.text(), @r"
    0.000 unhealthy starting (0)
    0.000 healthy  (0)
    3600.000 degraded port 80: connection refused (1)
    3605.000 healthy  (0)
    ");
}

#[test]
fn while_docker_is_silent_its_word_is_unknown_after_three_tries_and_probes_go_on() {
    let mut docker = Story::of(Check::Docker, running(Some(DockerVerdict::Healthy)));
    let mut runs = Story::of(Check::Running, running(None));
    let mut stopped = Story::of(Check::Running, Run::Stopped);
    let mut probed = Story::of(Check::Tcp(80), running(None));
    probed.probes(1_000, Ok(()));
    for _ in 0..5 {
        for story in [&mut docker, &mut runs, &mut stopped, &mut probed] {
            story.ms += 1000;
            story.health.unanswered();
            story.note();
        }
    }
    probed.probes(15_000, REFUSED);
    docker.observed(running(Some(DockerVerdict::Healthy)));
    insta::assert_snapshot!(docker.text(), @r"
    0.000 healthy  (0)
    3.000 unknown docker does not answer (0)
    5.000 healthy  (0)
    ");
    insta::assert_snapshot!(runs.text(), @r"
    0.000 healthy  (0)
    3.000 unknown docker does not answer (0)
    ");
    insta::assert_snapshot!(stopped.text(), @"0.000 unhealthy stopped (0)");
    insta::assert_snapshot!(probed.text(), @r"
    0.000 unhealthy starting (0)
    0.000 healthy  (0)
    6.000 degraded port 80: connection refused (1)
    16.000 unhealthy port 80: connection refused (3)
    ");
}

#[test]
fn a_container_that_is_started_again_starts_anew() {
    let mut story = Story::of(Check::Tcp(80), running(None));
    story.probes(1_000, Ok(()));
    story.observed(Run::Stopped);
    assert_eq!(story.health.due(), None, "nobody probes what does not run");
    story.observed(Run::Running { started_ms: 2, verdict: None });
    story.probes(1_000, REFUSED);
    story.probes(1_000, Ok(()));
    insta::assert_snapshot!(story.text(), @r"
    0.000 unhealthy starting (0)
    0.000 healthy  (0)
    1.000 unhealthy stopped (0)
    1.000 unhealthy starting (0)
    2.000 healthy  (0)
    ");
}
