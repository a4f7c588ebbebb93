//! The restart policy and the order of stopping, on parts that are made of closures, in virtual time.

use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::*;

/// What happened, in order.
#[derive(Clone, Default)]
struct Diary(Arc<Mutex<Vec<String>>>);

impl Diary {
    fn note(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// How a run of a fake part ends.
#[derive(Clone, Copy)]
enum Act {
    RunUntilTold,
    EndAtOnce,
    Fail,
    Panic,
    IgnoreTheToken,
}

/// A part that does one act after the other, the last one for ever.
struct Fake {
    name: &'static str,
    acts: Vec<Act>,
    built: usize,
    diary: Diary,
    /// Told at each build.
    builds: mpsc::UnboundedSender<usize>,
}

fn fake(name: &'static str, acts: &[Act], diary: &Diary) -> (Box<dyn Part>, mpsc::UnboundedReceiver<usize>) {
    let (builds, told) = mpsc::unbounded_channel();
    (Box::new(Fake { name, acts: acts.to_vec(), built: 0, diary: diary.clone(), builds }), told)
}

impl Part for Fake {
    fn name(&self) -> &'static str {
        self.name
    }

    fn build(&mut self) -> BoxFuture<'_, Result<Built, Failure>> {
        let act = self.acts[self.built.min(self.acts.len() - 1)];
        self.built += 1;
        let (name, diary) = (self.name, self.diary.clone());
        // The test may have seen enough and be gone.
        self.builds.send(self.built).unwrap_or_default();
        let run = move |token: CancellationToken| {
            async move {
                match act {
                    Act::RunUntilTold => token.cancelled().await,
                    Act::IgnoreTheToken => std::future::pending().await,
                    Act::EndAtOnce => {}
                    Act::Fail => anyhow::bail!("no luck"),
                    Act::Panic => panic!("a fake part panics"),
                }
                diary.note(format!("{name} ended"));
                Ok(())
            }
            .boxed()
        };
        std::future::ready(Ok(Built { listens: vec![("fake", name.to_owned())], run: Box::new(run) })).boxed()
    }
}

/// Waits for the `n`th build.
async fn built(told: &mut mpsc::UnboundedReceiver<usize>, n: usize) {
    while told.recv().await.expect("the part is gone") < n {}
}

#[tokio::test(start_paused = true)]
async fn parts_stop_in_reverse_order_of_start() {
    let diary = Diary::default();
    let parts = ["gossip", "dns", "more"].map(|name| fake(name, &[Act::RunUntilTold], &diary).0);
    let agent = Agent::build(parts.into(), None).await.unwrap();
    assert_eq!(agent.listens().collect::<Vec<_>>(), [("fake", "gossip"), ("fake", "dns"), ("fake", "more")]);
    let token = CancellationToken::new();
    token.cancel();
    agent.run(token).await.unwrap();
    assert_eq!(diary.lines(), ["more ended", "dns ended", "gossip ended"]);
}

#[tokio::test(start_paused = true)]
async fn a_part_that_ends_fails_or_panics_is_started_again_while_the_others_go_on() {
    let diary = Diary::default();
    let (steady, mut steady_builds) = fake("steady", &[Act::RunUntilTold], &diary);
    let (flaky, mut flaky_builds) = fake("flaky", &[Act::Panic, Act::Fail, Act::EndAtOnce, Act::RunUntilTold], &diary);
    let agent = Agent::build(vec![steady, flaky], None).await.unwrap();
    let token = CancellationToken::new();
    let mut running = JoinSet::new();
    running.spawn(agent.run(token.clone()));
    built(&mut flaky_builds, 4).await;
    assert_eq!(diary.lines(), ["flaky ended"], "of three ends, one was in good order");
    assert_eq!(running.try_join_next().map(drop), None, "one part's failures are not the process's");
    token.cancel();
    running.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(diary.lines()[1..], ["flaky ended", "steady ended"]);
    assert_eq!((steady_builds.recv().await, steady_builds.recv().await), (Some(1), None));
}

#[tokio::test(start_paused = true)]
async fn parts_that_all_loop_end_the_process() {
    let diary = Diary::default();
    let parts = ["one", "other"].map(|name| fake(name, &[Act::Fail], &diary).0);
    let begun = Instant::now();
    let failure = Agent::build(parts.into(), None).await.unwrap().run(CancellationToken::new()).await.unwrap_err();
    assert_eq!(failure.exit(), Exit::Software);
    assert!(failure.chain().ends_with("failed 11 times in 60 s: no luck"), "{}", failure.chain());
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_part_that_loops_is_tried_now_and_then_while_another_runs() {
    let diary = Diary::default();
    let (looping, mut builds) = fake("looping", &[Act::Fail], &diary);
    let agent = Agent::build(vec![fake("steady", &[Act::RunUntilTold], &diary).0, looping], None).await.unwrap();
    let (token, begun) = (CancellationToken::new(), Instant::now());
    let mut running = JoinSet::new();
    running.spawn(agent.run(token.clone()));
    built(&mut builds, 30).await;
    assert!(begun.elapsed() > Duration::from_secs(300), "it does not spin: {:?}", begun.elapsed());
    token.cancel();
    running.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(diary.lines(), ["steady ended"]);
}

#[tokio::test(start_paused = true)]
async fn a_part_that_cannot_be_stopped_does_not_keep_the_others_from_it() {
    let diary = Diary::default();
    let parts = vec![fake("good", &[Act::RunUntilTold], &diary).0, fake("deaf", &[Act::IgnoreTheToken], &diary).0];
    let agent = Agent::build(parts, None).await.unwrap();
    let token = CancellationToken::new();
    token.cancel();
    let begun = Instant::now();
    let failure = agent.run(token).await.unwrap_err();
    assert_eq!((failure.exit(), failure.chain()), (Exit::Software, "deaf could not be stopped in time".to_owned()));
    assert!(begun.elapsed() <= STOP, "{:?}", begun.elapsed());
    assert_eq!(diary.lines(), ["good ended"]);
}

#[tokio::test(start_paused = true)]
async fn stopping_does_not_wait_for_a_part_that_is_about_to_be_started_again() {
    let diary = Diary::default();
    let (part, mut builds) = fake("flaky", &[Act::Fail], &diary);
    let agent = Agent::build(vec![part], None).await.unwrap();
    let token = CancellationToken::new();
    let mut running = JoinSet::new();
    running.spawn(agent.run(token.clone()));
    built(&mut builds, 6).await;
    token.cancel();
    let begun = Instant::now();
    running.join_next().await.unwrap().unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_millis(10), "{:?}", begun.elapsed());
}
