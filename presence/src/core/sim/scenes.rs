//! Single scenes, second by second: what each side shows.

use super::cluster::{Cluster, Skew, TTL_MS};
use crate::core::board_test::{end, put, say};
use crate::core::{SessionName, Status, UserId};

fn ann() -> UserId {
    UserId::try_from("ann").unwrap()
}

/// What a node shows of `ann`: `o`nline, `b`usy, `-` offline; in capitals while stale.
fn shown(cluster: &Cluster, node: usize) -> char {
    shown_of(cluster, node, &ann())
}

fn shown_of(cluster: &Cluster, node: usize, id: &UserId) -> char {
    let board = cluster.nodes[node].board.as_ref().unwrap();
    let Some(user) = board.user(id) else { return '-' };
    let shown = user.effective(board.sight());
    let letter = match shown.status {
        Status::Offline => '-',
        Status::Away => 'a',
        Status::Busy => 'b',
        Status::Online => 'o',
    };
    if shown.stale { letter.to_ascii_uppercase() } else { letter }
}

/// What two nodes show in each of the next seconds, while `ann` sends heartbeats to node 0 if it is up.
fn seconds(cluster: &mut Cluster, seconds: usize) -> (String, String) {
    let (mut own, mut other) = (String::new(), String::new());
    for _ in 0..seconds {
        cluster.run(1_000);
        let now = cluster.time(0);
        if let Some(board) = cluster.nodes[0].board.as_mut() {
            board.heartbeat(&ann(), &SessionName::default(), now);
            cluster.flush(0);
            own.push(shown(cluster, 0));
        }
        other.push(shown(cluster, 1));
    }
    (own, other)
}

fn online(skew: Skew) -> Cluster {
    let mut cluster = Cluster::new(1, 3, 0, skew);
    cluster.run(3_000);
    cluster.write(0, 0, &put(&ann(), Status::Online, TTL_MS / 1_000));
    cluster
}

#[test]
fn a_leaf_that_is_cut_off_is_stale_then_offline_then_back_without_a_flap() {
    let mut cluster = online(Skew::Small);
    assert_eq!(seconds(&mut cluster, 2), ("oo".into(), "oo".into()));
    cluster.cut(&[0]);
    let (own, other) = seconds(&mut cluster, 40);
    assert_eq!(own, "o".repeat(40));
    // Up to a second later than 3 s and 30 s after the last beat, which was up to a second before the cut.
    let count = |letter: char| other.matches(letter).count();
    assert_eq!(other, format!("{}{}{}", "o".repeat(count('o')), "O".repeat(count('O')), "-".repeat(count('-'))));
    assert!((2..=4).contains(&count('o')) && (26..=28).contains(&count('O')), "{other}");
    cluster.heal();
    let (_, other) = seconds(&mut cluster, 5);
    assert!(other.ends_with("oooo"), "{other}");
}

#[test]
fn a_node_that_is_killed_and_back_within_thirty_seconds_flaps_nobody() {
    let mut cluster = online(Skew::Small);
    cluster.run(1_000);
    cluster.kill(0);
    let (_, other) = seconds(&mut cluster, 20);
    assert!(other.starts_with("oo") && other.ends_with("OOOO") && !other.contains('-'), "{other}");
    cluster.start(0);
    let (own, other) = seconds(&mut cluster, 20);
    assert_eq!(own, "o".repeat(20), "the restored session lives for another ttl, and is heard of");
    assert!(!other.contains('-') && other[2..] == "o".repeat(18), "{other}");
}

#[test]
fn a_node_that_is_back_after_thirty_seconds_brings_its_users_back() {
    let mut cluster = online(Skew::Small);
    cluster.kill(0);
    assert!(seconds(&mut cluster, 45).1.ends_with("-----"));
    cluster.start(0);
    let (own, other) = seconds(&mut cluster, 10);
    assert!(own == "o".repeat(10) && other[2..] == "o".repeat(8), "{own} {other}");
}

/// A node is away for so long; of its two users one goes meanwhile. What the other side shows of them from its return on,
/// every 5 ms, without repeats.
fn back_after(secs: usize) -> (String, String) {
    let mut cluster = online(Skew::Small);
    let bob = UserId::try_from("bob").unwrap();
    cluster.write(0, 0, &put(&bob, Status::Online, TTL_MS / 1_000));
    cluster.run(1_000);
    cluster.cut(&[0]);
    // Bob sends no heartbeats.
    seconds(&mut cluster, secs);
    let (mut ann_seen, mut bob_seen) = (String::new(), String::new());
    cluster.heal();
    for step in 0..1_600 {
        cluster.run(5);
        if step % 200 == 0 {
            let now = cluster.time(0);
            cluster.nodes[0].board.as_mut().unwrap().heartbeat(&ann(), &SessionName::default(), now);
        }
        for (seen, id) in [(&mut ann_seen, ann()), (&mut bob_seen, bob.clone())] {
            let letter = shown_of(&cluster, 1, &id);
            if !seen.ends_with(letter) {
                seen.push(letter);
            }
        }
    }
    (ann_seen, bob_seen)
}

#[test]
fn who_went_while_his_node_was_away_is_not_here_for_a_moment_when_it_is_back() {
    assert_eq!(back_after(20), ("Oo".into(), "O-".into()));
    assert_eq!(back_after(45), ("-o".into(), "-".into()));
}

#[test]
fn a_clock_a_day_ahead_changes_nothing_but_what_it_shows() {
    let mut cluster = online(Skew::OneDayAhead);
    assert_eq!(seconds(&mut cluster, 3), ("ooo".into(), "ooo".into()));
    // What is said on another node after it overrules what was said here.
    cluster.write(0, 0, &put(&ann(), Status::Busy, TTL_MS / 1_000));
    assert_eq!(seconds(&mut cluster, 2), ("bb".into(), "bb".into()));
    cluster.write(0, 1, &put(&ann(), Status::Away, TTL_MS / 1_000));
    assert_eq!(seconds(&mut cluster, 2), ("aa".into(), "aa".into()));
    cluster.write(0, 0, &end(&ann()));
    cluster.write(0, 1, &end(&ann()));
    assert_eq!(seconds(&mut cluster, 2), ("--".into(), "--".into()));
}

/// What each node shows of `ann`, with what she says.
fn said(cluster: &Cluster) -> Vec<(Status, Option<String>)> {
    let shown = cluster.nodes.iter().map(|node| {
        let board = node.board.as_ref().unwrap();
        let shown = board.user(&ann()).unwrap().visible(board.sight());
        (shown.status, shown.message.map(|message| message.as_str().to_owned()))
    });
    shown.collect()
}

#[test]
fn a_word_whose_session_is_over_overrules_nothing_on_any_node() {
    for (cut, killed) in [(true, None), (false, None), (false, Some(1)), (false, Some(2))] {
        let mut cluster = Cluster::new(1, 3, 0, Skew::Small);
        cluster.run(3_000);
        if cut {
            cluster.cut(&[0]);
        }
        cluster.write(0, 0, &say(&ann(), None, Status::Busy, "at lunch", 600));
        cluster.run(1_000);
        cluster.write(0, 1, &put(&ann(), Status::Away, 600));
        cluster.run(1_000);
        cluster.write(0, 1, &end(&ann()));
        cluster.run(1_000);
        if let Some(node) = killed {
            cluster.kill(node);
            cluster.run(1_000);
        }
        cluster.heal();
        cluster.run(6_000);
        let busy = (Status::Busy, Some("at lunch".to_owned()));
        assert_eq!(said(&cluster), vec![busy; 3], "cut: {cut}, killed: {killed:?}");
    }
}

#[test]
fn a_node_whose_log_is_lost_says_so_and_is_believed() {
    let mut cluster = online(Skew::Small);
    assert_eq!(seconds(&mut cluster, 2).1, "oo");
    cluster.kill(0);
    cluster.lose_log(0);
    cluster.start(0);
    cluster.run(5_000);
    assert_eq!(shown(&cluster, 1), '-');
    cluster.write(0, 0, &put(&ann(), Status::Busy, TTL_MS / 1_000));
    assert_eq!(seconds(&mut cluster, 2).1, "bb");
    cluster.must_agree();
}
