//! Lists as TXT records: Fly.io's forms, which existing clients parse.

use super::records::{RRset, Tail, rtype};
use crate::config::Ttl;

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

    pub(crate) fn push(&mut self, entry: &str) {
        let separator = usize::from(!self.text.is_empty());
        if self.cut > 0 || self.text.len() + separator + entry.len() > LIST_MAX {
            self.cut += 1;
            return;
        }
        if separator == 1 {
            self.text.push(self.separator);
        }
        self.text.push_str(entry);
    }

    /// How many entries did not fit.
    pub(crate) fn cut(&self) -> usize {
        self.cut
    }

    /// One record, or none for an empty list.
    pub(crate) fn into_set(self, ttl: Ttl) -> Option<RRset> {
        let mut rdata = Vec::with_capacity(self.text.len() + self.text.len() / STRING_MAX + 1);
        for string in self.text.as_bytes().chunks(STRING_MAX) {
            rdata.push(string.len() as u8);
            rdata.extend_from_slice(string);
        }
        RRset::of(rtype::TXT, Tail::Whole, ttl, (!rdata.is_empty()).then_some(rdata).into_iter())
    }
}
