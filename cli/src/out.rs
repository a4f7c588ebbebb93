//! Standard output: data only, line by line. A reader that has gone away is a quiet end, not an error.

use std::io::{self, Stdout, Write};

use crate::exit::{Exit, Failure};

/// Standard output.
pub(crate) struct Out(Stdout);

impl Out {
    /// Standard output of this process.
    pub(crate) fn new() -> Out {
        Out(io::stdout())
    }

    /// Writes one line, whole, and sends it on its way: what follows may take hours.
    pub(crate) fn line(&mut self, line: impl AsRef<str>) -> Result<(), Failure> {
        let mut bytes = line.as_ref().as_bytes().to_vec();
        bytes.push(b'\n');
        self.0.write_all(&bytes).and_then(|()| self.0.flush()).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::quiet(Exit::Ok),
            _ => Failure::new(Exit::Io, error).context("cannot write to stdout"),
        })
    }

    /// Writes a value as one line of JSON.
    pub(crate) fn json(&mut self, value: &impl serde::Serialize) -> Result<(), Failure> {
        let line =
            serde_json::to_string(value).map_err(|e| Failure::new(Exit::Failed, e).context("cannot write JSON"))?;
        self.line(line)
    }
}
