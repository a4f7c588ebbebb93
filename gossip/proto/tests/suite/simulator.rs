//! Clusters under faults: every seed must end in equal stores, with nothing torn on the way and nothing lost.
//!
//! A failing seed prints itself. `KITH_SIM_SEED=45 cargo nextest run -p kith-gossip-proto replay` runs it again and prints
//! what happened (`KITH_SIM_NODES=3` where it was not five nodes, `KITH_SIM_WINDOW_MS=1500` where tombstones are purged,
//! `KITH_SIM_DAMAGE=1` where rows are damaged, `KITH_SIM_WALL=1` where a clock is a day ahead, `KITH_SIM_DISKS=1` where disks
//! are set back).

use std::ops::Range;
use std::time::Duration;

use kith_gossip_proto::replica::{PULL_EVERY, Sizes};
use kith_gossip_proto::sim::{Config, Damage, Disks, Failure, Report, Sabotage, Trace, Wall, run};

/// Bound of the settling, in simulated time: less than [`PULL_EVERY`], the last resort, which so cannot hide that a rule
/// fails. Most of it is the end of a stream that a peer notices late, and a pull that must stall first.
const SETTLE: Duration = Duration::from_secs(9);

fn config(nodes: usize) -> Config {
    Config {
        nodes,
        sizes: Sizes::default(),
        chaos: Duration::from_secs(12),
        settle: SETTLE,
        rest: Duration::ZERO,
        window: None,
        damage: Damage::None,
        wall: Wall::InStep,
        disks: Disks::Stay,
        sabotage: None,
        trace: Trace::Off,
    }
}

fn hold(seeds: Range<u64>, config: &Config) -> Vec<Report> {
    seeds.map(|seed| run(seed, config).unwrap_or_else(|failure| panic!("{failure}"))).collect()
}

/// The same run once more, from outside: prints its trace.
#[test]
fn replay() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let seed = number("KITH_SIM_SEED").unwrap_or(0);
    let nodes = number("KITH_SIM_NODES").and_then(|nodes| usize::try_from(nodes).ok()).unwrap_or(5);
    let window = number("KITH_SIM_WINDOW_MS").map(Duration::from_millis);
    let hurt = std::env::var("KITH_SIM_DAMAGE").map_or(Damage::None, |_| Damage::Some);
    let base = match (window, hurt) {
        (Some(_), _) => forgetful(nodes),
        (None, Damage::Some) => hurting(nodes),
        (None, Damage::None) if std::env::var_os("KITH_SIM_WALL").is_some() => astray(nodes),
        (None, Damage::None) if std::env::var_os("KITH_SIM_DISKS").is_some() => set_back(nodes),
        (None, Damage::None) => config(nodes),
    };
    match run(seed, &Config { trace: Trace::On, window, ..base }) {
        Ok(report) => assert!(report.commits > 0, "{report:?}"),
        Err(failure) => panic!("{failure}"),
    }
}

/// What a run of many seeds amounted to, for people and for the check that the faults were there.
fn sum(reports: &[Report]) -> Report {
    let mut sum = Report::default();
    for report in reports {
        sum.settled_after = sum.settled_after.max(report.settled_after);
        sum.events += report.events;
        sum.commits += report.commits;
        sum.lost += report.lost;
        sum.pulls += report.pulls;
        sum.pulls_at_rest += report.pulls_at_rest;
        sum.snapshots += report.snapshots;
        sum.crashes += report.crashes;
        sum.breaks += report.breaks;
        sum.failed_applies += report.failed_applies;
        sum.hurt += report.hurt;
        sum.repairs += report.repairs;
        sum.purged += report.purged;
        sum.anew += report.anew;
        sum.replayed += report.replayed;
        sum.renounced += report.renounced;
        sum.restamped += report.restamped;
        sum.set_back += report.set_back;
        sum.forked += report.forked;
    }
    eprintln!("{} runs: {sum:?}", reports.len());
    sum
}

/// A simulation without faults, or with faults that touch nothing, would hold as well.
fn was_chaos(reports: &[Report]) {
    let runs = u64::try_from(reports.len()).unwrap();
    let sum = sum(reports);
    assert!(sum.commits > 50 * runs, "{sum:?}");
    assert!(sum.pulls > 5 * runs, "{sum:?}");
    assert!(sum.snapshots > runs / 2, "{sum:?}");
    assert!(sum.breaks > runs && sum.crashes > runs && sum.failed_applies > runs / 10, "{sum:?}");
}

#[test]
fn g1_g2_g3_g4_five_nodes_first_half() {
    was_chaos(&hold(0..200, &config(5)));
}

#[test]
fn g1_g2_g3_g4_five_nodes_second_half() {
    was_chaos(&hold(200..400, &config(5)));
}

#[test]
fn g1_g2_g3_g4_three_nodes() {
    was_chaos(&hold(1_000..1_300, &config(3)));
}

#[test]
fn g1_g2_g3_g4_two_nodes_have_no_third_to_help() {
    was_chaos(&hold(2_000..2_100, &config(2)));
}

#[test]
fn g1_g2_g3_g4_twelve_nodes() {
    was_chaos(&hold(3_000..3_010, &config(12)));
}

/// The same faults where versions are forwarded along trees.
fn tree(nodes: usize) -> Config {
    Config { sizes: Sizes { whole_up_to: 0, tree_above: 0 }, ..config(nodes) }
}

#[test]
fn g1_g2_g3_g4_five_nodes_in_a_tree() {
    was_chaos(&hold(4_000..4_150, &tree(5)));
}

#[test]
fn g1_g2_g3_g4_twelve_nodes_in_a_tree() {
    was_chaos(&hold(5_000..5_020, &tree(12)));
}

/// Nodes that see more or fewer of each other take the cluster for small or for large at the same time.
#[test]
fn g1_g2_g3_g4_at_the_edge_between_few_and_many() {
    let sizes = Sizes { whole_up_to: 6, tree_above: 7 };
    was_chaos(&hold(6_000..6_030, &Config { sizes, ..config(8) }));
}

#[test]
fn equal_seeds_give_equal_runs() {
    assert_eq!(run(7, &config(5)).unwrap(), run(7, &config(5)).unwrap());
    assert_ne!(run(7, &config(5)).unwrap(), run(8, &config(5)).unwrap());
}

/// At rest a node pulls from one random peer now and then, and nothing else happens.
#[test]
fn a_cluster_at_rest_only_pulls_at_random() {
    let rest = 6 * PULL_EVERY;
    let nodes = 5;
    for report in hold(0..40, &Config { rest, ..config(nodes) }) {
        // A turn each, and one that was about to come as the rest began; a pull may have been begun by then.
        let turns = u64::try_from(nodes).unwrap() * (6 + 2);
        assert!(report.pulls_at_rest <= turns, "{report:?}");
        assert!(report.pulls_at_rest >= 5, "{report:?}");
    }
}

/// Tombstones are kept for so short that nodes are away for longer.
fn forgetful(nodes: usize) -> Config {
    Config { window: Some(Duration::from_millis(1_500)), chaos: Duration::from_secs(20), ..config(nodes) }
}

/// At the end there is not one tombstone anywhere, and no row that was deleted.
#[test]
fn g5_nodes_away_for_longer_than_tombstones_are_kept_bring_nothing_back() {
    let reports = [hold(7_000..7_150, &forgetful(4)), hold(7_150..7_250, &forgetful(3))].concat();
    let sum = sum(&reports);
    assert!(sum.purged > 2_000 && sum.anew > 100 && sum.replayed > 20, "{sum:?}");
}

/// A peer that was away for longer than deletions are kept had pulled them, and then handed on what it had written before.
#[test]
fn g5_in_a_tree_what_was_written_while_away_is_not_taken_afterwards() {
    // Handed on by itself, and by others who still had all tombstones.
    for seed in [7_002_693, 7_003_029] {
        hold(seed..seed + 1, &Config { sizes: tree(8).sizes, chaos: config(8).chaos, ..forgetful(8) });
    }
}

/// Half of the pairs have no stream in a tree of twelve, and are asked for their heads; few nodes are away for long there.
#[test]
fn g5_in_a_tree_deletions_are_forgotten_and_nothing_comes_back() {
    let forgetful = |nodes| Config { sizes: tree(nodes).sizes, ..forgetful(nodes) };
    let wide = sum(&hold(7_500..7_512, &forgetful(12)));
    assert!(wide.purged > 100, "{wide:?}");
    let narrow = sum(&hold(7_550..7_610, &forgetful(4)));
    assert!(narrow.purged > 500 && narrow.anew > 20, "{narrow:?}");
}

/// The first of these seeds that fails in one of these ways, as one must.
fn notices(sabotage: Sabotage, ways: &[&str], seeds: Range<u64>) -> Failure {
    notices_in(&config(4), sabotage, ways, seeds)
}

fn notices_in(config: &Config, sabotage: Sabotage, ways: &[&str], seeds: Range<u64>) -> Failure {
    let config = Config { sabotage: Some(sabotage), ..config.clone() };
    let as_foreseen = |failure: &Failure| ways.iter().any(|way| failure.what.contains(way));
    let failed = seeds.clone().filter_map(|seed| run(seed, &config).err()).find(as_foreseen);
    failed.unwrap_or_else(|| panic!("none of the seeds {seeds:?} notices {sabotage:?}"))
}

#[test]
fn versions_applied_before_what_they_need_are_noticed() {
    notices(Sabotage::ApplyAtOnce, &["half a row"], 0..50);
    notices(Sabotage::ApplyAtOnce, &["equal heads"], 0..50);
}

#[test]
fn a_pull_of_one_site_is_noticed() {
    notices(Sabotage::PullBySite, &["fold"], 0..100);
}

#[test]
fn an_answer_joined_in_parts_is_noticed() {
    notices(Sabotage::JoinInParts, &["torn"], 0..50);
}

#[test]
fn versions_that_peers_hear_of_before_the_sync_are_noticed() {
    notices(Sabotage::PublishBeforeSync, &["equal heads", "fold"], 0..200);
}

#[test]
fn heads_told_before_they_are_stored_are_noticed() {
    notices(Sabotage::TellBeforeStored, &["fold", "not equal"], 0..100);
}

#[test]
fn g5_rows_joined_with_those_of_who_was_away_are_noticed() {
    notices_in(&forgetful(4), Sabotage::JoinWhoWasAway, &["fold", "different rows"], 0..50);
}

#[test]
fn g5_tombstones_purged_while_what_was_written_before_is_under_way_are_noticed() {
    notices_in(&forgetful(4), Sabotage::PurgeAtOnce, &["fold", "different rows", "half a row"], 0..200);
}

/// In a tree, where others hand on what was written by a node that was away.
#[test]
fn g5_changes_of_rows_whose_deletion_is_forgotten_are_noticed() {
    let config = Config { sizes: tree(8).sizes, chaos: config(8).chaos, ..forgetful(8) };
    notices_in(&config, Sabotage::TakeForgotten, &["different rows"], 7_003_029..7_003_030);
}

#[test]
fn g5_causal_lengths_that_are_forgotten_are_noticed() {
    notices_in(&forgetful(4), Sabotage::ForgetLengths, &["fold", "different rows"], 0..200);
}

/// Rows change behind the stores' backs besides. A peer that cannot repair is asked again after a while.
fn hurting(nodes: usize) -> Config {
    Config { damage: Damage::Some, settle: Duration::from_secs(60), ..config(nodes) }
}

fn was_hurt(reports: &[Report]) {
    let (runs, sum) = (u64::try_from(reports.len()).unwrap(), sum(reports));
    assert!(sum.hurt > runs && sum.repairs > runs / 2, "{sum:?}");
}

/// A power cut took a repair that was not synced, and what was done before it.
#[test]
fn g15_two_nodes_whose_repair_was_lost_with_power_come_right() {
    let report = &hold(3_010_201..3_010_202, &Config { sizes: tree(2).sizes, ..hurting(2) })[0];
    assert!(report.hurt > 0 && report.repairs > 0 && report.lost > 0, "{report:?}");
}

#[test]
fn g15_damaged_rows_come_right_and_reach_nobody_among_three() {
    was_hurt(&hold(8_000..8_150, &hurting(3)));
}

#[test]
fn g15_damaged_rows_come_right_and_reach_nobody_among_five() {
    was_hurt(&hold(8_200..8_300, &hurting(5)));
}

#[test]
fn damaged_rows_that_are_sent_are_noticed() {
    notices_in(&hurting(3), Sabotage::SendDamaged, &["different rows", "fold"], 0..600);
}

#[test]
fn a_damaged_store_that_joins_is_noticed() {
    notices_in(&hurting(4), Sabotage::RepairByJoin, &["different rows", "fold"], 0..100);
}

#[test]
fn a_damaged_store_that_forgets_what_it_alone_has_is_noticed() {
    notices_in(&hurting(4), Sabotage::RepairWholesale, &["different rows", "fold", "lost"], 0..100);
}

/// One clock is a day ahead, now and then. Clocks are told every 10 s, and so is who is refused.
fn astray(nodes: usize) -> Config {
    Config { wall: Wall::OneAhead, settle: Duration::from_secs(60), ..config(nodes) }
}

fn gave_up(reports: &[Report]) {
    let (runs, sum) = (u64::try_from(reports.len()).unwrap(), sum(reports));
    assert!(sum.renounced > runs / 8 && sum.restamped > runs / 8, "{sum:?}");
}

/// What it stamps is refused by the others. Its node gives up its site and stamps it anew, whether or not the clock is set.
#[test]
fn g4_a_clock_that_is_a_day_ahead_harms_nobody_and_its_node_comes_right() {
    gave_up(&hold(9_000..9_100, &astray(3)));
    gave_up(&hold(9_100..9_160, &astray(5)));
}

#[test]
fn g4_of_two_nodes_the_one_whose_clock_was_a_day_ahead_comes_right_once_it_is_set() {
    gave_up(&hold(9_200..9_260, &astray(2)));
}

#[test]
fn g4_a_clock_that_is_a_day_ahead_harms_nobody_in_a_tree() {
    gave_up(&hold(9_300..9_340, &Config { sizes: tree(8).sizes, ..astray(8) }));
}

#[test]
fn g4_answers_from_the_future_that_are_joined_are_noticed() {
    notices_in(&astray(3), Sabotage::JoinFuture, &["from the future"], 9_000..9_100);
}

#[test]
fn g4_a_site_that_is_not_given_up_is_noticed() {
    notices_in(&astray(3), Sabotage::KeepFuture, &["not equal"], 9_000..9_100);
}

/// Disks are set back to what was on them. Where two stores wrote under one number, their rows are joined once they are found
/// to differ.
fn set_back(nodes: usize) -> Config {
    Config { disks: Disks::SetBack, settle: Duration::from_secs(90), ..config(nodes) }
}

fn were_set_back(reports: &[Report]) {
    let (runs, sum) = (u64::try_from(reports.len()).unwrap(), sum(reports));
    assert!(sum.set_back > runs && sum.forked > runs / 2, "{sum:?}");
}

#[test]
fn g4_of_disks_that_are_set_back_nothing_is_lost_that_a_peer_has() {
    were_set_back(&hold(9_400..9_500, &set_back(3)));
    were_set_back(&hold(9_500..9_560, &set_back(5)));
    were_set_back(&hold(9_560..9_600, &set_back(2)));
}

#[test]
fn g4_a_site_that_another_store_has_written_and_is_not_given_up_is_noticed() {
    notices_in(&set_back(3), Sabotage::KeepSite, &["not equal", "lost"], 9_400..9_500);
}

#[test]
fn g4_a_store_that_takes_back_what_it_wrote_before_it_was_set_back_is_noticed() {
    notices_in(&set_back(3), Sabotage::TakeBack, &["not equal", "lost"], 9_400..12_000);
}

#[test]
fn a_failure_says_how_to_replay_it() {
    let failure = notices(Sabotage::ApplyAtOnce, &["half a row"], 0..50);
    let text = failure.to_string();
    assert!(text.contains(&format!("KITH_SIM_SEED={}", failure.seed)), "{text}");
    let traced = Config { sabotage: Some(Sabotage::ApplyAtOnce), trace: Trace::On, ..config(4) };
    let again = run(failure.seed, &traced).unwrap_err();
    assert_eq!((again.at, &again.what), (failure.at, &failure.what));
    assert!(again.trace.len() > 100 && again.trace.iter().any(|line| line.contains("n0 <- ")), "{:?}", again.trace);
}
