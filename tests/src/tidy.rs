//! The rules of the tree that no compiler or lint knows.
//!
//! Each rule is a function from a [`Tree`] to its breaches, so that it is proven on a bad example held in memory and then
//! run on the real tree (`tests/tests/tidy.rs`). A message says what to do. The rules read text, not syntax trees: the scanner in `rust.rs`
//! blanks comments and literals first, and what that reading cannot see is said at the rule.

mod comments;
mod edges;
mod lints;
mod manifest;
mod names;
mod purity;
mod rust;
mod schema;
mod scripts;
mod size;
mod tasks;
mod tree;

pub use comments::{module_headers, paths_of_one_machine};
pub use edges::{forbidden_edges, metadata};
pub use lints::{suppressed_lints, unsafe_code};
pub use manifest::manifests;
pub use names::names_that_say_nothing;
pub use purity::impure_core;
pub use schema::undescribed_tables;
pub use scripts::thick_scripts;
pub use size::{long_files, long_functions};
pub use tasks::{sleeping_tests, tasks_nobody_joins};
pub use tree::{Breach, Tree};
