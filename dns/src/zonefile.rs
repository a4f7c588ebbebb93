//! Zone files (RFC 1035 §5): read once, from the front to the end, one record at a time.
//!
//! The reader is ours because what exists does not fit. hickory-proto 0.26.3 keeps the whole zone as objects (705 MiB and
//! 5 s for a million names, where the whole server may take 350), tells no line of an error, and knows neither RFC 3597's
//! `\#` nor an origin behind `$INCLUDE`, which it follows out of the folder. domain 0.12.3 tells the line of an error, though
//! not of a record, needs the file in memory, and knows no `1h`, which every other file begins with.
//!
//! This module knows records, not zones: what belongs together, and what may not stand beside what, is for
//! [`crate::zone`] to say. It never panics, whatever the bytes, and takes memory for one entry only.

mod lexer;
mod rdata;
mod text;

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lexer::{Entry, Lead, Lexer, Quotes, Reason, Word};

use crate::zone::rtype;

/// Files within files. Deeper is a circle.
const DEPTH_MAX: usize = 8;
/// Files of one zone in all, so that a circle that is also wide ends.
const FILES_MAX: usize = 1000;
/// Read ahead.
const BUFFER: usize = 256 * 1024;

/// What is wrong with a zone file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub file: Arc<Path>,
    /// The line, from 1; 0 for the file as a whole.
    pub line: u32,
    /// What is wrong there, and what to do.
    pub reason: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, reason } = self;
        match line {
            0 => write!(f, "{}: {reason}", file.display()),
            line => write!(f, "{}:{line}: {reason}", file.display()),
        }
    }
}

impl std::error::Error for Fault {}

/// One record, as it stands in the file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'a> {
    /// In wire form with its closing zero, letter case kept.
    pub(crate) owner: &'a [u8],
    pub(crate) rtype: u16,
    pub(crate) ttl: u32,
    pub(crate) rdata: &'a [u8],
    pub(crate) place: Place,
}

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Among [`Reader::files`].
    pub(crate) file: u16,
    pub(crate) line: u32,
}

/// A file that was opened, or that should have been.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) path: Arc<Path>,
    /// What it looked like before it was read.
    mark: Option<Mark>,
}

/// What changes with a file: its place on the disk, its size, when it was written.
type Mark = (u64, u64, u64, i64, i64);

impl Source {
    /// A file as it is at this moment.
    pub(crate) fn of(path: &Path) -> Self {
        let mark = |seen: Metadata| (seen.dev(), seen.ino(), seen.size(), seen.mtime(), seen.mtime_nsec());
        Self { path: path.into(), mark: path.metadata().ok().map(mark) }
    }

    /// Whether it still looks as it did.
    pub(crate) fn is_unchanged(&self) -> bool {
        Self::of(&self.path) == *self
    }
}

/// Reads one zone file, and what it includes.
pub(crate) struct Reader {
    stack: Vec<Frame>,
    files: Vec<Source>,
    /// The folder that nothing is included from outside of; `None`: nothing is included at all.
    folder: Option<PathBuf>,
    /// `$TTL`.
    default_ttl: Option<u32>,
    /// The TTL that was written last.
    last_ttl: Option<u32>,
    first_origin: Option<Box<[u8]>>,
    rdata: Vec<u8>,
}

/// A file being read.
struct Frame {
    lexer: Lexer,
    file: u16,
    origin: Option<Box<[u8]>>,
    owner: Vec<u8>,
}

/// What an entry came to.
enum Step {
    Record { rtype: u16, ttl: u32, line: u32 },
    Nothing,
    Include { path: PathBuf, origin: Option<Box<[u8]>>, line: u32 },
}

impl Reader {
    /// Reads this file. That it cannot be opened is said with the first record.
    pub(crate) fn open(path: &Path) -> Self {
        // What is written from here on is seen as a change.
        let source = Source::of(path);
        let opened = open(path).and_then(|input| Ok((input, path.canonicalize()?)));
        let (input, folder) = match opened {
            Ok((input, whole)) => (input, whole.parent().map(Path::to_owned)),
            Err(error) => (Box::new(Unreadable(Some(error))) as Box<dyn BufRead>, None),
        };
        Self::new(input, source, folder)
    }

    /// Reads from memory, where `$INCLUDE` leads nowhere.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn of(text: &[u8]) -> Self {
        let input = io::Cursor::new(text.to_owned());
        Self::new(Box::new(input), Source { path: Path::new("zone").into(), mark: None }, None)
    }

    fn new(input: Box<dyn BufRead>, file: Source, folder: Option<PathBuf>) -> Self {
        let frame = Frame { lexer: Lexer::new(input), file: 0, origin: None, owner: Vec::new() };
        Self {
            stack: vec![frame],
            files: vec![file],
            folder,
            default_ttl: None,
            last_ttl: None,
            first_origin: None,
            rdata: Vec::new(),
        }
    }

    /// The next record; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Record<'_>>, Fault> {
        loop {
            let depth = self.stack.len();
            let Some(frame) = self.stack.last_mut() else { return Ok(None) };
            let file = frame.file;
            let mut state = State {
                default_ttl: &mut self.default_ttl,
                last_ttl: &mut self.last_ttl,
                first_origin: &mut self.first_origin,
                rdata: &mut self.rdata,
            };
            let step = match frame.lexer.next() {
                Ok(None) => {
                    self.stack.pop();
                    continue;
                }
                Ok(Some(entry)) => {
                    let line = entry.line;
                    let step = state.entry(entry, &mut frame.origin, &mut frame.owner);
                    step.map_err(|reason| self.fault(Place { file, line }, reason))?
                }
                Err(lexer::Broken { line, reason }) => {
                    let (line, reason) = match reason {
                        Reason::Read(error) => (0, unreadable(&error)),
                        Reason::Syntax(reason) => (line, String::from(reason)),
                    };
                    return Err(self.fault(Place { file, line }, reason));
                }
            };
            match step {
                Step::Nothing => {}
                Step::Include { path, origin, line } => {
                    let frame = self.include(&path, origin, depth);
                    let frame = frame.map_err(|reason| self.fault(Place { file, line }, reason))?;
                    self.stack.push(frame);
                }
                Step::Record { rtype, ttl, line } => {
                    let owner = self.stack.last().map_or(&[][..], |frame| &frame.owner);
                    return Ok(Some(Record { owner, rtype, ttl, rdata: &self.rdata, place: Place { file, line } }));
                }
            }
        }
    }

    /// The first `$ORIGIN`: of a file without SOA, the zone that it is about. Lower-cased.
    pub(crate) fn first_origin(&self) -> Option<&[u8]> {
        self.first_origin.as_deref()
    }

    /// The files read, in the order they were opened.
    pub(crate) fn files(&self) -> &[Source] {
        &self.files
    }

    /// Something wrong at a place, as a whole sentence.
    pub(crate) fn fault(&self, place: Place, reason: impl Into<String>) -> Fault {
        let file = self.files.get(usize::from(place.file)).or(self.files.first());
        let file = file.map_or_else(|| Path::new("").into(), |file| Arc::clone(&file.path));
        Fault { file, line: place.line, reason: reason.into() }
    }

    fn include(&mut self, path: &Path, origin: Option<Box<[u8]>>, depth: usize) -> Result<Frame, String> {
        let Some(folder) = &self.folder else { return Err(String::from("$INCLUDE, where there are no files")) };
        if depth >= DEPTH_MAX {
            return Err(format!("files include each other more than {DEPTH_MAX} deep: is there a circle?"));
        }
        if self.files.len() >= FILES_MAX {
            return Err(format!("more than {FILES_MAX} files for one zone: is there a circle?"));
        }
        let (Some(frame), Some(from)) =
            (self.stack.last(), self.stack.last().and_then(|frame| self.files.get(usize::from(frame.file))))
        else {
            return Err(String::from("$INCLUDE, where there are no files"));
        };
        let path = from.path.parent().unwrap_or(Path::new("")).join(path);
        let file = self.files.len() as u16;
        self.files.push(Source::of(&path));
        let found = path.canonicalize().map_err(|error| format!("{}: {}", path.display(), unreadable(&error)))?;
        if !found.starts_with(folder) {
            let (path, folder) = (path.display(), folder.display());
            return Err(format!("{path} is outside of {folder}: a zone file includes from its own folder only"));
        }
        let input = open(&found).map_err(|error| format!("{}: {}", path.display(), unreadable(&error)))?;
        let origin = origin.or_else(|| frame.origin.clone());
        let owner = frame.owner.clone();
        Ok(Frame { lexer: Lexer::new(input), file, origin, owner })
    }
}

/// What goes on from entry to entry, whatever the file.
struct State<'a> {
    default_ttl: &'a mut Option<u32>,
    last_ttl: &'a mut Option<u32>,
    first_origin: &'a mut Option<Box<[u8]>>,
    rdata: &'a mut Vec<u8>,
}

impl State<'_> {
    fn entry(&mut self, entry: Entry<'_>, origin: &mut Option<Box<[u8]>>, owner: &mut Vec<u8>) -> Result<Step, String> {
        let mut words = entry.words();
        if entry.lead == Lead::Word {
            let Some(first) = words.next() else { return Ok(Step::Nothing) };
            if first.text.first() == Some(&b'$') && first.quotes == Quotes::None {
                return self.directive(first, words, entry.line, origin);
            }
            owner.clear();
            text::name(first, origin.as_deref(), owner)?;
        } else if owner.is_empty() {
            return Err(String::from("begins with a blank, and no record before says whose it is: write the name"));
        }
        let (rtype, ttl) = self.head(&mut words)?;
        self.rdata.clear();
        rdata::rdata(rtype, words, origin.as_deref(), self.rdata)?;
        let ttl = match ttl.or(*self.default_ttl).or(*self.last_ttl) {
            Some(ttl) => ttl,
            // A file without any TTL means that of its negative answers, the last field of the SOA (RFC 1035 §5.3).
            None if rtype == rtype::SOA => {
                let minimum = self.rdata.last_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
                minimum.min(text::TTL_MAX)
            }
            None => return Err(String::from("no TTL: write `$TTL 1h` at the top of the file")),
        };
        *self.last_ttl = Some(ttl);
        Ok(Step::Record { rtype, ttl, line: entry.line })
    }

    /// TTL and class, in either order, then the type.
    fn head<'a>(&mut self, words: &mut impl Iterator<Item = Word<'a>>) -> Result<(u16, Option<u32>), String> {
        let (mut ttl, mut class) = (None, None);
        loop {
            let Some(word) = words.next() else { return Err(String::from("a name without a record behind it")) };
            if ttl.is_none() && word.text.first().is_some_and(u8::is_ascii_digit) {
                let read = text::ttl(word.text);
                let shown = String::from_utf8_lossy(word.text);
                ttl =
                    Some(read.ok_or_else(|| format!("`{shown}` is no TTL: write seconds, or 1h30m, up to 68 years"))?);
                continue;
            }
            if let Some(rtype) = rdata::type_of(word.text) {
                return Ok((rtype?, ttl));
            }
            let shown = String::from_utf8_lossy(word.text);
            let is = |name: &str| word.text.eq_ignore_ascii_case(name.as_bytes());
            if class.is_some() || !["IN", "CH", "CS", "HS", "CLASS1"].into_iter().any(is) {
                return Err(format!(
                    "`{shown}` is neither a type nor a class; an unknown type is written as TYPE65280"
                ));
            }
            if !is("IN") && !is("CLASS1") {
                return Err(format!("class {shown}: only IN is served"));
            }
            class = Some(());
        }
    }

    fn directive<'a>(
        &mut self,
        first: Word<'_>,
        mut words: impl Iterator<Item = Word<'a>>,
        line: u32,
        origin: &mut Option<Box<[u8]>>,
    ) -> Result<Step, String> {
        let is = |name: &str| first.text.eq_ignore_ascii_case(name.as_bytes());
        let shown = || String::from_utf8_lossy(first.text).into_owned();
        let value = words.next().ok_or_else(|| format!("{} without a value", shown()));
        let step = if is("$ORIGIN") {
            let name = wire(value?, origin.as_deref())?;
            self.first_origin.get_or_insert_with(|| name.to_ascii_lowercase().into());
            *origin = Some(name);
            Step::Nothing
        } else if is("$TTL") {
            let ttl = text::ttl(value?.text);
            *self.default_ttl = Some(ttl.ok_or("$TTL takes seconds, or 1h30m, up to 68 years")?);
            Step::Nothing
        } else if is("$INCLUDE") {
            let mut path = Vec::new();
            text::string(value?, &mut path)?;
            let path = String::from_utf8(path).map_err(|_| "$INCLUDE takes a file name in UTF-8")?;
            let origin = words.next().map(|word| wire(word, origin.as_deref())).transpose()?;
            Step::Include { path: path.into(), origin, line }
        } else {
            return Err(format!("{}: the directives are $ORIGIN, $TTL and $INCLUDE", shown()));
        };
        match words.next() {
            Some(_) => Err(format!("more behind {} than it takes", shown())),
            None => Ok(step),
        }
    }
}

fn wire(word: Word<'_>, origin: Option<&[u8]>) -> Result<Box<[u8]>, String> {
    let mut name = Vec::new();
    text::name(word, origin, &mut name)?;
    Ok(name.into())
}

/// Opens what is a file: reading a pipe or a device could take for ever.
fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    Ok(Box::new(BufReader::with_capacity(BUFFER, File::open(path)?)))
}

/// A file that could not be opened.
struct Unreadable(Option<io::Error>);

impl Read for Unreadable {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.0.take().map_or(Ok(0), Err)
    }
}

impl BufRead for Unreadable {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.take().map_or(Ok(&[]), Err)
    }

    fn consume(&mut self, _: usize) {}
}

fn unreadable(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => String::from("there is no such file"),
        io::ErrorKind::PermissionDenied => String::from("may not be read: who runs kith needs to read it"),
        _ => format!("cannot be read: {error}"),
    }
}

#[cfg(test)]
mod tests;
