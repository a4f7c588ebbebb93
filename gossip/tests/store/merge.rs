//! What peers send, joined: after every step each store equals the model that took the same steps, and whatever the order,
//! the grouping and the way, all end equal, and equal to the fold of the history.

use std::collections::BTreeMap;
use std::sync::Arc;

use kith_gossip::store::{Pace, SchemaSource, Store};
use kith_gossip_proto::frame::PulledRow;
use kith_gossip_proto::model;
use kith_gossip_proto::{Cell, Change, Hlc, Key, Name, SiteId, Stamp, Value, Vector, Version, version::Life};
use proptest::prelude::*;

use crate::rig::{Rig, collect, is_sound, state};

const SCHEMA: &str = "
    CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a INTEGER, b TEXT DEFAULT 'd');
    CREATE TABLE w (x INTEGER, y TEXT, a INTEGER, b TEXT DEFAULT 'd', PRIMARY KEY (x, y)) WITHOUT ROWID;
    CREATE TABLE n (id INTEGER NOT NULL PRIMARY KEY, a INTEGER, b REAL DEFAULT 0.5);
";

/// An earlier schema: a table and some columns are not there yet.
const EARLIER: &str = "
    CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a INTEGER);
    CREATE TABLE w (x INTEGER, y TEXT, b TEXT DEFAULT 'd', PRIMARY KEY (x, y)) WITHOUT ROWID;
";

fn source(sql: &str) -> Vec<SchemaSource> {
    vec![SchemaSource { name: "test".to_owned(), sql: sql.to_owned() }]
}

#[derive(Clone, Debug)]
enum Step {
    /// A transaction of store `at`.
    Write { at: usize, sql: Vec<String> },
    /// Up to `count` versions of `of` that `to` has not, some of them twice, the next one perhaps not among them.
    Push { of: usize, to: usize, count: usize, skip: usize },
    /// What `to` lacks, from `from`.
    Pull { from: usize, to: usize },
    /// Everything, from `from`.
    PullAll { from: usize, to: usize },
    /// Store `at` gives up its site and, under it, its last `back` versions.
    Renounce { at: usize, back: u64 },
}

fn statement() -> impl Strategy<Value = String> {
    let key = || 0..3;
    let value = || 0..3;
    prop_oneof![
        (key(), value(), value())
            .prop_map(|(k, a, b)| format!("INSERT OR REPLACE INTO t VALUES ('k{k}', {a}, 'b{b}')")),
        (key(), value()).prop_map(|(k, a)| format!(
            "INSERT INTO t (id, a) VALUES ('k{k}', {a}) ON CONFLICT (id) DO UPDATE SET a = {a}"
        )),
        (key(), value()).prop_map(|(k, a)| format!("UPDATE t SET a = {a} WHERE id = 'k{k}'")),
        (key(), value()).prop_map(|(k, b)| format!("UPDATE t SET b = 'b{b}' WHERE id = 'k{k}'")),
        key().prop_map(|k| format!("DELETE FROM t WHERE id = 'k{k}'")),
        (key(), key()).prop_map(|(k, l)| format!("UPDATE OR REPLACE t SET id = 'k{l}' WHERE id = 'k{k}'")),
        (key(), value()).prop_map(|(k, a)| format!("INSERT OR REPLACE INTO w VALUES ({k}, 'y', {a}, 'b')")),
        (key(), key()).prop_map(|(k, l)| format!("UPDATE OR REPLACE w SET x = '{l}' WHERE x = {k}")),
        key().prop_map(|k| format!("DELETE FROM w WHERE x = {k}")),
        (key(), value()).prop_map(|(k, b)| format!("UPDATE w SET b = 'b{b}' WHERE x = {k}")),
        (key(), value()).prop_map(|(k, a)| format!("INSERT OR REPLACE INTO n (id, a) VALUES ({k}, {a})")),
        (key(), value()).prop_map(|(k, b)| format!("UPDATE n SET b = {b} WHERE id = {k}")),
        (key(), key()).prop_map(|(k, l)| format!("UPDATE OR REPLACE n SET id = {l} WHERE id = {k}")),
        key().prop_map(|k| format!("DELETE FROM n WHERE id = {k}")),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let site = || 0usize..3;
    prop_oneof![
        6 => (0usize..2, proptest::collection::vec(statement(), 1..4)).prop_map(|(at, sql)| Step::Write { at, sql }),
        3 => (0usize..2, site(), 1usize..4, 0usize..2).prop_map(|(of, to, count, skip)| Step::Push { of, to, count, skip }),
        2 => (site(), site()).prop_map(|(from, to)| Step::Pull { from, to }),
        1 => (site(), site()).prop_map(|(from, to)| Step::PullAll { from, to }),
        1 => (0usize..2, 0u64..4).prop_map(|(at, back)| Step::Renounce { at, back }),
    ]
}

/// Three stores, the third with the earlier schema, each with its model; what the first two commit, by site.
struct World {
    rigs: Vec<Rig>,
    models: Vec<model::Store>,
    history: BTreeMap<SiteId, Vec<Version>>,
    /// Rows that were stamped anew.
    restamped: Vec<PulledRow>,
}

impl World {
    fn new() -> Self {
        let rigs = vec![Rig::new(SCHEMA), Rig::new(SCHEMA), Rig::new(EARLIER)];
        let models = rigs.iter().map(|rig| model::Store::new(rig.store.site())).collect();
        Self { rigs, models, history: BTreeMap::new(), restamped: Vec::new() }
    }

    fn store(&self, at: usize) -> &Store {
        &self.rigs[at].store
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Write { at, sql } => {
                let mut commits = self.store(*at).commits();
                let done = self.rigs[*at].run(&sql.join(";")).await.unwrap();
                if done.version.is_some() {
                    let commit = commits.recv().await.unwrap();
                    let site = self.store(*at).site();
                    let versions: Vec<_> = commit.versions.iter().map(|version| Version::clone(version)).collect();
                    self.models[*at].apply(&versions);
                    self.history.entry(site).or_default().extend(versions);
                }
            }
            Step::Push { of, to, count, skip } => {
                let site = self.store(*of).site();
                let all = self.history.get(&site).map_or([].as_slice(), Vec::as_slice);
                let head = self.store(*to).state().heads.head(site);
                let known = all.partition_point(|version| version.version <= head);
                let batch: Vec<_> = all.iter().skip((known + skip).saturating_sub(1)).take(*count).cloned().collect();
                self.models[*to].apply(&batch);
                let heads = self.store(*to).apply(batch).await.unwrap();
                assert_eq!(heads, *self.store(*to).state().heads);
            }
            Step::Pull { from, to } => {
                let above = Vector::clone(&self.store(*to).state().heads);
                self.pull(*from, *to, above).await;
            }
            Step::PullAll { from, to } => self.pull(*from, *to, Vector::default()).await,
            Step::Renounce { at, back } => self.renounce(*at, *back).await,
        }
    }

    async fn renounce(&mut self, at: usize, back: u64) {
        let before = shown(&self.rigs[at]).await;
        let store = &self.rigs[at].store;
        let kept = store.state().heads.head(store.site()).saturating_sub(back);
        let done = store.renounce(kept).await.unwrap();
        assert_eq!((done.kept, done.site), (kept, store.site()));
        self.models[at].renounce(kept, done.site, store.state().hlc);
        let (rows, _) = collect(store, Vector::clone(&store.state().heads)).await;
        assert_eq!(rows, [], "no stamp is above its head");
        assert_eq!(shown(&self.rigs[at]).await, before, "readers see what they saw");
        let model = &self.models[at];
        let others = model.heads().iter().filter(|&(site, _)| site != done.site).collect();
        let rows = model.collect(&others).rows;
        assert_eq!(rows.len() as u64, done.rows);
        self.restamped.extend(rows);
    }

    async fn pull(&mut self, from: usize, to: usize, above: Vector) {
        let model::Answer { rows: mut expected, heads, .. } = self.models[from].collect(&above);
        self.models[to].join(expected.clone(), &heads);
        let (mut rows, heads) = collect(self.store(from), above).await;
        let place = |row: &PulledRow| (row.table.clone(), row.key.clone());
        rows.sort_by_key(place);
        expected.sort_by_key(place);
        assert_eq!(rows, expected, "what store {from} collects for {to}");
        self.store(to).join(rows, heads).await.unwrap();
    }

    /// At no instant does a store say otherwise than its model, or its bookkeeping otherwise than its rows.
    async fn equals_the_models(&self) {
        for (rig, model) in self.rigs.iter().zip(&self.models) {
            rig.is_sound().await;
            assert_eq!(state(&rig.store).await, *model.rows());
            assert_eq!(*rig.store.state().heads, *model.heads());
            assert_eq!(rig.store.state().digests, *model.digests());
        }
    }
}

const TABLES: [&str; 3] =
    ["SELECT * FROM t ORDER BY id", "SELECT x, y, a, b FROM w ORDER BY x, y", "SELECT * FROM n ORDER BY id"];

async fn shown(rig: &Rig) -> Vec<Vec<Vec<Value>>> {
    let mut shown = Vec::new();
    for sql in TABLES {
        shown.push(rig.rows(sql).await.unwrap());
    }
    shown
}

async fn ends_equal(steps: Vec<Step>) {
    let mut world = World::new();
    for step in &steps {
        world.step(step).await;
        world.equals_the_models().await;
    }
    for (from, to) in [(0, 2), (1, 0), (2, 0), (0, 1), (0, 2), (1, 2)] {
        world.step(&Step::Pull { from, to }).await;
    }
    let mut expected = model::fold(world.history.values().flatten());
    for PulledRow { table, key, row } in world.restamped.clone() {
        expected.get_mut(&(table, key)).unwrap().join(row);
    }
    for at in 0..3 {
        is_sound(world.store(at)).await;
        assert_eq!(state(world.store(at)).await, expected, "store {at}");
        assert_eq!(world.store(at).state().heads, world.store(0).state().heads);
        assert_eq!(world.store(at).state().digests, world.store(0).state().digests);
    }
    world.store(2).migrate(source(SCHEMA)).await.unwrap();
    is_sound(world.store(2)).await;
    assert_eq!(world.store(2).state().set_aside, 0);
    assert_eq!(state(world.store(2)).await, expected, "after the schema came");
    let rows = shown(&world.rigs[0]).await;
    for rig in &world.rigs[1..] {
        assert_eq!(shown(rig).await, rows);
    }
    for rig in &world.rigs {
        rig.store.close().await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn whatever_way_versions_and_rows_go_all_stores_equal_the_model(steps in proptest::collection::vec(step(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(ends_equal(steps));
    }
}

/// A version of a site that is no store.
fn version(number: u64, ms: u64, changes: Vec<Change>) -> Version {
    Version { site: SiteId::new([7; 16]), version: number, hlc: Hlc::from_ms(ms), changes }
}

fn change(table: &str, key: &str, cl: u64, cells: &[(&str, Value)]) -> Change {
    Change {
        table: table.into(),
        key: Key::encode([&Value::text(key)]).unwrap(),
        cl,
        life: Life::Changed,
        cells: cells.iter().map(|(name, value)| (Name::from(*name), value.clone())).collect(),
    }
}

#[tokio::test]
async fn a_version_is_applied_when_it_is_next_and_its_needs_are_met() {
    let rig = Rig::new(SCHEMA);
    let other = SiteId::new([9; 16]);
    let first = version(1, 1, vec![change("t", "x", 1, &[("a", Value::Integer(1))])]);
    let second = version(2, 2, vec![change("t", "y", 1, &[("a", Value::Integer(2))])]);
    let heads = rig.store.apply(vec![second.clone()]).await.unwrap();
    assert!(heads.is_empty(), "2 came before 1");
    let mut needy = version(1, 3, vec![change("t", "x", 1, &[("a", Value::Integer(3))])]);
    needy.site = other;
    needy.changes[0].life = Life::Since(first.stamp(0));
    let heads = rig.store.apply(vec![needy.clone()]).await.unwrap();
    assert!(heads.is_empty(), "it updates a row that was not created yet");
    let heads = rig.store.apply(vec![first.clone(), second, needy, first]).await.unwrap();
    assert_eq!(heads, Vector::from_iter([(other, 1), (SiteId::new([7; 16]), 2)]));
    assert_eq!(rig.one("SELECT group_concat(id || a) FROM t").await, Value::text("x3,y2"));
    rig.is_sound().await;
}

#[tokio::test]
async fn followers_hear_what_readers_see_otherwise() {
    let rig = Rig::new(SCHEMA);
    let mut commits = rig.store.commits();
    let cells = [("a", Value::Integer(1)), ("b", Value::text("q"))];
    rig.store.apply(vec![version(1, 1, vec![change("t", "x", 1, &cells)])]).await.unwrap();
    let commit = commits.recv().await.unwrap();
    assert!(commit.versions.is_empty());
    let touched = |commit: &kith_gossip::store::Commit| {
        let touched = commit.touched["t"].columns.iter().map(ToString::to_string);
        touched.collect::<Vec<_>>()
    };
    assert_eq!(touched(&commit), ["a", "b", "id"]);
    let mut set = change("t", "x", 1, &[("a", Value::Integer(2)), ("b", Value::text("q"))]);
    set.life = Life::Since(version(1, 1, Vec::new()).stamp(0));
    rig.store.apply(vec![version(2, 2, vec![set])]).await.unwrap();
    assert_eq!(touched(&Arc::unwrap_or_clone(commits.recv().await.unwrap())), ["a"], "b has another stamp only");
    rig.store.apply(vec![version(3, 3, vec![change("unknown", "x", 1, &[])])]).await.unwrap();
    assert!(commits.recv().await.unwrap().touched.is_empty());
}

#[tokio::test]
async fn values_that_a_table_cannot_take_are_set_aside_and_stop_nothing() {
    let strict = "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a INTEGER CHECK (a < 10), b TEXT NOT NULL DEFAULT 'd', c INTEGER) STRICT;
        CREATE TABLE must (id TEXT NOT NULL PRIMARY KEY, a TEXT NOT NULL)";
    let rig = Rig::new(strict);
    let cells = [("a", Value::Integer(99)), ("b", Value::Null), ("c", Value::text("5")), ("zz", Value::Integer(1))];
    let must = change("must", "x", 1, &[("a", Value::Null)]);
    let sent = version(1, 1, vec![change("t", "x", 1, &cells), must, change("t", "y", 1, &[("c", Value::Integer(3))])]);
    rig.store.apply(vec![sent.clone()]).await.unwrap();
    rig.is_sound().await;
    assert_eq!(
        rig.rows("SELECT * FROM t").await.unwrap(),
        [
            [Value::text("x"), Value::Null, Value::text("d"), Value::Null],
            [Value::text("y"), Value::Null, Value::text("d"), Value::Integer(3)],
        ]
    );
    assert_eq!(rig.one("SELECT count(*) FROM must").await, Value::Integer(0));
    assert_eq!(rig.store.state().set_aside, 6, "four cells, and a row with its one cell");
    assert_eq!(state(&rig.store).await, model::fold([&sent]), "it travels on as it came");

    // What a client writes over them is a change like others.
    assert_eq!(rig.said("UPDATE t SET a = 5, b = 'e' WHERE id = 'x'").await, "set t['x']@1 a=5 b='e'\n");
    rig.is_sound().await;
    assert_eq!(rig.store.state().set_aside, 4);
    assert_eq!(rig.said("INSERT INTO must VALUES ('x', 'mine')").await, "new must['x']@3 a='mine'\n");
    assert_eq!(rig.said("DELETE FROM t WHERE id = 'x'").await, "gone t['x']@2\n");
    rig.is_sound().await;
    assert_eq!(rig.store.state().set_aside, 0);
}

#[tokio::test]
async fn a_value_that_sqlite_would_change_is_set_aside_as_it_came() {
    let rig = Rig::new(
        "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, i INTEGER, r REAL, s TEXT); CREATE TABLE n (id INTEGER NOT NULL PRIMARY KEY, a)",
    );
    let cells = [("i", Value::text("5")), ("r", Value::Integer(1)), ("s", Value::Integer(7))];
    let kept = [("i", Value::text("five")), ("r", Value::text("x")), ("s", Value::Blob([1].into()))];
    let number =
        Change { key: Key::encode([&Value::text("12")]).unwrap(), ..change("n", "", 1, &[("a", Value::Null)]) };
    let sent = version(1, 1, vec![change("t", "x", 1, &cells), change("t", "y", 1, &kept), number]);
    rig.run("INSERT INTO n VALUES (12, 'another row: 12, not \"12\"')").await.unwrap();
    rig.store.apply(vec![sent.clone()]).await.unwrap();
    rig.is_sound().await;
    assert_eq!(
        rig.rows("SELECT * FROM t").await.unwrap(),
        [
            [Value::text("x"), Value::Null, Value::Null, Value::Null],
            [Value::text("y"), Value::text("five"), Value::text("x"), Value::Blob([1].into())],
        ]
    );
    assert_eq!(rig.one("SELECT count(*) FROM n").await, Value::Integer(1));
    let mut held = state(&rig.store).await;
    held.retain(|_, row| row.rs.site == sent.site);
    assert_eq!(held, model::fold([&sent]));
    // A later, sound value for the same cell takes its place.
    let mut later = change("t", "x", 1, &[("i", Value::Integer(6))]);
    later.life = Life::Since(sent.stamp(0));
    rig.store.apply(vec![version(2, 2, vec![later])]).await.unwrap();
    assert_eq!(rig.one("SELECT i FROM t WHERE id = 'x'").await, Value::Integer(6));
    rig.is_sound().await;
}

#[tokio::test]
async fn names_that_peers_make_up_reach_no_table_of_ours() {
    let rig = Rig::new(SCHEMA);
    let names = ["__kith_log", "__kith_meta", "sqlite_schema", "t__kith_row", "", "a\"b; DROP TABLE t", "T"];
    let changes = names
        .iter()
        .map(|name| change(name, "x", 1, &[("", Value::Null), ("site", Value::Integer(1)), ("id", Value::Null)]));
    let sent = version(1, 1, changes.collect());
    let rig = {
        rig.store.apply(vec![sent.clone()]).await.unwrap();
        rig.reopen(SCHEMA).await
    };
    rig.is_sound().await;
    assert_eq!(rig.store.tables().iter().map(|table| table.name.to_string()).collect::<Vec<_>>(), ["n", "t", "w"]);
    assert_eq!(state(&rig.store).await.len(), names.len());
}

#[tokio::test]
async fn deletes_and_inserts_at_once_end_alike_on_both_sides() {
    let [a, b] = [Rig::new(SCHEMA), Rig::new(SCHEMA)];
    let created = a.version("INSERT INTO t VALUES ('x', 1, 'p'), ('y', 1, 'p')").await;
    b.store.apply(vec![created]).await.unwrap();
    // x: deleted against updated. y: deleted on both. z: inserted on both.
    let of_a = a.version("DELETE FROM t; INSERT INTO t VALUES ('z', 1, 'of a')").await;
    b.waits_for_a_later_millisecond(&a).await;
    let of_b = b
        .version(
            "UPDATE t SET a = 9 WHERE id = 'x'; DELETE FROM t WHERE id = 'y'; INSERT INTO t (id, a) VALUES ('z', 2)",
        )
        .await;
    a.store.apply(vec![of_b]).await.unwrap();
    b.store.apply(vec![of_a]).await.unwrap();
    for rig in [&a, &b] {
        rig.is_sound().await;
        assert_eq!(
            rig.one("SELECT group_concat(id || a || b) FROM t").await,
            Value::text("z2d"),
            "the later wins, whole"
        );
    }
    assert_eq!(a.store.state().digests, b.store.state().digests);
    let again = a.version("INSERT INTO t VALUES ('x', 3, 'again')").await;
    b.store.apply(vec![again]).await.unwrap();
    assert_eq!(b.one("SELECT b FROM t WHERE id = 'x'").await, Value::text("again"));
    assert_eq!(state(&a.store).await, state(&b.store).await);
}

#[tokio::test]
async fn equal_stamps_with_other_values_end_alike_too() {
    let stamp = Stamp { hlc: Hlc::from_ms(5), site: SiteId::new([7; 16]), version: 1, seq: 0 };
    let row = |value: i64| PulledRow {
        table: "t".into(),
        key: Key::encode([&Value::text("x")]).unwrap(),
        row: kith_gossip_proto::Row {
            cl: 1,
            rs: stamp,
            cells: BTreeMap::from([("a".into(), Cell { stamp, value: Value::Integer(value) })]),
        },
    };
    let [one, other] = [Rig::new(SCHEMA), Rig::new(SCHEMA)];
    let heads = Vector::from_iter([(stamp.site, 1)]);
    for (rig, order) in [(&one, [1, 2]), (&other, [2, 1])] {
        for value in order {
            rig.store.join(vec![row(value)], heads.clone()).await.unwrap();
        }
        rig.is_sound().await;
        assert_eq!(rig.one("SELECT a FROM t").await, Value::Integer(2));
    }
    assert_eq!(one.store.state().digests, other.store.state().digests);
}

#[tokio::test]
async fn a_version_that_nobody_can_have_reached_is_refused() {
    let rig = Rig::new(SCHEMA);
    let heads = Vector::from_iter([(rig.store.site(), u64::MAX), (SiteId::new([7; 16]), u64::MAX)]);
    assert!(rig.store.join(Vec::new(), heads).await.is_err());
    assert!(rig.store.state().heads.is_empty());
    rig.run("INSERT INTO t (id) VALUES ('x')").await.unwrap();
}

#[tokio::test]
async fn a_row_whose_index_cannot_be_computed_stops_no_site() {
    const SCHEMA: &str = "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, doc TEXT, path TEXT NOT NULL DEFAULT '$');
                          CREATE INDEX by_path ON t (json_extract(doc, path));";
    let (a, b) = (Rig::new(SCHEMA), Rig::new(SCHEMA));
    let row = a.version("INSERT INTO t (id) VALUES ('k')").await;
    b.store.apply(vec![row]).await.unwrap();
    // Each is valid where it is written; together they are no JSON path of that document.
    let of_a = a.version("UPDATE t SET doc = '{}' WHERE id = 'k'").await;
    let of_b = b.version("UPDATE t SET path = 'nowhere' WHERE id = 'k'").await;
    let next = b.version("INSERT INTO t (id) VALUES ('next')").await;
    b.store.apply(vec![of_a]).await.unwrap();
    let heads = a.store.apply(vec![of_b, next]).await.unwrap();
    assert_eq!(heads, *b.store.state().heads, "all versions are applied");
    assert_eq!(a.store.state().digests, b.store.state().digests);
    for rig in [&a, &b] {
        assert_eq!(rig.store.verify(Pace::AtOnce).await.unwrap().wrong, Vec::<String>::new());
    }
}
