//! By which bytes the rows of a query with keys are found again, whole and by each of their parts.
//!
//! A result row of a plain query is one row of each of its tables. So its identity is their primary keys: one part per
//! table, each with its length before it, and in it each value with its kind and length, so that different keys never have
//! equal bytes. A table that an outer join did not match is all NULL, which no key is: its part is empty.

use kith_gossip_proto::Value;
use rusqlite::types::ValueRef;

/// Bytes of a length.
const LENGTH: usize = 4;

const INTEGER: u8 = 1;
const REAL: u8 = 2;
const TEXT: u8 = 3;
const BLOB: u8 = 4;

/// Appends the part of one table: the values of its key columns.
pub(super) fn push_part<'v>(out: &mut Vec<u8>, key: impl Iterator<Item = ValueRef<'v>>) {
    let at = out.len();
    out.extend_from_slice(&[0; LENGTH]);
    for value in key {
        match value {
            ValueRef::Null => {}
            ValueRef::Integer(number) => {
                out.push(INTEGER);
                out.extend_from_slice(&number.to_be_bytes());
            }
            ValueRef::Real(number) => {
                out.push(REAL);
                out.extend_from_slice(&number.to_bits().to_be_bytes());
            }
            ValueRef::Text(bytes) => push_sized(out, TEXT, bytes),
            ValueRef::Blob(bytes) => push_sized(out, BLOB, bytes),
        }
    }
    let length = length(out.len() - at - LENGTH);
    out[at..at + LENGTH].copy_from_slice(&length);
}

fn push_sized(out: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&length(bytes.len()));
    out.extend_from_slice(bytes);
}

/// SQLite's values are shorter than 2 GiB.
fn length(bytes: usize) -> [u8; LENGTH] {
    u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes()
}

/// The parts, in the order of the tables, each as [`push_part`] appends it.
pub(super) fn parts(identity: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = identity;
    std::iter::from_fn(move || {
        let (part, after) = rest.split_at_checked(LENGTH + read_length(rest)?)?;
        rest = after;
        Some(part)
    })
}

/// The values of a part; none of a row that is not there.
pub(super) fn values(part: &[u8]) -> Vec<Value> {
    let mut rest = part.get(LENGTH..).unwrap_or_default();
    std::iter::from_fn(|| take_value(&mut rest)).collect()
}

fn take_value(rest: &mut &[u8]) -> Option<Value> {
    let (&kind, after) = rest.split_first()?;
    if let INTEGER | REAL = kind {
        let (number, after) = after.split_first_chunk::<8>()?;
        *rest = after;
        let bits = u64::from_be_bytes(*number);
        return Some(if kind == INTEGER {
            Value::Integer(bits.cast_signed())
        } else {
            Value::real(f64::from_bits(bits))
        });
    }
    let (bytes, after) = after.get(LENGTH..)?.split_at_checked(read_length(after)?)?;
    *rest = after;
    Some(if kind == TEXT { Value::Text(bytes.into()) } else { Value::Blob(bytes.into()) })
}

fn read_length(bytes: &[u8]) -> Option<usize> {
    let (length, _) = bytes.split_first_chunk::<LENGTH>()?;
    usize::try_from(u32::from_be_bytes(*length)).ok()
}

#[cfg(test)]
mod tests {
    use super::super::line::borrowed;
    use super::*;

    #[test]
    fn an_identity_comes_apart_into_its_parts_and_their_values() {
        let keys = [
            vec![Value::text("a"), Value::Integer(-1)],
            vec![],
            vec![Value::Blob(vec![0, 1].into()), Value::real(0.5), Value::text("")],
        ];
        let mut identity = Vec::new();
        keys.iter().for_each(|key| push_part(&mut identity, key.iter().map(borrowed)));
        assert_eq!(parts(&identity).map(values).collect::<Vec<_>>(), keys);
        let mut absent = Vec::new();
        push_part(&mut absent, [ValueRef::Null, ValueRef::Null].into_iter());
        assert_eq!(Some(&absent[..]), parts(&identity).nth(1));
    }
}
