//! Kith's store: SQLite with a CRDT layer, membership, replication, subscriptions, HTTP API.
