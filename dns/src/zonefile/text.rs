//! Words of a zone file in wire form: names, strings, numbers.

use super::lexer::{Quotes, Word};
use crate::name::{LABEL_MAX, NAME_MAX};

/// Longest TTL (RFC 2181 §8).
pub(crate) const TTL_MAX: u32 = 0x7fff_ffff;

/// Appends a name in wire form, letter case kept, with its closing zero. A relative one is completed by `origin`.
pub(crate) fn name(word: Word<'_>, origin: Option<&[u8]>, out: &mut Vec<u8>) -> Result<(), String> {
    let shown = || String::from_utf8_lossy(word.text).into_owned();
    let without = "a relative name, and no $ORIGIN says where it ends: end it with a dot, or set $ORIGIN";
    if word.quotes == Quotes::Around {
        return Err(format!("\"{}\": a name stands without quotes", shown()));
    }
    match word.text {
        b"@" => {
            out.extend_from_slice(origin.ok_or("@, and no $ORIGIN says what it is: set $ORIGIN")?);
            return Ok(());
        }
        b"." => {
            out.push(0);
            return Ok(());
        }
        _ => {}
    }
    let start = out.len();
    let mut label = start;
    out.push(0);
    let mut bytes = Bytes(word.text);
    while let Some(byte) = bytes.next()? {
        let length = out.len() - label - 1;
        if byte == Byte::Plain(b'.') {
            if length == 0 {
                return Err(format!("`{}`: an empty label", shown()));
            }
            out[label] = length as u8;
            label = out.len();
            out.push(0);
        } else if length == LABEL_MAX {
            return Err(format!("`{}`: a label of more than {LABEL_MAX} bytes", shown()));
        } else {
            out.push(byte.value());
        }
        if out.len() - start > NAME_MAX {
            return Err(format!("`{}`: a name of more than {NAME_MAX} bytes", shown()));
        }
    }
    if label + 1 < out.len() {
        out[label] = (out.len() - label - 1) as u8;
        out.extend_from_slice(origin.ok_or_else(|| format!("`{}`: {without}", shown()))?);
        if out.len() - start > NAME_MAX {
            return Err(format!("`{}`: with its origin a name of more than {NAME_MAX} bytes", shown()));
        }
    }
    Ok(())
}

/// Appends the bytes of a string, escapes read.
pub(crate) fn string(word: Word<'_>, out: &mut Vec<u8>) -> Result<(), String> {
    let mut bytes = Bytes(word.text);
    while let Some(byte) = bytes.next()? {
        if byte == Byte::Plain(b'"') {
            return Err(String::from("a quote inside a word: put the whole word in quotes, or write \\\""));
        }
        out.push(byte.value());
    }
    Ok(())
}

/// Appends a string of at most 255 bytes with its length before it (RFC 1035 §3.3).
pub(crate) fn character_string(word: Word<'_>, out: &mut Vec<u8>) -> Result<(), String> {
    let at = out.len();
    out.push(0);
    string(word, out)?;
    let length = out.len() - at - 1;
    out[at] = u8::try_from(length)
        .map_err(|_| format!("a string of {length} bytes, where 255 fit: divide it into several, as \"…\" \"…\""))?;
    Ok(())
}

/// A number of seconds: `3600`, or with units `1h30m` (`w`, `d`, `h`, `m`, `s`).
pub(crate) fn ttl(text: &[u8]) -> Option<u32> {
    let (mut sum, mut number, mut digits) = (0_u64, 0_u64, 0);
    for byte in text {
        let unit = match byte.to_ascii_lowercase() {
            digit @ b'0'..=b'9' => {
                number = number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
                digits += 1;
                continue;
            }
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86_400,
            b'w' => 604_800,
            _ => return None,
        };
        if digits == 0 {
            return None;
        }
        sum = sum.checked_add(number.checked_mul(unit)?)?;
        (number, digits) = (0, 0);
    }
    let sum = sum.checked_add(number)?;
    u32::try_from(sum).ok().filter(|seconds| *seconds <= TTL_MAX && !text.is_empty())
}

/// A byte of a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Byte {
    Plain(u8),
    /// Written as `\X` or `\DDD`, so that it means itself.
    Escaped(u8),
}

impl Byte {
    fn value(self) -> u8 {
        match self {
            Byte::Plain(value) | Byte::Escaped(value) => value,
        }
    }
}

/// The bytes of a word.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> Result<Option<Byte>, &'static str> {
        let Some((first, rest)) = self.0.split_first() else { return Ok(None) };
        self.0 = rest;
        if *first != b'\\' {
            return Ok(Some(Byte::Plain(*first)));
        }
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count().min(3);
        match (digits, rest.first()) {
            (3, _) => {
                self.0 = &rest[3..];
                let value = rest[..3].iter().fold(0_u16, |sum, digit| sum * 10 + u16::from(digit - b'0'));
                let value = u8::try_from(value).map_err(|_| "\\DDD: a byte is from \\000 to \\255")?;
                Ok(Some(Byte::Escaped(value)))
            }
            (0, Some(other)) => {
                self.0 = &rest[1..];
                Ok(Some(Byte::Escaped(*other)))
            }
            _ => Err("a backslash is followed by three digits or by one other character"),
        }
    }
}

/// Splits a list of values at its commas (RFC 9460 appendix A.1): `\,` is a comma inside a value, `\\` a backslash.
pub(crate) fn list(text: &[u8]) -> Vec<Vec<u8>> {
    let mut values = vec![Vec::new()];
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b',' => values.push(Vec::new()),
            b'\\' => values.last_mut().into_iter().for_each(|value| value.extend(bytes.next())),
            other => values.last_mut().into_iter().for_each(|value| value.push(*other)),
        }
    }
    values
}
