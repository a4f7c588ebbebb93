//! A live query: its rows, then every change of them, across reconnections.
//!
//! ```text
//!   first:           Columns Row* EndOfQuery Change*
//!   an outage:       Lost, then one of
//!     it resumes:    Resumed Change*
//!     it cannot:     Reset Columns Row* EndOfQuery Change*
//! ```
//!
//! Who asks for it hears a Committed behind EndOfQuery, behind Resumed where a commit ends there, and behind the last Change of
//! each commit or several.
//!
//! Change ids start at 1 and have no holes; a hole or a repetition ends the stream with [`Error::Gap`]. A stream is
//! resumed only behind a change: cut within its rows, or before its first change (for which the API has no `from`), it
//! takes its rows anew, so nothing that happened meanwhile can be missed.

use http::{HeaderMap, Method, StatusCode};
use reqwest::RequestBuilder;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::client::Client;
use crate::error::Error;
use crate::follow::{Failure, Follow, Source};
use crate::statement::Statement;
use crate::value::Value;

/// A live query.
pub type Subscription = Follow<Event>;

/// What a live query says.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A snapshot begins: the columns' names, in the order of the cells.
    Columns(Vec<String>),
    /// A row of the snapshot.
    Row {
        /// The row's id within this subscription.
        row_id: u64,
        /// Its cells.
        cells: Vec<Value>,
    },
    /// The snapshot is complete.
    EndOfQuery {
        /// The last change that the snapshot contains.
        change_id: u64,
    },
    /// A row came, changed or went.
    Change {
        /// Which of these.
        kind: ChangeKind,
        /// The row's id within this subscription.
        row_id: u64,
        /// All its cells; of a deleted row the last ones.
        cells: Vec<Value>,
        /// The change's place in the sequence.
        change_id: u64,
    },
    /// What came up to here are the changes of whole transactions. Of a stream that was asked for it, and of a store that says it.
    Committed {
        /// The last of them.
        change_id: u64,
    },
    /// The store is away. The stream goes on trying; what the consumer holds is as of now and grows old.
    Lost {
        /// Why, for people.
        reason: String,
    },
    /// The store is back and knew this subscription: what was missed comes next.
    Resumed {
        /// The last change that came before.
        change_id: u64,
    },
    /// The store is back and cannot go on where the stream stopped: forget everything, a snapshot follows.
    Reset,
}

/// What happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It is in the result, and was not.
    Insert,
    /// It was and is in the result, with other cells.
    Update,
    /// It was in the result, and is not.
    Delete,
}

impl ChangeKind {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            ChangeKind::Insert => "insert",
            ChangeKind::Update => "update",
            ChangeKind::Delete => "delete",
        }
    }
}

/// One line of the stream.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Columns(Vec<String>),
    Row(u64, Vec<Value>),
    Eoq {
        #[serde(default)]
        change_id: u64,
        #[serde(rename = "time", default)]
        _time: Option<IgnoredAny>,
    },
    Change(ChangeKind, u64, Vec<Value>, u64),
    Commit {
        change_id: u64,
    },
    Alive(IgnoredAny),
    Error(String),
}

/// How far the consumer has come.
#[derive(Debug, PartialEq)]
enum Place {
    /// Nothing was delivered.
    Start,
    /// A snapshot is being delivered.
    Snapshot,
    /// All changes up to this one are delivered.
    After(u64),
    /// Something was delivered that no longer counts.
    Forgotten,
}

/// Requests and lines of one live query.
pub(crate) struct SubscriptionSource {
    statement: Statement,
    /// The server's name for it, from the header.
    id: Option<String>,
    place: Place,
    commits: Commits,
}

/// Whether the stream says where transactions end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Commits {
    Marked,
    Unmarked,
}

/// The answer's header that names the subscription.
const ID_HEADER: &str = "corro-query-id";

impl SubscriptionSource {
    pub(crate) fn new(statement: Statement, commits: Commits) -> SubscriptionSource {
        SubscriptionSource { statement, id: None, place: Place::Start, commits }
    }

    /// The id and the change to resume behind, if there is such a place.
    fn resumable(&self) -> Option<(&str, u64)> {
        match (&self.id, &self.place) {
            (Some(id), Place::After(change)) if *change > 0 => Some((id, *change)),
            _ => None,
        }
    }

    fn change(&mut self, change_id: u64) -> Result<(), Error> {
        match self.place {
            Place::After(last) if last.checked_add(1) == Some(change_id) => {
                self.place = Place::After(change_id);
                Ok(())
            }
            Place::After(last) => Err(Error::Gap { expected: last.saturating_add(1), got: change_id }),
            Place::Start | Place::Snapshot | Place::Forgotten => Err(Error::Gap { expected: 0, got: change_id }),
        }
    }
}

impl Source for SubscriptionSource {
    type Event = Event;

    fn request(&self, client: &Client) -> Result<RequestBuilder, Error> {
        let commits = match self.commits {
            Commits::Marked => "&commits=true",
            Commits::Unmarked => "",
        };
        match self.resumable() {
            Some((id, change)) => Ok(client
                .bare(Method::GET, &format!("v1/subscriptions/{id}?from={change}&skip_rows=true&alive=true{commits}"))),
            None => client.json(Method::POST, &format!("v1/subscriptions?alive=true{commits}"), &self.statement),
        }
    }

    fn begun(&mut self, head: &HeaderMap) -> Option<Event> {
        if let Some((_, change_id)) = self.resumable() {
            return Some(Event::Resumed { change_id });
        }
        // Only what is a UUID's alphabet may become part of a path.
        self.id = head
            .get(ID_HEADER)
            .and_then(|id| id.to_str().ok())
            .filter(|id| !id.is_empty() && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-'))
            .map(str::to_owned);
        match std::mem::replace(&mut self.place, Place::Snapshot) {
            Place::Start => None,
            Place::Snapshot | Place::After(_) | Place::Forgotten => Some(Event::Reset),
        }
    }

    fn line(&mut self, text: &str) -> Result<Option<Event>, Error> {
        let line = serde_json::from_str(text).map_err(|e| Error::malformed(text.as_bytes(), &e))?;
        let event = match line {
            Line::Alive(_) => return Ok(None),
            Line::Error(message) => return Err(Error::Stopped(message)),
            Line::Change(kind, row_id, cells, change_id) => {
                self.change(change_id)?;
                Event::Change { kind, row_id, cells, change_id }
            }
            Line::Commit { change_id } if self.place == Place::After(change_id) => Event::Committed { change_id },
            Line::Commit { change_id } => {
                return Err(Error::Stopped(format!("the end of a commit at {change_id} is not where we are")));
            }
            Line::Columns(columns) if self.place == Place::Snapshot => Event::Columns(columns),
            Line::Row(row_id, cells) if self.place == Place::Snapshot => Event::Row { row_id, cells },
            Line::Eoq { change_id, .. } if self.place == Place::Snapshot => {
                self.place = Place::After(change_id);
                Event::EndOfQuery { change_id }
            }
            Line::Columns(_) | Line::Row(..) | Line::Eoq { .. } => {
                return Err(Error::Stopped("rows of a snapshot came after its end".to_owned()));
            }
        };
        Ok(Some(event))
    }

    fn failed(&mut self, error: Error) -> Failure {
        let unknown = matches!(&error, Error::Refused { status, .. }
            if matches!(*status, StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::BAD_REQUEST));
        let too_old = matches!(&error, Error::Stopped(message) if message.contains("min change id"));
        if (unknown && self.resumable().is_some()) || too_old {
            tracing::debug!(%error, "subscription cannot be resumed, starting anew");
            self.place = Place::Forgotten;
            Failure::Anew
        } else {
            Failure::by_kind(error)
        }
    }

    fn lost(&self, reason: String) -> Event {
        Event::Lost { reason }
    }
}
