//! A load of questions to a name server, paced, from one thread.
//!
//! What is asked and what an answer must be is an [`Asker`]'s; this is the clock and the sockets. When a question was sent
//! is read just before it is; when its answer came is what the kernel wrote on the datagram, so that a generator that is late
//! to look is not taken for a server that is late to answer.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;

/// Between two looks at the clock. With 50,000 questions a second five are sent together, as containers would not be so kind.
const TICK: Duration = Duration::from_micros(100);
/// Most questions sent between two looks for answers, after a pause that was longer than meant.
const BURST: u64 = 64;
/// What a longer pause left unasked is not asked later: a generator that goes before all else and catches up takes its core from
/// who shares it, and on a small machine that is the store whose changes are awaited.
const OWED: Duration = Duration::from_millis(5);
/// Waited for answers after the last question. Who has not answered by then has not answered.
const PATIENCE: Duration = Duration::from_millis(300);
/// Of a socket, in bytes: some thousand answers, which is more than a pause of the generator lets pile up.
const BUFFER: usize = 4 << 20;
/// A generator that parks for [`TICK`] and goes before all else on its core is late by so much only when the core was not there:
/// a machine beneath it was stopped.
const PAUSE: Duration = Duration::from_millis(2);
/// Longest answer without EDNS, and a good deal more.
const ANSWER: usize = 4096;

/// Who knows what to ask.
pub trait Asker {
    /// The next question: writes it into `query`, which is empty, and says what its answer is known by, and the number of
    /// the source it is asked from. The first two bytes are the id, which is set later.
    fn ask(&mut self, now: SystemTime, query: &mut Vec<u8>) -> (u64, usize);

    /// An answer to what is known by `tag`.
    fn answered(&mut self, tag: u64, at: Between, reply: &[u8]);
}

/// When a question was sent, and when its answer came.
#[derive(Debug, Clone, Copy)]
pub struct Between {
    /// Just before it was sent.
    pub sent: SystemTime,
    /// By the kernel.
    pub came: SystemTime,
}

impl Between {
    /// How long the answer took.
    #[must_use]
    pub fn took(self) -> Duration {
        self.came.duration_since(self.sent).unwrap_or_default()
    }
}

/// A time in which the generator did not run, though it would have: it goes before all else on its core, so nobody there did.
#[derive(Debug, Clone, Copy)]
pub struct Pause {
    /// When it last ran.
    pub from: SystemTime,
    /// When it ran again.
    pub until: SystemTime,
}

/// How many of what was sent came back.
#[derive(Debug, Clone, Copy, Default)]
pub struct Count {
    /// Questions sent.
    pub asked: u64,
    /// Answers with an id that was waited for.
    pub answered: u64,
}

impl Count {
    /// Of several runs.
    #[must_use]
    pub fn and(self, other: Count) -> Count {
        Count { asked: self.asked + other.asked, answered: self.answered + other.answered }
    }
}

/// Sockets from which a server is asked.
#[derive(Debug)]
pub struct Load {
    sources: Vec<Source>,
    pauses: Vec<Pause>,
}

#[derive(Debug)]
struct Source {
    socket: UdpSocket,
    /// What is waited for, by id. One that is used again while its answer is out is a lost answer.
    waiting: Vec<Option<(u64, SystemTime)>>,
    next: u16,
    control: Vec<u8>,
}

impl Load {
    /// Sockets at these addresses, connected to `server`.
    ///
    /// # Errors
    /// When one cannot be made.
    pub fn new(server: SocketAddr, sources: impl IntoIterator<Item = IpAddr>) -> io::Result<Load> {
        let source = |ip| {
            let socket = UdpSocket::bind(SocketAddr::new(ip, 0))?;
            socket.connect(server)?;
            socket.set_nonblocking(true)?;
            setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
            // Not above what the system allows, which is what there is then.
            setsockopt(&socket, sockopt::RcvBuf, &BUFFER)?;
            let control = nix::cmsg_space!(TimeSpec);
            Ok(Source { socket, waiting: vec![None; 1 << 16], next: 0, control })
        };
        Ok(Load { sources: sources.into_iter().map(source).collect::<io::Result<_>>()?, pauses: Vec::new() })
    }

    /// The pauses of more than 2 ms in all runs. They mean something where [`run`](Self::run) is on a thread with a priority
    /// above all others.
    #[must_use]
    pub fn pauses(&self) -> &[Pause] {
        &self.pauses
    }

    /// Asks `rate` questions a second for as long as `lasts`, fewer if it was kept from it, and waits for the answers.
    ///
    /// # Errors
    /// When the system takes no datagrams.
    pub fn run(&mut self, rate: u32, lasts: Duration, asker: &mut impl Asker) -> io::Result<Count> {
        let (begun, mut count, mut query) = (Instant::now(), Count::default(), Vec::new());
        let (mut forgiven, owed_max) = (0, (OWED.as_secs_f64() * f64::from(rate)) as u64 + 1);
        let mut ran = Duration::ZERO;
        loop {
            let elapsed = begun.elapsed();
            if elapsed - ran > PAUSE {
                let until = SystemTime::now();
                self.pauses.push(Pause { from: until - (elapsed - ran), until });
            }
            if elapsed >= lasts {
                break;
            }
            let due = (elapsed.as_secs_f64() * f64::from(rate)) as u64;
            let owed = due.saturating_sub(count.asked + forgiven);
            forgiven += owed.saturating_sub(owed_max);
            for _ in 0..owed.min(owed_max).min(BURST) {
                let now = SystemTime::now();
                query.clear();
                let (tag, from) = asker.ask(now, &mut query);
                self.sources[from].send(&mut query, tag)?;
                count.asked += 1;
            }
            count.answered += self.receive(asker)?;
            ran = begun.elapsed();
            if owed < BURST {
                std::thread::park_timeout(TICK);
            }
        }
        let ended = Instant::now();
        while count.answered < count.asked && ended.elapsed() < PATIENCE {
            count.answered += self.receive(asker)?;
            std::thread::park_timeout(TICK);
        }
        self.sources.iter_mut().for_each(|source| source.waiting.fill(None));
        Ok(count)
    }

    fn receive(&mut self, asker: &mut impl Asker) -> io::Result<u64> {
        let mut received = 0;
        for source in &mut self.sources {
            received += source.receive(asker)?;
        }
        Ok(received)
    }
}

impl Source {
    fn send(&mut self, query: &mut [u8], tag: u64) -> io::Result<()> {
        query[..2].copy_from_slice(&self.next.to_be_bytes());
        let sent = SystemTime::now();
        match self.socket.send(query) {
            // Lost on the way, as it may be on any network.
            Ok(_) => self.waiting[usize::from(self.next)] = Some((tag, sent)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        self.next = self.next.wrapping_add(1);
        Ok(())
    }

    /// All that is there.
    fn receive(&mut self, asker: &mut impl Asker) -> io::Result<u64> {
        let mut received = 0;
        let mut bytes = [0; ANSWER];
        loop {
            let (length, came) = {
                let mut parts = [IoSliceMut::new(&mut bytes)];
                let (fd, control) = (self.socket.as_raw_fd(), Some(&mut *self.control));
                match recvmsg::<()>(fd, &mut parts, control, MsgFlags::MSG_DONTWAIT) {
                    Ok(message) => {
                        let time = message.cmsgs()?.find_map(|control| match control {
                            ControlMessageOwned::ScmTimestampns(time) => Some(time),
                            _ => None,
                        });
                        (message.bytes, time.map_or_else(SystemTime::now, moment))
                    }
                    Err(Errno::EAGAIN) => return Ok(received),
                    Err(error) => return Err(error.into()),
                }
            };
            let reply = &bytes[..length];
            let Some(id) = reply.first_chunk().map(|id| u16::from_be_bytes(*id)) else { continue };
            if let Some((tag, sent)) = self.waiting[usize::from(id)].take() {
                received += 1;
                asker.answered(tag, Between { sent, came }, reply);
            }
        }
    }
}

fn moment(time: TimeSpec) -> SystemTime {
    let positive = |part: i64| u64::try_from(part).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(positive(time.tv_sec())) + Duration::from_nanos(positive(time.tv_nsec()))
}

/// The value below which this share of the others are; they are sorted by it. Zero if there are none.
pub fn share(of: f64, values: &mut [Duration]) -> Duration {
    values.sort_unstable();
    let rank = (values.len() as f64 * of).ceil() as usize;
    values.get(rank.clamp(1, values.len().max(1)) - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks its number, and takes down what comes.
    #[derive(Default)]
    struct Echoed {
        asked: u64,
        heard: Vec<u64>,
    }

    impl Asker for Echoed {
        fn ask(&mut self, _: SystemTime, query: &mut Vec<u8>) -> (u64, usize) {
            self.asked += 1;
            query.extend([0, 0]);
            query.extend(self.asked.to_be_bytes());
            (self.asked, (self.asked % 2) as usize)
        }

        fn answered(&mut self, tag: u64, at: Between, reply: &[u8]) {
            assert_eq!(reply[2..], tag.to_be_bytes());
            assert!(at.took() < Duration::from_secs(1), "{at:?}");
            self.heard.push(tag);
        }
    }

    #[test]
    fn what_is_asked_is_paced_and_every_answer_is_matched_with_its_question() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("a port");
        server.set_read_timeout(Some(Duration::from_millis(200))).expect("a bound");
        let at = server.local_addr().expect("its address");
        let echo = std::thread::spawn(move || {
            let mut bytes = [0; 64];
            // Every fourth question is not answered.
            for number in 0_u64.. {
                let Ok((length, from)) = server.recv_from(&mut bytes) else { break };
                if number % 4 != 0 {
                    server.send_to(&bytes[..length], from).expect("sent");
                }
            }
        });
        let mut load =
            Load::new(at, ["127.0.0.1", "127.0.0.2"].map(|ip| ip.parse().expect("an address"))).expect("sockets");
        let mut echoed = Echoed::default();
        let count = load.run(2_000, Duration::from_millis(100), &mut echoed).expect("loopback takes datagrams");
        assert!((100..=200).contains(&count.asked), "{count:?}");
        assert_eq!((count.asked, count.answered), (echoed.asked, echoed.heard.len() as u64));
        assert_eq!(count.answered, count.asked - count.asked.div_ceil(4));
        echo.join().expect("the echo ends");
    }

    #[test]
    fn the_99th_of_a_hundred_is_the_second_greatest() {
        let mut values: Vec<_> = (1..=100).rev().map(Duration::from_micros).collect();
        assert_eq!(share(0.99, &mut values), Duration::from_micros(99));
        assert_eq!(share(1.0, &mut values), Duration::from_micros(100));
        assert_eq!(share(0.5, &mut []), Duration::ZERO);
    }
}
