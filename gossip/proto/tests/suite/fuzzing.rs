//! What the fuzzer found, run again.

use std::path::Path;

use kith_gossip_proto::fuzzing::TARGETS;

#[test]
fn what_the_fuzzer_found_is_survived() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for (name, target) in TARGETS {
        let inputs = std::fs::read_dir(corpus.join(name)).unwrap();
        let ran = inputs.map(|input| target(&std::fs::read(input.unwrap().path()).unwrap())).count();
        assert!(ran > 0, "the corpus of {name} is empty");
    }
}
