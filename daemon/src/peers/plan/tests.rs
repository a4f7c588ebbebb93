use std::collections::BTreeMap;

use tokio::time::Instant;

use super::super::cache::Known;
use super::super::judge::{Installed, judge};
use super::super::mesh::{MeshRange, Number, management};
use super::super::row::{Row, Said, Server};
use super::*;
use crate::endpoints::Echoed;

const HOUR: Duration = Duration::from_secs(3600);

/// A key, written `k7` in the golden plans.
fn key(number: u8) -> PublicKey {
    PublicKey::new([number; 32])
}

fn mesh() -> MeshRange {
    MeshRange::new("10.210.0.0/16".parse().unwrap()).unwrap()
}

fn end(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// All that is judged by, of a cluster in which server `sN` has the number N and the key `kN`. We are `s1`.
struct Scene {
    rows: Option<BTreeMap<String, Row>>,
    cache: Cache,
    worked: BTreeMap<PublicKey, SocketAddr>,
    echoed: BTreeSet<PublicKey>,
    peers: BTreeMap<PublicKey, Installed>,
    tombstones: BTreeMap<String, Instant>,
    replaced: BTreeMap<PublicKey, Instant>,
    removals: Vec<Instant>,
    sure: BTreeSet<String>,
    suspicion: Suspicion,
    now: Instant,
}

impl Scene {
    /// Servers that are known by their rows, the cache and the interface: nothing is to be done.
    fn of(servers: impl IntoIterator<Item = u8>) -> Scene {
        let mut scene = Scene {
            rows: Some(BTreeMap::new()),
            cache: Cache { own: Number::new(1), ..Cache::default() },
            worked: BTreeMap::new(),
            echoed: BTreeSet::new(),
            peers: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            replaced: BTreeMap::new(),
            removals: Vec::new(),
            sure: BTreeSet::new(),
            suspicion: Suspicion::Clear,
            now: Instant::now() + HOUR,
        };
        for number in servers {
            scene.row(&format!("s{number}"), number, number);
            scene.knows(&format!("s{number}"), number, number);
            scene.install(number, number);
        }
        scene
    }

    fn row(&mut self, id: &str, number: u8, key_of: u8) {
        let server = Server {
            key: key(key_of),
            number: Number::new(number).unwrap(),
            endpoints: vec![end(&format!("192.0.2.{key_of}:31820"))],
        };
        self.say(id, Said::Server(server));
    }

    fn say(&mut self, id: &str, said: Said) {
        self.rows.get_or_insert_default().insert(id.to_owned(), Row { said, faults: Vec::new() });
    }

    /// The row of these texts, with what is wrong with it.
    fn texts(&mut self, id: &str, [key, subnet, ip, endpoints]: [&str; 4]) {
        let management = key.parse().map(|key| management(&key).to_string()).unwrap_or_default();
        let text = |text: &str| kith_gossip_client::Value::Text(text.to_owned());
        let null = kith_gossip_client::Value::Null;
        let cells = vec![text(id), null, text(key), text(subnet), text(ip), text(&management), text(endpoints)];
        self.rows.get_or_insert_default().extend(Row::read(vec![cells], mesh()));
    }

    fn knows(&mut self, id: &str, number: u8, key_of: u8) {
        let known = Known {
            key: key(key_of),
            number: Number::new(number).unwrap(),
            endpoints: vec![end(&format!("192.0.2.{key_of}:31820"))],
            worked: None,
            echoed: Echoed::Never,
            former: BTreeSet::new(),
        };
        self.cache.servers.insert(id.to_owned(), known);
    }

    fn install(&mut self, key_of: u8, number: u8) {
        let key = key(key_of);
        let management = IpNet::from(std::net::IpAddr::from(management(&key)));
        let allowed = mesh().behind(Number::new(number).unwrap()).chain([management]).collect();
        let endpoint = Some(end(&format!("198.51.100.{key_of}:9")));
        let installed = Installed { endpoint, allowed, keepalive: Some(KEEPALIVE), shook: Shook::NotYet };
        self.peers.insert(key, installed);
    }

    fn remove(&mut self, id: &str, seconds: u64) {
        self.say(id, Said::Removed(None));
        self.tombstones.insert(id.to_owned(), self.now - Duration::from_secs(seconds));
    }

    fn judged<T>(&self, then: impl FnOnce(&Judgement, &View<'_>, Now) -> T) -> T {
        let view = View {
            mesh: mesh(),
            own: "s1",
            own_key: key(1),
            own_row: None,
            rows: self.rows.as_ref(),
            cache: &self.cache,
            worked: &self.worked,
            echoed: &self.echoed,
            peers: &self.peers,
            tombstones: &self.tombstones,
            replaced: &self.replaced,
            removals: &self.removals,
            sure: &self.sure,
            suspicion: self.suspicion,
            hold: HOLD,
        };
        then(&judge(&view), &view, Now { at: self.now, wall_ms: 0 })
    }

    /// The plan, a line for each step, and below it what is wrong and who is foreign.
    fn planned(&self) -> String {
        let text = self.judged(|judgement, view, now| {
            let mut lines: Vec<String> = plan(judgement, view, now).iter().map(ToString::to_string).collect();
            for (id, faults) in &judgement.faults {
                lines.extend(faults.iter().map(|fault| format!("{id}: {fault}")));
            }
            lines.extend(judgement.foreign.iter().map(|key| format!("foreign {key}")));
            lines.extend(judgement.unlisted.iter().map(|id| format!("no row: {id}")));
            lines.join("\n")
        });
        (0..40).fold(text, |text, number| {
            let management = format!("{}/128", management(&key(number)));
            text.replace(&key(number).to_string(), &format!("k{number}")).replace(&management, &format!("m{number}"))
        })
    }

    /// As it is after the plan.
    fn applied(mut self) -> Scene {
        let steps = self.judged(plan);
        for step in steps {
            match step {
                Step::Remember(cache) => self.cache = cache,
                Step::Add { key, allowed, endpoint, .. } => {
                    let peer = Installed { endpoint, allowed, keepalive: Some(KEEPALIVE), shook: Shook::NotYet };
                    self.peers.insert(key, peer);
                }
                Step::Allow { key, allowed, .. } => {
                    let peer = self.peers.get_mut(&key).expect("only what is there is set");
                    (peer.allowed, peer.keepalive) = (allowed, Some(KEEPALIVE));
                }
                Step::Remove { key, why, .. } => {
                    self.peers.remove(&key);
                    if why == Why::Removed {
                        self.removals.push(self.now);
                    }
                }
            }
        }
        self
    }

    fn after(mut self, seconds: u64) -> Scene {
        self.now += Duration::from_secs(seconds);
        self
    }
}

#[test]
fn what_is_right_is_left_alone() {
    assert_eq!(Scene::of([]).planned(), "");
    assert_eq!(Scene::of([2, 3]).planned(), "");
}

#[test]
fn a_missing_peer_is_added_with_all_its_ranges_and_remembered() {
    let mut scene = Scene::of([2]);
    scene.row("s3", 3, 3);
    insta::assert_snapshot!(scene.planned(), @r"
    remember s2, s3
    add s3 k3 at 192.0.2.3:31820 with 10.210.3.0/24, 10.210.131.0/24, m3
    ");
    assert_eq!(scene.applied().planned(), "");
}

#[test]
fn wrong_ranges_are_set_and_where_the_tunnel_ends_is_not_touched() {
    let mut scene = Scene::of([2, 3]);
    scene.install(3, 9);
    scene.peers.get_mut(&key(2)).unwrap().keepalive = None;
    insta::assert_snapshot!(scene.planned(), @r"
    allow s2 k2 10.210.2.0/24, 10.210.130.0/24, m2
    allow s3 k3 10.210.3.0/24, 10.210.131.0/24, m3
    ");
    assert_eq!(scene.applied().planned(), "");
}

#[test]
fn a_row_that_is_wrong_is_named_and_the_others_are_peers() {
    let mut scene = Scene::of([2]);
    let [good, other] = [key(3).to_string(), key(4).to_string()];
    scene.texts("s3", [&good, "10.210.3.0/24", "10.210.3.1", "nowhere"]);
    scene.texts("s4", ["AAAA", "10.210.4.0/24", "10.210.4.1", "[]"]);
    scene.texts("s5", [&other, "10.0.0.0/8", "10.210.5.1", "[]"]);
    scene.texts("s6", [&other, "10.210.6.0/24", "10.210.9.1", "[]"]);
    scene.texts("s7", ["", "10.210.7.0/24", "", "[]"]);
    // What was known of a server whose row is now wrong goes on.
    scene.texts("s2", ["", "", "", ""]);
    insta::assert_snapshot!(scene.planned(), @r#"
    remember s2, s3
    add s3 k3 at no endpoint with 10.210.3.0/24, 10.210.131.0/24, m3
    s3: endpoints "nowhere" are no list of at most 16 addresses with ports
    s4: wireguard_pubkey "AAAA" is no key
    s5: subnet "10.0.0.0/8" is no range of a server of this cluster
    s6: wireguard_ip "10.210.9.1" is not in its subnet
    "#);
}

#[test]
fn of_two_servers_with_one_range_the_one_that_has_it_keeps_it_and_the_other_has_nothing() {
    let mut scene = Scene::of([5]);
    scene.row("s2", 5, 2);
    insta::assert_snapshot!(scene.planned(), @r"
    remember s2, s5
    add s2 k2 at 192.0.2.2:31820 with nothing
    s2: it has the range of s5, which keeps it
    ");
    assert!(!scene.applied().planned().contains("allow"));
    // Nobody has it: the smaller name.
    let mut scene = Scene::of([]);
    scene.row("s2", 5, 2);
    scene.row("s5", 5, 5);
    insta::assert_snapshot!(scene.planned(), @r"
    remember s2, s5
    add s2 k2 at 192.0.2.2:31820 with 10.210.5.0/24, 10.210.133.0/24, m2
    add s5 k5 at 192.0.2.5:31820 with nothing
    s5: it has the range of s2, which keeps it
    ");
    // Ours is ours.
    let mut scene = Scene::of([]);
    scene.row("s0", 1, 7);
    insta::assert_snapshot!(scene.planned(), @r"
    remember s0
    add s0 k7 at 192.0.2.7:31820 with nothing
    s0: it has the range of s1, which keeps it
    ");
    // Whoever has no row any more gives way.
    let mut scene = Scene::of([2]);
    scene.rows = Some(BTreeMap::new());
    scene.row("s9", 2, 9);
    insta::assert_snapshot!(scene.planned(), @r"
    remember s2, s9
    allow s2 k2 nothing
    add s9 k9 at 192.0.2.9:31820 with 10.210.2.0/24, 10.210.130.0/24, m9
    s2: it has the range of s9, which keeps it
    no row: s2
    ");
}

#[test]
fn of_two_servers_with_one_key_the_one_that_had_it_keeps_it_and_the_other_is_no_peer() {
    let mut scene = Scene::of([5]);
    scene.row("s2", 2, 5);
    insta::assert_snapshot!(scene.planned(), @"s2: it has the WireGuard key of s5, which keeps it");
    // Ours is ours.
    let mut scene = Scene::of([]);
    scene.row("s2", 2, 1);
    insta::assert_snapshot!(scene.planned(), @"s2: it has the WireGuard key of s1, which keeps it");
    // A server that copies another's key keeps its own tunnel.
    let mut scene = Scene::of([2, 5]);
    scene.row("s2", 2, 5);
    insta::assert_snapshot!(scene.planned(), @"s2: it has the WireGuard key of s5, which keeps it");
    // A host that was removed and comes back under another name, with its old key.
    let mut scene = Scene::of([5]);
    scene.remove("s5", 10);
    scene.row("s6", 6, 5);
    insta::assert_snapshot!(scene.planned(), @r"
    remember s6
    allow s6 k5 10.210.6.0/24, 10.210.134.0/24, m5
    ");
    assert_eq!(scene.applied().after(100).planned(), "");
}

#[test]
fn a_row_that_somebody_deleted_takes_nothing_away() {
    let mut scene = Scene::of([2, 3]);
    scene.rows.get_or_insert_default().remove("s3");
    assert_eq!(scene.planned(), "no row: s3");
    assert_eq!(scene.after(86_400).planned(), "no row: s3");
}

#[test]
fn a_store_that_is_empty_away_or_old_takes_nothing_away() {
    let mut empty = Scene::of(2..12);
    empty.rows = Some(BTreeMap::new());
    assert!(!empty.planned().contains("remove") && !empty.planned().contains("remember"), "{}", empty.planned());
    let mut away = Scene::of(2..12);
    away.rows = None;
    assert_eq!(away.planned(), "");
    // Tombstones that were seen before it went do not act either.
    away.tombstones.insert("s3".to_owned(), away.now - HOUR);
    assert_eq!(away.planned(), "");
    let mut old = Scene::of(2..12);
    old.rows = Some(BTreeMap::new());
    old.row("s2", 2, 2);
    assert!(!old.planned().contains("remove"), "{}", old.planned());
    // A restart without a store: the interface is gone too, and all come from the cache.
    let mut restart = Scene::of([2, 3]);
    (restart.rows, restart.peers) = (None, BTreeMap::new());
    restart.cache.servers.get_mut("s3").unwrap().worked = Some(end("203.0.113.3:7"));
    insta::assert_snapshot!(restart.planned(), @r"
    add s2 k2 at 192.0.2.2:31820 with 10.210.2.0/24, 10.210.130.0/24, m2
    add s3 k3 at 203.0.113.3:7 with 10.210.3.0/24, 10.210.131.0/24, m3
    ");
}

#[test]
fn where_a_peer_was_reached_is_remembered_and_its_live_endpoint_is_never_set_back() {
    let mut scene = Scene::of([2, 3]);
    scene.worked = [(key(2), end("203.0.113.2:7")), (key(9), end("203.0.113.9:7"))].into();
    scene.echoed = [key(2), key(9)].into();
    assert_eq!(scene.planned(), "remember s2, s3");
    let scene = scene.applied();
    assert_eq!(scene.cache.servers["s2"].worked, Some(end("203.0.113.2:7")));
    assert_eq!(["s2", "s3"].map(|id| scene.cache.servers[id].echoed), [Echoed::Ever, Echoed::Never]);
    assert_eq!(scene.planned(), "");
    // Who was told once is not forgotten with the next start.
    let scene = Scene { worked: BTreeMap::new(), echoed: BTreeSet::new(), ..scene };
    assert_eq!(scene.planned(), "");
    // With another key it is another peer, of whom nothing is known.
    let mut other = scene;
    other.row("s2", 2, 8);
    let other = &other.applied().cache.servers["s2"];
    assert_eq!((other.worked, other.echoed), (None, Echoed::Never));
}

#[test]
fn a_removed_server_s_peer_goes_after_60_s_and_is_left_alone_until_then() {
    let mut scene = Scene::of([2, 3]);
    scene.remove("s3", 59);
    assert_eq!(scene.planned(), "");
    let scene = scene.after(1);
    insta::assert_snapshot!(scene.planned(), @r"
    remember s2, s3
    remove s3 k3, which was removed
    ");
    let scene = scene.applied();
    insta::assert_snapshot!(scene.planned(), @"remember s2");
    // Once it is out of the interface it is forgotten, and its tombstone adds nobody.
    assert_eq!(scene.applied().after(1).planned(), "");
    // One that was taken back is a peer like any other.
    let mut back = Scene::of([2, 3]);
    back.tombstones.clear();
    assert_eq!(back.after(100).planned(), "");
}

#[test]
fn a_removed_server_that_only_its_tombstone_tells_of_goes_too() {
    let mut scene = Scene::of([2, 3]);
    scene.cache.servers.remove("s3");
    scene.remove("s3", 60);
    scene.say("s3", Said::Removed(Some(key(3))));
    assert!(scene.planned().contains("remove s3 k3, which was removed"), "{}", scene.planned());
}

#[test]
fn of_many_that_are_removed_at_once_a_fifth_goes_in_ten_minutes() {
    // 80 % of ten.
    let mut scene = Scene::of(2..12);
    for number in 2..10_u8 {
        scene.remove(&format!("s{number}"), 60 + u64::from(number));
    }
    insta::assert_snapshot!(scene.planned(), @r"
    remember s10, s11, s2, s3, s4, s5, s6, s7, s8, s9
    remove s9 k9, which was removed
    remove s8 k8, which was removed
    ");
    let scene = scene.applied();
    assert_eq!(scene.peers.len(), 8);
    let scene = scene.applied().after(599).applied();
    assert_eq!(scene.peers.len(), 8, "nothing more within ten minutes");
    let scene = scene.after(1).applied();
    assert_eq!(scene.peers.len(), 7, "a fifth of eight");
    // Of few, one.
    let mut two = Scene::of([2, 3]);
    two.remove("s2", 60);
    two.remove("s3", 61);
    let two = two.applied();
    assert_eq!(two.peers.keys().collect::<Vec<_>>(), [&key(2)]);
    // A restart does not begin to count anew.
    assert_eq!(two.cache.removed, 1);
}

#[test]
fn whom_an_operator_is_sure_of_goes_beside_any_number_of_others_and_counts_for_none() {
    let mut scene = Scene::of(2..12);
    (2..10).for_each(|number| scene.remove(&format!("s{number}"), 600));
    let held = |scene: &Scene| {
        scene.judged(|judgement, view, now| super::held(judgement, view, now).into_iter().collect::<Vec<_>>())
    };
    assert_eq!(held(&scene), ["s4", "s5", "s6", "s7", "s8", "s9"]);
    scene.sure = ["s8", "s9", "s11"].map(str::to_owned).into();
    assert_eq!(held(&scene), ["s4", "s5", "s6", "s7"]);
    let removals = |scene: &Scene| {
        scene.planned().lines().filter(|line| line.starts_with("remove ")).map(str::to_owned).collect::<Vec<_>>()
    };
    insta::assert_snapshot!(removals(&scene).join("\n"), @r"
    remove s8 k8, which was removed for sure
    remove s9 k9, which was removed for sure
    remove s2 k2, which was removed
    remove s3 k3, which was removed
    ");
    let mut scene = scene.applied();
    assert_eq!((scene.removals.len(), scene.cache.removed), (2, 2));
    assert_eq!(removals(&scene), [""; 0]);
    // Nor is it believed of who may be cut off, nor before its time.
    scene.sure.insert("s4".to_owned());
    scene.suspicion = Suspicion::Suspected;
    assert_eq!((removals(&scene).len(), held(&scene).len()), (0, 0));
    scene.suspicion = Suspicion::Clear;
    assert_eq!(removals(&scene), ["remove s4 k4, which was removed for sure"]);
    scene.tombstones.insert("s4".to_owned(), scene.now);
    assert_eq!(removals(&scene), [""; 0]);
}

#[test]
fn whoever_is_to_go_is_reached_until_its_peer_goes() {
    let mut scene = Scene::of([2, 3, 4]);
    scene.row("s2", 2, 22);
    let mut scene = scene.applied();
    scene.remove("s3", 5);
    let routed = |scene: &Scene| scene.judged(|judgement, _, _| super::super::routed(judgement));
    assert_eq!(routed(&scene), [2, 22, 3, 4].map(key).into());
    scene.peers.retain(|peer, _| ![key(2), key(3)].contains(peer));
    assert_eq!(routed(&scene), [22, 4].map(key).into());
}

#[test]
fn nothing_is_removed_while_it_may_be_us_who_are_cut_off() {
    let mut scene = Scene::of([2, 3]);
    scene.remove("s3", 600);
    for unsure in [Suspicion::Suspected, Suspicion::Unknown] {
        scene.suspicion = unsure;
        assert_eq!(scene.planned(), "");
    }
}

#[test]
fn a_key_that_was_replaced_goes_when_the_one_in_its_place_works_or_has_had_60_s() {
    let mut scene = Scene::of([2, 3]);
    scene.row("s3", 3, 33);
    insta::assert_snapshot!(scene.planned(), @r"
    remember s2, s3
    add s3 k33 at 192.0.2.33:31820 with 10.210.3.0/24, 10.210.131.0/24, m33
    ");
    let mut scene = scene.applied();
    scene.replaced.insert(key(3), scene.now);
    assert_eq!(scene.planned().lines().filter(|line| line.starts_with("remove")).count(), 0);
    let late = |mut scene: Scene| {
        scene.now += Duration::from_secs(60);
        scene.planned()
    };
    scene.peers.get_mut(&key(33)).unwrap().shook = Shook::Yes;
    insta::assert_snapshot!(scene.planned(), @"remove s3 k3, which has k33");
    scene.peers.get_mut(&key(33)).unwrap().shook = Shook::NotYet;
    // Also when nothing may go for want of a tombstone.
    scene.removals = vec![scene.now; 5];
    scene.suspicion = Suspicion::Suspected;
    insta::assert_snapshot!(late(scene), @r"
    remember s2, s3
    remove s3 k3, which has k33
    ");
}

#[test]
fn a_key_that_comes_back_is_not_removed_as_one_that_was_replaced() {
    let mut scene = Scene::of([2]);
    scene.row("s2", 2, 22);
    let mut scene = scene.applied();
    scene.row("s2", 2, 2);
    let mut scene = scene.applied();
    scene.replaced = [(key(2), scene.now - HOUR), (key(22), scene.now - HOUR)].into();
    let scene = scene.applied();
    assert_eq!(scene.peers.keys().collect::<Vec<_>>(), [&key(2)]);
}

#[test]
fn a_peer_that_somebody_else_added_is_named_and_left_alone() {
    let mut scene = Scene::of([2]);
    scene.install(9, 9);
    assert_eq!(scene.planned(), "foreign k9");
    assert_eq!(scene.after(86_400).planned(), "foreign k9");
}

#[test]
fn no_more_servers_are_kept_than_there_can_be() {
    let mut scene = Scene::of([]);
    for id in 0..300 {
        let server = Server {
            key: PublicKey::new(std::array::from_fn(
                |at| if at == 0 { (id % 256) as u8 } else { 2 + (id / 256) as u8 },
            )),
            number: Number::new(5).unwrap(),
            endpoints: Vec::new(),
        };
        scene.say(&format!("x{id:03}"), Said::Server(server));
    }
    let kept = scene.judged(|judgement, _, _| judgement.cache.servers.len());
    assert_eq!(kept, super::super::cache::MOST);
}
