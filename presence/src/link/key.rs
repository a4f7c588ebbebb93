//! Names on NATS: subjects and keys. Users and sessions are any text, so they are written as base64url.

use data_encoding::BASE64URL_NOPAD;
use kith_gossip_proto::NodeId;

use crate::core::{Fact, SessionName, UserId};

/// What all nodes say to all.
pub(super) const ALL: &str = "presence.d.*";
/// What stands before the node in these.
pub(super) const PREFIX: &str = "presence.d.";
/// The bucket.
pub(super) const BUCKET: &str = "presence";
/// The key of the bucket's epoch.
pub(super) const EPOCH: &str = "epoch";

/// What `node` says to all.
pub(super) fn from(node: &NodeId) -> String {
    format!("presence.d.{node}")
}

/// What is said to `node`.
pub(super) fn to(node: &NodeId) -> String {
    format!("presence.sync.{node}")
}

/// What `node` is asked to end.
pub(super) fn end(node: &NodeId) -> String {
    format!("presence.end.{node}")
}

/// The stream of a node's own log, and its subject.
pub(super) fn log(node: &NodeId) -> (String, String) {
    (format!("presence-log-{node}"), format!("presence.log.{node}"))
}

/// Subjects that put into the bucket. By the API of its domain: a plain subject of the bucket has no stream at a leaf.
pub(super) fn bucket_prefix(domain: &str) -> String {
    match domain {
        "" => format!("$KV.{BUCKET}."),
        domain => format!("$JS.{domain}.API.$KV.{BUCKET}."),
    }
}

/// What one node says of a user under one key of the bucket. That node alone writes it.
///
/// Ordered by user.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) user: UserId,
    pub(super) kind: Kind,
}

impl Key {
    /// The key of a fact.
    pub(super) fn of(user: &UserId, fact: &Fact) -> Self {
        let kind = match fact {
            Fact::Session(session, _) => Kind::Session(session.clone()),
            Fact::Explicit(_) => Kind::Explicit,
            Fact::Seen(_) => Kind::Seen,
        };
        Self { user: user.clone(), kind }
    }

    /// The first key that a user may have.
    pub(super) fn first(user: &UserId) -> Self {
        Self { user: user.clone(), kind: Kind::Session(SessionName::default()) }
    }

    /// As it is written.
    pub(super) fn name(&self, node: &NodeId) -> String {
        let user = BASE64URL_NOPAD.encode(self.user.as_str().as_bytes());
        match &self.kind {
            Kind::Session(session) => {
                format!("s.{user}.{node}.{}", BASE64URL_NOPAD.encode(session.as_str().as_bytes()))
            }
            Kind::Explicit => format!("x.{user}.{node}"),
            Kind::Seen => format!("l.{user}.{node}"),
        }
    }
}

/// Subjects of all that `node` says in the bucket, but for when users were seen.
pub(super) fn held_by(node: &NodeId) -> Vec<String> {
    vec![format!("$KV.{BUCKET}.s.*.{node}.*"), format!("$KV.{BUCKET}.x.*.{node}")]
}

/// The key in a subject of the bucket.
pub(super) fn of_subject(subject: &str) -> Option<(Key, NodeId)> {
    let (_, name) = subject.rsplit_once(&format!("{BUCKET}."))?;
    parse(name).map(|(user, node, kind)| (Key { user, kind }, node))
}

/// Whose key this is.
fn parse(key: &str) -> Option<(UserId, NodeId, Kind)> {
    let mut parts = key.split('.');
    let kind = parts.next()?;
    let user = UserId::try_from(text(parts.next()?)?).ok()?;
    let node = parts.next()?.parse().ok()?;
    let kind = match (kind, parts.next()) {
        ("s", Some(session)) => Kind::Session(SessionName::try_from(text(session)?).ok()?),
        ("x", None) => Kind::Explicit,
        ("l", None) => Kind::Seen,
        _ => return None,
    };
    parts.next().is_none().then_some((user, node, kind))
}

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Session(SessionName),
    Explicit,
    Seen,
}

fn text(encoded: &str) -> Option<String> {
    String::from_utf8(BASE64URL_NOPAD.decode(encoded.as_bytes()).ok()?).ok()
}

/// A nats-server's URL, or several, for people: without who connects, and by which password.
pub(super) fn shown(url: &str) -> String {
    let one = |url: &str| {
        let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
        // A password may have an @ of its own.
        let at = rest.rsplit_once('@').map_or(rest, |(_, at)| at);
        if scheme.is_empty() { at.to_owned() } else { format!("{scheme}://{at}") }
    };
    url.split(',').map(one).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_is_a_key_and_back() {
        let node: NodeId = "fra-1".parse().unwrap();
        for name in ["ann", "a.b", "a b", "*", ">", "a\0b", "ü"] {
            let user = UserId::try_from(name).unwrap();
            let key = Key::of(&user, &Fact::Seen(1)).name(&node);
            assert!(key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)), "{key}");
            assert_eq!(parse(&key), Some((user, node.clone(), Kind::Seen)));
        }
        assert_eq!(
            parse("s.YW5u.fra-1.cGhvbmU").map(|(.., kind)| kind),
            Some(Kind::Session("phone".try_into().unwrap()))
        );
        for bad in ["", "epoch", "s.YW5u.fra-1", "x.YW5u.fra-1.x", "x.YW5u.FRA", "x.*.fra-1", "y.YW5u.fra-1"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_url_is_shown_without_who_connects() {
        for (url, told) in [
            ("nats://ann:p@ss@nats.kith:4222", "nats://nats.kith:4222"),
            ("ann:pass@10.0.0.1:4222", "10.0.0.1:4222"),
            ("tls://nats.kith", "tls://nats.kith"),
            ("token@a:1,nats://b:2", "a:1,nats://b:2"),
        ] {
            assert_eq!(shown(url), told);
        }
    }
}
