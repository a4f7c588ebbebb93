//! Kith's runner of NATS: a real nats-server as a child process, one cluster per region, found by DNS and nothing else.
//!
//! ```text
//! DNS ─► peers (a set with a memory) ─► shape ─► configuration file ─► class of the change ─► nothing, reload, restart
//!         resolve: asks   keep: last good   pure      pure: text            pure                supervise: the child
//! ```
