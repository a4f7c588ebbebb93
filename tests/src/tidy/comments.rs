//! Comments: every module says what it is, and no file names a place on one machine.

use super::{Breach, Tree};

/// Starts of paths that exist on one machine only, and of folders beside a clone.
const PLACES: [&str; 5] = [
    concat!("/wo", "rk/"),
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
    concat!("/ro", "ot/"),
    concat!("../sha", "red"),
];

/// Modules whose first line is not a sentence about them. Test files inside a crate's `src` are exempt.
#[must_use]
pub fn module_headers(tree: &Tree) -> Vec<Breach> {
    let is_bare = |file: &&super::rust::Rust| {
        let exempt = file.path.contains("/src/") && file.test.iter().all(|test| *test);
        !exempt && !file.text.starts_with("//!")
    };
    let message = "begin with `//!`: what this module is, in a sentence";
    tree.rust.iter().filter(is_bare).map(|file| Breach::new(&file.path, 1, message)).collect()
}

/// Paths that hold on one machine only.
#[must_use]
pub fn paths_of_one_machine(tree: &Tree) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for file in &tree.files {
        for (number, line) in file.text.lines().enumerate() {
            for place in PLACES.iter().filter(|place| begins_a_path(line, place)) {
                let message = format!("{place} is a place on one machine: say it without, or take it as an argument");
                breaches.push(Breach::new(&file.path, number + 1, message));
            }
        }
    }
    breaches
}

/// Whether `place` stands in `line` as the start of a path, not inside a longer one.
fn begins_a_path(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '}' | '/'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_without_a_sentence_is_found() {
        assert_eq!(module_headers(&Tree::of(&[("a/src/a.rs", "use b::c;\n")])).len(), 1);
        assert_eq!(module_headers(&Tree::of(&[("a/src/a.rs", "//! What a is.\n"), ("a/src/a/tests.rs", "")])), []);
        assert_eq!(module_headers(&Tree::of(&[("a/tests/a.rs", "")])).len(), 1);
    }

    #[test]
    fn a_path_of_one_machine_is_found_in_any_file() {
        let text = format!("see {}kith/notes\ncd {}/x\n", PLACES[0], PLACES[4]);
        assert_eq!(paths_of_one_machine(&Tree::of(&[("README.md", &text)])).len(), 2);
        let inside = format!("target{}x and ${{HOME}}{}y", PLACES[0], PLACES[1]);
        assert_eq!(paths_of_one_machine(&Tree::of(&[("README.md", &inside)])), []);
    }
}
