//! Typed client of the store's HTTP API.
