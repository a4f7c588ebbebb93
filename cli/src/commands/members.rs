//! `kith members`: who belongs to the cluster, as one node sees it.

use futures_util::StreamExt;
use kith_gossip_client::Client;
use kith_gossip_client::members::{Member, MemberEvent};

use super::table;
use super::value::printable;
use crate::args::Members;
use crate::exit::{Exit, Failure};
use crate::out::Out;

/// The table's head.
pub(crate) const HEAD: [&str; 6] = ["SERVER", "STATE", "HEARD", "RTT", "ADDRESS", "RELEASE"];

/// Prints the members, and with `--watch` each change of one.
pub(crate) async fn run(client: &Client, args: &Members) -> Result<(), Failure> {
    let mut out = Out::new();
    // Also before watching, which would try for ever: who names a wrong API is to hear of it.
    let members = client.members().await?;
    if args.watch {
        return watch(client, args, &mut out).await;
    }
    if args.output.json {
        return members.iter().try_for_each(|member| out.json(member));
    }
    let rows: Vec<Vec<String>> = members.iter().map(row).collect();
    table::render(&HEAD, &rows).into_iter().try_for_each(|line| out.line(line))
}

async fn watch(client: &Client, args: &Members, out: &mut Out) -> Result<(), Failure> {
    let mut events = client.watch_members();
    while let Some(event) = events.next().await {
        match event? {
            MemberEvent::Member(member) if args.output.json => out.json(&member)?,
            MemberEvent::Member(member) => out.line(row(&member).join("  "))?,
            MemberEvent::Lost { reason } => tracing::warn!(reason, "the store is away, trying again"),
            MemberEvent::Reset | MemberEvent::Synced => {}
        }
    }
    Err(Failure::message(Exit::Failed, "the stream ended"))
}

/// A member's line of the table.
pub(crate) fn row(member: &Member) -> Vec<String> {
    let text = |value: &Option<String>| value.as_deref().map_or_else(|| "-".to_owned(), printable);
    vec![
        printable(&member.server),
        member.state.as_str().to_owned(),
        member.heard_ms_ago.map_or_else(|| "-".to_owned(), ago),
        member.rtt_us.map_or_else(|| "-".to_owned(), |us| format!("{:.1} ms", us as f64 / 1000.0)),
        text(&member.addr),
        text(&member.release),
    ]
}

/// A time that has passed, in the unit that suits it.
pub(crate) fn ago(ms: u64) -> String {
    match ms {
        0..=999 => format!("{ms} ms"),
        1_000..=119_999 => format!("{} s", ms / 1_000),
        120_000..=7_199_999 => format!("{} min", ms / 60_000),
        7_200_000..=172_799_999 => format!("{} h", ms / 3_600_000),
        _ => format!("{} d", ms / 86_400_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_shown_in_the_unit_that_suits_it() {
        let shown: Vec<String> = [0, 999, 12_345, 119_999, 120_000, 7_200_000, 200_000_000].map(ago).into();
        assert_eq!(shown, ["0 ms", "999 ms", "12 s", "119 s", "2 min", "2 h", "2 d"]);
    }
}
