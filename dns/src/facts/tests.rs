//! What is believed when: loading, resynchronisation, loss, silence.

use super::{Effect, Facts, Freshness};
use crate::feed::{Cell, Event, Member, MemberState, Table};
use crate::testing::{Row, addresses, config, container, facts, member, server, service, snapshot};
use crate::zone::{Settings, Zone};

fn rows() -> Vec<Row> {
    vec![server("s1"), service("casa", "api"), container("aa", "casa/api", "10.210.0.1")]
}

fn answer(facts: &Facts) -> String {
    addresses(&Zone::build(facts, &Settings::from(&config()), 1), "casa-api.internal")
}

#[test]
fn nothing_is_denied_before_every_table_is_complete() {
    let mut events = snapshot(rows());
    let last = events.pop().unwrap();
    let mut facts = facts(events);
    assert_eq!(facts.freshness(), Freshness::Loading);
    assert_eq!(answer(&facts), "Server Failure");
    assert_eq!(facts.apply(last), Effect::Facts);
    assert_eq!(answer(&facts), "10.210.0.1");
}

#[test]
fn a_lost_feed_freezes_and_marks_and_a_resumption_ends_it_table_by_table() {
    let mut facts = facts(snapshot(rows()));
    assert_eq!(facts.apply(Event::FeedLost), Effect::Freshness);
    assert_eq!(facts.freshness(), Freshness::Stale);
    assert_eq!(answer(&facts), "10.210.0.1");
    assert_eq!(facts.apply(Event::FeedLost), Effect::None);
    for table in Table::ALL {
        assert_eq!(facts.freshness(), Freshness::Stale);
        // A change proves as well as `Synced` that the table follows again.
        let event = if table == Table::Servers { server("s2").upsert() } else { Event::Synced(table) };
        facts.apply(event);
    }
    assert_eq!(facts.freshness(), Freshness::Current);
}

#[test]
fn a_resynchronisation_replaces_at_its_end_and_nothing_deleted_meanwhile_survives() {
    let mut facts = facts(snapshot(rows()));
    facts.apply(Event::FeedLost);
    for table in Table::ALL {
        facts.apply(Event::Reset(table));
    }
    facts.apply(service("casa", "api").upsert());
    facts.apply(container("ab", "casa/api", "10.210.0.2").upsert());
    assert_eq!(answer(&facts), "10.210.0.1", "what was known is answered until the snapshot is whole");
    for table in Table::ALL {
        facts.apply(Event::Synced(table));
    }
    assert_eq!(answer(&facts), "10.210.0.2");
    assert_eq!(facts.freshness(), Freshness::Current);
}

#[test]
fn a_snapshot_cut_off_in_its_middle_leaves_no_trace() {
    let mut facts = facts(snapshot(rows()));
    facts.apply(Event::Reset(Table::Containers));
    facts.apply(container("ab", "casa/api", "10.210.0.2").upsert());
    facts.apply(Event::FeedLost);
    assert_eq!(answer(&facts), "10.210.0.1");
    facts.apply(Event::Reset(Table::Containers));
    facts.apply(container("ac", "casa/api", "10.210.0.3").upsert());
    facts.apply(Event::Synced(Table::Containers));
    assert_eq!(answer(&facts), "10.210.0.3");
}

#[test]
fn rows_change_and_go() {
    let mut facts = facts(snapshot(rows()));
    facts.apply(container("aa", "casa/api", "10.210.0.9").upsert());
    assert_eq!(answer(&facts), "10.210.0.9");
    facts.apply(container("aa", "casa/api", "10.210.0.9").set("health_status", "unhealthy").upsert());
    assert_eq!(answer(&facts), "-");
    facts.apply(service("casa", "api").delete());
    assert_eq!(answer(&facts), "Non-Existent Domain");
}

#[test]
fn a_bad_row_replaces_a_good_one_and_a_good_one_a_bad_one() {
    let mut facts = facts(snapshot(rows()));
    facts.apply(container("aa", "casa/api", "nowhere").upsert());
    assert_eq!(answer(&facts), "-");
    assert_eq!(facts.containers.faults().count(), 1);
    facts.apply(container("aa", "casa/api", "10.210.0.1").upsert());
    assert_eq!(answer(&facts), "10.210.0.1");
    assert_eq!(facts.containers.faults().count(), 0);
}

#[test]
fn cells_of_any_kind_and_number_are_survived() {
    let mut facts = facts(snapshot(rows()));
    let kinds =
        [Cell::Null, Cell::Integer(i64::MIN), Cell::Real(f64::NAN), Cell::Text("\0é".into()), Cell::Blob(vec![255])];
    for table in Table::ALL {
        for width in [0, 1, 2, 5, 7, 11, 13] {
            for kind in &kinds {
                facts.apply(Event::Upsert { table, cells: vec![kind.clone(); width] });
            }
        }
    }
    assert_eq!(answer(&facts), "10.210.0.1");
    for table in Table::ALL {
        for width in [0, 1, 2] {
            for kind in &kinds {
                facts.apply(Event::Delete { table, cells: vec![kind.clone(); width] });
            }
        }
    }
    let left: usize = [facts.containers.faults().count(), facts.servers.faults().count()].iter().sum();
    assert_eq!(left, 0, "poison rows go by their keys like all others");
}

#[test]
fn a_silent_servers_instances_are_out_until_it_is_heard_again() {
    let mut facts = facts(snapshot(rows()));
    assert_eq!(answer(&facts), "10.210.0.1", "who never was a member is not silent");
    for state in [MemberState::Silent, MemberState::Removed] {
        facts.apply(Event::Member(member("s1", state)));
        assert_eq!(answer(&facts), "-");
        facts.apply(Event::Member(member("s1", MemberState::Up)));
        assert_eq!(answer(&facts), "10.210.0.1");
    }
}

#[test]
fn a_rebooted_host_is_silent_until_its_row_catches_up() {
    let mut facts = facts(snapshot(rows()));
    let rebooted = Member { boot_id: "second".into(), ..member("s1", MemberState::Up) };
    facts.apply(Event::Member(rebooted));
    assert_eq!(answer(&facts), "10.210.0.1", "a row without a boot id says nothing");
    facts.apply(server("s1").set("boot_id", "first").upsert());
    assert_eq!(answer(&facts), "-");
    facts.apply(server("s1").set("boot_id", "second").upsert());
    assert_eq!(answer(&facts), "10.210.0.1");
}

#[test]
fn the_operators_word_takes_a_server_out() {
    for column in ["draining", "removed_at"] {
        let mut facts = facts(snapshot(rows()));
        facts.apply(server("s1").set(column, 1).upsert());
        assert_eq!(answer(&facts), "-", "{column}");
        facts.apply(server("s1").upsert());
        assert_eq!(answer(&facts), "10.210.0.1", "{column}");
    }
}

#[test]
fn a_round_trip_that_changes_no_order_changes_nothing() {
    let at = |server: &str, ms| {
        Event::Member(Member { rtt: Some(std::time::Duration::from_millis(ms)), ..member(server, MemberState::Up) })
    };
    let mut facts = facts(snapshot(rows()));
    assert_eq!(facts.apply(at("s1", 10)), Effect::Facts);
    assert_eq!(facts.apply(at("s2", 20)), Effect::Facts);
    assert_eq!(facts.apply(at("s1", 12)), Effect::None);
    assert_eq!(facts.apply(at("s1", 30)), Effect::Facts);
}
