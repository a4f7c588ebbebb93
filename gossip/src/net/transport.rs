//! QUIC's own settings, each with its reason.

use std::time::Duration;

use quinn::{IdleTimeout, TransportConfig, VarInt};

/// A path that carries nothing for this long is dead. Short, because versions wait in a dead path's queue and because a
/// partition must be reported within 15 s; long enough for a host that is paused for a moment.
const IDLE: Duration = Duration::from_secs(5);

/// So that an idle path carries something: four of these are lost before the path counts as dead.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// What a peer may have under way on one stream: about 40 ms of a 1 Gbit/s path. A frame may be larger, it arrives in
/// parts.
const STREAM_WINDOW: u32 = 4 << 20;

/// What a peer may have under way on all streams of a connection, and so the most that a connection can make us hold.
const CONNECTION_WINDOW: u32 = 16 << 20;

/// What we may have under way, unacknowledged, on a connection. Beyond it writers wait, and the queues above them fill.
const SEND_WINDOW: u64 = 16 << 20;

/// Streams of both directions that a peer may have open: one for versions (two while one replaces another) and pulls.
const BIDI_STREAMS: u32 = 16;

/// Chitchat messages under way, one stream each. A peer sends about ten a second.
const UNI_STREAMS: u32 = 64;

/// The first guess of the round trip, before any is measured. QUIC's default of 333 ms makes a lost first packet cost a
/// second; servers are nearer to each other than browsers to servers.
const FIRST_RTT: Duration = Duration::from_millis(100);

pub(crate) fn config() -> TransportConfig {
    let mut config = TransportConfig::default();
    let idle = IdleTimeout::try_from(IDLE).expect("5 s fit in 62 bits of milliseconds");
    config
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW)
        .max_concurrent_bidi_streams(VarInt::from_u32(BIDI_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(UNI_STREAMS))
        .initial_rtt(FIRST_RTT)
        // 1,200 bytes pass every path that can carry QUIC (RFC 9000 §14); more is found by probing.
        .initial_mtu(1200)
        .min_mtu(1200)
        // Datagrams are not used.
        .datagram_receive_buffer_size(None);
    config
}
