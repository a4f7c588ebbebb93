//! The files of the tree, read once.

use std::fmt;
use std::fs;
use std::path::Path;

use super::rust::Rust;

/// A rule broken at one place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Breach {
    /// Path from the root of the tree.
    pub path: String,
    /// Line, counted from 1; 0 means the file as a whole.
    pub line: usize,
    /// What is wrong and what to do.
    pub message: String,
}

impl Breach {
    pub(super) fn new(path: &str, line: usize, message: impl Into<String>) -> Breach {
        Breach { path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// One text file.
#[derive(Debug)]
pub(super) struct TextFile {
    pub(super) path: String,
    pub(super) text: String,
    pub(super) mode: Mode,
}

/// Whether a file may be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Plain,
    Executable,
}

/// Every text file of the tree, and the Rust files among them prepared for the rules.
#[derive(Debug)]
pub struct Tree {
    pub(super) files: Vec<TextFile>,
    pub(super) rust: Vec<Rust>,
}

/// Folders that hold no source of ours.
const NOT_OURS: [&str; 3] = [".git", "target", "node_modules"];

impl Tree {
    /// Reads the tree below `root`. Files that are not UTF-8 are left out.
    ///
    /// # Panics
    /// If a folder or file cannot be read.
    #[must_use]
    pub fn read(root: &Path) -> Tree {
        let mut files = Vec::new();
        collect(root, root, &mut files);
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Tree::new(files)
    }

    /// A tree of the given paths and texts, for the proof of a rule.
    #[cfg(test)]
    pub(super) fn of(files: &[(&str, &str)]) -> Tree {
        let file = |(path, text): &(&str, &str)| TextFile {
            path: (*path).to_owned(),
            text: (*text).to_owned(),
            mode: Mode::Executable,
        };
        Tree::new(files.iter().map(file).collect())
    }

    fn new(files: Vec<TextFile>) -> Tree {
        let mut rust: Vec<Rust> =
            files.iter().filter(|f| f.path.ends_with(".rs")).map(|f| Rust::new(&f.path, &f.text)).collect();
        let test_modules: Vec<String> = rust.iter().flat_map(Rust::test_modules).collect();
        for file in &mut rust {
            let stem = file.path.trim_end_matches(".rs").trim_end_matches("/mod");
            if test_modules.iter().any(|module| stem == module || stem.starts_with(&format!("{module}/"))) {
                file.all_test();
            }
        }
        Tree { files, rust }
    }

    /// How many Rust files there are: a check over none of them would hold too easily.
    #[must_use]
    pub fn rust_files(&self) -> usize {
        self.rust.len()
    }

    pub(super) fn file(&self, path: &str) -> Option<&TextFile> {
        self.files.iter().find(|f| f.path == path)
    }
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<TextFile>) {
    use std::os::unix::fs::PermissionsExt;

    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{} cannot be listed: {e}", folder.display()));
    for entry in entries {
        let path = entry.expect("a folder's entry is readable").path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if NOT_OURS.contains(&name.as_str()) || path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            collect(root, &path, files);
            continue;
        }
        let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{} cannot be read: {e}", path.display()));
        let Ok(text) = String::from_utf8(bytes) else { continue };
        let permissions = fs::metadata(&path).expect("a file that was just read is there").permissions();
        let mode = if permissions.mode() & 0o111 == 0 { Mode::Plain } else { Mode::Executable };
        let below = path.strip_prefix(root).expect("the walk stays below its root").to_string_lossy().into_owned();
        files.push(TextFile { path: below, text, mode });
    }
}
