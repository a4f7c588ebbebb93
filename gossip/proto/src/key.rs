//! Primary keys as bytes: equal keys have equal bytes on every node, and bytes sort as the keys do.
//!
//! Per column a tag, then INTEGER as 8 big-endian bytes with the sign flipped, TEXT and BLOB with each zero byte followed
//! by 0xFF and two zero bytes at the end (so a shorter text sorts before a longer one that begins with it).

use std::fmt;

use thiserror::Error;

use crate::Value;

/// An encoded primary key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Box<[u8]>);

/// Why values are not a primary key, or bytes not an encoded one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    /// NULL in a key column: SQLite lets it be, but no two nodes would agree which row it is.
    #[error("a primary key column is NULL")]
    Null,
    /// A float in a key column: 1 and 1.0 would be one key here and two there.
    #[error("a primary key column is REAL")]
    Real,
    /// Bytes that no key encodes to.
    #[error("not an encoded key")]
    Malformed,
}

const INTEGER: u8 = 1;
const TEXT: u8 = 3;
const BLOB: u8 = 4;
const SIGN: u64 = 1 << 63;

impl Key {
    /// Encodes the key columns' values, in the order of the key.
    pub fn encode<'a>(values: impl IntoIterator<Item = &'a Value>) -> Result<Self, KeyError> {
        let mut out = Vec::with_capacity(24);
        for value in values {
            match value {
                Value::Null => return Err(KeyError::Null),
                Value::Real(_) => return Err(KeyError::Real),
                Value::Integer(i) => {
                    out.push(INTEGER);
                    out.extend_from_slice(&(i.cast_unsigned() ^ SIGN).to_be_bytes());
                }
                Value::Text(bytes) => push_escaped(&mut out, TEXT, bytes),
                Value::Blob(bytes) => push_escaped(&mut out, BLOB, bytes),
            }
        }
        Ok(Self(out.into()))
    }

    /// The key columns' values.
    pub fn decode(&self) -> Result<Vec<Value>, KeyError> {
        let mut rest = &*self.0;
        let mut values = Vec::new();
        while let Some((&tag, after)) = rest.split_first() {
            rest = after;
            values.push(match tag {
                INTEGER => {
                    let (bytes, after) = rest.split_first_chunk::<8>().ok_or(KeyError::Malformed)?;
                    rest = after;
                    Value::Integer((u64::from_be_bytes(*bytes) ^ SIGN).cast_signed())
                }
                TEXT => Value::Text(take_escaped(&mut rest)?),
                BLOB => Value::Blob(take_escaped(&mut rest)?),
                _ => return Err(KeyError::Malformed),
            });
        }
        Ok(values)
    }

    /// Takes bytes from a peer or the disk; refuses what [`Key::encode`] does not produce.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let key = Self(bytes.into());
        let canonical = Self::encode(&key.decode()?)?;
        if canonical == key { Ok(key) } else { Err(KeyError::Malformed) }
    }

    /// The encoded bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

fn push_escaped(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    for &byte in bytes {
        out.push(byte);
        if byte == 0 {
            out.push(0xFF);
        }
    }
    out.extend_from_slice(&[0, 0]);
}

fn take_escaped(rest: &mut &[u8]) -> Result<Box<[u8]>, KeyError> {
    let mut bytes = Vec::new();
    let mut at = 0;
    loop {
        match (rest.get(at), rest.get(at + 1)) {
            (Some(0), Some(0xFF)) => {
                bytes.push(0);
                at += 2;
            }
            (Some(0), Some(0)) => {
                *rest = &rest[at + 2..];
                return Ok(bytes.into());
            }
            (Some(0) | None, _) => return Err(KeyError::Malformed),
            (Some(&byte), _) => {
                bytes.push(byte);
                at += 1;
            }
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.decode() {
            Ok(values) => f.debug_list().entries(values).finish(),
            Err(_) => write!(f, "{:02x?}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key_value() -> impl Strategy<Value = Value> {
        let bytes = || proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xFF), any::<u8>()], 0..6);
        prop_oneof![
            any::<i64>().prop_map(Value::Integer),
            bytes().prop_map(|b| Value::Text(b.into())),
            bytes().prop_map(|b| Value::Blob(b.into())),
        ]
    }

    proptest! {
        #[test]
        fn a_key_survives_its_encoding(values in proptest::collection::vec(key_value(), 0..4)) {
            let key = Key::encode(&values).unwrap();
            prop_assert_eq!(key.decode().unwrap(), values);
            prop_assert_eq!(Key::from_bytes(key.as_bytes()), Ok(key));
        }

        #[test]
        fn bytes_sort_as_keys_do(a in proptest::collection::vec(key_value(), 2), b in proptest::collection::vec(key_value(), 2)) {
            prop_assert_eq!(Key::encode(&a).unwrap().cmp(&Key::encode(&b).unwrap()), a.cmp(&b));
        }

        #[test]
        fn foreign_bytes_are_refused_or_canonical(bytes in proptest::collection::vec(0u8..6, 0..24)) {
            if let Ok(key) = Key::from_bytes(&bytes) {
                let canonical = Key::encode(&key.decode().unwrap()).unwrap();
                prop_assert_eq!(canonical.as_bytes(), &bytes[..]);
            }
        }
    }

    #[test]
    fn null_and_real_are_no_keys() {
        assert_eq!(Key::encode(&[Value::Null]), Err(KeyError::Null));
        assert_eq!(Key::encode(&[Value::real(1.0)]), Err(KeyError::Real));
    }
}
