use super::*;

fn container(id: &str, run: Run) -> (ContainerId, Option<Container>) {
    let at = Addresses { ip: Some([10, 210, 129, 7].into()), ip6: None };
    let container = Container {
        id: id.to_owned(),
        name: format!("name-{id}"),
        image: String::new(),
        labels: BTreeMap::new(),
        run,
        checked: false,
        networks: [(super::super::instance::NETWORK.to_owned(), at)].into(),
        on_host: false,
    };
    (id.to_owned(), Some(container))
}

const RUNS: Run = Run::Running { started_ms: 1, verdict: None };

/// Looks whose answers the test makes, on a clock that it turns.
struct Scripted {
    looks: Looks,
    base: Instant,
}

impl Scripted {
    fn new() -> Scripted {
        Scripted::after(&[])
    }

    /// One that starts after having seen these.
    fn after(seen: &[&str]) -> Scripted {
        let seen = seen.iter().map(|id| (*id).to_owned()).collect();
        let looks = Looks::new(Path::new("/nowhere"), Changes::default(), Wake::default(), &seen);
        Scripted { looks, base: Instant::now() }
    }

    fn at(&self, seconds: u64) -> Now {
        Now { at: self.base + Duration::from_secs(seconds), wall_ms: 0 }
    }

    fn list(&mut self, seconds: u64, containers: Vec<(ContainerId, Option<Container>)>) {
        let (now, asked) = (self.at(seconds), Asked { noted: Noted::default(), full: Full::Yes });
        self.looks.answered(asked, containers, &Addresses::default(), now);
    }

    /// Events of these, and what Docker then has of them.
    fn events(&mut self, seconds: u64, destroyed: &[&str], containers: Vec<(ContainerId, Option<Container>)>) {
        let destroyed = destroyed.iter().map(|id| (*id).to_owned()).collect();
        let (now, noted) = (self.at(seconds), Noted { destroyed, ..Noted::default() });
        self.looks.answered(Asked { noted, full: Full::No }, containers, &Addresses::default(), now);
    }

    fn silent(&mut self, seconds: u64) {
        let (now, asked) = (self.at(seconds), Asked { noted: Noted::default(), full: Full::Yes });
        self.looks.unanswered(asked, &DockerError::Silent("/nowhere".into()), now);
    }

    fn gone(&self) -> Vec<&str> {
        self.looks.gone().iter().map(String::as_str).collect()
    }

    fn next(&self, seconds: u64) -> u64 {
        self.looks.next(self.at(seconds)).duration_since(self.base).as_secs()
    }
}

#[test]
fn a_container_is_gone_when_docker_destroyed_it_and_does_not_have_it() {
    let mut it = Scripted::new();
    it.list(0, vec![container("a", RUNS), container("b", RUNS), container("c", RUNS)]);
    // Not there, but nobody said that it was destroyed; destroyed, but there; both.
    it.events(1, &[], vec![("a".to_owned(), None)]);
    it.events(2, &["b"], vec![container("b", RUNS)]);
    assert_eq!(it.gone(), [""; 0]);
    it.events(3, &["c"], vec![("c".to_owned(), None)]);
    assert_eq!(it.gone(), ["c"]);
    assert_eq!(it.looks.known().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn a_container_is_gone_when_it_is_missing_from_two_full_lists_10_s_apart() {
    let mut it = Scripted::new();
    it.list(0, vec![container("a", RUNS), container("b", RUNS)]);
    assert_eq!(it.next(0), 30);
    it.list(30, vec![container("a", RUNS)]);
    assert_eq!((it.gone(), it.next(30)), (vec![], 40), "the second list comes 10 s later");
    it.list(35, vec![container("a", RUNS)]);
    assert_eq!(it.gone(), [""; 0], "two lists that are closer say nothing");
    it.list(40, vec![container("a", RUNS)]);
    assert_eq!((it.gone(), it.next(40)), (vec!["b"], 70));
    // Missing once, and there again.
    it.list(70, vec![]);
    it.list(80, vec![container("a", RUNS)]);
    it.list(110, vec![]);
    assert_eq!(it.gone(), ["b"]);
}

#[test]
fn a_docker_that_is_silent_loses_nothing_and_is_asked_again_each_second() {
    let mut it = Scripted::new();
    it.list(0, vec![container("a", RUNS)]);
    for second in 30..90 {
        it.silent(second);
        assert_eq!(it.next(second), second + 1);
    }
    assert_eq!(it.gone(), [""; 0]);
    let known = |it: &Scripted| it.looks.known().next().unwrap().1.describe();
    assert_eq!(known(&it)["health"], "unknown");
    it.list(90, vec![container("a", RUNS)]);
    assert_eq!((known(&it)["health"].clone(), it.next(90)), (json!("healthy"), 120));
}

#[test]
fn who_stops_is_shown_where_it_was() {
    let mut it = Scripted::new();
    it.list(0, vec![container("a", RUNS)]);
    let (id, mut stopped) = container("a", Run::Stopped);
    let networks = &mut stopped.as_mut().unwrap().networks;
    networks.values_mut().for_each(|at| *at = Addresses::default());
    it.events(1, &[], vec![(id, stopped)]);
    let (_, known) = it.looks.known().next().unwrap();
    assert_eq!(known.instance.as_ref().unwrap().probed_at(), Some("10.210.129.7".parse().unwrap()));
    assert_eq!(known.describe(), json!({ "id": "a", "name": "name-a", "health": "unhealthy", "reason": "stopped" }));
}

#[test]
fn what_was_seen_before_a_restart_is_gone_by_the_same_rule() {
    let mut it = Scripted::after(&["a", "b"]);
    assert!(it.looks.knows(&"a".to_owned()) && !it.looks.knows(&"c".to_owned()));
    it.list(0, vec![container("b", RUNS)]);
    assert_eq!((it.gone(), it.next(0)), (vec![], 10));
    it.list(10, vec![container("b", RUNS)]);
    assert_eq!((it.gone(), it.next(10)), (vec!["a"], 40));
}
