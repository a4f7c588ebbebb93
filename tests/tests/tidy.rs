//! The rules of the tree, run on the tree. What each rule finds is proven where it is written, in `tests/src/tidy`.

use std::path::{Path, PathBuf};

use kith_tests::tidy::{self, Breach, Tree};

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the tests have the root of the tree above them").to_owned()
}

#[track_caller]
fn holds(rule: impl Fn(&Tree) -> Vec<Breach>) {
    none(&rule(&Tree::read(&root())));
}

#[track_caller]
fn none(breaches: &[Breach]) {
    let list: String = breaches.iter().map(|breach| format!("\n  {breach}")).collect();
    assert!(breaches.is_empty(), "{} to mend:{list}", breaches.len());
}

#[test]
fn the_tree_is_found() {
    let seen = Tree::read(&root()).rust_files();
    assert!(seen >= 20, "{seen} Rust files below {}: the rules would hold over nothing", root().display());
}

#[test]
fn a_file_is_one_idea() {
    holds(tidy::long_files);
}

#[test]
fn a_function_fits_one_screen() {
    holds(tidy::long_functions);
}

#[test]
fn names_speak_the_field() {
    holds(tidy::names_that_say_nothing);
}

#[test]
fn every_module_says_what_it_is() {
    holds(tidy::module_headers);
}

#[test]
fn no_crate_reaches_over_its_wall() {
    none(&tidy::forbidden_edges(&tidy::metadata(&root())));
}

#[test]
fn versions_and_lints_are_inherited() {
    holds(tidy::manifests);
}

#[test]
fn a_lint_switched_off_has_a_reason() {
    holds(tidy::suppressed_lints);
}

#[test]
fn unsafe_stays_where_it_is_listed() {
    holds(tidy::unsafe_code);
}

#[test]
fn every_task_has_an_owner_that_joins_it() {
    holds(tidy::tasks_nobody_joins);
}

#[test]
fn no_test_sleeps() {
    holds(tidy::sleeping_tests);
}

#[test]
fn the_core_is_pure() {
    holds(tidy::impure_core);
}

#[test]
fn every_table_and_column_has_its_sentence() {
    holds(tidy::undescribed_tables);
}

#[test]
fn scripts_are_thin() {
    holds(tidy::thick_scripts);
}

#[test]
fn no_file_names_a_place_on_one_machine() {
    holds(tidy::paths_of_one_machine);
}
