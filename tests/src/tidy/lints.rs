//! Lints: what is switched off says why, and some things are not to be switched off.

use super::{Breach, Tree};

/// Lints that nobody switches off, with what to do instead; but [`IN_TESTS`] and [`EXCUSED`].
const NEVER: [(&str, &str); 4] = [
    ("clippy::unwrap_used", "say by `expect` why it cannot fail, or return an error"),
    ("clippy::disallowed_methods", "the method's entry in clippy.toml says what to use"),
    ("clippy::let_underscore_must_use", "handle the result or return it"),
    ("warnings", "name the lint and the reason"),
];

/// What tests may switch off, with a reason: clippy does not take a helper function of an integration test for a test.
const IN_TESTS: &str = "clippy::unwrap_used";

/// Files that may switch off one of these lints, each with what it needs it for.
const EXCUSED: [(&str, &str, &str); 1] = [(
    "clippy::disallowed_methods",
    "cli/src/stop.rs",
    "a second Ctrl-C ends the process at once, closed or not, and so does a loop that is stuck",
)];

/// The files that may say `unsafe`, each with what it needs it for. A new entry is reviewed hardest.
const UNSAFE_FILES: [(&str, &str); 4] = [
    ("cli/src/memory.rs", "one number of the allocator's, which no safe crate sets"),
    (
        "dns/src/server/batch.rs",
        "recvmmsg and sendmmsg over headers that are prepared once: the safe calls build them anew each time",
    ),
    ("nats/src/supervise/spawner.rs", "the parent-death signal can only be asked for between fork and exec"),
    (
        "tests/tools/faults/faultsw.rs",
        "system calls of namespaces and taps, in a tool that is compiled alone, without crates",
    ),
];

/// Attributes that switch a lint off without a reason, or a lint that stays on.
#[must_use]
pub fn suppressed_lints(tree: &Tree) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for file in &tree.rust {
        for range in file.attributes() {
            let attribute = &file.code[range.clone()];
            let switches_off = ["allow(", "expect("].iter().any(|word| attribute.contains(word));
            if !switches_off {
                continue;
            }
            let line = file.line(range.start);
            if !attribute.contains("reason") {
                breaches.push(Breach::new(&file.path, line, "a lint switched off needs `reason = \"…\"`"));
            }
            let listed = |lint: &str| EXCUSED.iter().any(|(known, path, _)| *known == lint && *path == file.path);
            let excused = |lint: &str| (lint == IN_TESTS && file.is_test(range.start)) || listed(lint);
            for (lint, instead) in NEVER.iter().filter(|(lint, _)| attribute.contains(lint) && !excused(lint)) {
                breaches.push(Breach::new(&file.path, line, format!("{lint} stays on: {instead}")));
            }
        }
    }
    breaches
}

/// `unsafe` outside the files that are listed for it.
#[must_use]
pub fn unsafe_code(tree: &Tree) -> Vec<Breach> {
    unsafe_besides(tree, &UNSAFE_FILES)
}

fn unsafe_besides(tree: &Tree, listed: &[(&str, &str)]) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for file in tree.rust.iter().filter(|file| !listed.iter().any(|(path, _)| *path == file.path)) {
        for at in file.words("unsafe") {
            let message =
                "no unsafe here: a safe crate for it, or an entry with its reason in UNSAFE_FILES of the tidy test";
            breaches.push(Breach::new(&file.path, file.line(at), message));
        }
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(text: &str) -> usize {
        suppressed_lints(&Tree::of(&[("a/src/a.rs", text)])).len()
    }

    #[test]
    fn a_lint_is_switched_off_with_a_reason_only() {
        assert_eq!(count("#[allow(dead_code)]\nfn a() {}"), 1);
        assert_eq!(count("#![expect(clippy::too_many_lines)]"), 1);
        assert_eq!(count("#[cfg_attr(test, allow(dead_code))]\nfn a() {}"), 1);
        assert_eq!(count("#[allow(dead_code, reason = \"read by the debugger\")]\nfn a() { b.expect(\"c\"); }"), 0);
    }

    #[test]
    fn some_lints_are_never_switched_off() {
        assert_eq!(count("#[allow(clippy::unwrap_used, reason = \"in a hurry\")]\nfn a() {}"), 1);
        assert_eq!(count("#![allow(warnings, reason = \"many\")]"), 1);
        let excused = "#[expect(clippy::disallowed_methods, reason = \"the second Ctrl-C\")]\nfn a() {}";
        assert_eq!(suppressed_lints(&Tree::of(&[("cli/src/stop.rs", excused)])), []);
        assert_eq!(suppressed_lints(&Tree::of(&[("cli/src/main.rs", excused)])).len(), 1);
        let in_test = |text| suppressed_lints(&Tree::of(&[("a/tests/a.rs", text)])).len();
        assert_eq!(in_test("#![allow(clippy::unwrap_used, reason = \"a test fails by panicking\")]"), 0);
        assert_eq!(in_test("#![allow(clippy::disallowed_methods, reason = \"in a hurry\")]"), 1);
    }

    #[test]
    fn unsafe_needs_an_entry() {
        let tree = Tree::of(&[("a/src/a.rs", "// unsafe in a comment\nfn a() { unsafe { b() } }")]);
        assert_eq!(unsafe_code(&tree).len(), 1);
        assert_eq!(unsafe_besides(&tree, &[("a/src/a.rs", "a socket option")]), []);
        assert_eq!(unsafe_code(&Tree::of(&[("a/src/a.rs", "#![deny(unsafe_code)]")])), []);
    }
}
