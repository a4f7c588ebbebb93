//! What can go wrong between this client and the store, by what the caller would do about it.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use http::StatusCode;

use crate::endpoint::Endpoint;

/// A failed call, or the reason a stream ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers at the endpoint: nothing was sent.
    #[error("cannot reach {endpoint}")]
    Unreachable {
        /// Where it was tried.
        endpoint: Endpoint,
        /// What the operating system says.
        source: Cause,
    },
    /// The answer did not begin, or did not end, in time. A write may have happened.
    #[error("{endpoint} did not answer within {} s", .waited.as_secs())]
    TimedOut {
        /// Where it was asked.
        endpoint: Endpoint,
        /// How long the client waited.
        waited: Duration,
    },
    /// The connection broke after the request was sent. A write may have happened.
    #[error("the connection to {endpoint} broke")]
    Broken {
        /// Where it was asked.
        endpoint: Endpoint,
        /// What the operating system or the peer says.
        source: Cause,
    },
    /// A stream that says from time to time that it is alive has not done so: the store hangs, or its host is gone.
    #[error("{endpoint} has said nothing for {} s", .waited.as_secs())]
    Silent {
        /// Where it was followed.
        endpoint: Endpoint,
        /// How long the client waited.
        waited: Duration,
    },
    /// The server refused the request as a whole, in its own words.
    #[error("{message} (HTTP {})", .status.as_u16())]
    Refused {
        /// The status of the answer.
        status: StatusCode,
        /// The server's message, or the status' name when it gave none.
        message: String,
    },
    /// The server ended a stream that had begun, in its own words.
    #[error("{}", said(.0))]
    Stopped(String),
    /// The stream ended before its end marker.
    #[error("the answer ended before it was complete")]
    Incomplete,
    /// A change is missing or repeated: what the consumer holds can no longer be trusted.
    #[error("change {expected} was due and {got} came: changes are missing or repeated")]
    Gap {
        /// The change id that had to come next.
        expected: u64,
        /// The one that came.
        got: u64,
    },
    /// The answer is not what the API promises: the server is of another kind or version.
    #[error("the answer is not understood: {excerpt}")]
    Malformed {
        /// The beginning of what was not understood.
        excerpt: String,
        /// What the parser says.
        source: Cause,
    },
    /// One line or body of the answer is larger than this client takes.
    #[error("the answer holds a line or body of more than {max} bytes")]
    TooLarge {
        /// The bound, in bytes.
        max: usize,
    },
    /// The HTTP client could not be set up, or a request could not be written.
    #[error("cannot prepare the request")]
    Prepare(#[source] Cause),
}

/// Words of the line that ends a stream for a reason which is gone when the client asks again.
const PASSING: [&str; 2] = ["slow consumer", "shutting down"];

/// A server may say nothing at all; whoever reads the error is told that.
fn said(message: &str) -> &str {
    if message.trim().is_empty() { "the server ended the stream and gave no reason" } else { message }
}

impl Error {
    /// Whether the same request may succeed later without anybody changing it.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Unreachable { .. } | Error::TimedOut { .. } | Error::Broken { .. } => true,
            Error::Silent { .. } | Error::Incomplete => true,
            Error::Refused { status, .. } => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            Error::Stopped(message) => PASSING.iter().any(|words| message.contains(words)),
            Error::Gap { .. } | Error::Malformed { .. } | Error::TooLarge { .. } | Error::Prepare(_) => false,
        }
    }

    /// What a person may do about it, where there is something to say.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Error::Unreachable { endpoint: Endpoint::Unix(_), .. } => {
                Some("is the agent running, and may you open its socket? It belongs to the agent's group")
            }
            Error::Unreachable { endpoint: Endpoint::Http(_), .. } => {
                Some("start it with `kith dev` or `kith agent`, or name another with --api or KITH_API")
            }
            Error::TimedOut { .. } | Error::Broken { .. } => {
                Some("a write may have happened: read before repeating it")
            }
            Error::Refused { status, .. } => refused_hint(*status),
            Error::Gap { .. } => Some("start the subscription anew"),
            Error::Malformed { .. } => Some("is this the API of a Kith of the same release?"),
            Error::TooLarge { .. } => Some("select fewer or smaller columns"),
            Error::Stopped(_) | Error::Incomplete | Error::Silent { .. } | Error::Prepare(_) => None,
        }
    }

    /// A short excerpt of an answer that does not parse, and why.
    pub(crate) fn malformed(text: &[u8], source: &serde_json::Error) -> Error {
        const SHOWN: usize = 80;
        let text = String::from_utf8_lossy(text);
        let mut excerpt: String = text.chars().take(SHOWN).collect();
        if excerpt.len() < text.len() {
            excerpt.push('…');
        }
        Error::Malformed { excerpt, source: Cause(source.to_string()) }
    }
}

fn refused_hint(status: StatusCode) -> Option<&'static str> {
    match status {
        StatusCode::UNAUTHORIZED => Some("the API wants a token: name its file with --token-file or KITH_TOKEN_FILE"),
        StatusCode::FORBIDDEN => Some("the token's scope does not cover this"),
        StatusCode::PAYLOAD_TOO_LARGE => Some("a request holds at most 1 MiB: split it"),
        StatusCode::SERVICE_UNAVAILABLE => Some("the store is starting, stopping or overloaded: try again"),
        StatusCode::INSUFFICIENT_STORAGE => Some("the store's disk is full"),
        _ => None,
    }
}

/// The innermost reason of a library's error, as text: the layers in between say nothing a person could use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause(String);

impl Cause {
    /// The innermost reason of `error`.
    pub(crate) fn of(error: &(dyn StdError + 'static)) -> Cause {
        let mut innermost = error;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        Cause(innermost.to_string())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Cause {}

/// An error with all its sources on one line, outermost first: for the one place that logs or prints it.
#[derive(Debug, Clone, Copy)]
pub struct Chain<'a>(pub &'a (dyn StdError + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut error = self.0;
        while let Some(source) = error.source() {
            write!(f, ": {source}")?;
            error = source;
        }
        Ok(())
    }
}
