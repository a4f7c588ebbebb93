//! What is shown of the peers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::judge::Judgement;
use super::key::PublicKey;
use crate::clock::Now;
use crate::status::Alarm;
use crate::wireguard::Seen;

/// Names that are shown of each kind; the rest are counted.
const SHOWN: usize = 130;
/// Names in an alarm; the rest are counted.
const NAMED: usize = 10;

/// What two servers both claim: somebody has to decide.
pub(super) fn alarms(judgement: &Judgement) -> Vec<Alarm> {
    let clashes = judgement.faults.iter().flat_map(|(id, faults)| faults.iter().map(move |fault| (id, fault)));
    clashes
        .filter(|(_, fault)| fault.is_clash())
        .map(|(id, fault)| Alarm { name: "wireguard-clash", text: format!("{id}: {fault}") })
        .collect()
}

/// That peers of removed servers stay, since many went of late.
pub(super) fn held(servers: &BTreeSet<String>) -> Option<Alarm> {
    let more = servers.len().saturating_sub(NAMED);
    let mut names = servers.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    if more > 0 {
        names.push_str(&format!(" and {more} more"));
    }
    let text = format!(
        "removed, and still a peer here: {names}; in ten minutes a fifth of all may go at most, lest a mistake take them all. Back: kith \
         server remove ID --undo; gone at once: kith server remove ID --sure"
    );
    (!servers.is_empty()).then_some(Alarm { name: "removals", text })
}

/// The interface and its peers, each with the age of its last handshake since we saw it.
pub(super) fn detail(
    interface: &str,
    seen: &Seen,
    judgement: &Judgement,
    handshakes: &BTreeMap<PublicKey, (SystemTime, Instant)>,
    now: Now,
) -> Value {
    let peers = seen.device.iter().flat_map(|device| &device.peers).take(SHOWN).map(|(key, peer)| {
        let wanted = judgement.wanted.get(key).map(|wanted| (wanted.id.as_str(), "wanted"));
        let leaving = judgement.leaving.get(key).map(|leaving| (leaving.id.as_str(), "removed"));
        let former = judgement.former.get(key).map(|former| (former.id.as_str(), "replaced"));
        let (server, state) = wanted.or(leaving).or(former).unwrap_or(("-", "foreign"));
        let age = handshakes.get(key).map(|(_, at)| now.at.saturating_duration_since(*at).as_secs());
        json!({
            "server": server,
            "state": state,
            "key": key.to_string(),
            "endpoint": peer.installed.endpoint.map(|end| end.to_string()),
            "handshake_s_ago": age,
        })
    });
    let faults =
        judgement.faults.iter().take(SHOWN).map(|(id, faults)| {
            (id.clone(), faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ").into())
        });
    json!({
        "interface": interface,
        "kernel": seen.link.as_ref().map(|link| link.wireguard),
        "mtu": seen.link.as_ref().map(|link| link.mtu),
        "number": judgement.cache.own.map(super::mesh::Number::get),
        "peers": peers.collect::<Vec<_>>(),
        "faults": faults.collect::<serde_json::Map<_, _>>(),
        "without_a_row": judgement.unlisted.iter().take(SHOWN).collect::<Vec<_>>(),
    })
}
