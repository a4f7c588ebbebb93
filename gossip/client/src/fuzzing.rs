//! The parsers of a server's lines as the fuzzer calls them, each with what must hold of whatever it accepts.

use http::HeaderMap;

use crate::follow::Source;
use crate::members::{MembersSource, Watched};
use crate::statement::Statement;
use crate::subscription::{Commits, Event, SubscriptionSource};

/// A decoder, and the name of its corpus.
pub type Target = (&'static str, fn(&[u8]));

/// Every one, by the name of its corpus below `fuzz/corpus`.
pub const TARGETS: &[Target] = &[("subscription", subscription), ("members", members)];

/// A live query: changes that are delivered have consecutive ids, from the snapshot's on.
fn subscription(bytes: &[u8]) {
    let mut source = SubscriptionSource::new(Statement::new("SELECT 1"), Commits::Marked);
    let mut last = None;
    for event in events(&mut source, bytes) {
        match event {
            Event::EndOfQuery { change_id } => last = Some(change_id),
            Event::Change { change_id, .. } => {
                assert_eq!(last.and_then(|last: u64| last.checked_add(1)), Some(change_id));
                last = Some(change_id);
            }
            Event::Committed { change_id } => assert_eq!(last, Some(change_id)),
            Event::Columns(_) | Event::Row { .. } => assert_eq!(last, None, "a row after the end of the snapshot"),
            Event::Lost { .. } | Event::Resumed { .. } | Event::Reset => panic!("no line says {event:?}"),
        }
    }
}

/// The members: any line is a member, the end of the list, or the end of the stream.
fn members(bytes: &[u8]) {
    events(&mut MembersSource::new(Watched::OnAndOn), bytes);
}

/// What the lines of one answer say, up to the first error.
fn events<S: Source>(source: &mut S, bytes: &[u8]) -> Vec<S::Event> {
    source.begun(&HeaderMap::new());
    let mut events = Vec::new();
    for line in bytes.split(|&byte| byte == b'\n') {
        let Ok(text) = std::str::from_utf8(line) else { break };
        match source.line(text) {
            Ok(event) => events.extend(event),
            Err(error) => {
                // Whoever consumes it shows it.
                assert!(!error.to_string().is_empty());
                source.failed(error);
                break;
            }
        }
    }
    events
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn what_the_fuzzer_found_is_survived() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
        for (name, target) in super::TARGETS {
            let inputs = std::fs::read_dir(corpus.join(name)).unwrap();
            let ran = inputs.map(|input| target(&std::fs::read(input.unwrap().path()).unwrap())).count();
            assert!(ran > 0, "the corpus of {name} is empty");
        }
    }
}
