//! What `kith dev` has in it for a first look: a project with two services and its containers on all nodes.

use kith_gossip_client::{Client, Statement, Value};

use crate::args;
use crate::exit::Failure;

/// Region codes of the nodes, in turn.
const REGIONS: [&str; 3] = ["fra", "ams", "iad"];
/// Ports of the sample services, as the `ports` columns hold them.
const HTTP: &str = r#"[{"name":"http","proto":"tcp","port":8080}]"#;

/// The region of node `i`, counted from 0.
pub(crate) fn region(i: u8) -> &'static str {
    REGIONS[usize::from(i) % REGIONS.len()]
}

/// Writes the sample through this node, unless anything is there already.
pub(crate) async fn load(client: &Client, nodes: usize) -> Result<(), Failure> {
    let held = client.query("SELECT 1 FROM services UNION ALL SELECT 1 FROM servers LIMIT 1").await?.collect().await?;
    if !held.is_empty() {
        tracing::info!("there is data already, no sample is loaded");
        return Ok(());
    }
    client.execute(&statements(nodes)).await?;
    Ok(())
}

fn statements(nodes: usize) -> Vec<Statement> {
    let mut statements = Vec::new();
    let mut insert = |sql: &str, values: Vec<Value>| statements.push(Statement::new(sql).with(values));
    for (key, value) in [("cluster_cidr", "10.210.0.0/16"), ("service_domain", "internal")] {
        insert("INSERT INTO cluster_metadata (key, value) VALUES (?, ?)", vec![key.into(), value.into()]);
    }
    for name in ["api", "web"] {
        insert("INSERT INTO services (project, name, ports) VALUES ('casa', ?, ?)", vec![name.into(), HTTP.into()]);
    }
    for i in 0..u8::try_from(nodes).unwrap_or(u8::MAX) {
        let (n, server) = (i + 1, format!("n{}", i + 1));
        insert(
            "INSERT INTO servers (id, hostname, subnet, wireguard_ip, region) VALUES (?, ?, ?, ?, ?)",
            vec![
                server.clone().into(),
                server.clone().into(),
                format!("10.210.{n}.0/24").into(),
                format!("10.210.{n}.1").into(),
                region(i).into(),
            ],
        );
        for (last, service) in [(10_u8, "api"), (20, "web")] {
            insert(
                "INSERT INTO containers (id, project, service, server_id, ip, instance_id, started_at, image) \
                 VALUES (?, 'casa', ?, ?, ?, ?, 1, ?)",
                vec![
                    // Twelve hex digits, as Docker's short ids: recognisable, and different.
                    format!("{n:02x}{last:02x}c0ffee00").into(),
                    service.into(),
                    server.clone().into(),
                    format!("10.210.{}.{last}", 128 + n).into(),
                    n.to_string().into(),
                    format!("casa/{service}:1").into(),
                ],
            );
        }
    }
    statements
}

/// What to try, for people. The program is named by the path it was started by: it need not be installed.
pub(crate) fn suggestions(args: &args::Dev, api: &str, dns: &str, more: Vec<String>) -> Vec<String> {
    let kith = std::env::args().next().unwrap_or_else(|| "kith".to_owned());
    let (ip, port) = dns.rsplit_once(':').unwrap_or((dns, "53"));
    let dig = |name: &str| format!("  dig @{} -p {port} {name}", ip.trim_matches(['[', ']']));
    let mut lines = vec![String::new(), "Ready. In another terminal:".to_owned()];
    if args.empty {
        lines.push(dig("_apps.internal TXT"));
    } else {
        lines.push(dig("casa-api.internal"));
        lines.push(dig("_http._tcp.casa-api.internal SRV"));
        lines.push(dig("_apps.internal TXT"));
    }
    lines.push(format!(
        "  curl {api}/v1/queries -H 'content-type: application/json' -d '\"SELECT id, ip, health_status FROM containers\"'"
    ));
    let api = if api == args::DEFAULT_API { String::new() } else { format!(" --api {api}") };
    if !args.empty {
        lines.push(format!(
            "  {kith} exec \"UPDATE containers SET health_status = 'unhealthy' WHERE server_id = 'n1'\"{api}"
        ));
    }
    lines.push(format!("  {kith} watch 'SELECT id, ip, health_status FROM containers'{api}"));
    lines.push(format!("  {kith} status{api}"));
    lines.extend(more.into_iter().map(|words| format!("  {}", words.replace("KITH", &kith))));
    lines.push("Ctrl-C stops.".to_owned());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_has_a_container_of_each_service_with_an_id_of_its_own() {
        let json = serde_json::to_value(statements(3)).unwrap();
        let mut ids: Vec<&str> = json
            .as_array()
            .unwrap()
            .iter()
            .filter(|statement| statement[0].as_str().unwrap().contains("INTO containers"))
            .map(|statement| statement[1][0].as_str().unwrap())
            .collect();
        assert!(ids.iter().all(|id| id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit())), "{ids:?}");
        ids.dedup();
        assert_eq!(ids.len(), 6);
    }
}
