//! One decoder under libFuzzer, by the name in `KITH_FUZZ`. `scripts/fuzz` builds and runs it.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let targets = [
        kith_daemon::fuzzing::TARGETS,
        kith_dns::fuzzing::TARGETS,
        kith_gossip_proto::fuzzing::TARGETS,
        kith_gossip::fuzzing::TARGETS,
        kith_gossip_client::fuzzing::TARGETS,
    ];
    let wanted = std::env::var("KITH_FUZZ").unwrap_or_default();
    let all = || targets.into_iter().flatten();
    let names = || all().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let found = all().find(|(name, _)| *name == wanted);
    found.unwrap_or_else(|| panic!("KITH_FUZZ is {wanted:?}, and is to be one of {}", names())).1
});

fuzz_target!(|bytes: &[u8]| TARGET(bytes));
