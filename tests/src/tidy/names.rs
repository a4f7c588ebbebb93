//! Names: a module is one noun of the field, never a place for what has no place.

use super::rust::name_after;
use super::{Breach, Tree};

/// Modules, files and folders that say nothing about what is in them.
const MODULES: [&str; 8] = ["util", "utils", "helper", "helpers", "common", "misc", "data", "info"];
/// Endings of type names that say nothing about what the type is.
const TYPE_ENDINGS: [&str; 4] = ["Manager", "Processor", "Helper", "Util"];
/// Functions that say nothing about what they do.
const FUNCTIONS: [&str; 2] = ["do_it", "do_stuff"];

/// Files, folders, modules, types and functions whose names say nothing.
#[must_use]
pub fn names_that_say_nothing(tree: &Tree) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for file in &tree.rust {
        for part in file.path.trim_end_matches(".rs").split('/').filter(|part| MODULES.contains(part)) {
            breaches.push(Breach::new(&file.path, 0, format!("\"{part}\" says nothing: name the noun it holds")));
        }
        for (keyword, empty) in [
            ("mod", is_empty_module as fn(&str) -> bool),
            ("struct", is_empty_type),
            ("enum", is_empty_type),
            ("trait", is_empty_type),
            ("type", is_empty_type),
            ("fn", is_empty_function),
        ] {
            for at in file.words(keyword) {
                let Some(name) = name_after(&file.code[at + keyword.len()..]) else { continue };
                if empty(name) {
                    let message = format!("{keyword} {name} says nothing: speak the field (Member, Zone, plan, apply)");
                    breaches.push(Breach::new(&file.path, file.line(at), message));
                }
            }
        }
    }
    breaches
}

fn is_empty_module(name: &str) -> bool {
    MODULES.contains(&name)
}

fn is_empty_type(name: &str) -> bool {
    let unnumbered = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let numbered_handler = unnumbered.len() < name.len() && unnumbered.ends_with("Handler");
    numbered_handler || TYPE_ENDINGS.iter().any(|ending| unnumbered.ends_with(ending))
}

fn is_empty_function(name: &str) -> bool {
    FUNCTIONS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(path: &str, text: &str) -> usize {
        names_that_say_nothing(&Tree::of(&[(path, text)])).len()
    }

    #[test]
    fn files_and_folders_that_say_nothing_are_named() {
        assert_eq!(count("a/src/utils.rs", ""), 1);
        assert_eq!(count("a/src/helpers/mod.rs", ""), 1);
        assert_eq!(count("a/src/digest.rs", ""), 0);
    }

    #[test]
    fn modules_types_and_functions_that_say_nothing_are_named() {
        assert_eq!(count("a/src/a.rs", "mod common { }"), 1);
        assert_eq!(count("a/src/a.rs", "pub struct PeerManager;\nenum Processor {}\ntrait Handler2 {}"), 3);
        assert_eq!(count("a/src/a.rs", "fn do_it() {}"), 1);
        assert_eq!(count("a/src/a.rs", "struct Handler; fn apply(managers: u8) {} // struct PeerManager"), 0);
    }
}
