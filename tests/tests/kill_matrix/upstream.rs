//! An upstream that knows one address for every name, and can become a black hole.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What every name has, for a second.
pub(crate) const ADDRESS: &str = "192.0.2.1";

/// Until its thread looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);

/// It answers until it is dropped.
#[derive(Debug)]
pub(crate) struct Upstream {
    at: SocketAddr,
    flags: Arc<Flags>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Flags {
    hole: AtomicBool,
    stop: AtomicBool,
}

impl Upstream {
    pub(crate) fn start() -> Upstream {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        socket.set_read_timeout(Some(LOOK)).expect("a bound");
        let (at, flags) = (socket.local_addr().expect("its address"), Arc::new(Flags::default()));
        let theirs = Arc::clone(&flags);
        let thread = std::thread::spawn(move || {
            let mut bytes = [0; 512];
            while !theirs.stop.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut bytes) else { continue };
                if !theirs.hole.load(Ordering::Relaxed) {
                    // Who asked and is gone is told nothing.
                    socket.send_to(&answer(&bytes[..length]), from).ok();
                }
            }
        });
        Upstream { at, flags, thread: Some(thread) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.at
    }

    /// From now on it takes questions and says nothing.
    pub(crate) fn fall_silent(&self) {
        self.flags.hole.store(true, Ordering::Relaxed);
    }

    /// It answers again.
    pub(crate) fn go_on(&self) {
        self.flags.hole.store(false, Ordering::Relaxed);
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.flags.stop.store(true, Ordering::Relaxed);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            eprintln!("the upstream panicked");
        }
    }
}

/// The question, and [`ADDRESS`] for a second. The question's OPT is left out.
fn answer(query: &[u8]) -> Vec<u8> {
    let end = query.iter().skip(12).position(|byte| *byte == 0).map_or(query.len(), |at| at + 12 + 5);
    let mut reply = query[..end.min(query.len())].to_vec();
    if reply.len() > 12 {
        reply[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 192, 0, 2, 1]);
    }
    reply
}
