//! Stores that exchange versions and answers in any order: what they show is always the fold of whole transactions.
//!
//! Two tables. The rows of `pack` are only written together, every time with a number of its own (G3): a reader who sees
//! two numbers sees a torn transaction. The rows of `free` always have all columns: one that lacks some is half a row.

use std::collections::{BTreeMap, BTreeSet};

use kith_gossip_proto::frame::PulledRow;
use kith_gossip_proto::model::{Answer, RowId, Statement, Store, fold};
use kith_gossip_proto::version::Life;
use kith_gossip_proto::{Change, Key, Name, Row, Value, Vector, Version};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::arbitrary::site_id;

const SITES: u8 = 3;
const COLUMNS: [&str; 2] = ["a", "b"];

fn id(table: &str, n: i64) -> RowId {
    (table.into(), Key::encode([&Value::Integer(n)]).unwrap())
}

fn columns(value: i64) -> BTreeMap<Name, Value> {
    COLUMNS.into_iter().map(|name| (name.into(), Value::Integer(value))).collect()
}

fn pack(each: impl Fn(RowId) -> Statement) -> Vec<Statement> {
    (0..3).map(|n| each(id("pack", n))).collect()
}

/// What a transaction does. Numbers for `pack` are given out when it runs, so that each is used once.
#[derive(Clone, Debug)]
enum Local {
    PackPut,
    PackUpdate,
    PackDelete,
    Free(Vec<Statement>),
}

#[derive(Clone, Debug)]
enum Step {
    Transact(u8, u64, Vec<Local>),
    /// Some version that was committed goes to a store, in a group with the ones after it in that order.
    Push(u8, Vec<prop::sample::Index>),
    Pull(u8, u8),
}

fn free() -> impl Strategy<Value = Statement> {
    let row = || (0i64..3).prop_map(|n| id("free", n));
    let value = || (0i64..3).prop_map(Value::Integer);
    prop_oneof![
        3 => (row(), 0i64..3).prop_map(|(id, n)| Statement::Put(id, columns(n))),
        3 => (row(), 0usize..2, value()).prop_map(|(id, at, v)| Statement::Update(id, [(COLUMNS[at].into(), v)].into())),
        2 => row().prop_map(Statement::Delete),
        1 => (row(), row()).prop_map(|(from, (_, to))| Statement::Rekey(from, to)),
    ]
}

fn local() -> impl Strategy<Value = Local> {
    prop_oneof![
        2 => Just(Local::PackPut),
        2 => Just(Local::PackUpdate),
        1 => Just(Local::PackDelete),
        3 => vec(free(), 1..4).prop_map(Local::Free),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        // Clocks that stand still and ones ahead of the others.
        3 => (0..SITES, 0u64..3, vec(local(), 1..3)).prop_map(|(site, wall, local)| Step::Transact(site, wall, local)),
        4 => (0..SITES, vec(any::<prop::sample::Index>(), 1..4)).prop_map(|(to, which)| Step::Push(to, which)),
        2 => (0..SITES, 0..SITES).prop_map(|(asker, answerer)| Step::Pull(asker, answerer)),
    ]
}

struct World {
    stores: Vec<Store>,
    history: Vec<Version>,
    numbers: i64,
}

impl World {
    fn new() -> Self {
        Self { stores: (0..SITES).map(|n| Store::new(site_id(n))).collect(), history: Vec::new(), numbers: 0 }
    }

    fn statements(&mut self, local: &Local) -> Vec<Statement> {
        self.numbers += 1;
        let number = self.numbers;
        match local {
            Local::PackPut => pack(|id| Statement::Put(id, columns(number))),
            Local::PackUpdate => pack(|id| Statement::Update(id, [("a".into(), Value::Integer(number))].into())),
            Local::PackDelete => pack(Statement::Delete),
            Local::Free(statements) => statements.clone(),
        }
    }

    /// Takes the step and returns the store that it changed.
    fn take(&mut self, step: &Step) -> &Store {
        let at = match step {
            Step::Transact(site, wall_ms, local) => {
                let statements: Vec<_> = local.iter().flat_map(|local| self.statements(local)).collect();
                self.history.extend(self.stores[usize::from(*site)].transact(*wall_ms, &statements));
                site
            }
            Step::Push(to, which) => {
                if !self.history.is_empty() {
                    let versions: Vec<_> = which.iter().map(|which| which.get(&self.history)).collect();
                    self.stores[usize::from(*to)].apply(versions);
                }
                to
            }
            Step::Pull(asker, answerer) => {
                let answer = self.stores[usize::from(*answerer)].collect(self.stores[usize::from(*asker)].heads());
                self.stores[usize::from(*asker)].join(answer.rows, &answer.heads);
                asker
            }
        };
        &self.stores[usize::from(*at)]
    }

    fn take_all(&mut self, steps: &[Step]) {
        for step in steps {
            self.take(step);
        }
    }
}

/// Why a reader would complain of this store, if one would.
fn complaint(store: &Store) -> Option<String> {
    let packed: BTreeSet<_> = (0..3).map(|n| store.image(&id("pack", n))).collect();
    if packed.len() > 1 {
        return Some(format!("torn: {packed:?}"));
    }
    let half = store.rows().iter().find(|(_, row)| row.is_alive() && row.cells.len() < COLUMNS.len());
    half.map(|half| format!("half a row: {half:?}"))
}

/// A change of a version just committed that readers of its store do not see.
fn unread(store: &Store, version: &Version) -> Option<String> {
    let shown = |change: &&Change| match store.image(&(change.table.clone(), change.key.clone())) {
        Some(image) => {
            change.cl % 2 == 1 && change.cells.iter().all(|(column, value)| image.get(column) == Some(value))
        }
        None => change.cl.is_multiple_of(2),
    };
    version.changes.iter().find(|change| !shown(change)).map(|change| format!("{change:?}"))
}

fn known(history: &[Version], heads: &Vector) -> BTreeMap<RowId, Row> {
    fold(history.iter().filter(|version| version.version <= heads.head(version.site)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_store_always_is_the_fold_of_the_transactions_below_its_heads(steps in vec(step(), 1..60)) {
        let mut world = World::new();
        for step in &steps {
            let before = world.history.len();
            let store = world.take(step).clone();
            prop_assert_eq!(complaint(&store), None, "after {:?}", step);
            prop_assert_eq!(store.verify(), Ok(()));
            prop_assert_eq!(store.rows(), &known(&world.history, store.heads()), "after {:?}", step);
            for version in &world.history[before..] {
                prop_assert_eq!(unread(&store, version), None, "who writes reads what it wrote");
            }
        }
    }

    #[test]
    fn any_order_duplication_and_grouping_ends_in_the_fold(
        steps in vec(step(), 1..40),
        order in vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1usize..5), 0..60),
    ) {
        let mut world = World::new();
        world.take_all(&steps);
        let mut late = Store::new(site_id(9));
        for (first, store, many) in order {
            if many == 1 {
                let answer = store.get(&world.stores).collect(late.heads());
                late.join(answer.rows, &answer.heads);
            } else if !world.history.is_empty() {
                late.apply(world.history.iter().cycle().skip(first.index(world.history.len())).take(many));
            }
            prop_assert_eq!(complaint(&late), None);
        }
        // The rest, last first, so that only the need for earlier ones puts them in order.
        for _ in 0..=world.history.len() {
            late.apply(world.history.iter().rev());
        }
        let all = fold(&world.history);
        prop_assert_eq!(late.rows(), &all);
        prop_assert_eq!(late.verify(), Ok(()));
        for store in &mut world.stores {
            let answer = late.collect(store.heads());
            store.join(answer.rows, &answer.heads);
            prop_assert_eq!((store.rows(), store.log(), store.digest()), (late.rows(), late.log(), late.digest()));
        }
    }

    #[test]
    fn an_answer_from_the_log_is_every_row_with_a_stamp_above(steps in vec(step(), 1..40), above in vec(0u64..9, SITES as usize)) {
        let mut world = World::new();
        world.take_all(&steps);
        let above: Vector = (0..SITES).map(site_id).zip(above).collect();
        for store in &world.stores {
            let carries = |row: &Row| row.stamps().iter().any(|stamp| stamp.version > above.head(stamp.site));
            let rows = store.rows().iter().filter(|(_, row)| carries(row));
            let rows = rows.map(|((table, key), row)| PulledRow { table: table.clone(), key: key.clone(), row: row.clone() });
            prop_assert_eq!(store.collect(&above), Answer { rows: rows.collect(), heads: store.heads().clone(), purged: store.purged().clone() });
        }
    }
}

#[test]
fn a_transaction_is_one_record_per_row_that_differs_at_its_end() {
    let mut store = Store::new(site_id(1));
    let put = |n, value| Statement::Put(id("free", n), columns(value));
    store.transact(1, &[put(1, 1), put(2, 1)]).unwrap();
    let nothing = [put(1, 5), put(1, 1), put(3, 1), Statement::Delete(id("free", 3)), Statement::Delete(id("free", 4))];
    assert_eq!(store.transact(2, &nothing), None, "nothing differs at its end");
    let both = [Statement::Delete(id("free", 1)), put(1, 7), Statement::Delete(id("free", 2))];
    let version = store.transact(3, &both).unwrap();
    let [update, delete] = &version.changes[..] else { panic!("{version:?}") };
    assert!(
        matches!(update.life, Life::Since(rs) if rs.version == 1),
        "a row deleted and put again is updated: {update:?}"
    );
    assert_eq!((delete.cl, delete.life, delete.cells.len()), (2, Life::Changed, 0));
    let again = store.transact(4, &[put(2, 1)]).unwrap();
    assert_eq!((again.changes[0].cl, again.changes[0].cells.len()), (3, 2));
}

#[test]
fn what_a_slow_clock_writes_after_it_saw_a_fast_one_is_later() {
    let [mut fast, mut slow] = [1, 2].map(|n| Store::new(site_id(n)));
    let seen = fast.transact(1_000_000, &[Statement::Put(id("free", 1), columns(1))]).unwrap();
    for by_pull in [false, true] {
        let mut slow = slow.clone();
        if by_pull {
            let answer = fast.collect(slow.heads());
            slow.join(answer.rows, &answer.heads);
        } else {
            slow.apply([&seen]);
        }
        slow.transact(5, &[Statement::Put(id("free", 1), columns(2))]).unwrap();
        assert_eq!(slow.image(&id("free", 1)), Some(columns(2)), "pulled: {by_pull}");
    }
    slow.transact(5, &[Statement::Put(id("free", 1), columns(3))]).unwrap();
    assert_eq!(slow.image(&id("free", 1)), Some(columns(3)));
}

#[test]
fn a_changed_key_is_a_delete_and_an_insert_in_one_version() {
    let mut store = Store::new(site_id(1));
    store.transact(1, &[Statement::Put(id("free", 1), columns(4))]);
    let version = store.transact(1, &[Statement::Rekey(id("free", 1), id("free", 2).1)]).unwrap();
    assert_eq!(version.changes.iter().map(|change| change.cl).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(store.image(&id("free", 2)), Some(columns(4)));
    assert_eq!(store.image(&id("free", 1)), None);
}

// What the rules are for: each of these takes one away and sees what it kept out.

/// A store that has a row, and one that has updated it since.
fn creator_and_updater() -> (Version, Version) {
    let (mut creator, mut updater) = (Store::new(site_id(1)), Store::new(site_id(2)));
    let create = creator.transact(1, &pack(|id| Statement::Put(id, columns(1)))).unwrap();
    updater.apply([&create]);
    let update =
        updater.transact(1, &pack(|id| Statement::Update(id, [("a".into(), Value::Integer(2))].into()))).unwrap();
    (create, update)
}

#[test]
fn an_update_without_the_row_it_needs_would_show_half_a_row() {
    let (_, update) = creator_and_updater();
    let mut store = Store::new(site_id(3));
    assert!(store.apply([&update]).is_empty(), "it waits");
    assert_eq!(complaint(&store), None);
    store.apply_unchecked(&update);
    assert!(complaint(&store).is_some_and(|complaint| complaint.starts_with("half")), "{:?}", complaint(&store));
}

#[test]
fn a_pull_of_one_site_would_tear_the_transactions_of_another() {
    let (create, update) = creator_and_updater();
    let number = |n| [("a".into(), Value::Integer(n))].into();
    let mut creator = Store::new(site_id(1));
    creator.apply([&create, &update]);
    let third = creator.transact(2, &pack(|id| Statement::Update(id, number(3)))).unwrap();
    // The updater takes one of the rows away from the third transaction and gives it back: 3 again, under its own stamp.
    let mut updater = Store::new(site_id(2));
    updater.apply([&create, &update, &third]);
    let away = updater.transact(3, &[Statement::Update(id("pack", 0), number(4))]).unwrap();
    let back = updater.transact(3, &[Statement::Update(id("pack", 0), number(3))]).unwrap();
    let [mut behind, mut ahead] = [3, 4].map(|n| Store::new(site_id(n)));
    behind.apply([&create, &update]);
    ahead.apply([&create, &update, &third, &away, &back]);
    assert_eq!((complaint(&ahead), complaint(&behind)), (None, None));

    // What the updater wrote above the asked head: row 0 comes with its 3; the other two keep their 2.
    let above = ahead.heads().iter().map(|(site, head)| (site, if site == site_id(2) { 1 } else { head }));
    let part = ahead.collect(&above.collect());
    let mut torn = behind.clone();
    torn.join(part.rows, &Vector::from_iter([(site_id(2), 3)]));
    assert!(complaint(&torn).is_some_and(|complaint| complaint.starts_with("torn")), "{:?}", complaint(&torn));

    // By vector all three come.
    let answer = ahead.collect(behind.heads());
    behind.join(answer.rows, &answer.heads);
    assert_eq!(complaint(&behind), None);
    assert_eq!(behind.digest(), ahead.digest());
}

#[test]
fn an_answer_joined_in_two_transactions_would_tear() {
    let (create, update) = creator_and_updater();
    let [mut behind, mut ahead] = [3, 4].map(|n| Store::new(site_id(n)));
    behind.apply([&create]);
    ahead.apply([&create, &update]);
    let mut answer = ahead.collect(behind.heads());
    let second = answer.rows.split_off(1);
    behind.join(answer.rows, &Vector::default());
    assert!(complaint(&behind).is_some_and(|complaint| complaint.starts_with("torn")), "between the two");
    behind.join(second, &answer.heads);
    assert_eq!(complaint(&behind), None);
}

/// A site whose disk lost versions that a peer has (a restored copy; or synchronous=NORMAL, a power cut, and a peer that
/// heard of them before the sync) and that goes on under its old name: whoever pulls from it takes its head for a promise
/// that it has all below.
#[test]
fn a_site_that_lost_what_a_peer_has_and_keeps_its_name_would_make_them_differ_for_ever() {
    let put = |n| [Statement::Put(id("free", n), columns(n))];
    let mut site = Store::new(site_id(1));
    let first = site.transact(1, &put(1)).unwrap();
    let disk = site.clone();
    let lost = site.transact(1, &put(2)).unwrap();
    let mut saw = Store::new(site_id(2));
    saw.apply([&first, &lost]);
    let exchange = |a: &mut Store, b: &mut Store| {
        for _ in 0..2 {
            let (to_a, to_b) = (b.collect(a.heads()), a.collect(b.heads()));
            a.join(to_a.rows, &to_a.heads);
            b.join(to_b.rows, &to_b.heads);
        }
    };

    // Numbers reserved in blocks leave a hole, never a repeat; that is not enough.
    let (mut same, mut peer) = (disk.clone(), saw.clone());
    same.leave_hole(1_000);
    same.transact(2, &put(3)).unwrap();
    exchange(&mut same, &mut peer);
    assert_eq!(same.heads(), peer.heads());
    assert_ne!(same.digest(), peer.digest(), "equal heads, and one of them lacks a version");

    let (mut fresh, mut peer) = (disk, saw);
    fresh.become_site(site_id(3));
    fresh.transact(2, &put(3)).unwrap();
    exchange(&mut fresh, &mut peer);
    assert_eq!((fresh.heads(), fresh.digest()), (peer.heads(), peer.digest()));
    assert_eq!(fresh.image(&id("free", 2)), Some(columns(2)), "what was lost came back");
}

#[test]
fn a_digest_or_log_that_does_not_follow_from_the_rows_is_seen() {
    let mut store = Store::new(site_id(1));
    let version = store.transact(1, &[Statement::Put(id("free", 1), columns(1))]).unwrap();
    assert_eq!(store.verify(), Ok(()));
    let mut stranger = Store::new(site_id(2));
    stranger.join(store.collect(&Vector::default()).rows, &Vector::default());
    assert!(stranger.verify().is_err(), "rows without the heads that cover them");
    stranger.apply([&version]);
    assert_eq!(stranger.verify(), Ok(()));
}
