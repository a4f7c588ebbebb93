//! Lists as TXT records: Fly.io's forms, which existing clients parse.

use std::fmt::{self, Write as _};

/// Longest list in bytes. A message holds 65,535: the list, a byte before each 255 of it, header, question and OPT.
const LIST_MAX: usize = 65_000;
/// Longest string inside a TXT record (RFC 1035 §3.3).
const STRING_MAX: usize = 255;

/// A list under construction: entries joined by a separator, cut at the last whole entry that fits.
pub(crate) struct List {
    text: String,
    separator: char,
    cut: usize,
}

impl List {
    pub(crate) fn new(separator: char) -> Self {
        Self { text: String::new(), separator, cut: 0 }
    }

    /// Appends one entry, in pieces or whole: `format_args!` writes it in place.
    pub(crate) fn push(&mut self, entry: fmt::Arguments<'_>) {
        if self.cut > 0 {
            self.cut += 1;
            return;
        }
        let before = self.text.len();
        if before > 0 {
            self.text.push(self.separator);
        }
        self.text.write_fmt(entry).expect("writing to a String cannot fail");
        if self.text.len() > LIST_MAX {
            self.text.truncate(before);
            self.cut = 1;
        }
    }

    /// How many entries did not fit.
    pub(crate) fn cut(&self) -> usize {
        self.cut
    }

    /// The list as the RDATA of one record; `None` when it is empty.
    pub(crate) fn rdata(&self) -> Option<Vec<u8>> {
        let mut rdata = Vec::with_capacity(self.text.len() + self.text.len() / STRING_MAX + 1);
        for string in self.text.as_bytes().chunks(STRING_MAX) {
            rdata.push(string.len() as u8);
            rdata.extend_from_slice(string);
        }
        (!rdata.is_empty()).then_some(rdata)
    }
}
