//! JetStream's group: who belongs to it, who of them is away, and who may be taken out of it.
//!
//! A member that is gone for good counts in every vote until it is removed, so that a group of three that lost one for
//! ever stands still when it loses another for a minute. A removal that is wrong is worse: what the member held is gone
//! with it. So it is done by hand, and only as this module allows.

use std::time::Duration;

use async_nats::Client;
use serde::Deserialize;

use crate::name::Label;

/// Where the leader of the group says who is in it.
const ASK: &str = "$SYS.REQ.SERVER.PING.JSZ";
/// Where a member is taken out.
const REMOVE: &str = "$JS.API.SERVER.REMOVE";
/// Where the leader gives up.
const STEP_DOWN: &str = "$JS.API.META.LEADER.STEPDOWN";
/// A member that the leader has not heard of for so long is away: it says something each second.
const SILENT: Duration = Duration::from_secs(10);
/// Between two looks before a removal. A leader that was just elected has heard of nobody yet, and does within a second.
const AGAIN: Duration = Duration::from_secs(3);
/// How long an answer may take. The leader answers within a round trip; where there is none, nobody does.
const ANSWER: Duration = Duration::from_secs(5);

/// The group, as its leader sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Group {
    /// The leader's name; empty if there is none.
    pub leader: String,
    /// How many belong to it.
    pub cluster_size: usize,
    /// All but the leader.
    pub replicas: Vec<Member>,
}

/// One of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Member {
    /// Its server's name; empty, or its id, if it was never heard of in this life of the leader.
    pub name: String,
    /// Its id.
    pub peer: String,
    /// Whether it has said that it goes. One that is killed is said to be so two and a half minutes later.
    pub offline: bool,
    /// Whether it has all that the leader has.
    pub current: bool,
    /// How long ago the leader heard of it, in nanoseconds; 0 if this leader never did.
    pub active: u64,
}

impl Member {
    fn is_away(&self) -> bool {
        let silent = self.active == 0 || Duration::from_nanos(self.active) >= SILENT;
        self.offline || (!self.current && silent)
    }
}

/// Why a member stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stays {
    /// There is none of this name.
    #[error("{name} does not belong to JetStream's group; its members are {members}")]
    Unknown {
        /// Who was named.
        name: String,
        /// Who there is.
        members: String,
    },
    /// It is there.
    #[error("{0} is up: stop it first, and its streams are served by others")]
    Up(String),
    /// Too many others are away: those that are up cannot decide anything, and the one that is away may hold what they lack.
    #[error("{up} of {size} members are up, which is no majority: {name} stays")]
    NoQuorum {
        /// Who was named.
        name: String,
        /// How many are up.
        up: usize,
        /// How many there are.
        size: usize,
    },
}

/// Why the group does not answer, or refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// Nobody leads it.
    #[error("JetStream's group has no leader: {0}")]
    NoLeader(String),
    /// It answered something that cannot be read.
    #[error("what JetStream answers cannot be read: {0}")]
    Foreign(String),
    /// It refuses.
    #[error("JetStream refuses: {0}")]
    Refused(String),
    /// We do.
    #[error(transparent)]
    Stays(#[from] Stays),
}

impl Group {
    /// The member that may be removed by this name or id.
    pub fn removable(&self, name: &str) -> Result<&Member, Stays> {
        if self.leader == name {
            return Err(Stays::Up(name.to_owned()));
        }
        let Some(member) = self.replicas.iter().find(|member| member.name == name || member.peer == name) else {
            let replicas =
                self.replicas.iter().map(|member| if member.name.is_empty() { &member.peer } else { &member.name });
            let members: Vec<&str> = std::iter::once(&self.leader).chain(replicas).map(String::as_str).collect();
            return Err(Stays::Unknown { name: name.to_owned(), members: members.join(", ") });
        };
        if !member.is_away() {
            return Err(Stays::Up(name.to_owned()));
        }
        let up = 1 + self.replicas.iter().filter(|member| !member.is_away()).count();
        let size = self.cluster_size.max(self.replicas.len() + 1);
        if up <= size / 2 {
            return Err(Stays::NoQuorum { name: name.to_owned(), up, size });
        }
        Ok(member)
    }

    /// Those that are away.
    pub(crate) fn away(&self) -> impl Iterator<Item = &Member> {
        self.replicas.iter().filter(|member| member.is_away())
    }

    /// What the leader says of it. `system` is a client of the system account.
    pub async fn ask(system: &Client) -> Result<Self, GroupError> {
        let answer = ask(system, ASK, serde_json::json!({ "leader_only": true })).await?;
        let group = answer.get("data").and_then(|data| data.get("meta_cluster")).cloned().unwrap_or_default();
        let group: Group = serde_json::from_value(group).map_err(|error| GroupError::Foreign(error.to_string()))?;
        if group.leader.is_empty() { Err(GroupError::NoLeader("nobody says so".to_owned())) } else { Ok(group) }
    }

    /// Takes a member out, if it may be.
    pub async fn remove(system: &Client, name: &str) -> Result<(), GroupError> {
        Self::ask(system).await?.removable(name)?;
        tokio::time::sleep(AGAIN).await;
        let group = Self::ask(system).await?;
        let member = group.removable(name)?;
        // By its id, which is nobody else's: a name can be that of a server that came back meanwhile.
        let body = serde_json::json!({ "peer": member.name, "peer_id": member.peer });
        accepted(&ask(system, REMOVE, body).await?)
    }

    /// Has the leader give up, if it is this server. The others elect another within a second, rather than after the
    /// four that they wait for one that is gone.
    pub async fn step_down(system: &Client, own: &Label) -> Result<(), GroupError> {
        if Self::ask(system).await?.leader != own.as_str() {
            return Ok(());
        }
        accepted(&ask(system, STEP_DOWN, serde_json::Value::Null).await?)
    }
}

async fn ask(system: &Client, subject: &'static str, body: serde_json::Value) -> Result<serde_json::Value, GroupError> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let asked = tokio::time::timeout(ANSWER, system.request(subject, body.into())).await;
    let answer = match asked {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(GroupError::NoLeader(error.to_string())),
        Err(_) => return Err(GroupError::NoLeader("no answer in time".to_owned())),
    };
    serde_json::from_slice(&answer.payload).map_err(|error| GroupError::Foreign(error.to_string()))
}

fn accepted(answer: &serde_json::Value) -> Result<(), GroupError> {
    match answer.get("error") {
        None => Ok(()),
        Some(error) => {
            let said = error.get("description").and_then(serde_json::Value::as_str);
            Err(GroupError::Refused(said.map_or_else(|| error.to_string(), ToOwned::to_owned)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Group, Member, Stays};

    /// A leader `a`, and others of whom `+` are up, `-` have gone, `!` are silent for long, `?` for a moment, and `0` were
    /// never heard of.
    fn group(others: &str) -> Group {
        let replicas: Vec<Member> = others
            .split_whitespace()
            .map(|text| {
                let (how, name) = text.split_at(1);
                let (current, offline, seconds) = match how {
                    "+" => (true, false, 0),
                    "-" => (false, true, 1),
                    "!" => (false, false, 10),
                    "?" => (false, false, 9),
                    _ => (false, false, 0),
                };
                let active = seconds * 1_000_000_000;
                Member { name: name.to_owned(), peer: format!("id-{name}"), offline, current, active }
            })
            .collect();
        Group { leader: "a".to_owned(), cluster_size: replicas.len() + 1, replicas }
    }

    fn may(others: &str, name: &str) -> String {
        group(others).removable(name).map_or_else(|stays| stays.to_string(), |member| format!("{} goes", member.peer))
    }

    #[test]
    fn who_may_be_removed() {
        let table = [
            ("+b -c", "c"),
            ("+b -c", "id-c"),
            ("+b -c", "b"),
            ("+b -c", "a"),
            ("+b -c", "d"),
            ("-b -c", "c"),
            ("-b", "b"),
            ("+b +c -d -e", "e"),
            ("+b -c -d", "d"),
            ("+b -c -d -e", "e"),
            ("+b !c", "c"),
            ("+b ?c", "c"),
            ("+b 0c", "c"),
            ("!b 0c", "c"),
        ];
        let lines = table.map(|(others, name)| format!("a {others}, remove {name}: {}", may(others, name)));
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn what_the_leader_says_is_read() {
        let said = r#"{"name":"ams","leader":"a","peer":"x","replicas":[{"name":"b","current":false,"offline":true,"active":5,"lag":1,"peer":"y"}],"cluster_size":2}"#;
        let group: Group = serde_json::from_str(said).expect("JSON");
        assert!(matches!(group.removable("b"), Err(Stays::NoQuorum { up: 1, size: 2, .. })));
    }
}
