use std::time::SystemTime;

use super::super::echo::{Asker, Token};
use super::super::heard::Heard;
use super::super::trial::Memory;
use super::*;
use crate::peers::Installed;
use crate::wireguard::PeerSeen;

/// What its daemon does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Daemon {
    /// It asks and answers.
    Runs,
    /// It asks, and a firewall keeps our questions from it.
    Walled,
    /// It does nothing, as one of an earlier release; WireGuard alone sends something back, and not to each question.
    Away,
}

/// A peer in a world of which the places are known where it is reached, second by second.
struct World {
    works: Vec<&'static str>,
    daemon: Daemon,
    endpoints: Vec<SocketAddr>,
    worked: Option<SocketAddr>,
    echoed: Echoed,
    peer: PeerSeen,
    heard: Heard,
    memory: Memory,
    begun: Instant,
    now: Instant,
    log: Vec<String>,
}

fn end(text: &str) -> SocketAddr {
    format!("192.0.2.{text}:31820").parse().unwrap()
}

fn mesh() -> MeshRange {
    MeshRange::new("10.210.0.0/16".parse().unwrap()).unwrap()
}

impl World {
    /// A peer whose row has these places, at the first of them, which is reached at `works`.
    fn of(endpoints: &[&str], works: &[&'static str], daemon: Daemon) -> World {
        let endpoints: Vec<SocketAddr> = endpoints.iter().map(|text| end(text)).collect();
        let installed = Installed { endpoint: endpoints.first().copied(), ..Installed::default() };
        let peer = PeerSeen { installed, handshake: None, received: 0 };
        let now = Instant::now() + Duration::from_secs(86_400);
        let memory = Memory::new(&peer, now);
        let (works, worked, heard, log) = (works.to_vec(), None, Heard::default(), Vec::new());
        let echoed = Echoed::Never;
        World { works, daemon, endpoints, worked, echoed, peer, heard, memory, begun: now, now, log }
    }

    fn seconds(&self) -> u64 {
        (self.now - self.begun).as_secs()
    }

    fn reached(&self) -> bool {
        self.peer.installed.endpoint.is_some_and(|at| self.works.iter().any(|text| end(text) == at))
    }

    fn shake(&mut self) {
        self.peer.handshake = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(self.seconds()));
        self.peer.received += 92;
    }

    /// What passes within a second.
    fn pass(&mut self) {
        let (asks, seconds) = (self.seconds().is_multiple_of(EVERY.as_secs()), self.seconds());
        // Keys are renewed after 2 minutes, and made where there are none, by the first packet.
        let old = |at| seconds >= 120 + SystemTime::duration_since(&at, SystemTime::UNIX_EPOCH).unwrap().as_secs();
        if self.reached() && self.peer.handshake.is_none_or(old) {
            self.shake();
        }
        if !asks {
            return;
        }
        let mut token = [0; 8];
        token.copy_from_slice(&seconds.to_be_bytes());
        self.heard.ask(Token(token), self.now);
        if !self.reached() {
            return;
        }
        match self.daemon {
            Daemon::Runs => {
                self.peer.received += 48;
                self.heard.asks(Asker::Answered, self.now);
                self.heard.answer(Token(token), self.now);
            }
            Daemon::Walled => {
                self.peer.received += 48;
                self.heard.asks(Asker::Answered, self.now);
            }
            Daemon::Away => self.peer.received += if seconds.is_multiple_of(12) { 32 } else { 0 },
        }
    }

    fn look(&mut self) -> Tunnel {
        let now = Now { at: self.now, wall_ms: 0 };
        self.memory.look(&self.peer, self.now);
        let tunnel = Tunnel {
            key: PublicKey::new([7; 32]),
            id: "b".to_owned(),
            endpoints: self.endpoints.clone(),
            worked: self.worked,
            echoed: self.echoed,
            current: self.peer.installed.endpoint,
            trial: self.memory.trial.clone(),
            shook: self.memory.shook,
            received: self.memory.received,
            heard: self.heard.clone(),
        };
        if let Some(turn) = self.memory.judge(tunnel.state(now), self.now) {
            self.log.push(format!("{:>4} s {turn:?}", self.seconds()));
        }
        Tunnel { trial: self.memory.trial.clone(), ..tunnel }
    }

    /// So many seconds go by, each with a pass of the reconciler.
    fn run(&mut self, seconds: u64) -> &mut World {
        for _ in 0..seconds {
            self.pass();
            let now = Now { at: self.now, wall_ms: 0 };
            let tunnel = self.look();
            for step in plan(&[tunnel], mesh(), now) {
                match step {
                    // Once for each peer, ever.
                    Step::Echoes { .. } => {}
                    Step::Try { .. } | Step::Keep { .. } => self.log.push(format!("{:>4} s {step}", self.seconds())),
                }
                self.memory.tries(&step, self.now);
                match step {
                    Step::Try { endpoint, .. } => self.peer.installed.endpoint = Some(endpoint),
                    Step::Keep { endpoint, .. } => self.worked = Some(endpoint),
                    Step::Echoes { .. } => self.echoed = Echoed::Ever,
                }
            }
            self.now += Duration::from_secs(1);
        }
        self
    }

    /// Our own agent starts anew: what it heard is gone, and WireGuard's handshakes stay.
    fn restart(&mut self) -> &mut World {
        self.heard = Heard::default();
        self.memory = Memory::new(&self.peer, self.now);
        self
    }

    /// From here on it is reached there alone.
    fn turn(&mut self, works: &[&'static str]) -> &mut World {
        self.log.push(format!("{:>4} s it is reached at {works:?}", self.seconds()));
        self.works = works.to_vec();
        self
    }

    /// It comes by itself from there.
    fn come(&mut self, from: &str) -> &mut World {
        self.peer.installed.endpoint = Some(end(from));
        self.shake();
        self
    }

    fn told(&mut self) -> String {
        std::mem::take(&mut self.log).join("\n")
    }
}

#[test]
fn a_tunnel_that_carries_is_remembered_once_and_then_left_alone() {
    let mut world = World::of(&["1", "2"], &["1"], Daemon::Runs);
    world.heard.asks(Asker::NotAnswered, world.now);
    let now = Now { at: world.now, wall_ms: 0 };
    assert_eq!(
        plan(&[world.look()], mesh(), now).first().map(ToString::to_string).as_deref(),
        Some("the daemon of b echoes")
    );
    let mut world = World::of(&["1", "2"], &["1"], Daemon::Runs);
    insta::assert_snapshot!(world.run(86_400).told(), @r"
    0 s Up
    0 s keep 192.0.2.1:31820 of b, which works
    ");
}

#[test]
fn where_the_endpoint_in_use_dies_the_next_one_carries_within_20_s() {
    let mut world = World::of(&["1", "2"], &["1", "2"], Daemon::Runs);
    world.run(100).turn(&["2"]).run(400);
    insta::assert_snapshot!(world.told(), @r#"
      0 s Up
      0 s keep 192.0.2.1:31820 of b, which works
    100 s it is reached at ["2"]
    113 s Down
    113 s try b at 192.0.2.2:31820: no answer at 192.0.2.1:31820
    114 s Up
    114 s keep 192.0.2.2:31820 of b, which works
    "#);
}

#[test]
fn a_peer_that_never_shook_hands_is_tried_everywhere_each_round_with_more_patience() {
    let mut world = World::of(&["1", "2", "3"], &[], Daemon::Runs);
    world.run(600).turn(&["3"]).run(600);
    insta::assert_snapshot!(world.told(), @r#"
     15 s Down
     15 s try b at 192.0.2.2:31820: no handshake at 192.0.2.1:31820
     30 s try b at 192.0.2.3:31820: no handshake at 192.0.2.2:31820
     45 s try b at 192.0.2.1:31820: no handshake at 192.0.2.3:31820
     75 s try b at 192.0.2.2:31820: no handshake at 192.0.2.1:31820
    105 s try b at 192.0.2.3:31820: no handshake at 192.0.2.2:31820
    135 s try b at 192.0.2.1:31820: no handshake at 192.0.2.3:31820
    195 s try b at 192.0.2.2:31820: no handshake at 192.0.2.1:31820
    255 s try b at 192.0.2.3:31820: no handshake at 192.0.2.2:31820
    315 s try b at 192.0.2.1:31820: no handshake at 192.0.2.3:31820
    435 s try b at 192.0.2.2:31820: no handshake at 192.0.2.1:31820
    555 s try b at 192.0.2.3:31820: no handshake at 192.0.2.2:31820
    600 s it is reached at ["3"]
    600 s Up
    600 s keep 192.0.2.3:31820 of b, which works
    "#);
}

#[test]
fn where_it_worked_last_is_tried_first() {
    let mut world = World::of(&["1", "2", "3"], &["3"], Daemon::Runs);
    world.run(100).turn(&["2"]);
    world.peer.installed.endpoint = Some(end("1"));
    world.run(100);
    insta::assert_snapshot!(world.told(), @r#"
     15 s Down
     15 s try b at 192.0.2.2:31820: no handshake at 192.0.2.1:31820
     30 s try b at 192.0.2.3:31820: no handshake at 192.0.2.2:31820
     31 s Up
     31 s keep 192.0.2.3:31820 of b, which works
    100 s it is reached at ["2"]
    115 s Down
    115 s try b at 192.0.2.3:31820: no answer at 192.0.2.1:31820
    130 s try b at 192.0.2.2:31820: no answer at 192.0.2.3:31820
    132 s Up
    132 s keep 192.0.2.2:31820 of b, which works
    "#);
}

#[test]
fn a_place_that_is_in_no_row_is_kept_if_the_peer_comes_from_there() {
    let mut world = World::of(&["1"], &["1"], Daemon::Runs);
    world.run(30).turn(&["9"]).run(60).come("9").run(60).turn(&["1"]).run(60);
    insta::assert_snapshot!(world.told(), @r#"
      0 s Up
      0 s keep 192.0.2.1:31820 of b, which works
     30 s it is reached at ["9"]
     41 s Down
     90 s Up
     90 s keep 192.0.2.9:31820 of b, which works
    150 s it is reached at ["1"]
    161 s Down
    161 s try b at 192.0.2.1:31820: no answer at 192.0.2.9:31820
    162 s Up
    162 s keep 192.0.2.1:31820 of b, which works
    "#);
    // Not if no tunnel can end there.
    let mut world = World::of(&["1"], &[], Daemon::Runs);
    world.peer.installed.endpoint = Some("10.210.3.1:31820".parse().unwrap());
    world.heard.asks(Asker::Answered, world.now);
    assert_eq!(world.run(5).told(), "   0 s Up");
}

#[test]
fn a_peer_that_does_not_echo_is_told_by_its_handshakes() {
    let mut world = World::of(&["1", "2"], &["1"], Daemon::Away);
    world.run(1000).turn(&["2"]).run(400);
    insta::assert_snapshot!(world.told(), @r#"
       0 s Up
       0 s keep 192.0.2.1:31820 of b, which works
    1000 s it is reached at ["2"]
    1235 s Down
    1235 s try b at 192.0.2.2:31820: no handshake at 192.0.2.1:31820
    1236 s Up
    1236 s keep 192.0.2.2:31820 of b, which works
    "#);
}

#[test]
fn a_daemon_that_is_away_or_behind_a_firewall_takes_no_tunnel_away() {
    let mut world = World::of(&["1", "2"], &["1", "2"], Daemon::Runs);
    world.run(100).told();
    world.daemon = Daemon::Away;
    assert_eq!(world.run(1000).told(), "");
    world.daemon = Daemon::Walled;
    assert_eq!(world.run(1000).told(), "");
    insta::assert_snapshot!(world.turn(&["2"]).run(60).told(), @r#"
    2100 s it is reached at ["2"]
    2111 s Down
    2111 s try b at 192.0.2.2:31820: no answer at 192.0.2.1:31820
    2112 s Up
    2112 s keep 192.0.2.2:31820 of b, which works
    "#);
}

#[test]
fn without_another_place_there_is_nothing_to_do() {
    let mut world = World::of(&["1"], &["1"], Daemon::Runs);
    world.run(100).turn(&[]).run(2000).turn(&["1"]).run(100);
    insta::assert_snapshot!(world.told(), @r#"
       0 s Up
       0 s keep 192.0.2.1:31820 of b, which works
     100 s it is reached at []
     113 s Down
    2100 s it is reached at ["1"]
    2100 s Up
    "#);
    let mut nowhere = World::of(&[], &[], Daemon::Runs);
    assert_eq!(nowhere.run(1000).told(), "  15 s Down");
}

#[test]
fn beside_a_tunnel_that_is_dead_already_an_agent_that_starts_knows_it_by_the_silence_of_who_echoed() {
    let mut world = World::of(&["1", "2"], &["1"], Daemon::Runs);
    world.run(100).turn(&["2"]).run(3).restart().run(60);
    insta::assert_snapshot!(world.told(), @r#"
      0 s Up
      0 s keep 192.0.2.1:31820 of b, which works
    100 s it is reached at ["2"]
    118 s Down
    118 s try b at 192.0.2.2:31820: no answer at 192.0.2.1:31820
    120 s Up
    120 s keep 192.0.2.2:31820 of b, which works
    "#);
    // Of who never did only handshakes say something.
    let mut world = World::of(&["1", "2"], &["1"], Daemon::Away);
    world.run(100).turn(&["2"]).run(3).restart().run(250);
    insta::assert_snapshot!(world.told(), @r#"
      0 s Up
      0 s keep 192.0.2.1:31820 of b, which works
    100 s it is reached at ["2"]
    103 s Up
    "#);
}

#[test]
fn who_is_not_asked_any_more_is_told_by_handshakes_and_once_it_is_asked_again_by_its_answers() {
    let mut world = World::of(&["1", "2"], &["1"], Daemon::Runs);
    world.run(1000).told();
    // The socket failed, and there is another at once.
    world.heard = Heard::default();
    assert_eq!(world.run(100).told(), "");
    // And there is none any more.
    world.heard = Heard::default();
    let now = Now { at: world.now + Duration::from_secs(200), wall_ms: 0 };
    assert_eq!(world.look().state(now), State::Up);
    let now = Now { at: world.now + HANDSHAKE, wall_ms: 0 };
    assert_eq!(world.look().state(now), State::Down(Why::NoHandshake));
}
