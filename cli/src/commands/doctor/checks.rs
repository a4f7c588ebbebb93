//! What is made of what was found out: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use kith_gossip_client::members::{Member, MemberState};
use serde::Serialize;
use serde_json::Value;

use super::super::value::printable;
use super::probe::Probe;
use super::tunnel;

/// The columns for people.
pub(super) const HEAD: [&str; 4] = ["SERVER", "LAYER", "STATE", "WHAT"];

/// What was found out.
#[derive(Debug, Clone)]
pub(super) struct View {
    /// The status of the node that was asked.
    pub(super) status: Value,
    /// Its members.
    pub(super) members: Vec<Member>,
    /// The servers whose rows say that they belong.
    pub(super) belonging: BTreeSet<String>,
    /// The gossip port of each other member.
    pub(super) ports: BTreeMap<String, (SocketAddr, Probe)>,
    /// Where this server's DNS is to answer.
    pub(super) names: BTreeMap<SocketAddr, Probe>,
    /// Its Docker.
    pub(super) docker: Option<Docker>,
}

/// Whom Docker's containers ask.
#[derive(Debug, Clone)]
pub(super) struct Docker {
    /// Whether Docker is told.
    pub(super) told: bool,
    /// The containers that were started before.
    pub(super) old: Vec<String>,
}

/// One layer of one server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    server: String,
    layer: &'static str,
    pub(super) state: State,
    /// What is so.
    what: String,
    /// What to do about it.
    #[serde(rename = "do", skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// As it is to be.
    Ok,
    /// It works, but not as it is to.
    Weak,
    /// It does not.
    Fails,
}

impl Check {
    pub(super) fn new(server: &str, layer: &'static str, state: State, what: impl Into<String>) -> Check {
        Check { server: server.to_owned(), layer, state, what: what.into(), advice: None }
    }

    pub(super) fn advised(self, advice: impl Into<String>) -> Check {
        Check { advice: Some(advice.into()), ..self }
    }

    /// As a line for people.
    pub(super) fn cells(&self) -> Vec<String> {
        let state = match self.state {
            State::Ok => "ok",
            State::Weak => "WEAK",
            State::Fails => "FAILS",
        };
        let what = self.advice.as_ref().map_or_else(|| self.what.clone(), |advice| format!("{}: {advice}", self.what));
        vec![printable(&self.server), self.layer.to_owned(), state.to_owned(), printable(&what)]
    }
}

/// Every layer: first of this server, then toward each other.
pub(super) fn checks(view: &View) -> Vec<Check> {
    let own = view.status["node"].as_str().unwrap_or_default();
    let mut checks = vec![store(own, &view.status), certificate(own, &view.status)];
    checks.extend(view.names.iter().map(|(address, probe)| dns(own, *address, *probe)));
    checks.extend(view.docker.iter().flat_map(|docker| containers(own, docker)));
    checks.extend(reconcilers(own, &view.status));
    checks.extend(alarms(own, &view.status));
    for other in others(view, own) {
        checks.extend(toward(view, &other));
    }
    checks
}

fn store(own: &str, status: &Value) -> Check {
    let waiting: Vec<&str> = status["waiting"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if waiting.is_empty() {
        return Check::new(own, "store", State::Ok, "complete");
    }
    Check::new(own, "store", State::Weak, format!("not complete yet: {}", waiting.join(", ")))
}

fn certificate(own: &str, status: &Value) -> Check {
    let check = |state, what: String| Check::new(own, "certificate", state, what);
    match status["certificate"]["days_left"].as_u64() {
        None => check(State::Ok, "given from outside".to_owned()),
        Some(0) => check(State::Fails, "it has ended, or does today".to_owned())
            .advised("on the authority's server `kith invite`, here `kith join --again TOKEN`"),
        Some(days @ ..20) => check(State::Weak, format!("{days} days are left, and it was not renewed"))
            .advised("see that Kith runs on the authority's server and is a member here"),
        Some(days) => check(State::Ok, format!("{days} days are left")),
    }
}

fn dns(own: &str, address: SocketAddr, probe: Probe) -> Check {
    match probe {
        Probe::Answers => Check::new(own, "dns", State::Ok, format!("answers at {address}")),
        Probe::Refused | Probe::Silent | Probe::Unreachable => {
            Check::new(own, "dns", State::Fails, format!("no answer at {address}")).advised(
                "is Kith running, is the address this host's, is the port another server's? `kith status` shows dns",
            )
        }
    }
}

fn containers(own: &str, docker: &Docker) -> Vec<Check> {
    let mut checks = Vec::new();
    if docker.told {
        checks.push(Check::new(own, "docker", State::Ok, "containers are told to ask Kith"));
    } else {
        checks.push(
            Check::new(own, "docker", State::Fails, "containers are not told to ask Kith for names")
                .advised("kith daemon setup-docker --dry-run"),
        );
    }
    if !docker.old.is_empty() {
        let what = format!("these were started before Docker was told: {}", docker.old.join(", "));
        checks.push(Check::new(own, "docker", State::Weak, what).advised("start them again"));
    }
    checks
}

fn reconcilers(own: &str, status: &Value) -> Vec<Check> {
    let all = status["parts"]["daemon"]["reconcilers"].as_object();
    let failing = all.into_iter().flatten().filter_map(|(name, reconciler)| {
        let what = format!("{name} fails: {}", reconciler["error"].as_str()?);
        Some(Check::new(own, "daemon", State::Fails, what))
    });
    failing.collect()
}

fn alarms(own: &str, status: &Value) -> Vec<Check> {
    let alarm = |alarm: &Value| {
        let text = |key: &str| alarm[key].as_str().unwrap_or_default().to_owned();
        Check::new(own, "alarm", State::Fails, format!("{}: {}", text("name"), text("text")))
            .advised("what each alarm means is in the manual, operating.md")
    };
    status["alarms"].as_array().into_iter().flatten().map(alarm).collect()
}

/// The other servers: those that belong, and members without a row.
fn others(view: &View, own: &str) -> BTreeSet<String> {
    let members = view.members.iter().filter(|member| member.state != MemberState::Removed);
    let mut others: BTreeSet<String> = members.map(|member| member.server.clone()).collect();
    others.extend(view.belonging.iter().cloned());
    others.remove(own);
    others
}

fn toward(view: &View, other: &str) -> Vec<Check> {
    let Some(member) = view.members.iter().find(|member| member.server == other) else {
        let check = Check::new(other, "gossip", State::Fails, "it has a row, and was never heard");
        return vec![check.advised("is Kith running there? If the server is gone: kith server remove")];
    };
    let mut checks = Vec::new();
    let port = view.ports.get(other);
    checks.extend(port.map(|(address, probe)| udp(other, *address, *probe)));
    checks.push(refused(&view.status, member).unwrap_or_else(|| gossip(member, port.map(|(_, probe)| *probe))));
    checks.extend(tunnel::checks(&view.status, other));
    checks
}

fn udp(other: &str, address: SocketAddr, probe: Probe) -> Check {
    let fails = |what: &str| Check::new(other, "udp", State::Fails, format!("{address} {what}"));
    match probe {
        Probe::Answers => Check::new(other, "udp", State::Ok, format!("{address} answers")),
        Probe::Refused => {
            fails("is reached, and nobody listens there").advised("start Kith there: systemctl start kith")
        }
        Probe::Silent => fails("does not answer")
            .advised("the host is down, or a firewall on the way drops this UDP port, there or back"),
        Probe::Unreachable => fails("cannot be reached from here").advised("look at this host's routes and firewall"),
    }
}

/// Why nothing is heard of a member, where that is a matter of trust.
fn refused(status: &Value, member: &Member) -> Option<Check> {
    let refusal = status["refusals"].get(member.addr.as_deref()?).filter(|_| member.state == MemberState::Silent)?;
    // The one who refuses looks at the other's certificate.
    let (refuses, whose, foreign) = match refusal["by"].as_str()? {
        "us" => ("refused here", "its certificate", "was it founded anew? `kith join` it to this one"),
        _ => (
            "it refuses this server",
            "this server's certificate",
            "was this server founded anew? `kith join` this server to that cluster",
        ),
    };
    let (why, advice) = match refusal["why"].as_str()? {
        "not_in_force" => (
            "has expired, or a clock is wrong",
            "look at the clocks; else on the authority's server `kith invite NAME`, and where it has expired `kith join --again TOKEN`",
        ),
        "other_authority" | "other_cluster" => ("is of another cluster", foreign),
        "removed" => ("is of a server that was removed", "kith server remove NAME --undo, if it is to come back"),
        _ => ("is not accepted", "the log says why"),
    };
    let what = format!("not heard, {refuses}: {whose} {why}");
    Some(Check::new(&member.server, "gossip", State::Fails, what).advised(advice))
}

fn gossip(member: &Member, port: Option<Probe>) -> Check {
    let check = |state, what: String| Check::new(&member.server, "gossip", state, what);
    let ms = |us: u64| format!("{}.{:01} ms", us / 1000, us % 1000 / 100);
    match (member.state, member.rtt_us, port) {
        (MemberState::Up, Some(rtt), _) => check(State::Ok, format!("heard, {} there and back", ms(rtt))),
        (MemberState::Up, None, _) => check(State::Weak, "heard by others only, without a connection of our own".to_owned())
            .advised("one direction between the two may be dropped by a firewall: run kith doctor there too"),
        (MemberState::Removed, _, _) => check(State::Fails, "it was removed".to_owned())
            .advised(format!("kith server remove {} --undo, if it is to come back", member.server)),
        // The port is open, so it is not the way there.
        (MemberState::Silent, _, Some(Probe::Answers)) => check(State::Fails, "not heard, though its port answers".to_owned())
            .advised("one of the two refuses the other: a certificate that has ended or is another authority's, or a removal; its log says which"),
        (MemberState::Silent, _, _) => check(State::Fails, "not heard".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::table;
    use super::*;

    fn member(server: &str, state: MemberState, rtt_us: Option<u64>) -> Member {
        let text = json!({ "server": server, "state": state.as_str(), "rtt_us": rtt_us });
        serde_json::from_value(text).unwrap()
    }

    fn view(status: Value, members: Vec<Member>, ports: &[(&str, Probe)]) -> View {
        let port = |(server, probe): &(&str, Probe)| ((*server).to_owned(), (([192, 0, 2, 9], 31280).into(), *probe));
        let belonging = members.iter().map(|member| member.server.clone()).collect();
        View {
            status,
            members,
            belonging,
            ports: ports.iter().map(port).collect(),
            names: BTreeMap::new(),
            docker: None,
        }
    }

    fn told(view: &View) -> String {
        let rows: Vec<Vec<String>> = checks(view).iter().map(Check::cells).collect();
        table::render(&HEAD, &rows).join("\n")
    }

    #[test]
    fn each_cause_between_servers_has_its_name() {
        let up = MemberState::Up;
        let members = vec![
            member("a", up, Some(0)),
            member("b", up, Some(1240)),
            member("c", up, None),
            member("d", MemberState::Silent, None),
            member("e", MemberState::Silent, None),
            member("f", MemberState::Silent, None),
        ];
        let ports = [
            ("b", Probe::Answers),
            ("c", Probe::Silent),
            ("d", Probe::Silent),
            ("e", Probe::Refused),
            ("f", Probe::Answers),
        ];
        let mut view = view(json!({ "node": "a", "certificate": { "days_left": 80 } }), members, &ports);
        view.belonging.insert("z".to_owned());
        insta::assert_snapshot!(told(&view), @r"
        SERVER  LAYER        STATE  WHAT
        a       store        ok     complete
        a       certificate  ok     80 days are left
        b       udp          ok     192.0.2.9:31280 answers
        b       gossip       ok     heard, 1.2 ms there and back
        c       udp          FAILS  192.0.2.9:31280 does not answer: the host is down, or a firewall on the way drops this UDP port, there or back
        c       gossip       WEAK   heard by others only, without a connection of our own: one direction between the two may be dropped by a firewall: run kith doctor there too
        d       udp          FAILS  192.0.2.9:31280 does not answer: the host is down, or a firewall on the way drops this UDP port, there or back
        d       gossip       FAILS  not heard
        e       udp          FAILS  192.0.2.9:31280 is reached, and nobody listens there: start Kith there: systemctl start kith
        e       gossip       FAILS  not heard
        f       udp          ok     192.0.2.9:31280 answers
        f       gossip       FAILS  not heard, though its port answers: one of the two refuses the other: a certificate that has ended or is another authority's, or a removal; its log says which
        z       gossip       FAILS  it has a row, and was never heard: is Kith running there? If the server is gone: kith server remove
        ");
    }

    #[test]
    fn who_refuses_whom_and_why_is_the_cause_of_silence() {
        let (addrs, silent) = (["192.0.2.2:1", "192.0.2.3:1", "192.0.2.4:1", "192.0.2.5:1"], MemberState::Silent);
        let of = |(server, addr): (&str, &str)| Member { addr: Some(addr.to_owned()), ..member(server, silent, None) };
        let members: Vec<Member> = ["b", "c", "d", "e"].into_iter().zip(addrs).map(of).collect();
        let status = json!({ "node": "a", "refusals": {
            "192.0.2.2:1": { "by": "us", "why": "not_in_force" },
            "192.0.2.3:1": { "by": "peer", "why": "not_in_force" },
            "192.0.2.4:1": { "by": "peer", "why": "other_authority" },
            "192.0.2.5:1": { "by": "us", "why": "other_authority" },
        } });
        let told = told(&view(status, members, &[]));
        insta::assert_snapshot!(told, @r"
        SERVER  LAYER        STATE  WHAT
        a       store        ok     complete
        a       certificate  ok     given from outside
        b       gossip       FAILS  not heard, refused here: its certificate has expired, or a clock is wrong: look at the clocks; else on the authority's server `kith invite NAME`, and where it has expired `kith join --again TOKEN`
        c       gossip       FAILS  not heard, it refuses this server: this server's certificate has expired, or a clock is wrong: look at the clocks; else on the authority's server `kith invite NAME`, and where it has expired `kith join --again TOKEN`
        d       gossip       FAILS  not heard, it refuses this server: this server's certificate is of another cluster: was this server founded anew? `kith join` this server to that cluster
        e       gossip       FAILS  not heard, refused here: its certificate is of another cluster: was it founded anew? `kith join` it to this one
        ");
    }

    #[test]
    fn each_cause_on_this_server_has_its_name() {
        let status = json!({
            "node": "a",
            "waiting": ["state of peers"],
            "certificate": { "days_left": 0 },
            "alarms": [{ "name": "partition", "text": "not heard here: b" }],
            "parts": { "daemon": { "reconcilers": {
                "bridge": { "error": "docker at /run/docker.sock" },
                "heartbeat": { "error": null },
                "peers": { "detail": { "peers": [
                    { "server": "b", "state": "wanted", "handshake_s_ago": 5 },
                    { "server": "c", "state": "replaced", "handshake_s_ago": 5 },
                    { "server": "c", "state": "wanted", "handshake_s_ago": null },
                ] } },
                "endpoints": { "error": null },
            } } },
        });
        let members = vec![member("b", MemberState::Up, Some(300)), member("c", MemberState::Up, Some(300))];
        let mut view = view(status, members, &[]);
        view.names =
            [(([127, 0, 0, 1], 53).into(), Probe::Answers), (([10, 210, 7, 1], 53).into(), Probe::Refused)].into();
        view.docker = Some(Docker { told: false, old: vec!["api-1".to_owned()] });
        insta::assert_snapshot!(told(&view), @r"
        SERVER  LAYER        STATE  WHAT
        a       store        WEAK   not complete yet: state of peers
        a       certificate  FAILS  it has ended, or does today: on the authority's server `kith invite`, here `kith join --again TOKEN`
        a       dns          FAILS  no answer at 10.210.7.1:53: is Kith running, is the address this host's, is the port another server's? `kith status` shows dns
        a       dns          ok     answers at 127.0.0.1:53
        a       docker       FAILS  containers are not told to ask Kith for names: kith daemon setup-docker --dry-run
        a       docker       WEAK   these were started before Docker was told: api-1: start them again
        a       daemon       FAILS  bridge fails: docker at /run/docker.sock
        a       alarm        FAILS  partition: not heard here: b: what each alarm means is in the manual, operating.md
        b       gossip       ok     heard, 0.3 ms there and back
        b       tunnel       ok     last handshake 5 s ago
        c       gossip       ok     heard, 0.3 ms there and back
        c       tunnel       FAILS  no handshake of late: UDP may be dropped between the two, there or back, or its key differs from its row's
        ");
    }
}
