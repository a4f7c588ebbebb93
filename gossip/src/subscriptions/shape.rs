//! What a SELECT looks like: whether its rows have primary keys of their own, and where its text can be extended.
//!
//! A *plain* SELECT (no aggregate, DISTINCT, GROUP BY, set operation, LIMIT, window or CTE, over tables and joins of
//! tables) has at most one result row per combination of its tables' rows. So the tables' primary keys, appended to the
//! select list, identify a result row, and a changed row is an update rather than a delete and an insert. Every other
//! query's rows are identified by their cells. Doubt always decides for the cells: that is never wrong, only less neat.
//!
//! The text is extended, never printed anew from a syntax tree: what runs is what the client wrote.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use kith_gossip_proto::Value;
use sqlite3_parser::ast::{
    As, Cmd, Distinctness, Expr, Id, JoinConstraint, JoinOperator, JoinType, Literal, Name, OneSelect, Operator,
    Select, SelectTable, Stmt,
};
use sqlite3_parser::lexer::Scanner;
use sqlite3_parser::lexer::sql::{Parser, TokenType, Tokenizer};
use sqlite3_parser::{Bump, FallibleIterator as _};

use super::equality::Written;

/// A table of a plain SELECT, as written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// The table's name, unquoted.
    pub(super) table: String,
    /// How an expression names it: the alias or the name, quoted as the client did.
    pub(super) label: String,
    pub(super) join: Join,
}

/// Whether a result row has a row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Join {
    /// Always.
    Inner,
    /// NULLs where there is none.
    Left,
}

/// What the text says.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// The text without a closing semicolon.
    pub(super) text: String,
    /// The tables and where the select list ends, if the SELECT is plain by its syntax.
    pub(super) plain: Option<Plain>,
    /// Whether SQLite says of all columns that they are read.
    pub(super) told: Told,
}

/// Whether the columns that a query reads are all named by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    All,
    /// USING and NATURAL compare columns that the authorizer never hears of.
    NotAll,
}

/// A plain SELECT.
#[derive(Clone, Debug)]
pub(super) struct Plain {
    /// Its tables, in order.
    pub(super) sources: Vec<Source>,
    /// Conditions `column = constant` that every row meets.
    pub(super) equal: Vec<Written>,
    /// Where the select list ends: the offset of FROM.
    from: usize,
    /// Whether there is a SELECT inside it.
    pub(super) nested: Nested,
    /// What a change of one row may do to it.
    pub(super) reach: Reach,
}

/// Which result rows the change of a table's row may concern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Those that are made of it. Of a table that was joined by LEFT JOIN, also those that would be made of it or of no row
    /// in its place: rows that share their first table's row with one that is or was made of it.
    Own,
    /// Any.
    Whole,
}

/// Whether a SELECT has others inside, whose rows may change a result row of another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nested {
    Yes,
    No,
}

/// Why a text is not one subscription.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ShapeError {
    #[error("exactly one statement is required")]
    NotOne,
    #[error("the text cannot be read after byte {0}")]
    Unreadable(usize),
    #[error("{0}() reads the clock: a subscription would go wrong without any change; compute the time in the client")]
    Clock(String),
}

struct Token<'t> {
    kind: TokenType,
    text: &'t str,
    start: usize,
    end: usize,
}

/// The date and time functions, with the number of leading arguments that are formats rather than times.
const CLOCKS: [(&str, usize); 7] =
    [("date", 0), ("time", 0), ("datetime", 0), ("julianday", 0), ("unixepoch", 0), ("strftime", 1), ("timediff", 0)];

impl Shape {
    /// Looks at a text that SQLite has accepted.
    pub(super) fn of(sql: &str) -> Result<Self, ShapeError> {
        let tokens = tokens(sql)?;
        let meaningful = tokens.iter().rposition(|token| token.kind != TokenType::TK_SEMI);
        let Some(last) = meaningful else { return Err(ShapeError::NotOne) };
        let tokens = &tokens[..=last];
        if tokens.iter().any(|token| token.kind == TokenType::TK_SEMI) {
            return Err(ShapeError::NotOne);
        }
        refuse_clocks(tokens)?;
        let text = sql[..tokens[last].end].to_owned();
        // The parser is another's, and a text that SQLite accepts must not take a thread down.
        let parsed = catch_unwind(AssertUnwindSafe(|| parse(&text))).ok().flatten();
        let plain = parsed.zip(top_level_from(tokens)).map(|(parsed, from)| {
            let selects = tokens.iter().filter(|t| matches!(t.kind, TokenType::TK_SELECT | TokenType::TK_VALUES));
            let nested = if selects.count() > 1 || reads_a_table_by_in(tokens) { Nested::Yes } else { Nested::No };
            let reach = if nested == Nested::Yes { Reach::Whole } else { parsed.reach };
            Plain { sources: parsed.sources, equal: parsed.equal, from, nested, reach }
        });
        let by_name =
            |token: &Token<'_>| token.kind == TokenType::TK_USING || token.text.eq_ignore_ascii_case("natural");
        let told = if tokens.iter().any(by_name) { Told::NotAll } else { Told::All };
        Ok(Self { text, plain, told })
    }

    /// The text with more columns at the end of the select list, if it is plain.
    pub(super) fn with_columns(&self, columns: &[String]) -> Option<String> {
        let from = self.plain.as_ref()?.from;
        Some(format!("{}, {} {}", self.text[..from].trim_end(), columns.join(", "), &self.text[from..]))
    }

    /// Whether the text has this name somewhere.
    pub(super) fn names(&self, name: &str) -> bool {
        let is_it = |token: &Token<'_>| unquoted(token.text).eq_ignore_ascii_case(name);
        tokens(&self.text).is_ok_and(|tokens| tokens.iter().any(is_it))
    }

    /// Whether any date or time function is called.
    pub(super) fn is_clock(function: &str) -> bool {
        CLOCKS.iter().any(|(name, _)| name.eq_ignore_ascii_case(function))
    }
}

fn tokens(sql: &str) -> Result<Vec<Token<'_>>, ShapeError> {
    let mut scanner = Scanner::new(Tokenizer::new());
    let mut tokens: Vec<Token<'_>> = Vec::new();
    loop {
        match scanner.scan(sql.as_bytes()) {
            Ok((start, Some((text, kind)), end)) => {
                tokens.push(Token { kind, text: std::str::from_utf8(text).unwrap_or_default(), start, end });
            }
            Ok((_, None, _)) => return Ok(tokens),
            // What is not read could be a clock, so a text that SQLite reads and this does not is refused.
            Err(_) => return Err(ShapeError::Unreadable(tokens.last().map_or(0, |token| token.end))),
        }
    }
}

/// The FROM that ends the outermost select list. `IS DISTINCT FROM` has another one.
fn top_level_from(tokens: &[Token<'_>]) -> Option<usize> {
    let mut depth = 0usize;
    let mut previous = None;
    for token in tokens {
        match token.kind {
            TokenType::TK_LP => depth += 1,
            TokenType::TK_RP => depth = depth.checked_sub(1)?,
            TokenType::TK_FROM if depth == 0 && previous != Some(TokenType::TK_DISTINCT) => return Some(token.start),
            _ => {}
        }
        previous = Some(token.kind);
    }
    None
}

/// `x IN table` reads a table without a SELECT.
fn reads_a_table_by_in(tokens: &[Token<'_>]) -> bool {
    tokens.windows(2).any(|pair| pair[0].kind == TokenType::TK_IN && pair[1].kind != TokenType::TK_LP)
}

fn refuse_clocks(tokens: &[Token<'_>]) -> Result<(), ShapeError> {
    for (at, pair) in tokens.windows(2).enumerate() {
        let name = unquoted(pair[0].text);
        let clock = CLOCKS.iter().find(|(clock, _)| clock.eq_ignore_ascii_case(&name));
        let (Some(&(_, formats)), TokenType::TK_LP) = (clock, pair[1].kind) else { continue };
        let arguments = arguments(&tokens[at + 2..]);
        let now = |argument: &[Token<'_>]| argument.iter().any(|t| unquoted(t.text).eq_ignore_ascii_case("now"));
        if arguments.len() <= formats || arguments.iter().any(|argument| now(argument)) {
            return Err(ShapeError::Clock(name));
        }
    }
    Ok(())
}

/// The arguments of a call whose opening parenthesis is just before `tokens`.
fn arguments<'a, 't>(tokens: &'a [Token<'t>]) -> Vec<&'a [Token<'t>]> {
    let (mut depth, mut start, mut found) = (0usize, 0, Vec::new());
    for (at, token) in tokens.iter().enumerate() {
        match token.kind {
            TokenType::TK_LP => depth += 1,
            TokenType::TK_RP if depth == 0 => {
                if at > start || !found.is_empty() {
                    found.push(&tokens[start..at]);
                }
                return found;
            }
            TokenType::TK_RP => depth -= 1,
            TokenType::TK_COMMA if depth == 0 => {
                found.push(&tokens[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    found
}

/// What the syntax tree of a plain SELECT says.
struct Parsed {
    sources: Vec<Source>,
    equal: Vec<Written>,
    reach: Reach,
}

/// Reads the SELECT if it is plain but for aggregates, which only SQLite can tell.
fn parse(text: &str) -> Option<Parsed> {
    let arena = Bump::new();
    let Ok(Some(Cmd::Stmt(Stmt::Select(select)))) = Parser::new(&arena, text.as_bytes()).next() else { return None };
    let Select { with: None, body, order_by: _, limit: None } = select else { return None };
    if body.compounds.is_some() {
        return None;
    }
    let OneSelect::Select {
        distinctness,
        from: Some(from),
        where_clause,
        group_by: None,
        having: None,
        window_clause: None,
        ..
    } = &body.select
    else {
        return None;
    };
    if matches!(distinctness, Some(Distinctness::Distinct)) {
        return None;
    }
    let joined = from.joins.iter().flatten().map(|joined| (&joined.table, joined.operator));
    let mut sources = vec![source(from.select?, Join::Inner)?];
    let mut reach = Reach::Own;
    for (table, operator) in joined {
        let join = joined_by(operator);
        // An inner join after an outer one may drop what that joined, like a condition. RIGHT and FULL make rows of no first.
        if join.is_none() || (join == Some(Join::Inner) && sources.iter().any(|before| before.join == Join::Left)) {
            reach = Reach::Whole;
        }
        sources.push(source(table, join.unwrap_or(Join::Left))?);
    }
    let labels: BTreeSet<_> = sources.iter().map(|source| unquoted(&source.label).to_ascii_lowercase()).collect();
    let mut equal = Vec::new();
    let outer = sources.iter().any(|source| source.join == Join::Left);
    let of_inner = |label: &str| sources.iter().any(|s| s.join == Join::Inner && s.is_named(label));
    if let Some(condition) = where_clause {
        equalities(condition, &mut equal);
        if outer && !is_of(condition, &of_inner) {
            reach = Reach::Whole;
        }
    }
    // The ON of an inner join is a condition like any other, also where it names what is joined later.
    let inner_on =
        from.joins.iter().flatten().filter_map(|joined| match (&joined.constraint, joined_by(joined.operator)) {
            (Some(JoinConstraint::On(condition)), Some(Join::Inner)) => Some(condition),
            _ => None,
        });
    if outer && !inner_on.into_iter().all(|condition| is_of(condition, &of_inner)) {
        reach = Reach::Whole;
    }
    (labels.len() == sources.len()).then_some(Parsed { sources, equal, reach })
}

/// `None` if it may also join by a row of the later table and none of the earlier ones.
fn joined_by(operator: JoinOperator) -> Option<Join> {
    match operator {
        JoinOperator::Comma | JoinOperator::TypedJoin(None) => Some(Join::Inner),
        JoinOperator::TypedJoin(Some(kind)) if kind.contains(JoinType::RIGHT) => None,
        JoinOperator::TypedJoin(Some(kind)) if kind.contains(JoinType::LEFT) => Some(Join::Left),
        JoinOperator::TypedJoin(Some(_)) => Some(Join::Inner),
    }
}

/// Whether an expression certainly reads columns of these tables only: each is named with its table.
fn is_of(expression: &Expr<'_>, table: &impl Fn(&str) -> bool) -> bool {
    let is_of = |expression: &Expr<'_>| is_of(expression, table);
    match expression {
        Expr::Literal(_) | Expr::Variable(_) => true,
        Expr::Qualified(Name(label), _) => table(&unquoted(label)),
        Expr::Binary(one, _, other) => is_of(one) && is_of(other),
        Expr::Unary(_, inner) | Expr::IsNull(inner) | Expr::NotNull(inner) | Expr::Collate(inner, _) => is_of(inner),
        Expr::Parenthesized(inner) => inner.iter().all(is_of),
        Expr::InList { lhs, rhs, .. } => is_of(lhs) && rhs.iter().copied().flatten().all(is_of),
        Expr::Between { lhs, start, end, .. } => is_of(lhs) && is_of(start) && is_of(end),
        Expr::Like { lhs, rhs, escape, .. } => is_of(lhs) && is_of(rhs) && escape.is_none_or(is_of),
        _ => false,
    }
}

/// The conditions `column = constant` among those that must all hold.
fn equalities(condition: &Expr<'_>, out: &mut Vec<Written>) {
    match condition {
        Expr::Parenthesized(inner) if inner.len() == 1 => equalities(&inner[0], out),
        Expr::Binary(one, Operator::And, other) => {
            equalities(one, out);
            equalities(other, out);
        }
        Expr::Binary(one, Operator::Equals, other) => {
            out.extend(equality(one, other).or_else(|| equality(other, one)));
        }
        _ => {}
    }
}

fn equality(column: &Expr<'_>, constant: &Expr<'_>) -> Option<Written> {
    let (label, column) = match column {
        Expr::Id(Id(column)) | Expr::Name(Name(column)) => (None, unquoted(column)),
        Expr::Qualified(Name(label), Name(column)) => (Some(unquoted(label)), unquoted(column)),
        _ => return None,
    };
    let constant = match constant {
        Expr::Literal(Literal::Numeric(digits)) => Value::Integer(digits.parse().ok()?),
        Expr::Literal(Literal::String(written)) => Value::text(&unquoted(written)),
        _ => return None,
    };
    Some(Written { label, column, constant })
}

impl Source {
    /// Whether this is the table that an expression with this label means.
    pub(super) fn is_named(&self, label: &str) -> bool {
        unquoted(&self.label).eq_ignore_ascii_case(label)
    }
}

fn source(table: &SelectTable<'_>, join: Join) -> Option<Source> {
    match table {
        SelectTable::Table(name, alias, _) if name.db_name.is_none() => {
            let Name(written) = &name.name;
            let label = match alias {
                Some(As::As(Name(alias)) | As::Elided(Name(alias))) => alias,
                None => written,
            };
            Some(Source { table: unquoted(written), label: (*label).to_owned(), join })
        }
        SelectTable::Table(..) | SelectTable::TableCall(..) | SelectTable::Select(..) | SelectTable::Sub(..) => None,
    }
}

/// A name without its quotes: `"a"`, `'a'`, `` `a` `` or `[a]`, a doubled quote inside standing for one.
fn unquoted(name: &str) -> String {
    let mut chars = name.chars();
    match (chars.next(), chars.next_back()) {
        (Some('['), Some(']')) => chars.as_str().to_owned(),
        (Some(open @ ('"' | '\'' | '`')), Some(close)) if open == close => {
            chars.as_str().replace(&format!("{open}{open}"), &open.to_string())
        }
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(sql: &str) -> Option<Vec<(String, String)>> {
        let plain = Shape::of(sql).unwrap().plain?;
        Some(plain.sources.into_iter().map(|s| (s.table, s.label)).collect())
    }

    #[test]
    fn the_tables_of_a_plain_select_are_found() {
        let pair = |table: &str, label: &str| (table.to_owned(), label.to_owned());
        assert_eq!(sources("SELECT * FROM t"), Some(vec![pair("t", "t")]));
        assert_eq!(
            sources("SELECT a IS NOT DISTINCT FROM b FROM \"T t\" ORDER BY 1;"),
            Some(vec![pair("T t", "\"T t\"")])
        );
        assert_eq!(
            sources("select (select max(x) from u), 1 from t as a left join [s] b on a.id = b.id -- end"),
            Some(vec![pair("t", "a"), pair("s", "b")])
        );
    }

    #[test]
    fn a_changed_row_reaches_its_own_result_rows_unless_something_else_decides() {
        let reach = |sql: &str| Shape::of(sql).unwrap().plain.map(|plain| plain.reach);
        for sql in [
            "SELECT * FROM t WHERE x = 1",
            "SELECT * FROM t, u JOIN v ON v.a = u.a WHERE x = lower(y)",
            "SELECT a.x FROM t a LEFT JOIN u ON u.id = a.u WHERE a.x IN (1, 2) AND NOT (a.y IS NULL OR a.z LIKE 'b%')",
            "SELECT * FROM t JOIN u ON u.a = t.a LEFT JOIN v ON v.a = u.a LEFT JOIN w ON w.a = v.a WHERE u.b = ?",
        ] {
            assert_eq!(reach(sql), Some(Reach::Own), "{sql}");
        }
        for sql in [
            "SELECT * FROM t WHERE x IN (SELECT y FROM u)",
            "SELECT * FROM t WHERE x IN u",
            "SELECT * FROM t LEFT JOIN u ON u.id = t.u WHERE u.id IS NULL",
            "SELECT * FROM t LEFT JOIN u ON u.id = t.u WHERE x = 1",
            "SELECT * FROM t LEFT JOIN u ON u.id = t.u WHERE coalesce(t.x, u.x) = 1",
            "SELECT * FROM t LEFT JOIN u ON u.id = t.u JOIN v ON v.a IS u.a",
            "SELECT * FROM t JOIN v ON v.a = t.a AND u.id IS NULL LEFT JOIN u ON u.id = t.u",
            "SELECT * FROM t RIGHT JOIN u ON u.id = t.u",
            "SELECT * FROM t FULL JOIN u ON u.id = t.u",
        ] {
            assert_eq!(reach(sql), Some(Reach::Whole), "{sql}");
        }
    }

    #[test]
    fn everything_else_is_identified_by_its_cells() {
        for sql in [
            "SELECT DISTINCT a FROM t",
            "SELECT a FROM t GROUP BY a",
            "SELECT a FROM t LIMIT 1",
            "SELECT a FROM t UNION SELECT a FROM u",
            "WITH c AS (SELECT 1) SELECT * FROM c",
            "SELECT * FROM (SELECT * FROM t)",
            "SELECT * FROM t, json_each(t.x)",
            "SELECT 1",
            "VALUES (1)",
            "SELECT * FROM main.t",
            "SELECT a.x FROM t a JOIN (t b JOIN t c)",
        ] {
            assert!(sources(sql).is_none(), "{sql}");
        }
    }

    #[test]
    fn columns_are_added_before_the_right_from() {
        let shape =
            Shape::of("SELECT (SELECT 1 FROM u) x, a IS DISTINCT FROM b\nFROM \"t\" WHERE c = 'FROM' ;;").unwrap();
        assert_eq!(
            shape.with_columns(&["\"t\".\"id\"".to_owned()]).unwrap(),
            "SELECT (SELECT 1 FROM u) x, a IS DISTINCT FROM b, \"t\".\"id\" FROM \"t\" WHERE c = 'FROM'"
        );
    }

    #[test]
    fn a_clock_is_refused_and_a_computed_time_is_not() {
        for sql in [
            "SELECT datetime()",
            "SELECT datetime('now')",
            "SELECT strftime('%s')",
            "SELECT unixepoch ( 'NOW' , 'subsec')",
            "SELECT * FROM t WHERE x > (unixepoch('now') - 5)",
        ] {
            assert!(matches!(Shape::of(sql), Err(ShapeError::Clock(_))), "{sql}");
        }
        for sql in [
            "SELECT datetime(x, 'unixepoch') FROM t",
            "SELECT strftime('%s', x) FROM t",
            "SELECT date FROM t",
            "SELECT 'now'",
        ] {
            assert!(Shape::of(sql).is_ok(), "{sql}");
        }
    }

    #[test]
    fn two_statements_are_refused() {
        assert_eq!(Shape::of("SELECT 1; SELECT 2").unwrap_err(), ShapeError::NotOne);
        assert_eq!(Shape::of(" -- nothing").unwrap_err(), ShapeError::NotOne);
    }
}
