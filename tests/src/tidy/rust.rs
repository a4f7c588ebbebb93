//! Rust text as the rules read it: comments and the insides of literals blanked, test code marked.
//!
//! This is a scanner, not a parser. It knows comments (nested too), string, raw string and character literals, lifetimes,
//! attributes and brackets. Code that a macro builds from pieces is invisible to it.

use std::ops::Range;

/// One Rust file.
#[derive(Debug)]
pub(super) struct Rust {
    pub(super) path: String,
    pub(super) text: String,
    /// The text with everything blanked that is not code; the same number of lines.
    pub(super) code: String,
    /// For each line, whether it belongs to a test.
    pub(super) test: Vec<bool>,
    test_modules: Vec<String>,
}

/// A function with a body.
#[derive(Debug)]
pub(super) struct Function<'a> {
    pub(super) name: &'a str,
    /// Lines from `fn` to the closing brace, counted from 1.
    pub(super) lines: Range<usize>,
}

impl Rust {
    pub(super) fn new(path: &str, text: &str) -> Rust {
        let code = blank(text);
        let mut test = vec![false; text.lines().count() + 1];
        let mut test_modules = Vec::new();
        for attribute in attributes(&code).filter(|a| marks_test(&code[a.clone()])) {
            let item = attribute.start..item_end(&code, attribute.end);
            test[line_of(&code, item.start) - 1..line_of(&code, item.end)].fill(true);
            if let Some(name) = declared_module(&code[attribute.end..item.end]) {
                test_modules.push(module_path(path, name));
            }
        }
        let stem = path.rsplit('/').next().unwrap_or(path);
        if stem == "tests.rs" || path.split('/').any(|part| part == "tests" || part == "benches") {
            test.fill(true);
        }
        Rust { path: path.to_owned(), text: text.to_owned(), code, test, test_modules }
    }

    /// Modules that this file declares for tests only, as paths without `.rs`.
    pub(super) fn test_modules(&self) -> impl Iterator<Item = String> {
        self.test_modules.clone().into_iter()
    }

    pub(super) fn all_test(&mut self) {
        self.test.fill(true);
    }

    /// Whether the code at byte `at` belongs to a test.
    pub(super) fn is_test(&self, at: usize) -> bool {
        self.test[self.line(at) - 1]
    }

    /// The line of byte `at` of the code, counted from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        line_of(&self.code, at)
    }

    /// Where `word` stands in the code, not as a part of a longer name.
    pub(super) fn words<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        self.code.match_indices(word).map(|(at, _)| at).filter(move |at| {
            let before = self.code[..*at].chars().next_back();
            let after = self.code[at + word.len()..].chars().next();
            let joins = |edge: Option<char>, neighbour: Option<char>| {
                edge.is_some_and(is_name) && neighbour.is_some_and(is_name)
            };
            !joins(word.chars().next(), before) && !joins(word.chars().next_back(), after)
        })
    }

    /// The attributes, `#[…]` and `#![…]`, as ranges of the code.
    pub(super) fn attributes(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        attributes(&self.code)
    }

    /// The functions that have a body, nested ones too.
    pub(super) fn functions(&self) -> impl Iterator<Item = Function<'_>> {
        self.words("fn").filter_map(|at| {
            let name = name_after(&self.code[at + 2..])?;
            let end = item_end(&self.code, at);
            let body = self.code[..end].ends_with('}');
            body.then(|| Function { name, lines: self.line(at)..self.line(end - 1) + 1 })
        })
    }
}

pub(super) fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The name that `rest` starts with after blanks, if any.
pub(super) fn name_after(rest: &str) -> Option<&str> {
    let rest = rest.trim_start();
    let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
    (end > 0).then(|| &rest[..end])
}

/// The byte after the bracket that closes the one at `open`, or the end of the code.
pub(super) fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, c) in code[open..].char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return open + at + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

/// The byte after the item that starts at or after `from`: after its braces, or after its semicolon, or where what holds it ends.
fn item_end(code: &str, from: usize) -> usize {
    let mut at = from;
    while let Some(step) = code[at..].find(['(', '[', '{', ';', '}']) {
        at += step;
        match code.as_bytes()[at] {
            b';' => return at + 1,
            b'{' => return closing(code, at),
            b'}' => return at,
            _ => at = closing(code, at),
        }
    }
    code.len()
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

fn attributes(code: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    code.match_indices('#').filter_map(|(at, _)| {
        let rest = code[at + 1..].strip_prefix('!').unwrap_or(&code[at + 1..]);
        rest.starts_with('[').then(|| at..closing(code, code.len() - rest.len()))
    })
}

/// Whether an attribute makes its item test code: `#[test]`, `#[tokio::test(…)]`, `#[cfg(test)]`, `#[cfg(all(test, …))]`.
fn marks_test(attribute: &str) -> bool {
    let inner = attribute.trim_start_matches(['#', '!', '[']);
    let path_end = inner.find(|c| !is_name(c) && c != ':').unwrap_or(inner.len());
    let (path, arguments) = inner.split_at(path_end);
    if path == "cfg" {
        let mut words = arguments.split(|c| !is_name(c));
        return words.any(|word| word == "test") && !arguments.contains("not(");
    }
    path.rsplit("::").next() == Some("test")
}

/// `NAME` of `mod NAME;`.
fn declared_module(item: &str) -> Option<&str> {
    let before = item.trim_end().strip_suffix(';')?;
    let name = name_after(&before[before.find("mod ")? + 4..])?;
    before.trim_end().ends_with(name).then_some(name)
}

/// The path, without `.rs`, of the module `name` that the file at `path` declares.
fn module_path(path: &str, name: &str) -> String {
    let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
    match file {
        "lib.rs" | "main.rs" | "mod.rs" => format!("{folder}/{name}"),
        _ => format!("{}/{name}", path.trim_end_matches(".rs")),
    }
}

/// The text with comments and the insides of literals turned into blanks, line ends kept.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => line_comment(&chars, at),
            '/' if chars.get(at + 1) == Some(&'*') => block_comment(&chars, at),
            '"' => string(&chars, at),
            'r' if !preceded_by_name(&chars, at) => raw_string(&chars, at),
            '\'' => character(&chars, at),
            _ => at + 1,
        };
        if end == at + 1 {
            out.push(chars[at]);
        } else {
            out.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        }
        at = end;
    }
    out
}

fn preceded_by_name(chars: &[char], at: usize) -> bool {
    // `br"…"` and `cr"…"` are raw strings too; any other name before the r means that it is the end of a name.
    let Some(before) = at.checked_sub(1).map(|i| chars[i]) else { return false };
    let prefix = matches!(before, 'b' | 'c') && !at.checked_sub(2).is_some_and(|i| is_name(chars[i]));
    is_name(before) && !prefix
}

fn line_comment(chars: &[char], at: usize) -> usize {
    chars[at..].iter().position(|c| *c == '\n').map_or(chars.len(), |step| at + step)
}

fn block_comment(chars: &[char], at: usize) -> usize {
    let (mut depth, mut i) = (0_usize, at);
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => (depth, i) = (depth + 1, i + 2),
            ('*', '/') if depth == 1 => return i + 2,
            ('*', '/') => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
    }
    chars.len()
}

fn string(chars: &[char], at: usize) -> usize {
    let mut i = at + 1;
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    chars.len()
}

/// The end of the raw string whose `r` is at `at`; `at + 1` if there is none.
fn raw_string(chars: &[char], at: usize) -> usize {
    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
    if chars.get(at + 1 + hashes) != Some(&'"') {
        return at + 1;
    }
    let mut i = at + 2 + hashes;
    while i < chars.len() {
        if chars[i] == '"' && chars[i + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes {
            return i + 1 + hashes;
        }
        i += 1;
    }
    chars.len()
}

/// The end of the character literal at `at`; `at + 1` if the quote begins a lifetime.
fn character(chars: &[char], at: usize) -> usize {
    if chars.get(at + 1) == Some(&'\\') {
        let after = chars.get(at + 3..).unwrap_or_default();
        return after.iter().position(|c| *c == '\'').map_or(chars.len(), |step| at + 4 + step);
    }
    if chars.get(at + 2) == Some(&'\'') { at + 3 } else { at + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blank_and_lines_stay() {
        let text =
            "let a = \"fn {\"; // fn {\nlet b = r#\"fn \"{\"#; /* { /* { */ { */ let c = '{'; let d: &'static str;\n";
        let code = blank(text);
        assert_eq!(code.matches('\n').count(), 2);
        assert!(!code.contains('{') && !code.contains("fn"), "{code}");
        assert!(code.contains("let c =") && code.contains("&'static str;"), "{code}");
    }

    #[test]
    fn escapes_do_not_end_a_literal_early() {
        assert_eq!(blank(r#"f("\"{", '\'', '\\', b"{", br"\", '\u{7f}') {"#).trim_end_matches(" {").find('{'), None);
    }

    #[test]
    fn test_code_is_marked_to_its_closing_brace_and_no_further() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n#[tokio::test(start_paused = true)]\nasync fn d() {\n}\n#[cfg(not(test))]\nfn e() {}\n";
        let file = Rust::new("x/src/a.rs", text);
        assert_eq!(file.test[..11], [false, true, true, true, true, false, true, true, true, false, false],);
    }

    #[test]
    fn a_module_declared_for_tests_is_known_by_its_path() {
        let declared = |path| Rust::new(path, "#[cfg(test)]\nmod laws;\n").test_modules().collect::<Vec<_>>();
        assert_eq!(declared("x/src/lib.rs"), ["x/src/laws"]);
        assert_eq!(declared("x/src/row.rs"), ["x/src/row/laws"]);
        assert_eq!(Rust::new("x/src/row.rs", "#[cfg(test)]\nmod laws { }\n").test_modules().count(), 0);
    }

    #[test]
    fn functions_end_at_their_own_brace() {
        let file = Rust::new("x/src/a.rs", "fn a(f: fn(u8) -> u8) -> [u8; 2] {\n    { }\n}\ntrait T { fn b(); }\n");
        let found: Vec<_> = file.functions().map(|f| (f.name, f.lines)).collect();
        assert_eq!(found, [("a", 1..4)]);
    }
}
