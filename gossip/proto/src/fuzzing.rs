//! The decoders of foreign bytes as the fuzzer calls them, each with what must hold of whatever it accepts.

use crate::frame::FRAME_MAX;
use crate::{Frame, Key};

/// A decoder, and the name of its corpus.
pub type Target = (&'static str, fn(&[u8]));

/// Every one, by the name of its corpus below `fuzz/corpus`.
pub const TARGETS: &[Target] = &[("frame", frame), ("key", key)];

/// A frame that is accepted is the same after it went on, in no more bytes than came: what one peer sends, another can take.
fn frame(bytes: &[u8]) {
    let Ok(frame) = Frame::decode(bytes) else { return };
    let again = frame.encode();
    assert!(again.len() <= bytes.len().min(FRAME_MAX), "{} bytes became {}", bytes.len(), again.len());
    assert_eq!(Frame::decode(&again), Ok(frame));
}

/// A key that is accepted is the one encoding of its values.
fn key(bytes: &[u8]) {
    let Ok(key) = Key::from_bytes(bytes) else { return };
    let values = key.decode().expect("a key that was accepted is decoded");
    let again = Key::encode(&values).expect("the values of a key are a key");
    assert_eq!(again.as_bytes(), bytes);
}
