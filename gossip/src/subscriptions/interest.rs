//! Which queries a commit may concern, found by what it changed rather than by asking each.
//!
//! Per table a query is either interested in every change, or in rows with one value of one column. The first are asked at
//! every commit to the table; the others are looked up by the values that the commit lists, old and new.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kith_gossip_proto::{Key, Name, Value};
use uuid::Uuid;

use super::analysis::Plan;
use super::live::Live;
use crate::store::{Commit, Keys, SchemaChange, Touched, Watched};

/// Queries by id.
type Queries = BTreeMap<Uuid, Arc<Live>>;

/// All queries by what concerns them.
#[derive(Debug, Default)]
pub(super) struct Interests {
    tables: BTreeMap<Name, InTable>,
}

#[derive(Debug, Default)]
struct InTable {
    any: Queries,
    equal: BTreeMap<Name, BTreeMap<Value, Queries>>,
}

impl Interests {
    /// A query is to be told of commits from here on.
    pub(super) fn add(&mut self, live: &Arc<Live>, plan: &Plan) {
        for table in plan.reads.keys() {
            self.queries(table, plan).insert(live.id, Arc::clone(live));
        }
    }

    /// It is not any more.
    pub(super) fn remove(&mut self, id: Uuid, plan: &Plan) {
        for table in plan.reads.keys() {
            self.queries(table, plan).remove(&id);
            let Some(within) = self.tables.get_mut(table) else { continue };
            for values in within.equal.values_mut() {
                values.retain(|_, queries| !queries.is_empty());
            }
            within.equal.retain(|_, values| !values.is_empty());
            if within.any.is_empty() && within.equal.is_empty() {
                self.tables.remove(table);
            }
        }
    }

    /// The columns whose values decide.
    pub(super) fn watched(&self) -> Watched {
        let columns = |within: &InTable| within.equal.keys().cloned().collect::<BTreeSet<_>>();
        let tables = self.tables.iter().map(|(name, within)| (name.clone(), columns(within)));
        tables.filter(|(_, columns)| !columns.is_empty()).collect()
    }

    /// Tells the queries of a commit that it may concern. A changed schema concerns all, which is not told here.
    pub(super) fn tell(&self, commit: &Commit) {
        debug_assert_eq!(commit.schema, SchemaChange::Same, "then every query is analysed anew");
        for (table, touched) in &commit.touched {
            let Some(within) = self.tables.get(table) else { continue };
            within.any.values().for_each(|live| live.offer(commit.number, table, touched, &touched.keys));
            for (column, values) in &within.equal {
                tell_equal(commit.number, table, touched, touched.by_value(column), values);
            }
        }
    }

    fn queries(&mut self, table: &Name, plan: &Plan) -> &mut Queries {
        let within = self.tables.entry(table.clone()).or_default();
        match plan.equal.iter().find(|equality| equality.table == *table) {
            Some(equality) => {
                within.equal.entry(equality.column.clone()).or_default().entry(equality.value.clone()).or_default()
            }
            None => &mut within.any,
        }
    }
}

/// Tells the queries that want one value each of a column.
fn tell_equal(
    commit: u64,
    table: &Name,
    touched: &Touched,
    listed: Option<&BTreeMap<Value, BTreeSet<Key>>>,
    wanted: &BTreeMap<Value, Queries>,
) {
    let Some(listed) = listed else {
        return wanted
            .values()
            .flat_map(Queries::values)
            .for_each(|live| live.offer(commit, table, touched, &touched.keys));
    };
    for (value, keys) in listed {
        let Some(queries) = wanted.get(value) else { continue };
        let keys = Keys::These(keys.clone());
        queries.values().for_each(|live| live.offer(commit, table, touched, &keys));
    }
}
