//! Every key of the configuration: where it stands, what kind of value it takes, what it is for.
//!
//! This table is the only list. The file, the environment, `--set`, `config show` and the search for the nearest known
//! key all go by it.

/// One key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// The table it stands in.
    pub(crate) section: &'static str,
    /// Its name there.
    pub(crate) name: &'static str,
    /// What it takes.
    pub(crate) kind: Kind,
}

/// What a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One text; in the file a number may stand for it.
    Text,
    /// One text that may hold secrets: it is never shown.
    Secret,
    /// A list of texts; outside the file, separated by commas.
    Texts,
    /// true or false.
    Switch,
    /// A table for each process, as `[[nats.process]]` with `name = "…"` and `command = ["…"]`; outside the file one, `NAME=COMMAND ARG …`.
    Processes,
    /// A table for each file, as `[[dns.zone]]` with `file = "…"`; outside the file, paths separated by commas.
    Files,
}

impl Kind {
    /// What to write, for a message.
    pub(crate) fn wanted(self) -> &'static str {
        match self {
            Kind::Text | Kind::Secret => "a text in quotes",
            Kind::Texts => "a list of texts: [\"…\", \"…\"]",
            Kind::Switch => "true or false",
            Kind::Processes => "a table for each process: [[nats.process]], name = \"…\", command = [\"…\"]",
            Kind::Files => "a table for each file: [[dns.zone]] and file = \"…\"",
        }
    }
}

const fn key(section: &'static str, name: &'static str, kind: Kind) -> Key {
    Key { section, name, kind }
}

/// All keys, in the order they are shown.
pub(crate) const KEYS: [Key; 99] = [
    key("node", "name", Kind::Text),
    key("node", "region", Kind::Text),
    key("node", "boot_id_file", Kind::Text),
    key("node", "data_dir", Kind::Text),
    key("cluster", "id", Kind::Text),
    key("cluster", "cidr", Kind::Text),
    key("gossip", "enabled", Kind::Switch),
    key("gossip", "listen", Kind::Text),
    key("gossip", "advertise", Kind::Text),
    key("gossip", "seeds", Kind::Texts),
    key("gossip", "ca", Kind::Text),
    key("gossip", "cert", Kind::Text),
    key("gossip", "key", Kind::Text),
    key("gossip", "authority", Kind::Text),
    key("gossip", "schema", Kind::Texts),
    key("gossip", "durability", Kind::Text),
    key("gossip", "remember_deletions_ms", Kind::Text),
    key("api", "listen", Kind::Texts),
    key("api", "unix", Kind::Text),
    key("api", "token_file", Kind::Text),
    key("dns", "enabled", Kind::Switch),
    key("dns", "listen", Kind::Texts),
    key("dns", "tls_listen", Kind::Texts),
    key("dns", "tls_cert", Kind::Text),
    key("dns", "tls_key", Kind::Text),
    key("dns", "metrics", Kind::Text),
    key("dns", "threads", Kind::Text),
    key("dns", "allow", Kind::Texts),
    key("dns", "rrl_rate", Kind::Text),
    key("dns", "zones", Kind::Texts),
    key("dns", "ttl", Kind::Text),
    key("dns", "ranges", Kind::Texts),
    key("dns", "own_addresses", Kind::Texts),
    key("dns", "upstreams", Kind::Texts),
    key("dns", "upstream_ca", Kind::Text),
    key("dns", "forward", Kind::Texts),
    key("dns", "rebind_protection", Kind::Text),
    key("dns", "cache_bytes", Kind::Text),
    key("dns", "zone", Kind::Files),
    key("daemon", "enabled", Kind::Switch),
    key("daemon", "docker", Kind::Text),
    key("daemon", "network", Kind::Switch),
    key("daemon", "public_sources", Kind::Texts),
    key("daemon", "sweep_after_ms", Kind::Text),
    key("daemon", "wireguard", Kind::Switch),
    key("daemon", "interface", Kind::Text),
    key("daemon", "port", Kind::Text),
    key("daemon", "endpoints", Kind::Texts),
    key("daemon", "remove_after_ms", Kind::Text),
    key("nats", "enabled", Kind::Switch),
    key("nats", "role", Kind::Text),
    key("nats", "servers", Kind::Text),
    key("nats", "cluster", Kind::Text),
    key("nats", "zone", Kind::Text),
    key("nats", "ip", Kind::Text),
    key("nats", "ip6", Kind::Text),
    key("nats", "client_port", Kind::Text),
    key("nats", "route_port", Kind::Text),
    key("nats", "gateway_port", Kind::Text),
    key("nats", "leaf_port", Kind::Text),
    key("nats", "monitor", Kind::Text),
    key("nats", "health", Kind::Text),
    key("nats", "resolvers", Kind::Texts),
    key("nats", "url", Kind::Text),
    key("nats", "bin", Kind::Text),
    key("nats", "store_dir", Kind::Text),
    key("nats", "max_file_store", Kind::Text),
    key("nats", "max_mem_store", Kind::Text),
    key("nats", "sync", Kind::Text),
    key("nats", "append_config", Kind::Secret),
    key("nats", "tls_ca", Kind::Text),
    key("nats", "tls_cert", Kind::Text),
    key("nats", "tls_key", Kind::Text),
    key("nats", "accounts", Kind::Text),
    key("nats", "credentials", Kind::Text),
    key("nats", "secret_file", Kind::Text),
    key("nats", "max_connections", Kind::Text),
    key("nats", "max_payload", Kind::Text),
    key("nats", "remove_after_ms", Kind::Text),
    key("nats", "remove_early_ms", Kind::Text),
    key("nats", "process", Kind::Processes),
    key("presence", "enabled", Kind::Switch),
    key("presence", "listen", Kind::Texts),
    key("presence", "tls_cert", Kind::Text),
    key("presence", "tls_key", Kind::Text),
    key("presence", "role", Kind::Text),
    key("presence", "replicas", Kind::Text),
    key("presence", "url", Kind::Text),
    key("presence", "credentials", Kind::Text),
    key("presence", "nats_ca", Kind::Text),
    key("presence", "domain", Kind::Text),
    key("presence", "jwt_secret_file", Kind::Text),
    key("presence", "jwt_ed25519_file", Kind::Text),
    key("presence", "jwt_rsa_file", Kind::Text),
    key("presence", "jwks_file", Kind::Text),
    key("presence", "jwt_issuer", Kind::Text),
    key("presence", "jwt_audience", Kind::Text),
    key("presence", "token_rate", Kind::Text),
    key("presence", "address_rate", Kind::Text),
];

impl Key {
    /// The key at `section.name`, if there is one.
    pub(crate) fn find(section: &str, name: &str) -> Option<&'static Key> {
        KEYS.iter().find(|key| key.section == section && key.name == name)
    }

    /// Its place in the order they are shown.
    pub(crate) fn rank(&self) -> usize {
        KEYS.iter().position(|key| key == self).unwrap_or(KEYS.len())
    }

    /// `section.name`.
    pub(crate) fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// `KITH_SECTION_NAME`.
    pub(crate) fn variable(&self) -> String {
        format!("KITH_{}_{}", self.section, self.name).to_uppercase()
    }

    /// The sections, in the order they are shown.
    pub(crate) fn sections() -> impl Iterator<Item = &'static str> {
        let mut last = "";
        KEYS.iter().map(|key| key.section).filter(move |section| std::mem::replace(&mut last, section) != *section)
    }
}

/// The nearest of `known` to what was written, if it is near enough that a slip explains it: a third of the letters.
pub(crate) fn nearest<'a>(written: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|word| (distance(written, word), word))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, word)| *distance <= word.len().max(3) / 3)
        .map(|(_, word)| word)
}

/// How many letters must be changed, added, dropped or swapped with their neighbour to make `a` of `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_found_and_a_far_one_is_not() {
        let known = || ["zones", "listen", "own_addresses", "ttl"].into_iter();
        assert_eq!(nearest("zons", known()), Some("zones"));
        assert_eq!(nearest("lisen", known()), Some("listen"));
        assert_eq!(nearest("own_adresses", known()), Some("own_addresses"));
        assert_eq!(nearest("upstreams", known()), None);
        assert_eq!(nearest("dsn", ["api", "dns"].into_iter()), Some("dns"));
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn a_section_stands_together_and_its_keys_are_told_apart() {
        assert_eq!(
            Key::sections().collect::<Vec<_>>(),
            ["node", "cluster", "gossip", "api", "dns", "daemon", "nats", "presence"]
        );
        let mut variables: Vec<String> = KEYS.iter().map(Key::variable).collect();
        variables.sort();
        variables.dedup();
        assert_eq!(variables.len(), KEYS.len());
    }
}
