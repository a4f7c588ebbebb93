//! What may be set.
