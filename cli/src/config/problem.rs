//! What is wrong with a configuration: all of it, each with its place.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Where a value was set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    /// Nowhere: the default holds.
    Default,
    /// In the file.
    File {
        /// The file, as the user named it.
        path: Arc<PathBuf>,
        /// The line, from 1.
        line: usize,
    },
    /// By an environment variable of this name.
    Environment(String),
    /// By `--set` or another flag.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Environment(name) => f.write_str(name),
            Origin::Flag => f.write_str("--set"),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Problem {
    /// Where.
    pub(crate) origin: Origin,
    /// What, beginning with the key.
    pub(crate) what: String,
    /// What to do.
    pub(crate) hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            // A value that is missing stands nowhere.
            Origin::Default => write!(f, "{}", self.what)?,
            Origin::File { .. } | Origin::Environment(_) | Origin::Flag => write!(f, "{}: {}", self.origin, self.what)?,
        }
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong, in the order of the file, then the environment, then the flags; what is missing comes first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Problems(Vec<Problem>);

impl Problems {
    /// One more.
    pub(crate) fn add(&mut self, origin: &Origin, what: impl Into<String>, hint: Option<String>) {
        self.0.push(Problem { origin: origin.clone(), what: what.into(), hint });
    }

    /// Whether one begins with these words.
    pub(crate) fn name(&self, words: &str) -> bool {
        self.0.iter().any(|problem| problem.what.starts_with(words))
    }

    /// Whether there is one at this place.
    pub(crate) fn are_at(&self, origin: &Origin) -> bool {
        self.0.iter().any(|problem| problem.origin == *origin)
    }

    /// `value`, unless something is wrong.
    pub(crate) fn or<T>(mut self, value: T) -> Result<T, Problems> {
        self.0.sort();
        self.0.dedup();
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
