use proptest::prelude::*;

use super::*;
use crate::retry::{FIRST, LONGEST};

const DRAIN: Stop = Stop { signal: Signal::Drain, within: Duration::from_secs(45) };
const TERM: Stop = Stop { signal: Signal::Terminate, within: Duration::from_secs(45) };

fn seconds(number: u64) -> Time {
    Duration::from_secs(number)
}

fn running() -> Machine {
    let mut machine = Machine::new();
    assert_eq!(machine.handle(&Input::Start, seconds(0)), [Output::Unschedule, Output::Spawn]);
    let outputs = machine.handle(&Input::Spawned, seconds(0));
    assert_eq!(outputs, [Output::Schedule(STABLE), Output::Report(Report::Running)]);
    machine
}

fn delay(outputs: &[Output]) -> Option<Duration> {
    outputs.iter().find_map(|output| match output {
        Output::Schedule(delay) => Some(*delay),
        _ => None,
    })
}

#[test]
fn one_that_is_killed_is_back_at_once_and_one_that_ends_at_once_is_left_alone_more_and_more() {
    let mut machine = running();
    let mut now = seconds(0);
    let mut delays = Vec::new();
    for _ in 0..LOOPING + 2 {
        let outputs = machine.handle(&Input::Exited, now);
        let after = delay(&outputs).expect("it is started again");
        delays.push(after);
        now += after;
        assert!(machine.handle(&Input::Timer, now).contains(&Output::Spawn));
        machine.handle(&Input::Spawned, now);
    }
    assert!(delays[0] <= FIRST * 2, "{delays:?}");
    let quick = &delays[..LOOPING as usize - 1];
    assert!(quick.iter().all(|delay| *delay <= LONGEST), "{delays:?}");
    assert!(quick.iter().sum::<Duration>() < seconds(20), "{delays:?}");
    assert!(delays[LOOPING as usize - 1..].iter().all(|delay| *delay == SLOW), "{delays:?}");
    assert!(machine.is_looping());

    assert_eq!(machine.handle(&Input::Timer, now + STABLE), [Output::Report(Report::Well)]);
    assert!(!machine.is_looping());
    let after = delay(&machine.handle(&Input::Exited, now + STABLE)).unwrap();
    assert!(after <= FIRST * 2, "{after:?}");
}

#[test]
fn one_that_ran_for_a_stable_minute_has_no_past() {
    let mut machine = running();
    for hour in 1..100 {
        let outputs = machine.handle(&Input::Exited, seconds(3600 * hour));
        assert!(delay(&outputs).unwrap() <= FIRST * 2, "{outputs:?}");
        machine.handle(&Input::Timer, seconds(3600 * hour));
        machine.handle(&Input::Spawned, seconds(3600 * hour));
    }
}

#[test]
fn it_is_asked_to_end_then_killed() {
    let mut machine = running();
    let outputs = machine.handle(&Input::StopRequested(DRAIN), seconds(1));
    let asked =
        [Output::Schedule(DRAIN.within), Output::Signal(Signal::Drain), Output::Report(Report::Ending(Signal::Drain))];
    assert_eq!(outputs, asked);
    let killed = [Output::Signal(Signal::Kill), Output::Report(Report::Killed)];
    assert_eq!(machine.handle(&Input::Timer, seconds(46)), killed);
    assert_eq!(machine.handle(&Input::Exited, seconds(46)), [Output::Unschedule, Output::Report(Report::Stopped)]);
    assert_eq!(machine.handle(&Input::Start, seconds(47)), [], "it stays so");
}

#[test]
fn a_second_word_kills_at_once() {
    let mut machine = running();
    machine.handle(&Input::StopRequested(TERM), seconds(1));
    let outputs = machine.handle(&Input::StopRequested(TERM), seconds(2));
    assert!(outputs.contains(&Output::Signal(Signal::Kill)), "{outputs:?}");
}

#[test]
fn a_restart_is_no_failure_and_a_stop_during_it_is_a_stop() {
    let mut machine = running();
    machine.handle(&Input::RestartRequested(DRAIN), seconds(1));
    let outputs = machine.handle(&Input::Exited, seconds(2));
    assert_eq!(outputs, [Output::Report(Report::Restarting), Output::Unschedule, Output::Spawn]);
    machine.handle(&Input::Spawned, seconds(2));
    machine.handle(&Input::RestartRequested(DRAIN), seconds(3));
    let outputs = machine.handle(&Input::StopRequested(TERM), seconds(4));
    assert!(outputs.contains(&Output::Signal(Signal::Terminate)), "{outputs:?}");
    assert_eq!(machine.handle(&Input::Exited, seconds(5)), [Output::Unschedule, Output::Report(Report::Stopped)]);
}

#[test]
fn one_that_hangs_is_killed_and_started_again() {
    let mut machine = running();
    assert!(machine.handle(&Input::Hung, seconds(30)).contains(&Output::Signal(Signal::Kill)));
    let outputs = machine.handle(&Input::Exited, seconds(30));
    assert!(matches!(outputs[..], [Output::Schedule(_), Output::Report(Report::Failed { looping: false, .. })]));
}

#[test]
fn told_to_stop_while_it_starts_it_is_gone_as_soon_as_it_is_there() {
    let mut machine = Machine::new();
    machine.handle(&Input::Start, seconds(0));
    assert_eq!(machine.handle(&Input::StopRequested(TERM), seconds(0)), []);
    assert!(machine.handle(&Input::Spawned, seconds(0)).contains(&Output::Signal(Signal::Kill)));
    machine.handle(&Input::Exited, seconds(0));
    assert_eq!(machine.phase(), Phase::Stopped);
}

/// The world around the machine: it answers spawns, lets processes end, and lets time pass to what is due.
#[derive(Debug, Default)]
struct World {
    now: Time,
    /// Whether a spawn was asked for and not answered yet.
    spawning: bool,
    alive: bool,
    due: Option<Time>,
    stop: bool,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Spawned,
    NotSpawned,
    Exit,
    Due,
    Pass(u64),
    Stop(Stop),
    Restart(Stop),
    Hung,
    Start,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Spawned),
        1 => Just(Step::NotSpawned),
        3 => Just(Step::Exit),
        4 => Just(Step::Due),
        1 => (0..200_u64).prop_map(Step::Pass),
        1 => Just(Step::Stop(DRAIN)),
        1 => Just(Step::Restart(TERM)),
        1 => Just(Step::Hung),
        1 => Just(Step::Start),
    ]
}

impl World {
    /// What the machine is told, if the step can happen.
    fn input(&mut self, step: Step) -> Option<Input> {
        match step {
            Step::Spawned if self.spawning => {
                (self.spawning, self.alive) = (false, true);
                Some(Input::Spawned)
            }
            Step::NotSpawned if self.spawning => {
                self.spawning = false;
                Some(Input::NotSpawned)
            }
            Step::Exit if self.alive => {
                self.alive = false;
                Some(Input::Exited)
            }
            Step::Due => {
                self.now = self.due.take()?;
                Some(Input::Timer)
            }
            Step::Pass(seconds) => {
                let later = self.now + Duration::from_secs(seconds);
                self.now = self.due.map_or(later, |due| later.min(due));
                None
            }
            Step::Stop(stop) => {
                self.stop = true;
                Some(Input::StopRequested(stop))
            }
            Step::Restart(stop) => Some(Input::RestartRequested(stop)),
            Step::Hung => Some(Input::Hung),
            Step::Start => Some(Input::Start),
            Step::Spawned | Step::NotSpawned | Step::Exit => None,
        }
    }

    fn take(&mut self, output: &Output) -> Result<(), TestCaseError> {
        match output {
            Output::Spawn => {
                prop_assert!(!self.alive && !self.spawning, "two at once");
                prop_assert!(!self.stop, "started though it was to stop");
                self.spawning = true;
            }
            Output::Signal(_) => prop_assert!(self.alive, "a signal to nobody"),
            Output::Schedule(after) => {
                prop_assert!(*after >= FIRST / 2 && *after <= STABLE, "{after:?}");
                self.due = Some(self.now + *after);
            }
            Output::Unschedule => self.due = None,
            Output::Report(_) => {}
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn there_is_never_a_second_process_nor_a_standstill(steps in prop::collection::vec(step(), 1..200)) {
        let (mut machine, mut world) = (Machine::new(), World::default());
        for step in std::iter::once(Step::Start).chain(steps) {
            if let Some(input) = world.input(step) {
                for output in machine.handle(&input, world.now) {
                    world.take(&output)?;
                }
            }
            match machine.phase() {
                Phase::Starting(_) => prop_assert!(world.spawning),
                Phase::Running(_) | Phase::Ending(_) => prop_assert!(world.alive),
                Phase::Waiting => prop_assert!(world.due.is_some(), "nothing would ever start it again"),
                Phase::Idle | Phase::Stopped => prop_assert!(!world.alive && !world.spawning),
            }
        }
    }

    #[test]
    fn whoever_is_told_to_stop_is_gone_by_its_deadline(steps in prop::collection::vec(step(), 0..60)) {
        let (mut machine, mut world) = (Machine::new(), World::default());
        let end = [Step::Stop(TERM), Step::Spawned, Step::Due, Step::Exit, Step::Exit];
        for step in std::iter::once(Step::Start).chain(steps).chain(end) {
            if let Some(input) = world.input(step) {
                for output in machine.handle(&input, world.now) {
                    world.take(&output)?;
                }
            }
        }
        prop_assert_eq!(machine.phase(), Phase::Stopped);
        prop_assert!(world.due.is_none());
    }
}
