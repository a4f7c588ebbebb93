use super::*;

fn own() -> Columns {
    [(Column::Hostname, "fra-1".to_owned()), (Column::Release, "0.1.0".to_owned())].into()
}

fn row() -> Row {
    let mut columns = own();
    columns.insert(Column::Subnet, "10.210.7.0/24".to_owned());
    Row { columns, labels: "{\"disk\":\"ssd\"}".to_owned(), draining: 1, removed_at: None }
}

fn kept() -> Kept {
    let Row { columns, labels, draining, removed_at } = row();
    Kept { removed_at, columns, labels, draining }
}

fn now() -> Now {
    Now { at: Instant::now() + Duration::from_secs(3600), wall_ms: 1_700_000_000_000 }
}

/// The plan as text, a line for each step. `ago` is when `last_seen` was written.
fn planned(seen: Seen, kept: Kept, ago: Option<u64>) -> String {
    let now = now();
    let observed = Observed { seen, kept, seen_at: ago.map(|seconds| now.at - Duration::from_secs(seconds)) };
    let steps: Vec<String> = plan(&own(), &observed, now).iter().map(ToString::to_string).collect();
    steps.join("\n")
}

#[test]
fn a_row_that_is_right_is_left_alone_until_last_seen_is_due() {
    assert_eq!(planned(Seen::Row(row()), kept(), Some(59)), "");
    assert_eq!(planned(Seen::Row(row()), kept(), Some(60)), "write last_seen");
    assert_eq!(planned(Seen::Row(row()), kept(), None), "write last_seen");
}

#[test]
fn what_differs_is_put_right_and_nothing_else_is_touched() {
    let mut wrong = row();
    wrong.columns.insert(Column::Hostname, "gone".to_owned());
    assert_eq!(planned(Seen::Row(wrong), kept(), Some(1)), "write hostname=\"fra-1\", last_seen");
    // A value that is no text counts as different.
    let mut odd = row();
    odd.columns.remove(&Column::Release);
    assert_eq!(planned(Seen::Row(odd), kept(), Some(1)), "write release=\"0.1.0\", last_seen");
}

#[test]
fn what_nobody_here_says_is_the_row_s_and_is_remembered() {
    let mut moved = row();
    moved.columns.insert(Column::Subnet, "10.210.8.0/24".to_owned());
    moved.draining = 0;
    insta::assert_snapshot!(planned(Seen::Row(moved), kept(), Some(1)), @r#"remember hostname="fra-1", subnet="10.210.8.0/24", release="0.1.0", labels="{\"disk\":\"ssd\"}", draining=0"#);
}

#[test]
fn a_row_that_was_deleted_comes_back_as_it_was() {
    insta::assert_snapshot!(planned(Seen::Lost, kept(), Some(1)), @r#"enter hostname="fra-1", subnet="10.210.7.0/24", release="0.1.0", labels="{\"disk\":\"ssd\"}", draining=1, last_seen"#);
    insta::assert_snapshot!(planned(Seen::Lost, Kept::default(), None), @r#"enter hostname="fra-1", release="0.1.0", labels="{}", draining=0, last_seen"#);
}

#[test]
fn a_store_that_has_not_caught_up_says_nothing() {
    assert_eq!(planned(Seen::Unknown, Kept::default(), None), "");
    assert_eq!(planned(Seen::Unknown, kept(), Some(3600)), "");
}

#[test]
fn a_server_that_was_removed_remembers_it_and_writes_nothing_until_it_is_taken_back() {
    let removed = Row { removed_at: Some(5), columns: Columns::new(), ..row() };
    assert_eq!(planned(Seen::Row(removed.clone()), kept(), None), "remember removal at 5");
    let remembers = Kept { removed_at: Some(5), columns: Columns::new(), ..kept() };
    assert_eq!(planned(Seen::Row(removed), remembers.clone(), None), "");
    // Also when the row itself is gone.
    assert_eq!(planned(Seen::Lost, remembers.clone(), None), "");
    insta::assert_snapshot!(planned(Seen::Row(row()), remembers, Some(1)), @r#"remember hostname="fra-1", subnet="10.210.7.0/24", release="0.1.0", labels="{\"disk\":\"ssd\"}", draining=1"#);
}

#[test]
fn any_cells_are_a_row() {
    let odd = vec![Value::Blob(vec![0]); Column::ALL.len() + 3];
    assert_eq!(Row::of(odd), Row { labels: "{}".to_owned(), removed_at: Some(0), ..Row::default() });
    assert_eq!(Row::of(Vec::new()), Row { labels: "{}".to_owned(), ..Row::default() });
    let mut cells: Vec<Value> = Column::ALL.iter().map(|column| Value::from(column.name())).collect();
    cells.extend([Value::from("{\"a\":1}"), Value::Integer(1), Value::Null]);
    let row = Row::of(cells);
    assert!(row.columns.iter().all(|(column, value)| column.name() == value) && row.columns.len() == 9);
    assert_eq!((row.labels.as_str(), row.draining, row.removed_at), ("{\"a\":1}", 1, None));
}
