use super::*;
use crate::docker::Addresses;
use crate::health::{Check, Status};

const ID: &str = "3f2a3f2a3f2a3f2a";

fn desired(ip: &str, started_ms: i64, status: Status, reason: &str) -> Desired {
    let instance = Instance {
        project: "casa".to_owned(),
        service: "api".to_owned(),
        slot: "a".to_owned(),
        ports: "[]".to_owned(),
        check: Check::Tcp(8080),
        image: "casa/api:7".to_owned(),
        at: Addresses { ip: ip.parse().ok(), ip6: None },
    };
    let verdict = Verdict { status, reason: reason.to_owned(), failures: 0, checked_ms: 0 };
    Desired { instance, run: Run::Running { started_ms, verdict: None }, verdict, probed: Probed::Yes }
}

fn stopped() -> Desired {
    Desired { run: Run::Stopped, ..desired("", 0, Status::Unhealthy, "stopped") }
}

/// A server as the test has made it, on a clock that it turns.
struct Server {
    containers: BTreeMap<ContainerId, Desired>,
    rows: BTreeMap<ContainerId, Row>,
    gone: BTreeSet<ContainerId>,
    services: BTreeSet<Service>,
    boot: Option<String>,
    before: BTreeSet<ContainerId>,
    remembered: BTreeSet<ContainerId>,
    now: Instant,
}

impl Server {
    fn new(containers: &[(&str, Desired)]) -> Server {
        Server {
            containers: containers.iter().map(|(id, desired)| ((*id).to_owned(), desired.clone())).collect(),
            rows: BTreeMap::new(),
            gone: BTreeSet::new(),
            services: BTreeSet::new(),
            boot: None,
            before: BTreeSet::new(),
            remembered: BTreeSet::new(),
            now: Instant::now(),
        }
    }

    fn plan(&self) -> Vec<Step> {
        let view = View {
            server: "fra-1",
            desired: self.containers.iter().map(|(id, desired)| (id, desired.clone())).collect(),
            rows: &self.rows,
            gone: &self.gone,
            before: self.before.iter().collect(),
            remembered: &self.remembered,
            services: &self.services,
            boot: self.boot.as_deref(),
        };
        plan(&view, Now { at: self.now, wall_ms: 0 })
    }

    /// Plans, says what is to be written, and makes the rows as it says.
    fn pass(&mut self) -> String {
        let mut said = Vec::new();
        for step in self.plan() {
            match step {
                Step::Remember(seen) => self.remembered = seen,
                Step::Write(changes) => {
                    said.push(Step::Write(changes.clone()).to_string());
                    self.wrote(changes);
                }
            }
        }
        said.join("\n")
    }

    fn wrote(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Enter(id, cells) | Change::Health(id, cells) => {
                    self.rows.insert(id, Row { cells, written: self.now });
                }
                Change::Delete(id) => {
                    self.rows.remove(&id);
                    self.gone.remove(&id);
                }
                Change::Service(service) => {
                    self.services.insert(service);
                }
                Change::Boot(_) => self.boot = None,
            }
        }
    }

    fn later(&mut self, seconds: u64) -> &mut Server {
        self.now += Duration::from_secs(seconds);
        self
    }

    fn set(&mut self, desired: Desired) -> &mut Server {
        self.containers.insert(ID.to_owned(), desired);
        self
    }
}

#[test]
fn what_runs_is_entered_once_with_its_service_and_the_boot() {
    let mut server = Server::new(&[(ID, desired("10.210.129.7", 5, Status::Healthy, ""))]);
    server.boot = Some("b1".to_owned());
    insta::assert_snapshot!(server.pass(), @"enter service casa/api; enter 3f2a3f2a3f2a as casa/api/a at 10.210.129.7, healthy; boot b1");
    assert_eq!(server.pass(), "");
    assert_eq!(server.later(3600).pass(), "");
}

#[test]
fn a_change_of_health_is_written_at_once_a_reason_seldom_and_counters_every_10_minutes() {
    let mut server = Server::new(&[(ID, desired("10.210.129.7", 5, Status::Healthy, ""))]);
    server.pass();
    let unhealthy = desired("10.210.129.7", 5, Status::Unhealthy, "port 8080: refused");
    assert_eq!(server.set(unhealthy.clone()).pass(), "3f2a3f2a3f2a is unhealthy (port 8080: refused)");
    let mut other = unhealthy.clone();
    other.verdict.reason = "no answer".to_owned();
    assert_eq!(server.set(other.clone()).later(9).pass(), "");
    assert_eq!(server.later(1).pass(), "3f2a3f2a3f2a is unhealthy (no answer)");
    other.verdict.failures = 7;
    other.verdict.checked_ms = 1000;
    assert_eq!(server.set(other).later(599).pass(), "");
    assert_eq!(server.later(1).pass(), "3f2a3f2a3f2a is unhealthy (no answer)");
}

#[test]
fn what_stops_keeps_its_address_and_what_never_ran_has_no_row() {
    let mut server = Server::new(&[(ID, stopped())]);
    assert_eq!(server.pass(), "");
    server.set(desired("10.210.129.7", 5, Status::Healthy, "")).pass();
    assert_eq!(server.set(stopped()).pass(), "3f2a3f2a3f2a is unhealthy (stopped)");
    let cells = &server.rows[ID].cells;
    assert_eq!((&cells.is[4], &cells.is[6]), (&Value::from("10.210.129.7"), &Value::from(5)));
    let again = desired("10.210.129.8", 9, Status::Unhealthy, "starting");
    insta::assert_snapshot!(server.set(again).pass(), @"enter 3f2a3f2a3f2a as casa/api/a at 10.210.129.8, unhealthy (starting)");
}

#[test]
fn a_row_that_others_wrote_or_deleted_is_put_right() {
    let mut server = Server::new(&[(ID, desired("10.210.129.7", 5, Status::Healthy, ""))]);
    server.pass();
    let right = server.rows.clone();
    server.rows.clear();
    assert!(server.pass().starts_with("enter 3f2a3f2a3f2a"));
    for (at, column) in IS.iter().enumerate() {
        server.rows = right.clone();
        server.rows.get_mut(ID).unwrap().cells.is[at] = Value::Blob(vec![0]);
        assert!(server.pass().starts_with("enter 3f2a3f2a3f2a"), "{column}");
        assert_eq!(server.rows, right, "{column}");
    }
    server.rows.get_mut(ID).unwrap().cells.health[0] = "splendid".into();
    assert_eq!(server.pass(), "3f2a3f2a3f2a is healthy");
}

#[test]
fn only_what_is_known_to_be_gone_is_deleted() {
    let mut server = Server::new(&[(ID, desired("10.210.129.7", 5, Status::Healthy, ""))]);
    server.pass();
    server.containers.clear();
    assert_eq!(server.pass(), "", "a row without a container is not ours to judge");
    server.gone.extend([ID.to_owned(), "never had a row".to_owned()]);
    assert_eq!(server.pass(), "delete 3f2a3f2a3f2a");
}

#[test]
fn a_container_without_a_project_enters_no_service() {
    let mut it = desired("10.210.129.7", 5, Status::Healthy, "");
    it.instance.project.clear();
    insta::assert_snapshot!(Server::new(&[(ID, it)]).pass(), @"enter 3f2a3f2a3f2a as /api/a at 10.210.129.7, healthy");
}

#[test]
fn what_is_written_at_one_time_is_one_transaction_up_to_a_bound() {
    let all: Vec<(String, Desired)> =
        (0..300).map(|n| (format!("{n:012x}"), desired("10.210.129.7", 5, Status::Healthy, ""))).collect();
    let all: Vec<(&str, Desired)> = all.iter().map(|(id, it)| (id.as_str(), it.clone())).collect();
    let steps = Server::new(&all).plan();
    let text: Vec<String> = steps.iter().map(ToString::to_string).collect();
    assert_eq!(text.len(), 3);
    assert_eq!(text[0], "remember 300 containers");
    assert!(text[1].ends_with("and 245 more") && text[2].ends_with("and 46 more"), "{text:?}");
}

#[test]
fn each_change_is_one_statement() {
    let mut server = Server::new(&[(ID, desired("10.210.129.7", 5, Status::Healthy, ""))]);
    server.boot = Some("b1".to_owned());
    let Some(Step::Write(mut changes)) = server.plan().pop() else { panic!("the last step writes") };
    changes.push(Change::Delete(ID.to_owned()));
    let Change::Enter(_, cells) = changes[1].clone() else { panic!("the second enters it") };
    changes.push(Change::Health(ID.to_owned(), cells));
    let text: Vec<String> =
        changes.iter().map(|change| serde_json::to_string(&change.statement("fra-1")).unwrap()).collect();
    insta::assert_snapshot!(text.join("\n"), @r#"
    ["INSERT INTO services (project, name) VALUES (?, ?) ON CONFLICT DO NOTHING",["casa","api"]]
    ["INSERT INTO containers (id, project, service, server_id, instance_id, ip, ip6, started_at, ports, image, health_port, health_status, health_reason, last_health_check, consecutive_failures) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET project = excluded.project, service = excluded.service, server_id = excluded.server_id, instance_id = excluded.instance_id, ip = excluded.ip, ip6 = excluded.ip6, started_at = excluded.started_at, ports = excluded.ports, image = excluded.image, health_port = excluded.health_port, health_status = excluded.health_status, health_reason = excluded.health_reason, last_health_check = excluded.last_health_check, consecutive_failures = excluded.consecutive_failures",["3f2a3f2a3f2a3f2a","casa","api","fra-1","a","10.210.129.7","",5,"[]","casa/api:7",8080,"healthy","",0,0]]
    ["UPDATE servers SET boot_id = ? WHERE id = ? AND removed_at IS NULL",["b1","fra-1"]]
    ["DELETE FROM containers WHERE id = ? AND server_id = ?",["3f2a3f2a3f2a3f2a","fra-1"]]
    ["UPDATE containers SET health_status = ?, health_reason = ?, last_health_check = ?, consecutive_failures = ? WHERE id = ?",["healthy","",0,0,"3f2a3f2a3f2a3f2a"]]
    "#);
}

#[test]
fn who_was_seen_is_remembered_before_its_row_is_written_until_its_row_is_gone() {
    let mut server = Server::new(&[(ID, desired("10.210.129.7", 5, Status::Healthy, ""))]);
    server.before.insert("older".to_owned());
    let steps: Vec<String> = server.plan().iter().map(ToString::to_string).collect();
    assert_eq!(steps[0], "remember 2 containers");
    server.pass();
    server.containers.clear();
    server.gone.insert(ID.to_owned());
    assert_eq!(server.pass(), "delete 3f2a3f2a3f2a");
    assert!(server.remembered.contains(ID), "until the row is gone it is ours to delete");
    server.pass();
    assert_eq!(server.remembered, ["older".to_owned()].into());
}

#[test]
fn a_daemon_that_starts_takes_nobody_out_of_answers_before_it_has_probed() {
    let mut server = Server::new(&[(ID, desired("10.210.129.7", 5, Status::Healthy, ""))]);
    server.pass();
    let mut starting = desired("10.210.129.7", 5, Status::Unhealthy, "starting");
    starting.probed = Probed::NotYet;
    assert_eq!(server.set(starting.clone()).pass(), "");
    // Another start of the same container is another matter.
    starting.run = Run::Running { started_ms: 6, verdict: None };
    assert!(server.set(starting.clone()).pass().ends_with("unhealthy (starting)"));
    starting.probed = Probed::Yes;
    starting.verdict.reason = "port 8080: refused".to_owned();
    assert_eq!(server.set(starting).later(10).pass(), "3f2a3f2a3f2a is unhealthy (port 8080: refused)");
}
