//! What is wrong with a nats-server that lives: streams that it has given up writing, and another server of its name. Pure.
//!
//! A disk that is full for a moment has nats-server give up: JetStream as a whole where it is clustered, the stream that was written
//! where it is alone. Neither comes back before the process is started again, so that is what is done, when the disk has room and it is
//! this server's turn; again and again ever more rarely, for what is wrong may be something else.

use std::time::Duration;

use tokio::time::Instant;

use crate::retry::Retry;

/// How often it is asked about its streams. That goes through all of them.
pub(crate) const LOOKS: Duration = Duration::from_secs(15);
/// How long its streams have to be written before a restart counts as one that has helped.
const WELL: Duration = Duration::from_secs(3600);
/// How long another of its name is spoken of after it was last met. The two meet every second.
const MET: Duration = Duration::from_secs(60);
/// What it says of JetStream that it has given up; at first also of one that it has not begun.
const DISABLED: &str = "JetStream not enabled";
/// What it says of a stream that it has given up.
const STOPPED: &str = "write error";

/// What is known of it.
#[derive(Debug)]
pub(crate) struct Trouble {
    streams: Streams,
    looked: Option<Instant>,
    /// Between restarts for the sake of streams.
    retry: Retry,
    /// Before then there is none.
    restart: Instant,
    /// Another server of its name.
    namesake: Option<Instant>,
}

/// Whether its streams are written.
#[derive(Debug, PartialEq, Eq)]
enum Streams {
    /// It has not said so yet: it may be reading them.
    Unknown,
    /// They are, since then.
    Written(Instant),
    /// They are not, and why.
    Stopped(String),
}

/// Whether something was known before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Met {
    /// It was not.
    First,
    /// It was.
    Again,
}

impl Trouble {
    /// Of one that is about to be started for the first time.
    pub(crate) fn none(now: Instant) -> Trouble {
        Trouble { streams: Streams::Unknown, looked: None, retry: Retry::rare(), restart: now, namesake: None }
    }

    /// Another process runs: what was wrong with the one before is over.
    pub(crate) fn started(&mut self) {
        (self.streams, self.looked) = (Streams::Unknown, None);
    }

    /// Whether it is time to ask about its streams.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= LOOKS)
    }

    /// What it said when it was asked whether it is ready: why it is not, if it is not.
    pub(crate) fn said(&mut self, unready: Option<&str>, now: Instant) {
        self.looked = Some(now);
        let stopped =
            unready.filter(|why| why.contains(STOPPED) || (why.contains(DISABLED) && self.streams != Streams::Unknown));
        match (stopped, unready, &self.streams) {
            (Some(why), ..) => {
                if !matches!(&self.streams, Streams::Stopped(_)) {
                    tracing::error!(why, "nats-server has given up writing its streams");
                }
                self.streams = Streams::Stopped(why.to_owned());
            }
            (None, Some(why), Streams::Unknown) if why.contains(DISABLED) => {}
            (None, _, Streams::Written(since)) if now.saturating_duration_since(*since) >= WELL => {
                self.retry.succeeded();
            }
            (None, _, Streams::Written(_)) => {}
            (None, _, Streams::Unknown | Streams::Stopped(_)) => self.streams = Streams::Written(now),
        }
    }

    /// Whether a restart would help, if the disk has room.
    pub(crate) fn takes_a_restart(&self, now: Instant) -> bool {
        matches!(self.streams, Streams::Stopped(_)) && now >= self.restart
    }

    /// A restart was asked for.
    pub(crate) fn restarts(&mut self, now: Instant) {
        self.restart = now + self.retry.delay();
    }

    /// Another of its name was met.
    pub(crate) fn met_namesake(&mut self, now: Instant) -> Met {
        let met = if self.has_namesake(now) { Met::Again } else { Met::First };
        self.namesake = Some(now);
        met
    }

    /// Whether there is another of its name.
    pub(crate) fn has_namesake(&self, now: Instant) -> bool {
        self.namesake.is_some_and(|met| now.saturating_duration_since(met) < MET)
    }

    /// In one line, for people.
    pub(crate) fn reason(&self, now: Instant) -> Option<String> {
        if self.has_namesake(now) {
            return Some(NAMESAKE.to_owned());
        }
        match &self.streams {
            Streams::Stopped(why) => {
                Some(format!("it has given up writing streams, and is started again when its disk has room: {why}"))
            }
            Streams::Unknown | Streams::Written(_) => None,
        }
    }
}

/// What there is to say of another server of the same name, and what to do.
pub(crate) const NAMESAKE: &str = "another server of its name is in the cluster: two hosts have a copy of one store; have one of the two start with an empty nats.store_dir";

#[cfg(test)]
mod tests {
    use super::*;

    const DISABLED_AS_IT_SAYS: &str = "unavailable JetStream not enabled (10076)";

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    #[test]
    fn one_that_begins_is_not_taken_for_one_that_has_given_up() {
        let now = Instant::now();
        let mut trouble = Trouble::none(now);
        trouble.said(Some(DISABLED_AS_IT_SAYS), now);
        assert!(!trouble.takes_a_restart(now) && trouble.reason(now).is_none());
        trouble.said(Some("unavailable JetStream has not established contact with a meta leader"), now);
        assert!(!trouble.takes_a_restart(now));
        trouble.said(Some(DISABLED_AS_IT_SAYS), now);
        assert!(trouble.takes_a_restart(now));
        insta::assert_snapshot!(trouble.reason(now).expect("it is said"), @"it has given up writing streams, and is started again when its disk has room: unavailable JetStream not enabled (10076)");
        trouble.started();
        assert!(!trouble.takes_a_restart(now) && trouble.reason(now).is_none());
    }

    #[test]
    fn a_stream_that_cannot_be_written_is_worth_a_restart_ever_more_rarely() {
        let mut now = Instant::now();
        let mut trouble = Trouble::none(now);
        let mut waited = Vec::new();
        for _ in 0..6 {
            let since = now;
            trouble.said(Some("unavailable JetStream stream '$G > s1' write error: no space left on device"), now);
            while !trouble.takes_a_restart(now) {
                now += LOOKS;
            }
            waited.push((now - since).as_secs());
            trouble.restarts(now);
            trouble.started();
            trouble.said(None, now);
        }
        assert_eq!(waited[0], 0);
        assert!(waited[1] >= 200 && waited[2] > waited[1] && waited[5] <= 3600 + LOOKS.as_secs(), "{waited:?}");
        trouble.said(None, now + WELL);
        trouble.said(Some("write error"), now + WELL);
        trouble.restarts(now + WELL);
        assert!(trouble.takes_a_restart(now + WELL + seconds(400)), "it was well for an hour");
    }

    #[test]
    fn it_is_asked_at_once_and_then_now_and_then() {
        let now = Instant::now();
        let mut trouble = Trouble::none(now);
        assert!(trouble.is_due(now));
        trouble.said(None, now);
        assert!(!trouble.is_due(now + LOOKS - seconds(1)) && trouble.is_due(now + LOOKS));
    }

    #[test]
    fn another_of_its_name_is_spoken_of_while_it_is_met() {
        let now = Instant::now();
        let mut trouble = Trouble::none(now);
        assert_eq!(trouble.met_namesake(now), Met::First);
        assert_eq!(trouble.met_namesake(now + seconds(59)), Met::Again);
        assert_eq!(trouble.reason(now + seconds(100)).as_deref(), Some(NAMESAKE));
        assert_eq!(trouble.reason(now + seconds(120)), None);
        assert_eq!(trouble.met_namesake(now + seconds(120)), Met::First);
    }
}
