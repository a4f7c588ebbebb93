//! The `servers` rows as WireGuard sees them. Anybody may have written anything into them, so each is checked here, once: what is
//! wrong is named and concerns nobody else.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use kith_gossip_client::{Statement, Value};

use super::key::PublicKey;
use super::mesh::{MeshRange, Number, management};

/// Rows that are looked at. There are 128 numbers; the rest of it are tombstones and mistakes.
const ROWS: usize = 1024;
/// Longest text of endpoints that is read, and most endpoints.
const TEXT: usize = 4096;
const ENDPOINTS: usize = 16;
/// Letters of a wrong text that are shown.
const SHOWN: usize = 48;

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// What it says.
    pub(crate) said: Said,
    /// What of it is wrong.
    pub(crate) faults: Vec<Fault>,
}

/// What a row says of its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// Where it is in the mesh.
    Server(Server),
    /// Nothing yet: it has no key.
    Nothing,
    /// Nothing that can be used.
    Wrong,
    /// An operator removed it. It had this key.
    Removed(Option<PublicKey>),
}

/// Where a server is in the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// Its key.
    pub(crate) key: PublicKey,
    /// Its number.
    pub(crate) number: Number,
    /// Where its tunnels end, most useful first.
    pub(crate) endpoints: Vec<SocketAddr>,
}

/// What is wrong with a row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// Its `wireguard_pubkey` is no key.
    Key(String),
    /// Its `subnet` is no server's range of this cluster.
    Subnet(String),
    /// Its `wireguard_ip` is not in its range.
    Address(String),
    /// Its `management_ip` is not the one of its key.
    Management(String),
    /// Its `endpoints` are not a list of addresses with ports.
    Endpoints(String),
    /// One of them is no place where a tunnel can end.
    Endpoint(String),
    /// That many servers are known without it.
    Beyond(usize),
    /// Another server has its key, and keeps it.
    SharesKey(String),
    /// Another server has its range, and keeps it.
    SharesRange(String),
}

impl Fault {
    /// Whether two servers want one thing: nothing heals that by itself.
    pub(crate) fn is_clash(&self) -> bool {
        match self {
            Fault::SharesKey(_) | Fault::SharesRange(_) => true,
            Fault::Key(_)
            | Fault::Subnet(_)
            | Fault::Address(_)
            | Fault::Management(_)
            | Fault::Endpoints(_)
            | Fault::Endpoint(_)
            | Fault::Beyond(_) => false,
        }
    }
}

impl Row {
    /// What is selected. All of it is followed, so nothing that moves by itself is among it.
    pub(crate) fn select() -> Statement {
        Statement::new(
            "SELECT id, removed_at, wireguard_pubkey, subnet, wireguard_ip, management_ip, endpoints FROM servers",
        )
    }

    /// The rows of the selected cells, by server. Those beyond the bound are left out, the last ones first, so that all servers
    /// leave out the same.
    pub(crate) fn read(rows: Vec<Vec<Value>>, mesh: MeshRange) -> std::collections::BTreeMap<String, Row> {
        let mut read: std::collections::BTreeMap<String, Row> =
            rows.into_iter().filter_map(|cells| Row::of(cells, mesh)).collect();
        if let Some(beyond) = read.keys().nth(ROWS).cloned() {
            tracing::warn!(servers = read.len(), most = ROWS, "more servers than there can be");
            read.split_off(&beyond);
        }
        read
    }

    fn of(cells: Vec<Value>, mesh: MeshRange) -> Option<(String, Row)> {
        let mut cells = cells.into_iter();
        let Some(Value::Text(id)) = cells.next() else { return None };
        let removed = cells.next().is_some_and(|value| value != Value::Null);
        let mut text = || match cells.next() {
            Some(Value::Text(text)) => text,
            Some(_) | None => "(no text)".to_owned(),
        };
        let texts = [text(), text(), text(), text(), text()];
        let row = if removed {
            Row { said: Said::Removed(texts[0].parse().ok()), faults: Vec::new() }
        } else {
            Row::belonging(&texts, mesh)
        };
        Some((id, row))
    }

    fn belonging([key, subnet, address, management_ip, endpoints]: &[String; 5], mesh: MeshRange) -> Row {
        if key.is_empty() {
            return Row { said: Said::Nothing, faults: Vec::new() };
        }
        let mut faults = Vec::new();
        let key: Option<PublicKey> = key.parse().map_err(|_| faults.push(Fault::Key(shown(key)))).ok();
        let number = mesh.number_of(subnet);
        match number {
            None => faults.push(Fault::Subnet(shown(subnet))),
            Some(number) => {
                let inside = address.parse::<Ipv4Addr>().is_ok_and(|address| mesh.subnet(number).contains(&address));
                if !inside {
                    faults.push(Fault::Address(shown(address)));
                }
            }
        }
        if let Some(key) = &key
            && management_ip.parse() != Ok(management(key))
        {
            faults.push(Fault::Management(shown(management_ip)));
        }
        // So far all are needed: what is half right is nobody's to complete.
        let said = match (key, number, faults.is_empty()) {
            (Some(key), Some(number), true) => {
                Said::Server(Server { key, number, endpoints: ends(endpoints, mesh, &mut faults) })
            }
            _ => Said::Wrong,
        };
        Row { said, faults }
    }
}

/// The endpoints of a text. A server without any can still reach us.
fn ends(text: &str, mesh: MeshRange, faults: &mut Vec<Fault>) -> Vec<SocketAddr> {
    let listed: Option<Vec<String>> = (text.len() <= TEXT).then(|| serde_json::from_str(text).ok()).flatten();
    let Some(listed) = listed.filter(|listed| listed.len() <= ENDPOINTS) else {
        faults.push(Fault::Endpoints(shown(text)));
        return Vec::new();
    };
    let mut ends = Vec::new();
    for text in listed {
        match text.parse().ok().filter(|end| can_end(*end, mesh)) {
            Some(end) if ends.contains(&end) => {}
            Some(end) => ends.push(end),
            None => faults.push(Fault::Endpoint(shown(&text))),
        }
    }
    ends
}

/// Whether a tunnel of another host can end there.
pub(crate) fn can_end(end: SocketAddr, mesh: MeshRange) -> bool {
    let broadcast = matches!(end.ip(), IpAddr::V4(address) if address.is_broadcast());
    let ip = end.ip();
    end.port() != 0
        && !(broadcast || ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() || mesh.is_inside(ip))
}

fn shown(text: &str) -> String {
    if text.chars().count() <= SHOWN { text.to_owned() } else { text.chars().take(SHOWN).chain(['…']).collect() }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Key(text) => write!(f, "wireguard_pubkey {text:?} is no key"),
            Fault::Subnet(text) => write!(f, "subnet {text:?} is no range of a server of this cluster"),
            Fault::Address(text) => write!(f, "wireguard_ip {text:?} is not in its subnet"),
            Fault::Management(text) => write!(f, "management_ip {text:?} is not the one of its key"),
            Fault::Endpoints(text) => {
                write!(f, "endpoints {text:?} are no list of at most {ENDPOINTS} addresses with ports")
            }
            Fault::Endpoint(text) => {
                write!(f, "endpoint {text:?} is no address with a port where another host can be reached")
            }
            Fault::Beyond(most) => write!(f, "{most} servers are known without it, which is all that are kept"),
            Fault::SharesKey(other) => write!(f, "it has the WireGuard key of {other}, which keeps it"),
            Fault::SharesRange(other) => write!(f, "it has the range of {other}, which keeps it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "DD5yKRfzExcV5+kDnTroDgCU15latdMjiQ59j1hEuk8=";
    const MANAGEMENT: &str = "fdcc:bd2c:204f:e186:3538:ee4a:e2a6:3a7d";

    fn mesh() -> MeshRange {
        MeshRange::new("10.210.0.0/16".parse().unwrap()).unwrap()
    }

    fn row(texts: [&str; 5]) -> Row {
        Row::belonging(&texts.map(str::to_owned), mesh())
    }

    fn read(endpoints: &str) -> String {
        let row = row([KEY, "10.210.7.0/24", "10.210.7.1", MANAGEMENT, endpoints]);
        let said = match row.said {
            Said::Server(server) => format!("{} {:?}", server.number, server.endpoints),
            other => format!("{other:?}"),
        };
        let faults: Vec<_> = row.faults.iter().map(ToString::to_string).collect();
        format!("{said} {}", faults.join("; ")).trim().to_owned()
    }

    #[test]
    fn endpoints_that_are_wrong_are_named_and_the_others_are_used() {
        assert_eq!(read(r#"["192.0.2.1:31820","[2001:db8::1]:7"]"#), "7 [192.0.2.1:31820, [2001:db8::1]:7]");
        assert_eq!(read("[]"), "7 []");
        insta::assert_snapshot!(read(r#"["192.0.2.1","192.0.2.1:31820","0.0.0.0:1","127.0.0.1:1","10.210.9.1:1","192.0.2.1:31820"]"#), @r#"7 [192.0.2.1:31820] endpoint "192.0.2.1" is no address with a port where another host can be reached; endpoint "0.0.0.0:1" is no address with a port where another host can be reached; endpoint "127.0.0.1:1" is no address with a port where another host can be reached; endpoint "10.210.9.1:1" is no address with a port where another host can be reached"#);
        insta::assert_snapshot!(read("{}"), @r#"7 [] endpoints "{}" are no list of at most 16 addresses with ports"#);
        insta::assert_snapshot!(read(&"x".repeat(5000)), @r#"7 [] endpoints "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…" are no list of at most 16 addresses with ports"#);
        assert!(read(&format!("[{}\"192.0.2.1:1\"]", "\"192.0.2.1:1\",".repeat(16))).contains("at most 16"));
    }

    #[test]
    fn a_row_with_anything_wrong_before_its_endpoints_is_no_peer() {
        for (texts, wrong) in [
            (["x", "10.210.7.0/24", "10.210.7.1", MANAGEMENT, "[]"], "wireguard_pubkey"),
            ([KEY, "10.210.200.0/24", "10.210.200.1", MANAGEMENT, "[]"], "subnet"),
            ([KEY, "0.0.0.0/0", "10.210.7.1", MANAGEMENT, "[]"], "subnet"),
            ([KEY, "10.210.7.0/24", "10.210.8.1", MANAGEMENT, "[]"], "wireguard_ip"),
            ([KEY, "10.210.7.0/24", "", MANAGEMENT, "[]"], "wireguard_ip"),
            ([KEY, "10.210.7.0/24", "10.210.7.1", "fdcc::1", "[]"], "management_ip"),
        ] {
            let row = row(texts);
            assert_eq!(row.said, Said::Wrong, "{texts:?}");
            assert!(row.faults.len() == 1 && row.faults[0].to_string().starts_with(wrong), "{:?}", row.faults);
        }
        assert_eq!(row(["", "10.210.7.0/24", "", "", "[]"]), Row { said: Said::Nothing, faults: Vec::new() });
    }

    #[test]
    fn any_cells_are_a_row_or_none() {
        let text = |text: &str| Value::Text(text.to_owned());
        let odd = vec![text("a"), Value::Null, Value::Blob(vec![0]), Value::Integer(1)];
        let removed = vec![text("b"), text("yes"), text(KEY)];
        let read = Row::read(vec![odd, removed, vec![Value::Integer(7)], Vec::new()], mesh());
        assert_eq!(read.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(read["a"].said, Said::Wrong);
        assert_eq!(read["b"].said, Said::Removed(KEY.parse().ok()));
        let many = (0..ROWS + 5).map(|id| vec![text(&format!("{id:05}"))]).collect();
        assert_eq!(Row::read(many, mesh()).into_keys().next_back().unwrap(), format!("{:05}", ROWS - 1));
    }
}
