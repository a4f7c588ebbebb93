//! What a new node and the authority's node say to each other, on one stream: a wish, and its answer, each as JSON.
//!
//! ```text
//! newcomer                                authority's node
//!    │  QUIC, application protocol kith-join/1: no certificate ─►
//!    │  ◄─ its certificate and the authority's: the hash is the token's, or the newcomer leaves
//!    │  Wish { node, secret, request for its own key, clock } ─►   invitation? clocks? then sign
//!    │  ◄─ Answer: the certificate and what it needs to start, or why not
//! ```

use serde::{Deserialize, Serialize};

/// The most bytes of a wish: a signing request takes 500.
pub(super) const WISH_MAX: usize = 8 << 10;

/// The most bytes of an answer.
pub(super) const ANSWER_MAX: usize = 64 << 10;

/// What a newcomer wants.
#[derive(Serialize, Deserialize)]
pub(super) struct Wish {
    pub(super) node: String,
    pub(super) secret: String,
    /// A certificate signing request in PEM form: the public key, signed by the private one.
    pub(super) request: String,
    /// Milliseconds since 1970 by the newcomer's clock.
    pub(super) wall_ms: u64,
    /// The host's own name, for people.
    #[serde(default)]
    pub(super) hostname: String,
}

/// What it gets.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Granted(Grant),
    Refused(String),
}

/// All that a new node needs beside its key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Grant {
    /// Its certificate, in PEM form.
    pub certificate: String,
    /// The authority's.
    pub authority: String,
    /// The cluster's name.
    pub cluster: String,
    /// The range of all servers.
    pub cidr: String,
    /// The server's number.
    pub number: u8,
    /// Where other nodes are dialled, `host:port`.
    pub seeds: Vec<String>,
}
