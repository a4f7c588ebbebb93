//! SVCB and HTTPS (RFC 9460 §2.1): priority, target, then `key=value` pairs, which the wire wants by number.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Fields, parse, wrong};
use crate::zonefile::lexer::{Quotes, Word};
use crate::zonefile::text;

/// The keys (RFC 9460 §14.3.2, RFC 9461, RFC 9540) by number.
const KEYS: [&str; 9] =
    ["mandatory", "alpn", "no-default-alpn", "port", "ipv4hint", "ech", "ipv6hint", "dohpath", "ohttp"];

impl<'a, W: Iterator<Item = Word<'a>>> Fields<'_, W> {
    pub(super) fn svcb(&mut self, first: Word<'a>) -> Result<(), String> {
        self.number(first, 2, "a priority from 0 to 65535")?;
        let target = self.next("the target's name, `.` for the owner")?;
        self.name(target)?;
        let mut params: Vec<(u16, Vec<u8>)> = Vec::new();
        for word in &mut self.words {
            params.push(param(word)?);
        }
        params.sort();
        if let Some(twice) = params.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(format!("the key {} stands twice", shown(twice[0].0)));
        }
        if let Some((_, mandatory)) = params.first().filter(|(key, _)| *key == 0) {
            let keys = mandatory.chunks_exact(2).map(|key| u16::from_be_bytes([key[0], key[1]]));
            if let Some(absent) = keys.into_iter().find(|key| params.iter().all(|(has, _)| has != key)) {
                return Err(format!("the key {} is mandatory and absent", shown(absent)));
            }
        }
        for (key, value) in params {
            let length = u16::try_from(value.len()).map_err(|_| "a value of more than 65535 bytes")?;
            self.out.extend_from_slice(&key.to_be_bytes());
            self.out.extend_from_slice(&length.to_be_bytes());
            self.out.extend_from_slice(&value);
        }
        Ok(())
    }
}

fn shown(key: u16) -> String {
    KEYS.get(usize::from(key)).map_or_else(|| format!("key{key}"), |name| String::from(*name))
}

/// One pair in wire form.
fn param(word: Word<'_>) -> Result<(u16, Vec<u8>), String> {
    let at = word.text.iter().position(|byte| *byte == b'=');
    let (name, value) = word.text.split_at(at.unwrap_or(word.text.len()));
    let key = number(name).ok_or_else(|| wrong(word, "a key, as alpn=h2,h3"))?;
    let value = value.strip_prefix(b"=");
    let inner = value.and_then(|value| value.strip_prefix(b"\"")?.strip_suffix(b"\""));
    let quotes = if inner.is_some() { Quotes::Around } else { Quotes::None };
    let mut bytes = Vec::new();
    text::string(Word { text: inner.or(value).unwrap_or_default(), quotes }, &mut bytes)?;
    let value = match (key, value) {
        (0..=1 | 3..=7, None) => return Err(format!("the key {} needs a value", shown(key))),
        (2 | 8, Some(_)) => return Err(format!("the key {} has no value", shown(key))),
        (2 | 8, None) => Vec::new(),
        (0, Some(_)) => mandatory(&bytes)?,
        (1, Some(_)) => protocols(&bytes)?,
        (3, Some(_)) => parse::<u16>(plain(&bytes), "a port from 0 to 65535")?.to_be_bytes().into(),
        (4, Some(_)) => addresses(&bytes, |word| Ok(parse::<Ipv4Addr>(word, "an IPv4 address")?.octets().to_vec()))?,
        (6, Some(_)) => addresses(&bytes, |word| Ok(parse::<Ipv6Addr>(word, "an IPv6 address")?.octets().to_vec()))?,
        (5, Some(_)) => data_encoding::BASE64.decode(&bytes).map_err(|error| format!("ech is not base64: {error}"))?,
        (_, _) => bytes,
    };
    Ok((key, value))
}

/// The number of a key: by its name, or `key65280`.
fn number(name: &[u8]) -> Option<u16> {
    if let Some(number) = KEYS.iter().position(|key| key.as_bytes() == name) {
        return Some(number as u16);
    }
    let digits = name.strip_prefix(b"key")?;
    let sound = digits.iter().all(u8::is_ascii_digit) && (digits.len() == 1 || digits.first() != Some(&b'0'));
    // 65535 is reserved as no key at all.
    std::str::from_utf8(digits).ok().filter(|_| sound)?.parse().ok().filter(|key| *key != u16::MAX)
}

fn plain(text: &[u8]) -> Word<'_> {
    Word { text, quotes: Quotes::None }
}

fn mandatory(list: &[u8]) -> Result<Vec<u8>, String> {
    let mut keys = Vec::new();
    for name in text::list(list) {
        keys.push(number(&name).filter(|key| *key > 0).ok_or_else(|| wrong(plain(&name), "a key"))?);
    }
    keys.sort_unstable();
    keys.dedup();
    Ok(keys.iter().flat_map(|key| key.to_be_bytes()).collect())
}

fn protocols(list: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    for name in text::list(list) {
        let length = u8::try_from(name.len()).ok().filter(|length| *length > 0);
        out.push(length.ok_or_else(|| wrong(plain(&name), "a protocol of 1 to 255 bytes, as h2"))?);
        out.extend_from_slice(&name);
    }
    Ok(out)
}

fn addresses(list: &[u8], octets: impl Fn(Word<'_>) -> Result<Vec<u8>, String>) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    for address in text::list(list) {
        out.extend_from_slice(&octets(plain(&address))?);
    }
    Ok(out)
}
