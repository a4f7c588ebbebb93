//! How the process ends: a code for scripts, one `error:` line and `hint:` lines for people.

use std::fmt::Display;
use std::process::ExitCode;

use kith_gossip_client::Error as ApiError;

use crate::config::Problems;

/// The exit codes, which are a promise. Listed in `kith --help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done, or stopped as asked.
    Ok = 0,
    /// The operation failed: the store refused it, the name does not exist.
    Failed = 1,
    /// Wrong usage, which clap finds, or we behind it.
    Usage = 2,
    /// The API cannot be reached, or did not answer.
    Unreachable = 3,
    /// A part cannot start, an address is taken, or a DNS server does not answer (EX_UNAVAILABLE).
    Unavailable = 69,
    /// A part failed again and again, or could not be stopped (EX_SOFTWARE).
    Software = 70,
    /// A file or stdout cannot be read or written (EX_IOERR).
    Io = 74,
    /// The configuration is wrong (EX_CONFIG).
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    /// `None`: nothing to say, as when the reader of stdout is gone.
    error: Option<anyhow::Error>,
    /// Lines that follow the error line.
    details: Option<String>,
    hint: Option<String>,
}

impl Failure {
    /// A failure with its exit code.
    pub(crate) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Failure {
        Failure { exit, error: Some(error.into()), details: None, hint: None }
    }

    /// A failure told by a message.
    pub(crate) fn message(exit: Exit, message: impl Display) -> Failure {
        Failure::new(exit, anyhow::anyhow!("{message}"))
    }

    /// An end without words.
    pub(crate) fn quiet(exit: Exit) -> Failure {
        Failure { exit, error: None, details: None, hint: None }
    }

    /// What to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// What was being done.
    pub(crate) fn context(mut self, what: impl Display + Send + Sync + 'static) -> Failure {
        self.error = self.error.map(|error| error.context(what));
        self
    }

    /// The code.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// The whole chain on one line, for a log.
    pub(crate) fn chain(&self) -> String {
        self.error.as_ref().map(|error| one_line(&format!("{error:#}"))).unwrap_or_default()
    }

    /// What people read: one error line, the details, the hint.
    pub(crate) fn report(&self) -> Option<String> {
        self.error.as_ref()?;
        let mut text = format!("error: {}\n", self.chain());
        for line in self.details.iter().flat_map(|details| details.lines()) {
            text.push_str(&format!("  {line}\n"));
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("hint: {hint}\n"));
        }
        Some(text)
    }
}

/// Lines joined, so that whoever reads one line of the log reads the whole error.
fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Failure {
        let exit = match &error {
            ApiError::Unreachable { .. } | ApiError::TimedOut { .. } => Exit::Unreachable,
            ApiError::Broken { .. } | ApiError::Silent { .. } => Exit::Unreachable,
            ApiError::Refused { .. }
            | ApiError::Stopped(_)
            | ApiError::Incomplete
            | ApiError::Gap { .. }
            | ApiError::Malformed { .. }
            | ApiError::TooLarge { .. }
            | ApiError::Prepare(_) => Exit::Failed,
        };
        let hint = error.hint().map(str::to_owned);
        Failure { hint, ..Failure::new(exit, error) }
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Failure {
        let count = match problems.len() {
            1 => "a problem".to_owned(),
            n => format!("{n} problems"),
        };
        let mut failure = Failure::message(Exit::Config, format!("the configuration has {count}"));
        failure.details = Some(problems.to_string());
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_error_line_and_a_hint() {
        let failure = Failure::message(Exit::Unavailable, "address in use\n(os error 98)").context("cannot listen");
        let report = failure.hint("stop the other one").report().unwrap();
        assert_eq!(report, "error: cannot listen: address in use; (os error 98)\nhint: stop the other one\n");
        assert_eq!(Failure::quiet(Exit::Ok).report(), None);
    }
}
