//! A value as SQLite stores it, in one canonical form, so that equal values have equal bytes everywhere.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

/// A cell's value. Ordered NULL < INTEGER < REAL < TEXT < BLOB, then by canonical bytes or number; the order only breaks
/// ties between equal stamps, which sound sites never make.
#[derive(Clone, Debug)]
pub enum Value {
    /// SQL NULL: a value like the others, also when it wins.
    Null,
    /// 64 bits, signed.
    Integer(i64),
    /// Never NaN (SQLite stores NULL for it) and never -0.0: build it with [`Value::real`].
    Real(f64),
    /// Bytes that the writer called text. SQLite does not promise UTF-8 (`CAST(x'ff' AS TEXT)`), so neither does this.
    Text(Box<[u8]>),
    /// Bytes.
    Blob(Box<[u8]>),
}

impl Value {
    /// The canonical form of a float: -0.0 becomes 0.0, NaN becomes NULL, as SQLite itself would read it back.
    pub fn real(float: f64) -> Self {
        if float.is_nan() { Self::Null } else { Self::Real(float + 0.0) }
    }

    /// A text.
    pub fn text(text: &str) -> Self {
        Self::Text(text.as_bytes().into())
    }

    /// The text, where the value is one and its bytes are UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(bytes) => std::str::from_utf8(bytes).ok(),
            Self::Null | Self::Integer(_) | Self::Real(_) | Self::Blob(_) => None,
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Integer(_) => 1,
            Self::Real(_) => 2,
            Self::Text(_) => 3,
            Self::Blob(_) => 4,
        }
    }
}

impl Ord for Value {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) => a.cmp(b),
            (Self::Real(a), Self::Real(b)) => a.total_cmp(b),
            (Self::Text(a), Self::Text(b)) | (Self::Blob(a), Self::Blob(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Value {}

impl Hash for Value {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u8(self.rank());
        match self {
            Self::Null => {}
            Self::Integer(i) => state.write_i64(*i),
            Self::Real(f) => state.write_u64(f.to_bits()),
            Self::Text(bytes) | Self::Blob(bytes) => bytes.hash(state),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_has_one_form_and_nan_none() {
        assert_eq!(Value::real(-0.0), Value::real(0.0));
        assert_eq!(Value::real(f64::NAN), Value::Null);
        assert_ne!(Value::Real(-0.0), Value::Real(0.0), "the constructor decides, not the comparison");
    }

    #[test]
    fn kinds_are_ordered_as_written() {
        let ordered = [
            Value::Null,
            Value::Integer(i64::MIN),
            Value::Integer(i64::MAX),
            Value::real(f64::NEG_INFINITY),
            Value::real(f64::INFINITY),
            Value::text(""),
            Value::Blob([].into()),
        ];
        assert!(ordered.is_sorted_by(|a, b| a < b));
    }
}
