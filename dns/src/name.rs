//! Names: parsed once at the edge, kept as lower-cased wire bytes inside.
//!
//! A *relative* name is a run of labels without the closing zero: what stands before the origin of a zone. All zones
//! serve the same relative names, so one table of them is enough, whatever the number of zones.

use std::fmt;
use std::str::FromStr;

/// Longest label in bytes (RFC 1035 §2.3.4).
pub(crate) const LABEL_MAX: usize = 63;
/// Longest name on the wire in bytes, with its closing zero (RFC 1035 §2.3.4).
pub(crate) const NAME_MAX: usize = 255;

/// Why a text is not a name that can be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("empty name or label")]
    Empty,
    /// A label over 63 bytes.
    #[error("label of {0} bytes (at most 63)")]
    LongLabel(usize),
    /// A name over 255 bytes on the wire, or a zone that leaves no room for the names in it.
    #[error("name of {0} bytes is too long")]
    LongName(usize),
    /// Something else than letters, digits, `-` and `_`, or a `-` at the edge of a label.
    #[error("label {0:?} has more than letters, digits, - and _, or begins or ends with -")]
    Characters(String),
}

/// Checks one label by the rule of all names Kith serves: letters, digits, `-` inside, `_`; 1 to 63 bytes. Lower-cased.
pub(crate) fn label(text: &str) -> Result<String, NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > LABEL_MAX {
        return Err(NameError::LongLabel(text.len()));
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if !text.bytes().all(allowed) || text.starts_with('-') || text.ends_with('-') {
        return Err(NameError::Characters(text.chars().take(LABEL_MAX).collect()));
    }
    Ok(text.to_ascii_lowercase())
}

/// The apex of a zone of ours, such as `internal`. At most 128 bytes on the wire, so that the names below it have room.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ZoneName {
    /// Lower-cased wire form, with the closing zero.
    wire: Box<[u8]>,
}

impl ZoneName {
    /// Longest apex on the wire. The longest name below it that matters, `{ID}.vm.{APP}`, has 81 bytes.
    const WIRE_MAX: usize = 128;

    /// Lower-cased wire form, with the closing zero.
    #[must_use]
    pub fn wire(&self) -> &[u8] {
        &self.wire
    }
}

impl FromStr for ZoneName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let labels: Result<Vec<String>, NameError> =
            text.strip_suffix('.').unwrap_or(text).split('.').map(label).collect();
        let labels = labels?;
        let wire = [&*relative(&labels.iter().map(String::as_str).collect::<Vec<_>>())?, &[0]].concat();
        if wire.len() > Self::WIRE_MAX {
            return Err(NameError::LongName(wire.len()));
        }
        Ok(Self { wire: wire.into() })
    }
}

impl Default for ZoneName {
    /// `internal`, which is reserved for private use.
    fn default() -> Self {
        Self { wire: (*b"\x08internal\0").into() }
    }
}

impl fmt::Display for ZoneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text(&self.wire[..self.wire.len() - 1]))
    }
}

impl fmt::Debug for ZoneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The relative name of these labels, from left to right. They are checked by [`label`], or constants of ours, before.
pub(crate) fn relative(labels: &[&str]) -> Result<Box<[u8]>, NameError> {
    let len = labels.iter().map(|label| 1 + label.len()).sum();
    if len >= NAME_MAX {
        return Err(NameError::LongName(len + 1));
    }
    let mut name = Vec::with_capacity(len);
    for label in labels {
        match label.len() {
            0 => return Err(NameError::Empty),
            1..=LABEL_MAX => name.push(label.len() as u8),
            long => return Err(NameError::LongLabel(long)),
        }
        name.extend_from_slice(label.as_bytes());
    }
    Ok(name.into())
}

/// A relative name as people read it. Bytes that a text name cannot have are written as `\DDD` (RFC 1035 §5.1).
pub(crate) fn text(relative: &[u8]) -> String {
    use fmt::Write as _;
    let mut out = String::with_capacity(relative.len());
    let mut rest = relative;
    while let Some((len, tail)) = rest.split_first() {
        let (label, tail) = tail.split_at(usize::from(*len).min(tail.len()));
        if !out.is_empty() {
            out.push('.');
        }
        for byte in label {
            if byte.is_ascii_graphic() && *byte != b'.' && *byte != b'\\' {
                out.push(char::from(*byte));
            } else {
                write!(out, "\\{byte:03}").expect("writing to a String cannot fail");
            }
        }
        rest = tail;
    }
    out
}

/// Whether these bytes are a relative name that fits below every origin, wherever they were read from.
pub(crate) fn is_relative(name: &[u8]) -> bool {
    let mut rest = name;
    while let Some((label, parent)) = split_first(rest) {
        if label.is_empty() || label.len() > LABEL_MAX {
            return false;
        }
        rest = parent;
    }
    rest.is_empty() && !name.is_empty() && name.len() < NAME_MAX
}

/// Splits the first label off a relative name.
pub(crate) fn split_first(relative: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = relative.split_first()?;
    rest.split_at_checked(usize::from(*len))
}

/// A record type as people write it.
#[must_use]
pub fn rtype_name(number: u16) -> String {
    match hickory_proto::rr::RecordType::from(number) {
        hickory_proto::rr::RecordType::Unknown(number) => format!("TYPE{number}"),
        known => known.to_string(),
    }
}

/// A response code as people write it.
#[must_use]
pub fn rcode_name(number: u8) -> String {
    let known = crate::query::Rcode::ALL.into_iter().find(|rcode| *rcode as u16 == u16::from(number));
    known.map_or_else(|| format!("RCODE{number}"), |rcode| rcode.name().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_name_is_lower_cased_and_may_end_in_a_dot() {
        let zone: ZoneName = "Corp.Internal.".parse().unwrap();
        assert_eq!(zone.wire(), b"\x04corp\x08internal\0");
        assert_eq!(zone.to_string(), "corp.internal");
        assert_eq!(ZoneName::default(), "internal".parse().unwrap());
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_its_reason() {
        assert_eq!("".parse::<ZoneName>(), Err(NameError::Empty));
        assert_eq!("a..b".parse::<ZoneName>(), Err(NameError::Empty));
        assert_eq!("x".repeat(64).parse::<ZoneName>(), Err(NameError::LongLabel(64)));
        assert!(matches!("a b".parse::<ZoneName>(), Err(NameError::Characters(_))));
        assert!(matches!("-a".parse::<ZoneName>(), Err(NameError::Characters(_))));
        let long = vec!["x".repeat(60); 3].join(".");
        assert!(matches!(long.parse::<ZoneName>(), Err(NameError::LongName(_))));
    }

    #[test]
    fn a_relative_name_never_outgrows_the_wire() {
        let (long, last) = ("x".repeat(63), "x".repeat(61));
        assert_eq!(relative(&[long.as_str(); 4]), Err(NameError::LongName(257)));
        assert_eq!(relative(&[&long, &long, &long, &last]).map(|name| name.len()), Ok(254));
    }
}
