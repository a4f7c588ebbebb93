//! What a repair has replaced, in a file beside the store: whoever wonders where a value has gone finds it there.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use kith_gossip_proto::repair::Seal;
use kith_gossip_proto::{Key, Name, Row, Value};

use super::copy::with;
use super::restore::keep_few;

/// The most that is written of one repair. Beyond it rows are counted only.
const BYTES_MAX: usize = 4 << 20;

/// The name of such files, behind the store's.
const NAME: &str = "repaired";

/// Rows that were replaced, as lines for people.
#[derive(Debug, Default)]
pub(crate) struct Replaced {
    rows: u64,
    text: String,
    left_out: u64,
}

impl Replaced {
    /// How many.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// What stood in a row, with its state if that can be read; and what is there of it now, if it is still there.
    pub(crate) fn note(
        &mut self,
        table: &Name,
        key: Option<&Key>,
        was: (&[Value], Option<(&Row, Seal)>),
        is: Option<&Row>,
    ) {
        self.rows += 1;
        if self.text.len() >= BYTES_MAX {
            self.left_out += 1;
            return;
        }
        let key = match key.map(Key::decode) {
            Some(Ok(values)) => shown(&values),
            Some(Err(_)) | None => "without a sound key".to_owned(),
        };
        let (values, was) = was;
        let stood = match was {
            None if values.is_empty() => "nothing".to_owned(),
            None => format!("{}, of which the rest cannot be read", shown(values)),
            Some((row, Seal::Whole)) => state(row),
            Some((row, Seal::Broken)) => format!("{}, which was not what was written", state(row)),
        };
        let stands = is.map_or_else(|| "nothing".to_owned(), state);
        writeln!(self.text, "{table} {key}\n  was {stood}\n  is {stands}")
            .expect("a String takes everything that is written to it");
    }

    /// Writes the file, if there is anything in it. A repair is worth more than its record.
    pub(crate) fn keep(&self, store: &Path) {
        if self.rows > 0
            && let Err(error) = self.write(store)
        {
            tracing::warn!(%error, rows = self.rows, "what a repair replaces is not kept");
        }
    }

    fn write(&self, store: &Path) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let path = with(store, &format!(".{NAME}-{now:013}"));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(self.text.as_bytes())?;
        if self.left_out > 0 {
            writeln!(file, "and {} more", self.left_out)?;
        }
        keep_few(store, NAME)
    }
}

fn state(row: &Row) -> String {
    if !row.is_alive() {
        return format!("deleted by {:?}", row.rs);
    }
    let cells: Vec<_> = row
        .cells
        .iter()
        .map(|(column, cell)| format!("{column} = {} by {:?}", literal(&cell.value), cell.stamp))
        .collect();
    cells.join(", ")
}

/// As SQL would list them.
pub(crate) fn shown(values: &[Value]) -> String {
    let values: Vec<_> = values.iter().map(literal).collect();
    format!("({})", values.join(", "))
}

/// As SQL would say it, but for texts that are no UTF-8.
pub(crate) fn literal(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(integer) => integer.to_string(),
        Value::Real(real) => format!("{real:?}"),
        Value::Text(bytes) => format!("'{}'", String::from_utf8_lossy(bytes).replace('\'', "''").escape_debug()),
        Value::Blob(bytes) => {
            let digits = bytes.iter().fold(String::new(), |digits, byte| digits + &format!("{byte:02x}"));
            format!("x'{digits}'")
        }
    }
}
