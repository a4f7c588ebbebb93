//! The decoder of what comes by a tunnel, as the fuzzer calls it, with what must hold of whatever it accepts.

use crate::endpoints;

/// A decoder, and the name of its corpus.
pub type Target = (&'static str, fn(&[u8]));

/// Every one, by the name of its corpus below `fuzz/corpus`.
pub const TARGETS: &[Target] = &[("echo", endpoints::accepts)];

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn what_the_fuzzer_found_is_survived() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        for (name, target) in super::TARGETS {
            let inputs = std::fs::read_dir(corpus.join(name)).unwrap();
            let ran = inputs.map(|input| target(&std::fs::read(input.unwrap().path()).unwrap())).count();
            assert!(ran > 0, "the corpus of {name} is empty");
        }
    }
}
