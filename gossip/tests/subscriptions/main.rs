//! Live queries, seen from outside: SQL in, rows and changes out, and the changes lead from each answer to the next.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod replay;

mod history;

mod query;

mod property;

mod cases;
