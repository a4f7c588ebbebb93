//! Dependency edges: a crate exists to forbid something, and here is what each one forbids.
//!
//! Read from cargo's own resolution, over normal and build dependencies, through any number of crates between.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

use super::Breach;

/// What one crate must never depend on, directly or through others, and why.
struct Wall {
    krate: &'static str,
    /// Names of crates; a `*` at the end stands for any ending.
    never: &'static [&'static str],
    because: &'static str,
}

const WALLS: [Wall; 10] = [
    Wall {
        krate: "kith-gossip-proto",
        never: &[
            "tokio",
            "mio",
            "rusqlite",
            "libsqlite3-sys",
            "chitchat",
            "quinn*",
            "hyper",
            "chrono",
            "time",
            "kith*",
        ],
        because: "the core is pure: the simulator replays it without sockets, files or clocks",
    },
    Wall {
        krate: "kith-gossip",
        never: &[
            "hickory-*",
            "wireguard-control",
            "rtnetlink",
            "bollard",
            "kith-dns",
            "kith-daemon",
            "kith-nats",
            "kith-presence",
            "kith",
        ],
        because: "the store knows rows and peers, and nothing of what DNS, WireGuard or Docker make of them",
    },
    Wall {
        krate: "kith-gossip-client",
        never: &["rusqlite", "libsqlite3-sys", "chitchat", "quinn*", "kith-gossip"],
        because: "a client knows the HTTP API only, so that it can live in any process",
    },
    Wall {
        krate: "kith-dns",
        never: &[
            "kith-gossip",
            "kith-gossip-client",
            "kith-daemon",
            "kith",
            "hyper*",
            "reqwest",
            "axum*",
            "rusqlite",
            "libsqlite3-sys",
            "chitchat",
        ],
        because: "DNS is fed by one stream of events, so that it answers while the store is away",
    },
    Wall {
        krate: "kith-daemon",
        never: &["kith-gossip", "kith-dns", "kith", "rusqlite", "libsqlite3-sys", "chitchat"],
        because: "the daemon speaks the HTTP API, so that a restart of the store leaves WireGuard untouched",
    },
    Wall {
        krate: "kith-nats",
        never: &["kith-gossip", "kith-gossip-client", "kith-dns", "kith-daemon", "kith", "rusqlite"],
        because: "NATS finds its peers by DNS and nothing else; that it cannot reach the store proves it",
    },
    Wall {
        krate: "kith-presence",
        never: &["kith-gossip", "kith-gossip-client", "kith-dns", "kith-daemon", "kith", "rusqlite"],
        because: "presence finds its peers by DNS and nothing else; that it cannot reach the store proves it",
    },
    Wall {
        krate: "kith-tests",
        never: &["kith", "kith-dns", "kith-daemon"],
        because: "the lab tests whole processes from outside, as their users see them",
    },
    Wall {
        krate: "kith",
        // Not `openssl*`: openssl-probe only finds where the system keeps the certificates that it trusts.
        never: &["kith-tests", "openssl", "openssl-sys", "native-tls", "aws-lc*"],
        because: "what is shipped has one TLS implementation and no test code",
    },
    Wall {
        krate: "kith-dns",
        never: &["hickory-server", "hickory-resolver"],
        because: "listeners and zones are ours: the stock ones are an order of magnitude slower (decision 10); \
                  hickory-resolver may come with forwarding, in its own commit",
    },
];

/// Crates that must not name `anyhow` themselves.
const TYPED_ERRORS: [&str; 6] =
    ["kith-gossip-proto", "kith-gossip-client", "kith-dns", "kith-daemon", "kith-nats", "kith-presence"];

/// Who depends on whom, by name.
#[derive(Debug, Default)]
struct Graph(BTreeMap<String, BTreeSet<String>>);

/// What cargo says of the workspace below `root`.
///
/// # Panics
/// If cargo cannot resolve it with the lock file as it is.
#[must_use]
pub fn metadata(root: &Path) -> Metadata {
    let mut command = MetadataCommand::new();
    command.manifest_path(root.join("Cargo.toml"));
    command.other_options(["--locked".to_owned(), "--filter-platform=x86_64-unknown-linux-gnu".to_owned()]);
    command.exec().expect("cargo metadata resolves the workspace with its lock file")
}

/// The walls that a dependency breaks, each with the path by which it does.
///
/// # Panics
/// If `metadata` was made without dependencies.
#[must_use]
pub fn forbidden_edges(metadata: &Metadata) -> Vec<Breach> {
    let names: BTreeMap<_, _> = metadata.packages.iter().map(|p| (&p.id, p.name.to_string())).collect();
    let mut graph = Graph::default();
    for node in &metadata.resolve.as_ref().expect("metadata was made with dependencies").nodes {
        let counts = |kind: DependencyKind| matches!(kind, DependencyKind::Normal | DependencyKind::Build);
        let needed = node.deps.iter().filter(|dep| dep.dep_kinds.iter().any(|info| counts(info.kind)));
        graph.0.entry(names[&node.id].clone()).or_default().extend(needed.map(|dep| names[&dep.pkg].clone()));
    }
    broken_walls(&graph)
}

fn broken_walls(graph: &Graph) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for wall in &WALLS {
        for (name, path) in graph.reachable(wall.krate) {
            if wall.never.iter().any(|pattern| matches(pattern, &name)) {
                let message = format!("{}: {}", path.join(" → "), wall.because);
                breaches.push(Breach::new(wall.krate, 0, message));
            }
        }
    }
    for krate in TYPED_ERRORS.iter().filter(|krate| graph.needs(krate, "anyhow")) {
        let message = "anyhow: errors of a library are enums, shaped by what a caller does differently";
        breaches.push(Breach::new(krate, 0, message));
    }
    for name in graph.0.keys().filter(|name| ["kith-common", "kith-types"].contains(&name.as_str())) {
        breaches.push(Breach::new(name, 0, "no such crate: shared vocabulary is the wire's, in kith-gossip-proto"));
    }
    breaches
}

fn matches(pattern: &str, name: &str) -> bool {
    // Shared vocabulary is the wire's: every part may know the pure core.
    let is_core = name == "kith-gossip-proto";
    pattern.strip_suffix('*').map_or(name == pattern, |start| name.starts_with(start)) && !is_core
}

impl Graph {
    fn needs(&self, from: &str, to: &str) -> bool {
        self.0.get(from).is_some_and(|needs| needs.contains(to))
    }

    /// Everything below `from`, with a shortest path to it; without `from` itself.
    fn reachable(&self, from: &str) -> BTreeMap<String, Vec<String>> {
        let mut paths = BTreeMap::from([(from.to_owned(), vec![from.to_owned()])]);
        let mut queue = VecDeque::from([from.to_owned()]);
        while let Some(name) = queue.pop_front() {
            for next in self.0.get(&name).into_iter().flatten() {
                if !paths.contains_key(next) {
                    let path = paths[&name].iter().chain([next]).cloned().collect();
                    paths.insert(next.clone(), path);
                    queue.push_back(next.clone());
                }
            }
        }
        paths.remove(from);
        paths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(edges: &[(&str, &str)]) -> Vec<String> {
        let mut graph = Graph::default();
        for (from, to) in edges {
            graph.0.entry((*from).to_owned()).or_default().insert((*to).to_owned());
            graph.0.entry((*to).to_owned()).or_default();
        }
        broken_walls(&graph).into_iter().map(|breach| breach.message).collect()
    }

    #[test]
    fn a_forbidden_edge_is_found_through_others_and_its_path_is_told() {
        let found = broken(&[("kith-dns", "tokio"), ("kith-dns", "dns-over"), ("dns-over", "hyper-util")]);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("kith-dns → dns-over → hyper-util: DNS is fed by"), "{found:?}");
    }

    #[test]
    fn every_wall_stands() {
        for wall in &WALLS {
            for pattern in wall.never {
                let name = pattern.replace('*', "-any");
                assert!(!broken(&[(wall.krate, &name)]).is_empty(), "{} → {name} went unnoticed", wall.krate);
            }
        }
    }

    #[test]
    fn allowed_edges_are_allowed() {
        let edges =
            [("kith", "kith-dns"), ("kith", "kith-gossip"), ("kith-dns", "kith-gossip-proto"), ("kith", "anyhow")];
        assert_eq!(broken(&edges), Vec::<String>::new());
    }

    #[test]
    fn a_library_with_untyped_errors_and_a_crate_for_everything_are_found() {
        assert_eq!(broken(&[("kith-dns", "anyhow")]).len(), 1);
        assert_eq!(broken(&[("kith", "kith-common")]).len(), 1);
    }
}
