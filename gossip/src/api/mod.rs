//! The HTTP API: what clients, `kith` and the other parts of a node speak to the store.
//!
//! Wire-compatible with Corrosion's v1 API as its clients use it. HTTP/1.1, and HTTP/2 with prior knowledge, on the same
//! TCP ports and Unix socket. Every route:
//!
//! ```text
//! POST /v1/transactions[?timeout=S&replicas=N] a list of statements, one transaction
//! POST /v1/queries[?timeout=S]                 one read-only statement, NDJSON
//! POST /v1/subscriptions[?from=N&skip_rows=B]  a live query, NDJSON
//! GET  /v1/subscriptions/{uuid}                the same, attached to again
//! POST /v1/updates/{table}                     keys of rows that change, NDJSON
//! POST /v1/migrations                          a list of schema texts
//! POST /v1/table_stats                         row counts
//! GET  /v1/health[?gaps=&p99_lag=&max_queue=&failure_status=]
//! GET  /v1/members[?watch=true]                NDJSON
//! GET  /v1/backup                              the store, as a database file
//! GET  /v1/verify                              whether log and digest are what the rows say
//! PUT  /v1/status/{part}                       what a part says of itself, shown by GET /v1/status
//! PUT  /v1/metrics/{part}                      figures of a part, given with the node's own by GET /metrics
//! GET  /v1/digest   GET /v1/status   GET /live   GET /ready   GET /metrics   GET /openapi.json
//! ```
//! Errors are `{"error":"…"}` (in the envelope of transactions where there is one); a stream that fails ends with that
//! line.
//!
//! Reading order: [`config`] and [`membership`] are what the API is given; `server` accepts connections, on `listen`ers,
//! under `deadlines`, while there is `room`; `gate` lets requests in; `statement` reads what they carry; one module per family of routes answers.

pub mod config;
pub mod membership;

mod listen;

mod deadlines;
mod room;

mod server;

mod error;
mod gate;
mod request;
pub(crate) mod statement;
mod stream;

mod backup;
mod metrics;
mod migrations;
mod queries;
mod replicas;
mod reports;
mod status;
mod subscribe;
mod transactions;
mod updates;

mod openapi;
mod routes;

pub use config::{ApiConfig, Scope, Token, TokenError, Tokens, TokensError};
pub use listen::BindError;
pub use membership::{
    Alarm, Alone, Certificate, Count, Holding, Member, MemberState, Membership, PeerFigures, RefusedFigures,
    ReplicationFigures,
};
pub use server::{Addrs, Api, Parts};
