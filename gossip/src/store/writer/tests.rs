//! What cannot be provoked from outside: a panic in the hook, a full disk.

use std::sync::PoisonError;

use kith_gossip_proto::Value;
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::*;
use crate::store::commit::{Own, StoreState};
use crate::store::health::Health;
use crate::store::open::{StoreConfig, open};
use crate::store::statement::{Executed, Statement};
use crate::store::verify::{Indexes, verify};

fn core(dir: &TempDir) -> Core {
    let sql = "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a INTEGER, b BLOB)".to_owned();
    let schema = vec![SchemaSource { name: "test".to_owned(), sql }];
    let config = StoreConfig { path: dir.path().join("kith.db"), schema, durability: Durability::Full };
    let opened = open(&config).unwrap();
    let state = StoreState {
        purged: Arc::default(),
        site: opened.ledger.own(),
        boot: opened.began.boot,
        own: Own { head: opened.began.head, first: None },
        heads: Arc::clone(opened.ledger.sites.heads()),
        digests: opened.ledger.digests.clone(),
        hlc: opened.ledger.clock.last(),
        commits: 0,
        schema: opened.tables.hash(),
        set_aside: 0,
        renounced: 0,
    };
    let shared = Arc::new(Shared::new(state, Arc::clone(&opened.tables), Arc::new(Health::new(&config.path))));
    Core::new(opened, &config.path, config.durability, shared).unwrap()
}

fn execute(core: &mut Core, statements: &[Statement]) -> Result<Executed, ExecuteError> {
    let (reply, mut answer) = oneshot::channel();
    core.run_group(vec![Job::Execute { statements: statements.to_vec(), deadline: None, reply }]);
    answer.try_recv().unwrap()
}

fn insert(id: &str, size: usize) -> Statement {
    let values = [Value::text(id), Value::Blob(vec![0; size].into())];
    Statement::with("INSERT INTO t (id, b) VALUES (?, ?)", values)
}

fn is_sound(core: &Core) {
    let found = verify(&core.conn, Indexes::Checked).unwrap();
    assert!(found.wrong.is_empty(), "{:#?}", found.wrong);
    assert_eq!(found.digests, core.ledger.digests);
}

fn count(core: &Core) -> u64 {
    core.conn.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap().cast_unsigned()
}

#[test]
fn a_panic_in_the_hook_refuses_the_transaction_and_no_other() {
    let dir = TempDir::new().unwrap();
    let mut core = core(&dir);
    execute(&mut core, &[insert("a", 1)]).unwrap();
    core.capture.lock().unwrap_or_else(PoisonError::into_inner).panic_at = Some(1);
    let lost = execute(&mut core, &[insert("b", 1), insert("c", 1), insert("d", 1)]);
    assert!(matches!(lost, Err(ExecuteError::Failed(_))), "{lost:?}");
    assert_eq!(count(&core), 1);
    is_sound(&core);
    assert_eq!(execute(&mut core, &[insert("e", 1)]).unwrap().version, Some(2));
    is_sound(&core);
}

#[test]
fn a_full_disk_keeps_nothing_and_heals() {
    let dir = TempDir::new().unwrap();
    let mut core = core(&dir);
    let limit = |core: &Core, pages: u32| {
        let sql = format!("PRAGMA max_page_count = {pages}");
        core.conn.query_row(&sql, [], |row| row.get::<_, i64>(0)).unwrap();
    };
    let pages: u32 = core.conn.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    limit(&core, pages + 30);
    let answers: Vec<_> = (0..20).map(|n| execute(&mut core, &[insert(&format!("k{n}"), 20_000)])).collect();
    let kept = answers.iter().filter(|answer| answer.is_ok()).count() as u64;
    assert!(0 < kept && kept < 20, "{kept} of 20 were kept");
    assert!(answers.iter().all(|answer| answer.is_ok() || *answer == Err(ExecuteError::DiskFull)), "{answers:?}");
    assert_eq!(count(&core), kept);
    assert_eq!(core.shared.state().commits, kept);
    assert_eq!(core.ledger.version, kept);
    is_sound(&core);
    limit(&core, 100_000);
    assert_eq!(execute(&mut core, &[insert("space again", 20_000)]).unwrap().version, Some(kept + 1));
    is_sound(&core);
}

#[test]
fn a_clock_and_a_version_are_reserved_before_they_are_used() {
    let dir = TempDir::new().unwrap();
    let mut first = core(&dir);
    let version = execute(&mut first, &[insert("a", 1)]).unwrap().version.unwrap();
    let hlc = first.ledger.clock.last();
    assert!(first.reserved.0 >= version && first.reserved.1 > hlc);
    // Dropped without a clean end, as by a power cut that also takes the tail of the log.
    drop(first);
    let mut second = core(&dir);
    assert_eq!(second.ledger.sites.heads().head(second.ledger.own()), version, "it claims what is on disk");
    let next = execute(&mut second, &[insert("b", 1)]).unwrap().version.unwrap();
    assert_eq!(next, version + VERSIONS_AHEAD, "the rest of the block is skipped");
    assert!(second.ledger.clock.last() > hlc);
    is_sound(&second);
    let (sites, last) = (second.ledger.version, second.ledger.clock.last());
    second.finish();
    let third = core(&dir);
    assert_eq!((third.ledger.version, third.ledger.clock.last()), (sites, last), "a clean end leaves no hole");
}

#[test]
fn a_log_that_cannot_be_synced_ends_the_writer_before_anybody_is_told() {
    let dir = TempDir::new().unwrap();
    let mut core = core(&dir);
    core.durability = Durability::Normal;
    core.wal = dir.path().join("gone");
    let shared = Arc::clone(&core.shared);
    let (commands, queue) = mpsc::channel(4);
    core.sync_apart(commands.downgrade()).unwrap();
    let (reply, mut kept) = oneshot::channel();
    let job = Job::Execute { statements: vec![insert("a", 1)], deadline: None, reply };
    commands.blocking_send(Command::Job(job)).unwrap();
    let (reply, mut synced) = oneshot::channel();
    commands.blocking_send(Command::Job(Job::Apply { versions: Vec::new(), reply })).unwrap();
    core.work(queue);
    assert!(commands.is_closed(), "whoever holds the store sees that it has ended");
    assert_eq!(kept.try_recv().unwrap().unwrap().version, Some(1), "normal durability does not wait for the sync");
    assert!(synced.try_recv().is_err(), "whoever waits for a sync that failed gets no answer");
    assert_eq!(shared.state().commits, 0, "nobody was told of a commit that may be lost");
    is_sound(&self::core(&dir));
}

#[test]
fn commits_that_are_synced_apart_are_all_told_in_order_before_the_end() {
    let dir = TempDir::new().unwrap();
    let mut core = core(&dir);
    core.durability = Durability::Normal;
    let shared = Arc::clone(&core.shared);
    let mut told = shared.follow();
    let (commands, queue) = mpsc::channel(512);
    core.sync_apart(commands.downgrade()).unwrap();
    let mut answers = Vec::new();
    for n in 0..200 {
        let (reply, answer) = oneshot::channel();
        let job = Job::Execute { statements: vec![insert(&n.to_string(), 1)], deadline: None, reply };
        commands.blocking_send(Command::Job(job)).unwrap();
        answers.push(answer);
        // One group each.
        let nothing = Command::Migrate { sources: Vec::new(), kind: Migration::Kept, reply: oneshot::channel().0 };
        commands.blocking_send(nothing).unwrap();
    }
    commands.blocking_send(Command::Close).unwrap();
    core.work(queue);
    assert!(answers.iter_mut().all(|answer| answer.try_recv().unwrap().is_ok()));
    for number in 1..=200 {
        let commit = told.try_recv().unwrap();
        assert_eq!((commit.number, commit.versions[0].version), (number, number));
    }
    assert_eq!(shared.state().commits, 200);
}
