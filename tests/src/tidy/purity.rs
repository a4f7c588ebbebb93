//! The pure cores: `gossip/proto` and `presence/src/core` compute from what they are given, so that simulators can replay them.

use super::{Breach, Tree};

const CORES: [&str; 2] = ["gossip/proto/src/", "presence/src/core"];

/// What the core must not reach for, with what it takes instead.
const IMPURE: [(&str, &str); 12] = [
    ("Instant::now", "`now` comes in as an argument"),
    ("SystemTime", "`now` comes in as an argument"),
    ("rand::rng", "`rng` comes in as an argument"),
    ("thread_rng", "`rng` comes in as an argument"),
    ("rand::random", "`rng` comes in as an argument"),
    ("HashMap", "iteration order is behaviour: BTreeMap"),
    ("HashSet", "iteration order is behaviour: BTreeSet"),
    ("std::net", "bytes and ids come in as values; only the shell has sockets"),
    ("std::fs", "bytes come in as values; only the shell has files"),
    ("std::env", "settings come in as values"),
    ("std::thread", "the core is driven, it drives nothing"),
    ("std::process", "the core is driven, it drives nothing"),
];

/// Clocks, random sources, hash order and I/O in the core. Its tests are exempt.
#[must_use]
pub fn impure_core(tree: &Tree) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for file in tree.rust.iter().filter(|file| CORES.iter().any(|core| file.path.starts_with(core))) {
        for (word, instead) in IMPURE {
            for at in file.words(word).filter(|at| !file.is_test(*at)) {
                let message = format!("{word} in the pure core: {instead}");
                breaches.push(Breach::new(&file.path, file.line(at), message));
            }
        }
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_or_hash_order_in_the_core_is_found() {
        let text = "use std::collections::HashMap;\nfn a() { let now = std::time::Instant::now(); }\n";
        assert_eq!(impure_core(&Tree::of(&[("gossip/proto/src/a.rs", text)])).len(), 2);
        assert_eq!(impure_core(&Tree::of(&[("presence/src/core/a.rs", text)])).len(), 2);
        assert_eq!(impure_core(&Tree::of(&[("gossip/src/a.rs", text)])), []);
        let test = format!("#[cfg(test)]\nmod tests {{\n{text}}}\n");
        assert_eq!(impure_core(&Tree::of(&[("gossip/proto/src/a.rs", &test)])), []);
    }
}
