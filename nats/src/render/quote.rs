//! Values as nats-server's parser reads them. Nothing that is put between quotes here can end them.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// A string: always quoted, so that it is never a number, a variable or an include.
pub(crate) fn string(value: &str) -> String {
    bytes(value.as_bytes())
}

/// A path, byte by byte, for a name of a file is not always text.
pub(crate) fn path(value: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    bytes(value.as_os_str().as_bytes())
}

/// Printable ASCII as it is, all else by its number: the parser joins `\xC3\xA9` to what it was.
fn bytes(value: &[u8]) -> String {
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('"');
    for &byte in value {
        match byte {
            b'"' | b'\\' => quoted.extend(['\\', char::from(byte)]),
            b' '..=b'~' => quoted.push(char::from(byte)),
            _ => write!(quoted, "\\x{byte:02X}").expect("a string takes all that is written to it"),
        }
    }
    quoted.push('"');
    quoted
}

/// What a URL may have before its `@`: all but letters and digits by its number.
pub(super) fn userinfo(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("a string takes all that is written to it");
        }
    }
    encoded
}

/// A span in whole milliseconds.
pub(super) fn duration(value: Duration) -> String {
    format!("\"{}ms\"", value.as_millis())
}
