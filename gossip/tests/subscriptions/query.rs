//! Queries by chance: every shape that a SELECT over the [`SCHEMA`](super::history::SCHEMA) can take, with constants that
//! SQLite compares in surprising ways.

use std::fmt::Write as _;

use kith_gossip::store::{Params, Statement};
use kith_gossip_proto::Value;
use proptest::prelude::*;

use super::history::{CONSTANTS, TABLES, value};

/// A column of one of the query's sources, by position; both wrap around.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column(u8, u8);

/// What a column is compared with.
#[derive(Clone, Copy, Debug)]
enum Constant {
    Written(u8),
    Bound(u8),
}

#[derive(Clone, Debug)]
enum Condition {
    Compare(Column, &'static str, Constant),
    /// The constant first.
    Turned(Constant, Column),
    /// With an operator that strips the column's affinity or names a collation.
    Dressed(&'static str, Column, &'static str, Constant),
    Same(Column, Column),
    Null(Column),
    In(Column, [Constant; 2]),
    Not(Box<Self>),
    Or(Box<Self>, Box<Self>),
    And(Box<Self>, Box<Self>),
    /// Of the same table where there is none of the number.
    Exists(u8, Column),
}

#[derive(Clone, Debug)]
struct Source {
    table: u8,
    join: &'static str,
    on: [Column; 2],
    and: Option<Condition>,
}

#[derive(Clone, Debug)]
enum Shape {
    Plain,
    Star,
    Ordered,
    Distinct,
    Counted,
    Grouped,
    Limited(u8),
    Compound(&'static str, Source, Option<Condition>),
    Scalar(u8),
    Common,
    Window,
}

/// A query, before it is text.
#[derive(Clone, Debug)]
struct Query {
    sources: Vec<Source>,
    conditions: Vec<Condition>,
    selected: Vec<Column>,
    shape: Shape,
}

fn column() -> impl Strategy<Value = Column> {
    (0..3u8, 0..4u8).prop_map(|(source, column)| Column(source, column))
}

fn constant() -> impl Strategy<Value = Constant> {
    prop_oneof![value().prop_map(Constant::Written), value().prop_map(Constant::Bound)]
}

fn condition() -> impl Strategy<Value = Condition> {
    let dress =
        prop_oneof![Just(("+", "")), Just(("", "COLLATE NOCASE")), Just(("", "COLLATE BINARY")), Just(("", "|| ''"))];
    let operator = prop_oneof![6 => Just("="), 1 => Just("=="), 1 => Just("IS"), 1 => Just("<>"), 1 => Just(">"), 1 => Just("LIKE")];
    let leaf = prop_oneof![
        8 => (column(), operator, constant()).prop_map(|(a, op, c)| Condition::Compare(a, op, c)),
        2 => (constant(), column()).prop_map(|(c, a)| Condition::Turned(c, a)),
        2 => (dress, column(), constant()).prop_map(|((pre, post), a, c)| Condition::Dressed(pre, a, post, c)),
        2 => (column(), column()).prop_map(|(a, b)| Condition::Same(a, b)),
        1 => column().prop_map(Condition::Null),
        1 => (column(), [constant(), constant()]).prop_map(|(a, c)| Condition::In(a, c)),
        3 => (0..8u8, column()).prop_map(|(t, a)| Condition::Exists(t, a)),
    ];
    leaf.prop_recursive(2, 4, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(|c| Condition::Not(Box::new(c))),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| Condition::Or(Box::new(a), Box::new(b))),
            (inner.clone(), inner).prop_map(|(a, b)| Condition::And(Box::new(a), Box::new(b))),
        ]
    })
}

fn source() -> impl Strategy<Value = Source> {
    let join = prop_oneof![
        4 => Just("JOIN"),
        4 => Just("LEFT JOIN"),
        1 => Just("CROSS JOIN"),
        1 => Just("RIGHT JOIN"),
        1 => Just("FULL JOIN"),
    ];
    let and = proptest::option::weighted(0.3, condition());
    (0..4u8, join, [column(), column()], and).prop_map(|(table, join, on, and)| Source { table, join, on, and })
}

fn shape() -> impl Strategy<Value = Shape> {
    let compound = prop_oneof![Just("UNION"), Just("UNION ALL"), Just("EXCEPT"), Just("INTERSECT")];
    prop_oneof![
        8 => Just(Shape::Plain),
        2 => Just(Shape::Star),
        2 => Just(Shape::Ordered),
        1 => Just(Shape::Distinct),
        1 => Just(Shape::Counted),
        1 => Just(Shape::Grouped),
        1 => (1..4u8).prop_map(Shape::Limited),
        1 => (compound, source(), proptest::option::of(condition())).prop_map(|(op, s, c)| Shape::Compound(op, s, c)),
        3 => (0..8u8).prop_map(Shape::Scalar),
        1 => Just(Shape::Common),
        1 => Just(Shape::Window),
    ]
}

pub(crate) fn query() -> impl Strategy<Value = Statement> {
    let count = prop_oneof![Just(1..=1), Just(2..=2), Just(1..=3)];
    let sources = count.prop_flat_map(|count| proptest::collection::vec(source(), count));
    let conditions = proptest::collection::vec(condition(), 0..3);
    let selected = proptest::collection::vec(column(), 1..4);
    (sources, conditions, selected, shape())
        .prop_map(|(sources, conditions, selected, shape)| Query { sources, conditions, selected, shape }.statement())
}

/// Plain queries over tables that belong together, whose rows meet often: what has a match and what has none any more is
/// where joins go wrong.
pub(crate) fn join() -> impl Strategy<Value = Statement> {
    let kind = prop_oneof![2 => Just("JOIN"), 4 => Just("LEFT JOIN")];
    let and = || proptest::option::weighted(0.2, condition());
    // The `a_id` of `b` and of `c`.
    let child = prop_oneof![Just((1u8, 2u8)), Just((2, 1))];
    let joined = (child, kind, and()).prop_map(|((table, column), join, and)| {
        let on = [Column(0, 0), Column(0, column)];
        Source { table, join, on, and }
    });
    let condition = prop_oneof![2 => column().prop_map(Condition::Null), 1 => condition()];
    let parent = Source { table: 0, join: "JOIN", on: [Column(0, 0); 2], and: None };
    let sources = proptest::collection::vec(joined, 1..3)
        .prop_map(move |joined| std::iter::once(parent.clone()).chain(joined).collect());
    let selected = proptest::collection::vec(column(), 1..4);
    (sources, proptest::collection::vec(condition, 0..2), selected).prop_map(|(sources, conditions, selected)| {
        Query { sources, conditions, selected, shape: Shape::Plain }.statement()
    })
}

/// A text that grows, and what is bound to it.
#[derive(Default)]
struct Writer {
    sql: String,
    bound: Vec<Value>,
}

/// The sources a column may be of.
type Scope<'a> = &'a [(String, u8)];

impl Query {
    fn statement(&self) -> Statement {
        let mut out = Writer::default();
        let scope = scope(&self.sources, "q");
        let first: Vec<_> = self.selected.iter().map(|column| column.within(&scope)).collect();
        let list = first.join(", ");
        let count = first.len();
        let from = |out: &mut Writer| {
            out.sources(&self.sources, &scope);
            out.filter(&self.conditions, &scope);
        };
        match &self.shape {
            Shape::Plain => out.select(&list, from),
            Shape::Star => out.select("*", from),
            Shape::Ordered => {
                out.select(&list, from);
                out.push(" ORDER BY 1 DESC");
            }
            Shape::Distinct => out.select(&format!("DISTINCT {list}"), from),
            Shape::Counted => out.select(&format!("count(*), max({})", first[0]), from),
            Shape::Grouped => {
                out.select(&format!("{}, count(*)", first[0]), from);
                // Of equal values that look different, SQLite may show any: each look another.
                out.push(&format!(" GROUP BY {} COLLATE BINARY, typeof({})", first[0], first[0]));
            }
            Shape::Limited(rows) => {
                out.select(&list, from);
                // Ordered whole, so that which rows are within the limit is no matter of taste.
                let whole: Vec<_> = first.iter().map(|c| format!("{c} COLLATE BINARY, typeof({c})")).collect();
                out.push(&format!(" ORDER BY {} LIMIT {rows}", whole.join(", ")));
            }
            Shape::Compound(operator, source, condition) => {
                out.select(&list, from);
                out.push(&format!(" {operator} "));
                let other = scope_of(source.table, "r");
                let columns: Vec<_> = self.selected.iter().map(|column| column.within(&other)).collect();
                out.select(&columns.join(", "), |out| {
                    out.sources(std::slice::from_ref(source), &other);
                    out.filter(condition.as_slice(), &other);
                });
            }
            Shape::Scalar(table) => {
                let inner = scope_of(inner(*table, &scope), "s");
                let column = self.selected[0].within(&inner);
                out.select(
                    &format!("{list}, (SELECT count(*) FROM {} WHERE {column} = {})", named(&inner), first[0]),
                    from,
                );
            }
            Shape::Common => {
                let names: Vec<_> = (0..count).map(|at| format!("c{at}")).collect();
                out.push(&format!("WITH w ({}) AS (", names.join(", ")));
                out.select(&list, from);
                out.push(") SELECT c0 FROM w WHERE c0 IS NOT NULL");
            }
            Shape::Window => out.select(&format!("{}, count(*) OVER (PARTITION BY {})", first[0], first[0]), from),
        }
        let params = if out.bound.is_empty() { Params::None } else { Params::Positional(out.bound) };
        Statement { sql: out.sql, params }
    }
}

fn scope(sources: &[Source], label: &str) -> Vec<(String, u8)> {
    sources.iter().enumerate().map(|(at, source)| (format!("{label}{at}"), source.table)).collect()
}

fn scope_of(table: u8, label: &str) -> Vec<(String, u8)> {
    vec![(label.to_owned(), table)]
}

fn inner(table: u8, outer: Scope<'_>) -> u8 {
    if usize::from(table) < TABLES.len() { table } else { outer[0].1 }
}

fn named(scope: Scope<'_>) -> String {
    format!("{} AS {}", TABLES[usize::from(scope[0].1)].name, scope[0].0)
}

impl Column {
    fn within(self, scope: Scope<'_>) -> String {
        let (label, table) = &scope[usize::from(self.0) % scope.len()];
        let columns = TABLES[usize::from(*table)].columns;
        format!("{label}.{}", columns[usize::from(self.1) % columns.len()])
    }
}

impl Writer {
    fn push(&mut self, text: &str) {
        self.sql.push_str(text);
    }

    fn select(&mut self, list: &str, from: impl FnOnce(&mut Self)) {
        self.push(&format!("SELECT {list} FROM "));
        from(self);
    }

    fn sources(&mut self, sources: &[Source], scope: Scope<'_>) {
        self.push(&named(&scope[..1]));
        for (at, source) in sources.iter().enumerate().skip(1) {
            let [left, right] = source.on;
            let seen = &scope[..at];
            self.push(&format!(" {} {} ON {} = ", source.join, named(&scope[at..=at]), left.within(seen)));
            self.push(&right.within(&scope[at..=at]));
            if let Some(condition) = &source.and {
                self.push(" AND ");
                self.condition(condition, &scope[..=at]);
            }
        }
    }

    fn filter(&mut self, conditions: &[Condition], scope: Scope<'_>) {
        for (at, condition) in conditions.iter().enumerate() {
            self.push(if at == 0 { " WHERE " } else { " AND " });
            self.condition(condition, scope);
        }
    }

    fn constant(&mut self, constant: Constant) {
        match constant {
            Constant::Written(at) => self.push(CONSTANTS[usize::from(at) % CONSTANTS.len()].0),
            Constant::Bound(at) => {
                self.bound.push(CONSTANTS[usize::from(at) % CONSTANTS.len()].1());
                let number = self.bound.len();
                write!(self.sql, "?{number}").unwrap();
            }
        }
    }

    fn condition(&mut self, condition: &Condition, scope: Scope<'_>) {
        match condition {
            Condition::Compare(column, operator, constant) => {
                self.push(&format!("{} {operator} ", column.within(scope)));
                self.constant(*constant);
            }
            Condition::Turned(constant, column) => {
                self.constant(*constant);
                self.push(&format!(" = {}", column.within(scope)));
            }
            Condition::Dressed(before, column, after, constant) => {
                self.push(&format!("{before}{} {after} = ", column.within(scope)));
                self.constant(*constant);
            }
            Condition::Same(one, other) => self.push(&format!("{} = {}", one.within(scope), other.within(scope))),
            Condition::Null(column) => self.push(&format!("{} IS NULL", column.within(scope))),
            Condition::In(column, constants) => {
                self.push(&format!("{} IN (", column.within(scope)));
                self.constant(constants[0]);
                self.push(", ");
                self.constant(constants[1]);
                self.push(")");
            }
            Condition::Not(inner) => {
                self.push("NOT ");
                self.both(inner, "", inner, scope);
            }
            Condition::Or(one, other) => self.both(one, " OR ", other, scope),
            Condition::And(one, other) => self.both(one, " AND ", other, scope),
            Condition::Exists(table, column) => {
                let inner = scope_of(inner(*table, scope), "e");
                let same = column.within(&inner);
                self.push(&format!("EXISTS (SELECT 1 FROM {} WHERE {same} = {})", named(&inner), column.within(scope)));
            }
        }
    }

    /// Two conditions in parentheses; one if nothing joins them.
    fn both(&mut self, one: &Condition, operator: &str, other: &Condition, scope: Scope<'_>) {
        self.push("(");
        self.condition(one, scope);
        if !operator.is_empty() {
            self.push(operator);
            self.condition(other, scope);
        }
        self.push(")");
    }
}
