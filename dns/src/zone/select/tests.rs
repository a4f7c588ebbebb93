//! The selection rules by example, then against a second statement of them.

use proptest::prelude::*;

use super::{Candidate, Verdict, answers_alone, judge, select};
use crate::facts::Standing;
use crate::row::{Fallback, Health, Serving};

fn candidate(key: &'static str) -> Candidate<'static> {
    Candidate {
        key,
        label: key,
        slot_label: None,
        group: None,
        slot: Some(key),
        server: "s1",
        region: "",
        v4: None,
        v6: None,
        ports: &[],
        listeners: [0; 4],
        health: Health::Healthy,
        serving: Serving::Yes,
        standing: Standing::Serving,
        started_at: 0,
    }
}

fn chosen(candidates: &[Candidate<'_>], fallback: Fallback) -> String {
    select(candidates.iter(), fallback).iter().map(|one| one.key).collect::<Vec<_>>().join(" ")
}

#[test]
fn the_best_class_answers_and_unhealthy_ones_never() {
    let with = |key, health| Candidate { health, ..candidate(key) };
    let all = [
        with("h", Health::Healthy),
        with("d", Health::Degraded),
        with("u", Health::Unknown),
        with("x", Health::Unhealthy),
    ];
    assert_eq!(chosen(&all, Fallback::All), "h");
    assert_eq!(chosen(&all[1..], Fallback::All), "d");
    assert_eq!(chosen(&all[2..], Fallback::All), "u");
    assert_eq!(chosen(&all[3..], Fallback::Empty), "");
    assert_eq!(chosen(&all[3..], Fallback::All), "x");
}

#[test]
fn a_starting_container_never_hides_its_healthy_predecessor() {
    let old = Candidate { slot: Some("one"), started_at: 1, ..candidate("old") };
    let new = Candidate { slot: Some("one"), started_at: 2, health: Health::Unhealthy, ..candidate("new") };
    assert_eq!(chosen(&[old.clone(), new.clone()], Fallback::Empty), "old");
    let ready = Candidate { health: Health::Healthy, ..new };
    assert_eq!(chosen(&[old, ready], Fallback::Empty), "new");
}

#[test]
fn of_a_slot_the_newest_answers_and_of_two_as_new_the_greater_id() {
    let in_slot = |key, started_at| Candidate { slot: None, started_at, ..candidate(key) };
    assert_eq!(chosen(&[in_slot("a", 5), in_slot("c", 5), in_slot("b", 4)], Fallback::Empty), "c");
    let elsewhere = Candidate { server: "s2", ..in_slot("a", 1) };
    assert_eq!(chosen(&[in_slot("b", 5), elsewhere], Fallback::Empty), "b a");
}

#[test]
fn draining_silent_and_removed_are_out_and_fail_open_brings_back_only_the_silent() {
    let on = |key, standing| Candidate { standing, ..candidate(key) };
    let drained = Candidate { serving: Serving::Draining, ..candidate("e") };
    let all =
        [on("a", Standing::Silent), on("b", Standing::Draining), on("c", Standing::Removed), candidate("d"), drained];
    assert_eq!(chosen(&all, Fallback::All), "d");
    let mut dead = all.clone();
    dead[3].health = Health::Unhealthy;
    assert_eq!(chosen(&dead, Fallback::Empty), "");
    assert_eq!(chosen(&dead, Fallback::All), "a d");
}

#[test]
fn each_candidate_hears_by_which_rule_it_is_in_or_out() {
    let slot = |key, slot, started_at| Candidate { slot: Some(slot), started_at, ..candidate(key) };
    let on = |key, standing| Candidate { standing, ..candidate(key) };
    let all = [
        slot("a", "one", 2),
        slot("b", "one", 1),
        Candidate { health: Health::Degraded, ..candidate("c") },
        Candidate { health: Health::Unhealthy, ..candidate("d") },
        Candidate { serving: Serving::Draining, ..candidate("e") },
        on("f", Standing::Draining),
        on("g", Standing::Removed),
        on("h", Standing::Silent),
    ];
    let judged = |from: usize, fallback| {
        let candidates: Vec<&Candidate<'_>> = all[from..].iter().collect();
        judge(&candidates, fallback).into_iter().map(|(_, verdict)| verdict).collect::<Vec<_>>()
    };
    let out = [Verdict::Draining, Verdict::ServerDraining, Verdict::ServerRemoved, Verdict::ServerSilent];
    assert_eq!(judged(4, Fallback::Empty), out);
    let first = [Verdict::Best, Verdict::Older("a"), Verdict::Worse(Health::Healthy), Verdict::Unhealthy];
    assert_eq!(judged(0, Fallback::All), [&first[..], &out].concat());
    let open = [Verdict::FailOpen, out[0], out[1], out[2], Verdict::FailOpen];
    assert_eq!(judged(3, Fallback::All), open);
}

/// The rules once more, as slowly and plainly as they are said: an instance answers unless a rule puts it out.
fn answers(one: &Candidate<'_>, all: &[Candidate<'_>], fallback: Fallback) -> bool {
    let may = |c: &Candidate<'_>| {
        c.serving == Serving::Yes && c.standing == Standing::Serving && c.health != Health::Unhealthy
    };
    let class = |health: Health| [Health::Healthy, Health::Degraded, Health::Unknown].iter().position(|c| *c == health);
    let best = all.iter().filter(|c| may(c)).filter_map(|c| class(c.health)).min();
    let Some(best) = best else {
        let known = one.standing != Standing::Draining && one.standing != Standing::Removed;
        return fallback == Fallback::All && one.serving == Serving::Yes && known;
    };
    let stays = |c: &Candidate<'_>| may(c) && class(c.health) == Some(best);
    let newer = |c: &Candidate<'_>| (c.started_at, c.key) > (one.started_at, one.key);
    stays(one) && !all.iter().any(|c| stays(c) && c.server == one.server && c.slot == one.slot && newer(c))
}

prop_compose! {
    fn any_candidate()(
        health in prop_oneof![Just(Health::Healthy), Just(Health::Degraded), Just(Health::Unknown), Just(Health::Unhealthy)],
        draining in prop::bool::weighted(0.2),
        standing in prop_oneof![
            4 => Just(Standing::Serving), 1 => Just(Standing::Silent), 1 => Just(Standing::Draining), 1 => Just(Standing::Removed)],
        server in prop_oneof![Just("s1"), Just("s2")],
        slot in prop_oneof![Just(None), Just(Some("x")), Just(Some("y"))],
        started_at in 0_i64..3,
    ) -> Candidate<'static> {
        let serving = if draining { Serving::Draining } else { Serving::Yes };
        Candidate { health, serving, standing, server, slot, started_at, ..candidate("") }
    }
}

proptest! {
    #[test]
    fn selection_is_what_the_rules_say(
        mut all in prop::collection::vec(any_candidate(), 0..7),
        open in any::<bool>(),
    ) {
        const KEYS: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];
        for (one, key) in all.iter_mut().zip(KEYS) {
            one.key = key;
        }
        let fallback = if open { Fallback::All } else { Fallback::Empty };
        let mut found: Vec<&str> = select(all.iter(), fallback).iter().map(|one| one.key).collect();
        found.sort_unstable();
        let wanted: Vec<&str> = all.iter().filter(|one| answers(one, &all, fallback)).map(|one| one.key).collect();
        prop_assert_eq!(found, wanted);
        for (one, verdict) in judge(&all.iter().collect::<Vec<_>>(), fallback) {
            let is_in = matches!(verdict, Verdict::Best | Verdict::FailOpen);
            prop_assert_eq!(is_in, answers(one, &all, fallback), "{:?}", verdict);
        }
        for one in &all {
            let alone = !select(std::iter::once(one), fallback).is_empty();
            prop_assert_eq!(answers_alone(one, fallback), alone);
        }
    }
}
