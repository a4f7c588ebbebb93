//! Laws of the merge. Few users' sessions, few nodes and near-equal versions and clocks, so that ties happen.

use std::collections::BTreeMap;

use kith_gossip_proto::{Hlc, NodeId};
use proptest::prelude::*;

use super::fact::{Explicit, Fact, Life, Session, State};
use super::{Heard, Message, SessionName, Sight, Status, Ttl, User, Version};

/// What a node said, as it was numbered: one version has one content.
fn saying() -> impl Strategy<Value = (NodeId, Fact)> {
    (0..3_u8, 0..3_u8, 1..6_u64).prop_map(|(node, what, seq)| {
        let node_id: NodeId = format!("n{node}").parse().unwrap();
        let version = Version { epoch: 1 + seq / 4, seq };
        // All that is said follows from who says it and its number, as it does where each word has one writer.
        let mixed = u64::from(node) * 7 + seq * 3 + u64::from(what);
        let status = [Status::Away, Status::Busy, Status::Online][(mixed % 3) as usize];
        let life = if mixed.is_multiple_of(4) { Life::Ended } else { Life::Live { status, ttl: Ttl::default() } };
        let session = ["default", "phone"][usize::from(what % 2)];
        let session = SessionName::try_from(session).unwrap();
        let fact = match what {
            0 | 1 => Fact::Session(session, Session { version, life, changed_ms: 1_000 + seq }),
            _ if seq == 5 => Fact::Seen(1_000 + mixed),
            _ => Fact::Explicit(Explicit {
                version,
                stamp: Hlc::from_ms(1_000 + seq / 2),
                status: (status != Status::Online).then_some(status),
                message: Message::try_from(format!("{mixed}")).ok(),
                by: SessionName::default(),
                state: if mixed.is_multiple_of(3) { State::Expired } else { State::Holds },
                changed_ms: 1_000 + seq,
            }),
        };
        (node_id, fact)
    })
}

fn user(said: &[(NodeId, Fact)]) -> User {
    let mut user = User::default();
    for (node, fact) in said {
        user.join(node, fact.clone());
    }
    user
}

fn merged(a: &User, b: &User) -> User {
    let mut merged = a.clone();
    merged.merge(b);
    merged
}

fn sight(heard: [Heard; 3]) -> Sight {
    let nodes: BTreeMap<NodeId, Heard> =
        heard.into_iter().enumerate().map(|(at, heard)| (format!("n{at}").parse().unwrap(), heard)).collect();
    Sight { me: "me".parse().unwrap(), latest: Hlc::from_ms(1_002), nodes }
}

proptest! {
    #[test]
    fn merging_is_commutative_associative_and_idempotent(
        a in prop::collection::vec(saying(), 0..8),
        b in prop::collection::vec(saying(), 0..8),
        c in prop::collection::vec(saying(), 0..8),
    ) {
        let (a, b, c) = (user(&a), user(&b), user(&c));
        prop_assert_eq!(merged(&a, &b), merged(&b, &a));
        prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
        prop_assert_eq!(merged(&a, &a), a);
    }

    #[test]
    fn any_order_duplication_and_grouping_of_facts_ends_in_the_same_user(
        said in prop::collection::vec(saying(), 0..12),
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut again = said.clone();
        again.extend(order.iter().filter(|_| !said.is_empty()).map(|at| at.get(&said).clone()));
        again.reverse();
        prop_assert_eq!(user(&again), user(&said));
        let (left, right) = said.split_at(if said.is_empty() { 0 } else { cut.index(said.len()) });
        prop_assert_eq!(merged(&user(left), &user(right)), user(&said));
    }

    #[test]
    fn what_is_shown_follows_the_rules(said in prop::collection::vec(saying(), 0..12)) {
        let user = user(&said);
        let all = sight([Heard::Live; 3]);
        let shown = user.effective(&all);
        let best = user.sessions().filter_map(|(_, _, session)| match session.life {
            Life::Live { status, .. } => Some(status),
            Life::Ended => None,
        }).max();
        // Nobody is shown as here without a session, nor as offline with one.
        prop_assert_eq!(best.is_none(), shown.status == Status::Offline);
        prop_assert_eq!(best.is_none(), shown.by.is_none());
        prop_assert!(!shown.stale);
        if !user.has_said() && let Some(best) = best {
            prop_assert_eq!(shown.status, best);
        }
        // Who is not heard is offline, and who is heard late is shown, as stale.
        prop_assert_eq!(user.effective(&sight([Heard::Silent; 3])).status, Status::Offline);
        let late = user.effective(&sight([Heard::Stale; 3])).clone();
        prop_assert_eq!((late.status, late.stale), (shown.status, best.is_some()));
    }

    #[test]
    fn what_is_said_and_read_again_is_the_same(said in prop::collection::vec(saying(), 0..4)) {
        for (_, fact) in said {
            let text = serde_json::to_string(&fact).unwrap();
            prop_assert_eq!(serde_json::from_str::<Fact>(&text).unwrap(), fact);
        }
    }
}

#[test]
fn a_word_from_the_future_overrules_nobody() {
    let said = |node: &str, ms: u64, status: Status| {
        let explicit = Explicit {
            version: Version { epoch: 1, seq: 1 },
            stamp: Hlc::from_ms(ms),
            status: Some(status),
            message: None,
            by: SessionName::default(),
            state: State::Holds,
            changed_ms: ms,
        };
        (node.parse().unwrap(), Fact::Explicit(explicit))
    };
    let life = Life::Live { status: Status::Online, ttl: Ttl::default() };
    let session = Session { version: Version { epoch: 1, seq: 1 }, life, changed_ms: 1 };
    let here = ("n0".parse().unwrap(), Fact::Session(SessionName::default(), session));
    let user = user(&[here, said("n0", 1_001, Status::Busy), said("n1", 90_000_000, Status::Away)]);
    assert_eq!(user.effective(&sight([Heard::Live; 3])).status, Status::Busy);
    let later = Sight { latest: Hlc::MAX, ..sight([Heard::Live; 3]) };
    assert_eq!(user.effective(&later).status, Status::Away);
}
