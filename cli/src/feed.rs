//! The feed of DNS: the store's subscriptions and its members, joined to one stream.
//!
//! Each table has a live query of its own. When one is lost, DNS is told that the store is away, and then which tables
//! still follow it: normally all queries are lost within a moment, but a single one may be cut off for being slow.
//! A table whose snapshot was on its way at that moment is asked for anew, since the part of it that had arrived is
//! dropped on the other side.
//!
//! There is no queue here: DNS takes events as it uses them, and what it does not take stays in the connections, where
//! the store bounds it (it cuts off who is too far behind, and that is an outage like any other).

use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use kith_dns::feed::{self, Cell, Table};
use kith_gossip_client::error::Chain;
use kith_gossip_client::members::{Member, MemberEvent, MemberState};
use kith_gossip_client::subscription::ChangeKind;
use kith_gossip_client::{Client, Error, Event, Value};
use tokio::time::sleep;
use tokio_stream::StreamMap;

/// How long after an error that trying again cannot cure (a table that does not exist yet, a gap) a query is made anew.
const ANEW: Duration = Duration::from_secs(2);

/// The feed. It never ends.
pub(crate) struct Feed {
    client: Client,
    sources: StreamMap<Source, Items>,
    join: Join,
    ready: VecDeque<feed::Event>,
}

/// What is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Table(Table),
    Members,
}

impl Hash for Source {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Source::Table(table) => table.name().hash(state),
            Source::Members => "members".hash(state),
        }
    }
}

/// What came of it.
#[derive(Debug)]
enum Item {
    Row(Event),
    Member(MemberEvent),
}

type Items = Pin<Box<dyn Stream<Item = Result<Item, Error>> + Send>>;

impl Feed {
    /// Follows every table that DNS reads, and the members.
    pub(crate) fn new(client: Client) -> Feed {
        let mut feed = Feed { client, sources: StreamMap::new(), join: Join::default(), ready: VecDeque::new() };
        for table in Table::ALL {
            feed.follow(Source::Table(table), Duration::ZERO);
        }
        feed.follow(Source::Members, Duration::ZERO);
        feed
    }

    fn follow(&mut self, source: Source, delay: Duration) {
        let client = self.client.clone();
        let items = async move {
            if !delay.is_zero() {
                sleep(delay).await;
            }
            match source {
                Source::Table(table) => client.follow_commits(table.query()).map(|event| event.map(Item::Row)).boxed(),
                Source::Members => client.watch_members().map(|event| event.map(Item::Member)).boxed(),
            }
        };
        self.sources.insert(source, Box::pin(stream::once(items).flatten()));
    }

    fn accept(&mut self, source: Source, item: Result<Item, Error>) {
        let outcome = match (source, item) {
            (Source::Table(table), Ok(Item::Row(event))) => self.join.row(table, event),
            (_, Ok(Item::Member(event))) => Outcome { events: self.join.member(event), anew: Vec::new() },
            (Source::Members, Ok(Item::Row(_))) => Outcome::default(),
            (source, Err(error)) => {
                tracing::warn!(?source, error = %Chain(&error), "following the store failed, starting anew");
                self.follow(source, ANEW);
                match source {
                    Source::Table(table) => self.join.lost(table),
                    Source::Members => Outcome::default(),
                }
            }
        };
        self.ready.extend(outcome.events);
        for table in outcome.anew {
            self.follow(Source::Table(table), Duration::ZERO);
        }
    }
}

impl Stream for Feed {
    type Item = feed::Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<feed::Event>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Poll::Ready(Some(event));
            }
            match Pin::new(&mut self.sources).poll_next(cx) {
                Poll::Ready(Some((source, item))) => self.accept(source, item),
                // A source is followed again when it fails, so the map is never empty.
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// How far each table is: the part of the feed that decides, without any I/O.
#[derive(Debug, Default)]
struct Join {
    phases: BTreeMap<Table, Phase>,
    /// The list of members, while it arrives.
    listing: Option<Vec<feed::Member>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Its snapshot is arriving.
    Snapshot,
    /// It follows the store.
    Live,
    /// Its query is lost.
    Away,
}

/// What DNS is told, and which tables must be asked for anew.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    events: Vec<feed::Event>,
    anew: Vec<Table>,
}

impl From<feed::Event> for Outcome {
    fn from(event: feed::Event) -> Outcome {
        Outcome { events: vec![event], anew: Vec::new() }
    }
}

impl Join {
    fn row(&mut self, table: Table, event: Event) -> Outcome {
        match event {
            Event::Columns(_) => {
                self.phases.insert(table, Phase::Snapshot);
                feed::Event::Reset(table).into()
            }
            Event::Row { cells, .. } => feed::Event::Upsert { table, cells: decode(cells) }.into(),
            Event::EndOfQuery { .. } | Event::Resumed { .. } => {
                self.phases.insert(table, Phase::Live);
                feed::Event::Synced(table).into()
            }
            Event::Change { kind, cells, .. } => {
                let cells = decode(cells);
                match kind {
                    ChangeKind::Insert | ChangeKind::Update => feed::Event::Upsert { table, cells }.into(),
                    ChangeKind::Delete => feed::Event::Delete { table, cells }.into(),
                }
            }
            Event::Committed { .. } => feed::Event::Committed(table).into(),
            Event::Lost { reason } => {
                tracing::debug!(?table, reason, "query lost");
                self.lost(table)
            }
            // The snapshot that replaces everything begins with its columns.
            Event::Reset => Outcome::default(),
        }
    }

    /// That the stream of members is lost is no event: the last states hold, and the tables, which come from the same store, say
    /// that it is away.
    fn member(&mut self, event: MemberEvent) -> Vec<feed::Event> {
        match event {
            MemberEvent::Reset => self.listing = Some(Vec::new()),
            MemberEvent::Lost { .. } => self.listing = None,
            MemberEvent::Synced => return self.listing.take().map(feed::Event::Members).into_iter().collect(),
            MemberEvent::Member(member) => match &mut self.listing {
                Some(listing) => listing.push(heard(member)),
                None => return vec![feed::Event::Member(heard(member))],
            },
        }
        Vec::new()
    }

    fn lost(&mut self, table: Table) -> Outcome {
        self.phases.insert(table, Phase::Away);
        let in_phase = |wanted: Phase| {
            let phases = self.phases.iter();
            phases.filter(move |(_, phase)| **phase == wanted).map(|(table, _)| *table).collect::<Vec<_>>()
        };
        let (live, anew) = (in_phase(Phase::Live), in_phase(Phase::Snapshot));
        for table in &anew {
            self.phases.insert(*table, Phase::Away);
        }
        let live = live.into_iter().map(feed::Event::Synced);
        Outcome { events: std::iter::once(feed::Event::FeedLost).chain(live).collect(), anew }
    }
}

/// The cells of a row, from the API's values to the feed's: the one place where the one becomes the other.
pub(crate) fn decode(cells: Vec<Value>) -> Vec<Cell> {
    let cell = |value| match value {
        Value::Null => Cell::Null,
        Value::Integer(number) => Cell::Integer(number),
        Value::Real(number) => Cell::Real(number),
        Value::Text(text) => Cell::Text(text),
        Value::Blob(bytes) => Cell::Blob(bytes),
    };
    cells.into_iter().map(cell).collect()
}

/// A member, from the API's form to the feed's.
pub(crate) fn heard(member: Member) -> feed::Member {
    let Member { server, boot_id, state, heard_ms_ago, rtt_us, .. } = member;
    let state = match state {
        MemberState::Up => feed::MemberState::Up,
        MemberState::Silent => feed::MemberState::Silent,
        MemberState::Removed => feed::MemberState::Removed,
    };
    feed::Member {
        server,
        state,
        boot_id: boot_id.unwrap_or_default(),
        heard: heard_ms_ago.map(Duration::from_millis),
        rtt: rtt_us.map(Duration::from_micros),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const COLUMNS: fn() -> Event = || Event::Columns(vec!["key".into(), "value".into()]);
    const END: Event = Event::EndOfQuery { change_id: 0 };

    fn lost() -> Event {
        Event::Lost { reason: "away".into() }
    }

    #[test]
    fn a_snapshot_its_changes_and_a_resumption_are_told_in_order() {
        let mut join = Join::default();
        let table = Table::Metadata;
        let cells = || vec![Value::from("cluster_cidr"), Value::Null];
        let fed = || vec![Cell::Text("cluster_cidr".to_owned()), Cell::Null];
        let change = |kind| Event::Change { kind, row_id: 1, cells: cells(), change_id: 1 };
        let told: Vec<feed::Event> = [
            COLUMNS(),
            Event::Row { row_id: 1, cells: cells() },
            END,
            change(ChangeKind::Update),
            change(ChangeKind::Delete),
            Event::Resumed { change_id: 2 },
        ]
        .into_iter()
        .flat_map(|event| join.row(table, event).events)
        .collect();
        assert_eq!(
            told,
            [
                feed::Event::Reset(table),
                feed::Event::Upsert { table, cells: fed() },
                feed::Event::Synced(table),
                feed::Event::Upsert { table, cells: fed() },
                feed::Event::Delete { table, cells: fed() },
                feed::Event::Synced(table),
            ]
        );
    }

    #[test]
    fn members_are_told_together_when_their_list_is_complete_and_one_by_one_when_they_change() {
        let mut join = Join::default();
        let member = |server: &str| {
            let member = json!({ "server": server, "state": "up", "heard_ms_ago": 7 });
            serde_json::from_value::<Member>(member).expect("a member")
        };
        let said = |server: &str| MemberEvent::Member(member(server));
        let (a, b) = (heard(member("a")), heard(member("b")));
        let lost = || MemberEvent::Lost { reason: "away".into() };
        // A list that broke off is none.
        for event in [MemberEvent::Reset, said("b"), lost(), MemberEvent::Reset, said("a")] {
            assert_eq!(join.member(event), []);
        }
        assert_eq!(join.member(MemberEvent::Synced), [feed::Event::Members(vec![a])]);
        assert_eq!(join.member(said("b")), [feed::Event::Member(b)]);
    }

    #[test]
    fn one_lost_query_leaves_the_others_believed_and_repeats_a_snapshot_on_its_way() {
        let mut join = Join::default();
        for table in [Table::Metadata, Table::Servers, Table::Services] {
            join.row(table, COLUMNS());
        }
        for table in [Table::Metadata, Table::Servers] {
            join.row(table, END);
        }
        let outcome = join.row(Table::Servers, lost());
        assert_eq!(outcome.events, [feed::Event::FeedLost, feed::Event::Synced(Table::Metadata)]);
        assert_eq!(outcome.anew, [Table::Services]);
        // What is lost is not asked for twice: the first reconnects by itself, the second is being asked for.
        let outcome = join.row(Table::Metadata, lost());
        assert_eq!(outcome, Outcome { events: vec![feed::Event::FeedLost], anew: Vec::new() });
    }

    #[test]
    fn a_restart_of_the_store_ends_with_every_table_replaced() {
        let mut join = Join::default();
        for table in Table::ALL {
            join.row(table, COLUMNS());
            join.row(table, END);
        }
        let told: Vec<_> = Table::ALL.into_iter().flat_map(|table| join.row(table, lost()).events).collect();
        assert_eq!(told.last(), Some(&feed::Event::FeedLost), "the last word is that nothing follows the store");
        for table in Table::ALL {
            assert_eq!(join.row(table, Event::Reset), Outcome::default());
            assert_eq!(join.row(table, COLUMNS()).events, [feed::Event::Reset(table)]);
            assert_eq!(join.row(table, END).events, [feed::Event::Synced(table)]);
        }
        assert!(join.phases.values().all(|phase| *phase == Phase::Live));
    }
}
