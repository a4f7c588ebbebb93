//! Removes a member of JetStream's group that has been away for long, where an operator has said how long that is. What only it held is lost,
//! so it is off unless somebody asks for it; and it is done as by hand: by the leader alone, one at a time, and only while those that are up are
//! a majority (see [`crate::group`]).

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::chain::Chain;
use crate::group::{Group, GroupError, Member};
use crate::name::Label;
use crate::turn::Access;

/// How often it is looked.
const LOOKS: Duration = Duration::from_secs(10);

/// Since when members have been away, by their ids.
#[derive(Debug)]
struct Away {
    after: Duration,
    since: BTreeMap<String, Instant>,
}

impl Away {
    fn new(after: Duration) -> Self {
        Self { after, since: BTreeMap::new() }
    }

    /// Takes in what the leader says; who is to be removed. A look that failed says nothing of anybody, and all begin anew.
    fn observe<'a>(&mut self, group: Option<&'a Group>, now: Instant) -> Option<&'a Member> {
        let away = group.into_iter().flat_map(Group::away);
        let before = std::mem::take(&mut self.since);
        self.since =
            away.map(|member| (member.peer.clone(), before.get(&member.peer).copied().unwrap_or(now))).collect();
        let over = |member: &&Member| {
            self.since.get(&member.peer).is_some_and(|since| now.saturating_duration_since(*since) >= self.after)
        };
        let group = group?;
        group.away().filter(over).find(|member| group.removable(&member.peer).is_ok())
    }
}

/// Looks until the token is cancelled. `own` is the name of our own server, by whose word it acts only when it leads.
pub(crate) async fn remove(after: Option<Duration>, own: Label, system: Access, token: CancellationToken) {
    let Some(after) = after else { return token.cancelled().await };
    let mut away = Away::new(after);
    let mut looks = tokio::time::interval(LOOKS);
    // A look that is dropped has changed nothing; a removal that is, is looked at anew by the next leader.
    token
        .run_until_cancelled(async {
            loop {
                looks.tick().await;
                if let Err(error) = look(&mut away, &own, &system).await {
                    tracing::warn!(error = %Chain(&error), "a member that is away stays in JetStream's group");
                }
            }
        })
        .await;
}

async fn look(away: &mut Away, own: &Label, system: &Access) -> Result<(), GroupError> {
    let Ok(client) = system.connect().await else {
        // Our server does not run: somebody else's leads.
        away.observe(None, Instant::now());
        return Ok(());
    };
    let group = Group::ask(&client).await.ok().filter(|group| group.leader == own.as_str());
    let Some(member) = away.observe(group.as_ref(), Instant::now()) else { return Ok(()) };
    Group::remove(&client, &member.peer).await?;
    tracing::warn!(
        name = member.name,
        peer = member.peer,
        "removed from JetStream's group, since it was away for long"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::Away;
    use crate::group::{Group, Member};

    /// A leader and others, of whom those with a `-` are away.
    fn group(others: &str) -> Group {
        let replicas: Vec<Member> = others
            .split_whitespace()
            .map(|text| Member {
                name: text.trim_start_matches('-').to_owned(),
                peer: format!("id-{}", text.trim_start_matches('-')),
                offline: text.starts_with('-'),
                current: !text.starts_with('-'),
                active: 1,
            })
            .collect();
        Group { leader: "a".to_owned(), cluster_size: replicas.len() + 1, replicas }
    }

    #[test]
    fn one_that_was_away_all_the_time_goes_when_the_others_are_a_majority() {
        let begun = Instant::now();
        let mut away = Away::new(Duration::from_secs(60));
        let steps = [
            (0, Some("b -c")),
            (59, Some("b -c")),
            (60, Some("b -c")),
            (61, Some("b c")),
            (62, Some("b -c")),
            (121, Some("b -c")),
            (122, None),
            (123, Some("b -c")),
            (182, Some("b -c")),
            (183, Some("-b -c")),
            (400, Some("-b -c")),
            (401, Some("b d -c -e")),
            (500, Some("b d -c -e")),
        ];
        let lines = steps.map(|(second, others)| {
            let group = others.map(group);
            let goes = away.observe(group.as_ref(), begun + Duration::from_secs(second));
            let goes = goes.map_or("nobody", |member| member.name.as_str());
            format!("{second}: {}: {goes} goes", others.unwrap_or("nobody leads"))
        });
        insta::assert_snapshot!(lines.join("\n"), @r"
        0: b -c: nobody goes
        59: b -c: nobody goes
        60: b -c: c goes
        61: b c: nobody goes
        62: b -c: nobody goes
        121: b -c: nobody goes
        122: nobody leads: nobody goes
        123: b -c: nobody goes
        182: b -c: nobody goes
        183: -b -c: nobody goes
        400: -b -c: nobody goes
        401: b d -c -e: c goes
        500: b d -c -e: c goes
        ");
    }
}
