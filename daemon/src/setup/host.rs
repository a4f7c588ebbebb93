//! The host's own resolver: systemd-resolved is told to ask Kith's DNS for the cluster's zones, and for nothing else.

use std::net::SocketAddr;

/// Where it is told.
pub const DROP_IN: &str = "/etc/systemd/resolved.conf.d/kith.conf";

/// Who answers for the host, by its `resolv.conf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolver {
    /// systemd-resolved.
    Resolved,
    /// Servers that are named there.
    Named,
}

impl Resolver {
    /// Of the text of `/etc/resolv.conf`.
    pub fn of(text: &str) -> Resolver {
        let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver "));
        let mut servers = servers.map(str::trim);
        let stubs = ["127.0.0.53", "127.0.0.54"];
        if servers.any(|server| stubs.contains(&server)) { Resolver::Resolved } else { Resolver::Named }
    }
}

/// The text of the drop-in.
pub fn drop_in(server: SocketAddr, zones: &[String]) -> String {
    let server = if server.port() == 53 { server.ip().to_string() } else { server.to_string() };
    let domains: Vec<String> = zones.iter().map(|zone| format!("~{}", zone.trim_end_matches('.'))).collect();
    format!(
        "# Written by `kith daemon setup-host`; `kith uninstall` takes it away.\n[Resolve]\nDNS={server}\nDomains={}\n",
        domains.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_zones_are_routed_and_nothing_else() {
        let zones = ["internal".to_owned(), "210.10.in-addr.arpa.".to_owned()];
        insta::assert_snapshot!(drop_in(([127, 0, 0, 1], 53).into(), &zones), @r"
        # Written by `kith daemon setup-host`; `kith uninstall` takes it away.
        [Resolve]
        DNS=127.0.0.1
        Domains=~internal ~210.10.in-addr.arpa
        ");
        assert!(drop_in(([10, 210, 7, 1], 5353).into(), &zones[..1]).contains("DNS=10.210.7.1:5353\n"));
    }

    #[test]
    fn who_answers_for_the_host_is_read() {
        assert_eq!(Resolver::of("# stub\nnameserver 127.0.0.53\noptions edns0\n"), Resolver::Resolved);
        assert_eq!(Resolver::of("nameserver 9.9.9.9\nnameserver 1.1.1.1\n"), Resolver::Named);
        assert_eq!(Resolver::of(""), Resolver::Named);
    }
}
