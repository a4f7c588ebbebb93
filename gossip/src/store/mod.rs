//! The rows: SQLite with stamps.
