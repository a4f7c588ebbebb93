//! RDATA: the words behind a type, in wire form. Names in it are whole and keep their letter case.

mod svcb;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::lexer::Word;
use super::text;
use crate::zone::rtype;

/// Longest RDATA.
const RDATA_MAX: usize = 65_535;

/// How the RDATA of a type is written.
#[derive(Debug, Clone, Copy)]
enum Form {
    A,
    Aaaa,
    /// One name.
    Name,
    /// A number, then a name.
    Preferred,
    /// Two names.
    Names,
    Soa,
    Srv,
    /// One string or more.
    Strings,
    /// Two strings.
    Hinfo,
    Naptr,
    Caa,
    Uri,
    /// Numbers of these sizes in bytes, then hex.
    Hex(&'static [usize]),
    /// Base64 alone.
    Base64,
    Svcb,
}

/// The types that are written by name.
const TYPES: [(&str, u16, Form); 25] = [
    ("A", rtype::A, Form::A),
    ("NS", rtype::NS, Form::Name),
    ("CNAME", rtype::CNAME, Form::Name),
    ("SOA", rtype::SOA, Form::Soa),
    ("PTR", rtype::PTR, Form::Name),
    ("HINFO", 13, Form::Hinfo),
    ("MX", rtype::MX, Form::Preferred),
    ("TXT", rtype::TXT, Form::Strings),
    ("RP", 17, Form::Names),
    ("AFSDB", 18, Form::Preferred),
    ("AAAA", rtype::AAAA, Form::Aaaa),
    ("SRV", rtype::SRV, Form::Srv),
    ("NAPTR", 35, Form::Naptr),
    ("KX", 36, Form::Preferred),
    ("DS", rtype::DS, Form::Hex(&[2, 1, 1])),
    ("SSHFP", 44, Form::Hex(&[1, 1])),
    ("DHCID", 49, Form::Base64),
    ("TLSA", 52, Form::Hex(&[1, 1, 1])),
    ("SMIMEA", 53, Form::Hex(&[1, 1, 1])),
    ("OPENPGPKEY", 61, Form::Base64),
    ("SVCB", 64, Form::Svcb),
    ("HTTPS", rtype::HTTPS, Form::Svcb),
    ("SPF", 99, Form::Strings),
    ("URI", 256, Form::Uri),
    ("CAA", 257, Form::Caa),
];

/// Types that this server would answer wrongly if it took them for plain records.
const REFUSED: [(&str, u16, &str); 9] = [
    ("DNAME", 39, "DNAME renames whole trees, which is not served: write a CNAME for each name, or a wildcard CNAME"),
    ("SIG", 24, SIGNED),
    ("KEY", 25, SIGNED),
    ("NXT", 30, SIGNED),
    ("RRSIG", 46, SIGNED),
    ("NSEC", 47, SIGNED),
    ("DNSKEY", 48, SIGNED),
    ("NSEC3", 50, SIGNED),
    ("NSEC3PARAM", 51, SIGNED),
];
const SIGNED: &str = "signed zones are not served: give the zone as it is before it is signed";

/// The number of a type: by its name, or `TYPE65280` (RFC 3597 §5). `None`: the word is no type.
pub(crate) fn type_of(word: &[u8]) -> Option<Result<u16, String>> {
    let by_name = |(name, number, _): &(&str, u16, Form)| word.eq_ignore_ascii_case(name.as_bytes()).then_some(*number);
    if let Some(number) = TYPES.iter().find_map(by_name) {
        return Some(Ok(number));
    }
    if let Some((_, _, why)) = REFUSED.iter().find(|(name, _, _)| word.eq_ignore_ascii_case(name.as_bytes())) {
        return Some(Err(String::from(*why)));
    }
    let (prefix, digits) = word.split_at_checked(4)?;
    if !prefix.eq_ignore_ascii_case(b"TYPE") || digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = std::str::from_utf8(digits).ok()?.parse::<u16>();
    Some(match number {
        // RFC 6895 §3.1: 0, OPT, and the types of questions.
        Ok(0 | rtype::OPT | 128..=255) | Err(_) => {
            Err(String::from("this number is not a type that a record can have"))
        }
        Ok(number) => match REFUSED.iter().find(|(_, refused, _)| *refused == number) {
            Some((_, _, why)) => Err(String::from(*why)),
            None => Ok(number),
        },
    })
}

/// Appends the RDATA of these words.
pub(crate) fn rdata<'a>(
    rtype: u16,
    words: impl Iterator<Item = Word<'a>>,
    origin: Option<&[u8]>,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let mut fields = Fields { words, origin, out };
    let start = fields.out.len();
    let first = fields.words.next().ok_or("nothing behind the type: what is its value?")?;
    let form = TYPES.iter().find(|(_, number, _)| *number == rtype).map(|(_, _, form)| *form);
    match (first.text, form) {
        (br"\#", _) => {
            fields.generic()?;
            if let Some(form) = form {
                check(form, &fields.out[start..])?;
            }
        }
        (_, None) => return Err(String::from("a type without a form of its own is written as `\\# LENGTH HEX`")),
        (_, Some(form)) => fields.form(form, first)?,
    }
    if fields.words.next().is_some() {
        return Err(String::from("more behind the value than its type has: is a quote, a `;` or a line end missing?"));
    }
    if fields.out.len() - start > RDATA_MAX {
        return Err(format!("a value of more than {RDATA_MAX} bytes"));
    }
    Ok(())
}

/// The words of one RDATA, being read.
struct Fields<'o, W> {
    words: W,
    origin: Option<&'o [u8]>,
    out: &'o mut Vec<u8>,
}

impl<'a, W: Iterator<Item = Word<'a>>> Fields<'_, W> {
    fn form(&mut self, form: Form, first: Word<'a>) -> Result<(), String> {
        match form {
            Form::A => {
                let address: Ipv4Addr = parse(first, "an IPv4 address, as 192.0.2.1")?;
                self.out.extend_from_slice(&address.octets());
            }
            Form::Aaaa => {
                let address: Ipv6Addr = parse(first, "an IPv6 address, as 2001:db8::1")?;
                self.out.extend_from_slice(&address.octets());
            }
            Form::Name => self.name(first)?,
            Form::Names => {
                self.name(first)?;
                let second = self.next("a second name")?;
                self.name(second)?;
            }
            Form::Preferred => {
                self.number(first, 2, "a preference from 0 to 65535")?;
                let host = self.next("a name behind the preference")?;
                self.name(host)?;
            }
            Form::Soa => self.soa(first)?,
            Form::Srv => {
                self.number(first, 2, "a priority from 0 to 65535")?;
                for what in ["a weight from 0 to 65535", "a port from 0 to 65535"] {
                    self.next_number(2, what)?;
                }
                let target = self.next("the target's name")?;
                self.name(target)?;
            }
            Form::Strings => {
                text::character_string(first, self.out)?;
                for word in self.words.by_ref() {
                    text::character_string(word, self.out)?;
                }
            }
            Form::Hinfo => {
                text::character_string(first, self.out)?;
                let system = self.next("a second string")?;
                text::character_string(system, self.out)?;
            }
            Form::Naptr => self.naptr(first)?,
            Form::Caa => self.caa(first)?,
            Form::Uri => {
                self.number(first, 2, "a priority from 0 to 65535")?;
                self.next_number(2, "a weight from 0 to 65535")?;
                let target = self.next("a URI in quotes")?;
                text::string(target, self.out)?;
            }
            Form::Hex(numbers) => {
                let mut word = first;
                for bytes in numbers {
                    self.number(word, *bytes, "a number")?;
                    word = self.next("hex digits")?;
                }
                self.digits(Some(word), &Digits::Hex)?;
            }
            Form::Base64 => self.digits(Some(first), &Digits::Base64)?,
            Form::Svcb => self.svcb(first)?,
        }
        Ok(())
    }

    fn soa(&mut self, first: Word<'a>) -> Result<(), String> {
        self.name(first)?;
        let person = self.next("the responsible person's name")?;
        self.name(person)?;
        self.next_number(4, "the serial number, from 0 to 4294967295")?;
        for what in ["the refresh time", "the retry time", "the expire time", "the time of negative answers"] {
            let word = self.next(what)?;
            let seconds = text::ttl(word.text).ok_or_else(|| wrong(word, &format!("{what}, as 3600 or 1h")))?;
            self.out.extend_from_slice(&seconds.to_be_bytes());
        }
        Ok(())
    }

    fn naptr(&mut self, first: Word<'a>) -> Result<(), String> {
        self.number(first, 2, "an order from 0 to 65535")?;
        self.next_number(2, "a preference from 0 to 65535")?;
        for what in ["flags in quotes", "services in quotes", "an expression in quotes"] {
            let word = self.next(what)?;
            text::character_string(word, self.out)?;
        }
        let replacement = self.next("a replacement, `.` for none")?;
        self.name(replacement)
    }

    fn caa(&mut self, first: Word<'a>) -> Result<(), String> {
        self.number(first, 1, "flags from 0 to 255")?;
        let tag = self.next("a tag, as issue")?;
        if tag.text.is_empty() || !tag.text.iter().all(u8::is_ascii_alphanumeric) {
            return Err(wrong(tag, "a tag of letters and digits, as issue"));
        }
        text::character_string(tag, self.out)?;
        let value = self.next("a value in quotes")?;
        text::string(value, self.out)
    }

    /// `\# LENGTH HEX` (RFC 3597 §5).
    fn generic(&mut self) -> Result<(), String> {
        let word = self.next("the length behind \\#")?;
        let length: u16 = parse(word, "a length from 0 to 65535")?;
        let start = self.out.len();
        self.digits(None, &Digits::Hex)?;
        let found = self.out.len() - start;
        if found != usize::from(length) {
            return Err(format!("{found} bytes of hex behind \\#, where {length} are announced"));
        }
        Ok(())
    }

    /// All words left, as one text of digits.
    fn digits(&mut self, first: Option<Word<'a>>, digits: &Digits) -> Result<(), String> {
        let mut all = Vec::new();
        for word in first.into_iter().chain(&mut self.words) {
            all.extend_from_slice(word.text);
        }
        let decoded = match digits {
            Digits::Hex => data_encoding::HEXLOWER_PERMISSIVE.decode(&all),
            Digits::Base64 => data_encoding::BASE64.decode(&all),
        };
        let decoded = decoded.map_err(|error| match digits {
            Digits::Hex => format!("not pairs of hex digits: {error}"),
            Digits::Base64 => format!("not base64: {error}"),
        })?;
        self.out.extend_from_slice(&decoded);
        Ok(())
    }

    fn next(&mut self, what: &str) -> Result<Word<'a>, String> {
        self.words.next().ok_or_else(|| format!("the value ends early: {what} is missing"))
    }

    fn name(&mut self, word: Word<'a>) -> Result<(), String> {
        text::name(word, self.origin, self.out)
    }

    fn next_number(&mut self, bytes: usize, what: &str) -> Result<(), String> {
        let word = self.next(what)?;
        self.number(word, bytes, what)
    }

    /// A number of so many bytes.
    fn number(&mut self, word: Word<'a>, bytes: usize, what: &str) -> Result<(), String> {
        let number: u32 = parse(word, what)?;
        let number = number.to_be_bytes();
        let (high, low) = number.split_at(4 - bytes);
        if high.iter().any(|byte| *byte != 0) {
            return Err(wrong(word, what));
        }
        self.out.extend_from_slice(low);
        Ok(())
    }
}

enum Digits {
    Hex,
    Base64,
}

/// Whether bytes that were given in hex are RDATA of a type that this server reads itself.
fn check(form: Form, rdata: &[u8]) -> Result<(), String> {
    let names = |rest: &[u8], count| {
        let rest = (0..count).try_fold(rest, |rest, _| name_end(rest).map(|end| &rest[end..]));
        rest.map(<[u8]>::len)
    };
    let sound = match form {
        Form::A => rdata.len() == 4,
        Form::Aaaa => rdata.len() == 16,
        Form::Name => names(rdata, 1) == Some(0),
        Form::Names => names(rdata, 2) == Some(0),
        Form::Preferred => rdata.get(2..).and_then(|rest| names(rest, 1)) == Some(0),
        Form::Srv => rdata.get(6..).and_then(|rest| names(rest, 1)) == Some(0),
        Form::Soa => names(rdata, 2) == Some(20),
        Form::Strings
        | Form::Hinfo
        | Form::Naptr
        | Form::Caa
        | Form::Uri
        | Form::Hex(_)
        | Form::Base64
        | Form::Svcb => true,
    };
    if sound { Ok(()) } else { Err(String::from("these bytes are no value of this type")) }
}

/// Bytes of the uncompressed name that `wire` begins with.
fn name_end(wire: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match usize::from(*wire.get(at)?) {
            0 => return (at < crate::name::NAME_MAX).then_some(at + 1),
            length if length <= crate::name::LABEL_MAX => at += 1 + length,
            _ => return None,
        }
    }
}

fn parse<T: FromStr>(word: Word<'_>, what: &str) -> Result<T, String> {
    let text = std::str::from_utf8(word.text).ok().filter(|text| !text.starts_with('+'));
    text.and_then(|text| text.parse().ok()).ok_or_else(|| wrong(word, what))
}

fn wrong(word: Word<'_>, what: &str) -> String {
    let shown: String = String::from_utf8_lossy(word.text).chars().take(80).collect();
    format!("`{shown}` where {what} is wanted")
}
