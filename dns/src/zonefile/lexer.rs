//! Entries of a zone file: the words of one record or directive, whatever lines they stand on.
//!
//! Words keep their escapes and inner quotes: only whoever knows what a word is can read them.

use std::io::{self, BufRead, Read as _};

/// Most bytes of one entry, comments and line ends included. A record of 65,535 bytes has 262,140 when each is written as `\DDD`.
const ENTRY_MAX: usize = 512 * 1024;

/// Splits an input into entries.
pub(crate) struct Lexer {
    input: Box<dyn BufRead>,
    /// Lines read.
    line: u32,
    text: Vec<u8>,
    words: Vec<Span>,
}

/// One entry.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a> {
    /// The line on which it begins.
    pub(crate) line: u32,
    pub(crate) lead: Lead,
    text: &'a [u8],
    spans: &'a [Span],
}

/// Whether an entry begins with a blank: then it is about the last owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lead {
    Word,
    Blank,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    start: usize,
    end: usize,
    quotes: Quotes,
}

/// How a word was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quotes {
    /// In quotes, which are not part of the word.
    Around,
    /// Without.
    None,
}

/// A word of an entry, escapes and all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word<'a> {
    pub(crate) text: &'a [u8],
    pub(crate) quotes: Quotes,
}

/// What is wrong, and on which line.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) line: u32,
    pub(crate) reason: Reason,
}

#[derive(Debug)]
pub(crate) enum Reason {
    Read(io::Error),
    Syntax(&'static str),
}

impl Lexer {
    pub(crate) fn new(input: Box<dyn BufRead>) -> Self {
        Self { input, line: 0, text: Vec::new(), words: Vec::new() }
    }

    /// The next entry that has a word; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Entry<'_>>, Broken> {
        loop {
            self.text.clear();
            self.words.clear();
            let mut depth = 0;
            let first = self.line + 1;
            while self.read_line()? {
                let from = self.text.len() - self.last_line();
                self.words_of(from, &mut depth)?;
                if depth == 0 {
                    break;
                }
            }
            if depth > 0 {
                let reason = Reason::Syntax("the parenthesis that opens in this entry is never closed: add `)`");
                return Err(Broken { line: first, reason });
            }
            if self.text.is_empty() {
                return Ok(None);
            }
            if !self.words.is_empty() {
                let lead = if matches!(self.text[0], b' ' | b'\t') { Lead::Blank } else { Lead::Word };
                return Ok(Some(Entry { line: first, lead, text: &self.text, spans: &self.words }));
            }
        }
    }

    /// Appends the next line; `false` at the end.
    fn read_line(&mut self) -> Result<bool, Broken> {
        let room = ENTRY_MAX - self.text.len();
        let before = self.text.len();
        let read = (&mut self.input).take(room as u64).read_until(b'\n', &mut self.text);
        let line = self.line + 1;
        let read = read.map_err(|error| Broken { line, reason: Reason::Read(error) })?;
        if read == room {
            let reason = Reason::Syntax("an entry of more than 512 KiB is no record: is a parenthesis left open?");
            return Err(Broken { line, reason });
        }
        if read > 0 {
            self.line = line;
            if self.text.last() != Some(&b'\n') {
                self.text.push(b'\n');
            }
        }
        Ok(self.text.len() > before)
    }

    /// Bytes of the line read last.
    fn last_line(&self) -> usize {
        let before = &self.text[..self.text.len() - 1];
        before.len() + 1 - before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)
    }

    /// Finds the words of the line that begins at `at`.
    fn words_of(&mut self, mut at: usize, depth: &mut u32) -> Result<(), Broken> {
        let line = self.line;
        let broken = |reason| Err(Broken { line, reason: Reason::Syntax(reason) });
        loop {
            match self.text[at] {
                b'\n' | b';' => return Ok(()),
                b' ' | b'\t' | b'\r' => at += 1,
                b'(' => {
                    *depth += 1;
                    at += 1;
                }
                b')' if *depth == 0 => return broken("`)` without `(`"),
                b')' => {
                    *depth -= 1;
                    at += 1;
                }
                b'"' => {
                    let Some(end) = closing(&self.text, at + 1) else { return broken(OPEN_STRING) };
                    self.words.push(Span { start: at + 1, end, quotes: Quotes::Around });
                    at = end + 1;
                }
                _ => {
                    let Some(end) = word_end(&self.text, at) else { return broken(OPEN_STRING) };
                    self.words.push(Span { start: at, end, quotes: Quotes::None });
                    at = end;
                }
            }
        }
    }
}

const OPEN_STRING: &str =
    "a string or escape does not end on its line: close the quotes, and write a line end as \\010";

/// Where the quotes that are open at `at` close.
fn closing(text: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match text[at] {
            b'"' => return Some(at),
            b'\n' => return None,
            b'\\' => at += 2,
            _ => at += 1,
        }
        // An escaped line end is behind us, and this is the end of the text.
        if text.get(at - 1) == Some(&b'\n') {
            return None;
        }
    }
}

/// Where the word that begins at `at` ends. Quotes inside it (`alpn="h2,h3"`) belong to it.
fn word_end(text: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match text[at] {
            b' ' | b'\t' | b'\r' | b'\n' | b';' | b'(' | b')' => return Some(at),
            b'\\' if text[at + 1] == b'\n' => return None,
            b'\\' => at += 2,
            b'"' => at = closing(text, at + 1)? + 1,
            _ => at += 1,
        }
    }
}

impl<'a> Entry<'a> {
    /// Its words, in their order.
    pub(crate) fn words(self) -> impl ExactSizeIterator<Item = Word<'a>> + Clone {
        self.spans.iter().map(move |span| Word { text: &self.text[span.start..span.end], quotes: span.quotes })
    }
}
