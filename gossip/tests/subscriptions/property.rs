//! The property: the rows and all changes after them, replayed, are the query's answer after every commit, whoever wrote
//! it, for any query, across re-attachments.

use kith_gossip::store::{SchemaSource, Statement, Store};
use kith_gossip_proto::Version;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::TryRecvError;

use super::history::{Op, SCHEMA, Step, migrated, step};
use super::query::{join, query};
use super::replay::{Replay, Setup, answer};

/// The other node: a store whose versions and rows come here.
struct Other {
    setup: Setup,
    commits: broadcast::Receiver<std::sync::Arc<kith_gossip::store::Commit>>,
    kept_back: Vec<Version>,
}

impl Other {
    async fn new() -> Self {
        let setup = Setup::new(SCHEMA).await;
        let commits = setup.store.commits();
        Self { setup, commits, kept_back: Vec::new() }
    }

    fn keep_back(&mut self) {
        loop {
            match self.commits.try_recv() {
                Ok(commit) => self.kept_back.extend(commit.versions.iter().map(|version| Version::clone(version))),
                Err(TryRecvError::Empty) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

async fn run(store: &Store, ops: &[Op]) {
    let done = store.execute(ops.iter().map(Op::statement).collect(), None).await;
    done.unwrap_or_else(|error| panic!("{ops:?}: {error}"));
}

async fn pull(from: &Store, into: &Store) {
    let mut collected = from.collect(kith_gossip_proto::Vector::clone(&into.state().heads)).await.unwrap();
    let mut rows = Vec::new();
    while let Some(part) = collected.rows.recv().await {
        rows.extend(part.unwrap());
    }
    into.join(rows, collected.heads).await.unwrap();
}

async fn migrate(store: &Store) {
    store.migrate(vec![SchemaSource { name: "test".to_owned(), sql: migrated() }]).await.unwrap();
}

async fn replay_is_the_answer(queries: Vec<Statement>, history: Vec<(Step, u8)>) {
    let setup = Setup::new(SCHEMA).await;
    let mut other = Other::new().await;
    let mut replays = Vec::new();
    for statement in queries {
        replays.push(Replay::begin(&setup.subscriptions, statement).await);
    }
    for (at, (step, again)) in history.into_iter().enumerate() {
        match &step {
            Step::Here(ops) => run(&setup.store, ops).await,
            Step::There(ops) => run(&other.setup.store, ops).await,
            Step::Push => {
                other.keep_back();
                setup.store.apply(std::mem::take(&mut other.kept_back)).await.unwrap();
            }
            Step::Pull => pull(&other.setup.store, &setup.store).await,
            Step::Back => pull(&setup.store, &other.setup.store).await,
            Step::Migrate => migrate(&setup.store).await,
            Step::MigrateThere => migrate(&other.setup.store).await,
        }
        for (position, replay) in replays.iter_mut().enumerate() {
            if matches!(step, Step::Migrate) {
                replay.migrated(&setup).await;
            }
            if (at + position) % 7 == usize::from(again) {
                replay.again(&setup.subscriptions).await;
            }
            replay.until(&answer(&setup.store, replay.statement.clone()).await).await;
        }
    }
    for replay in &mut replays {
        // Who comes now sees the same rows under the same ids. Events may be on their way that change no visible cell: a
        // row that went and another that came with the same cells.
        let fresh = Replay::begin(&setup.subscriptions, replay.statement.clone()).await;
        while replay.last < fresh.last {
            replay.read().await;
        }
        assert_eq!((&fresh.rows, fresh.last), (&replay.rows, replay.last), "{:?}", replay.statement);
    }
    other.setup.end().await;
    setup.end().await;
}

/// Some for every run of the tests, more for who asks.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(32)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        // A replay that is wrong is seen by waiting in vain for the right one, so each try to shrink takes its time.
        max_shrink_time: 120_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/subscriptions/failed.txt"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_replay_of_events_is_the_answer(
        queries in proptest::collection::vec(query(), 1..12),
        history in proptest::collection::vec((step(), 0..7u8), 1..20),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(replay_is_the_answer(queries, history));
    }

    #[test]
    fn a_replay_of_a_join_is_the_answer(
        queries in proptest::collection::vec(join(), 1..8),
        history in proptest::collection::vec((step(), 0..7u8), 1..20),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(replay_is_the_answer(queries, history));
    }
}
