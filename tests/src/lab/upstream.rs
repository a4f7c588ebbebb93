//! An upstream: a name server that knows one address for every name.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Until its thread looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);

/// It answers until it is dropped, and can become a black hole.
#[derive(Debug)]
pub struct Upstream {
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
    /// What every name has.
    pub const ADDRESS: &str = "192.0.2.1";

    /// One on loopback, whose answers may be kept for so many seconds.
    ///
    /// # Panics
    /// When there is no port.
    #[must_use]
    pub fn start(ttl: u16) -> Upstream {
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
                    socket.send_to(&answer(&bytes[..length], ttl), from).ok();
                }
            }
        });
        Upstream { at, flags, thread: Some(thread) }
    }

    /// Where it is asked.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.at
    }

    /// From now on it takes questions and says nothing.
    pub fn fall_silent(&self) {
        self.flags.hole.store(true, Ordering::Relaxed);
    }

    /// It answers again.
    pub fn go_on(&self) {
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

/// The question, and the address. The question's OPT is left out.
fn answer(query: &[u8], ttl: u16) -> Vec<u8> {
    let end = query.iter().skip(12).position(|byte| *byte == 0).map_or(query.len(), |at| at + 12 + 5);
    let mut reply = query[..end.min(query.len())].to_vec();
    if reply.len() > 12 {
        reply[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        let [high, low] = ttl.to_be_bytes();
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, high, low, 0, 4, 192, 0, 2, 1]);
    }
    reply
}
