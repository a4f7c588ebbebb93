//! What is made of what the daemon says of its tunnels: pure. It says it in two places: of the peers what WireGuard has, of the
//! endpoints what comes through.

use std::net::SocketAddr;

use serde_json::Value;

use super::checks::{Check, State};

const TOO_LONG: &str = "a link between the two carries less than this host's says, and nobody tells: \
     `ip link set dev LINK mtu 1400`, or less, on the link by which this host reaches it; the tunnel's MTU follows";

/// Whether packets pass to a server, and as long ones as may be; nothing where the daemon keeps no tunnel to it.
pub(super) fn checks(status: &Value, other: &str) -> Vec<Check> {
    let reconcilers = &status["parts"]["daemon"]["reconcilers"];
    let peers = reconcilers["peers"]["detail"]["peers"].as_array().into_iter().flatten();
    let Some(peer) = peers.into_iter().find(|peer| peer["server"] == other && peer["state"] == "wanted") else {
        return Vec::new();
    };
    let tunnels = reconcilers["endpoints"]["detail"]["tunnels"].as_array().into_iter().flatten();
    let Some(tunnel) = tunnels.into_iter().find(|tunnel| tunnel["server"] == other) else {
        return vec![by_handshake(peer, other, None)];
    };
    let check = |state, what: String| Check::new(other, "tunnel", state, what);
    let at = tunnel["endpoint"].as_str().unwrap_or("no endpoint");
    match (tunnel["state"].as_str(), tunnel["round_trip_ms"].as_f64()) {
        (Some("up"), Some(ms)) => {
            let up = check(State::Ok, format!("{ms:.1} ms there and back by {at}"));
            std::iter::once(up).chain(length(tunnel, other)).collect()
        }
        (Some("trying"), _) => vec![check(State::Weak, format!("no packet has come yet by {at}"))],
        (Some("down"), _) => {
            let tried: Vec<&str> = tunnel["tried"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let tried = if tried.is_empty() { String::new() } else { format!(", tried {}", tried.join(", ")) };
            vec![
                check(State::Fails, format!("no packet comes through, last by {at}{tried}")).advised(dropped(Some(at))),
            ]
        }
        // Of one that does not echo there is no more to be said.
        _ => vec![by_handshake(peer, other, tunnel["endpoint"].as_str())],
    }
}

/// What may be where nothing comes from there.
fn dropped(endpoint: Option<&str>) -> String {
    let port =
        endpoint.and_then(|at| at.parse().ok()).map_or_else(String::new, |at: SocketAddr| format!(" {}", at.port()));
    format!("UDP{port} may be dropped between the two, there or back, or its key differs from its row's")
}

fn by_handshake(peer: &Value, other: &str, endpoint: Option<&str>) -> Check {
    match peer["handshake_s_ago"].as_u64() {
        // Keys are renewed every 2 minutes while packets pass, and die after 3.
        Some(age @ ..180) => Check::new(other, "tunnel", State::Ok, format!("last handshake {age} s ago")),
        _ => Check::new(other, "tunnel", State::Fails, "no handshake of late").advised(dropped(endpoint)),
    }
}

fn length(tunnel: &Value, other: &str) -> Option<Check> {
    let mtu = tunnel["mtu"].as_u64()?;
    Some(match tunnel["mtu_passes"].as_bool()? {
        true => Check::new(other, "mtu", State::Ok, format!("packets of {mtu} bytes pass")),
        false => {
            let what = format!("packets of {mtu} bytes are lost, and short ones pass");
            Check::new(other, "mtu", State::Fails, what).advised(TOO_LONG)
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(tunnel: &Value) -> String {
        let status = json!({ "parts": { "daemon": { "reconcilers": {
            "peers": { "detail": { "peers": [{ "server": "b", "state": "wanted", "handshake_s_ago": 5 }] } },
            "endpoints": { "detail": { "tunnels": [tunnel] } },
        } } } });
        let lines: Vec<String> = checks(&status, "b").iter().map(|check| check.cells().join("  ")).collect();
        lines.join("\n")
    }

    #[test]
    fn each_way_in_which_a_tunnel_fails_has_its_words() {
        let tunnel = |state: &str, more: Value| {
            let mut tunnel = json!({ "server": "b", "state": state, "endpoint": "192.0.2.2:31820" });
            let more = more.as_object().expect("an object").clone();
            tunnel.as_object_mut().expect("an object").extend(more);
            told(&tunnel)
        };
        let all = [
            tunnel("up", json!({ "round_trip_ms": 0.42, "mtu": null, "mtu_passes": null })),
            tunnel("up", json!({ "round_trip_ms": 0.42, "mtu": 1420, "mtu_passes": true })),
            tunnel("up", json!({ "round_trip_ms": 0.42, "mtu": 1420, "mtu_passes": false })),
            tunnel("up", json!({ "round_trip_ms": null })),
            tunnel("trying", json!({})),
            tunnel("down", json!({ "tried": ["192.0.2.9:31820", "192.0.2.2:31820"] })),
            tunnel("down", json!({ "endpoint": "[2001:db8::2]:4000" })),
            told(&json!({ "server": "c" })),
        ];
        insta::assert_snapshot!(all.join("\n"), @r"
        b  tunnel  ok  0.4 ms there and back by 192.0.2.2:31820
        b  tunnel  ok  0.4 ms there and back by 192.0.2.2:31820
        b  mtu  ok  packets of 1420 bytes pass
        b  tunnel  ok  0.4 ms there and back by 192.0.2.2:31820
        b  mtu  FAILS  packets of 1420 bytes are lost, and short ones pass: a link between the two carries less than this host's says, and nobody tells: `ip link set dev LINK mtu 1400`, or less, on the link by which this host reaches it; the tunnel's MTU follows
        b  tunnel  ok  last handshake 5 s ago
        b  tunnel  WEAK  no packet has come yet by 192.0.2.2:31820
        b  tunnel  FAILS  no packet comes through, last by 192.0.2.2:31820, tried 192.0.2.9:31820, 192.0.2.2:31820: UDP 31820 may be dropped between the two, there or back, or its key differs from its row's
        b  tunnel  FAILS  no packet comes through, last by [2001:db8::2]:4000: UDP 4000 may be dropped between the two, there or back, or its key differs from its row's
        b  tunnel  ok  last handshake 5 s ago
        ");
    }
}
