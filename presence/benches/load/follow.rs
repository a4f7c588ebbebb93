//! Who follows: streams of events and WebSockets, many of them. Each message that arrives says by its text when it was sent.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::client::connect;
use super::figures::Times;

/// What stands before the time in a record.
const MARK: &[u8] = b"\"message\":\"t";
/// Followers that connect at once.
const AT_ONCE: usize = 64;

/// How a follower is connected.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Stream,
    Socket,
}

/// All followers of one measurement.
pub(crate) struct Followers {
    tasks: JoinSet<Result<(), String>>,
    heard: Arc<Heard>,
}

/// What they heard.
struct Heard {
    begun: Instant,
    times: Mutex<Times>,
    ready: AtomicUsize,
}

impl Heard {
    /// Every time in these bytes.
    fn take(&self, bytes: &[u8]) {
        let now = self.begun.elapsed();
        let mut rest = bytes;
        while let Some(at) = rest.windows(MARK.len()).position(|part| part == MARK) {
            rest = &rest[at + MARK.len()..];
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let sent = std::str::from_utf8(&rest[..digits]).ok().and_then(|text| text.parse().ok());
            if let Some(sent) = sent {
                let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
                times.add(now.saturating_sub(Duration::from_micros(sent)));
            }
        }
    }
}

impl Followers {
    /// So many, each of these users; returns when each has its snapshot.
    pub(crate) async fn connect(
        addr: SocketAddr,
        by: By,
        users: impl ExactSizeIterator<Item = Vec<String>>,
    ) -> Result<Self, String> {
        let heard = Heard { begun: Instant::now(), times: Mutex::default(), ready: AtomicUsize::new(0) };
        let mut followers = Self { tasks: JoinSet::new(), heard: Arc::new(heard) };
        for (at, users) in users.enumerate() {
            let heard = Arc::clone(&followers.heard);
            followers.tasks.spawn(async move {
                match by {
                    By::Stream => stream(addr, &users, &heard).await,
                    By::Socket => socket(addr, &users, &heard).await,
                }
            });
            while at + 1 - followers.heard.ready.load(Ordering::Acquire) >= AT_ONCE {
                followers.turn().await?;
            }
        }
        while followers.heard.ready.load(Ordering::Acquire) < followers.tasks.len() {
            followers.turn().await?;
        }
        Ok(followers)
    }

    async fn turn(&mut self) -> Result<(), String> {
        if let Some(ended) = self.tasks.try_join_next() {
            ended.map_err(|e| e.to_string())??;
            return Err("a follower ended".to_owned());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        Ok(())
    }

    /// What a message is to say that is sent at this moment.
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp(self.heard.begun)
    }

    /// What was heard so far.
    pub(crate) fn times(&self) -> Times {
        self.heard.times.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Makes the text of messages.
#[derive(Clone, Copy)]
pub(crate) struct Stamp(Instant);

impl Stamp {
    pub(crate) fn message(self) -> String {
        format!("t{}", self.0.elapsed().as_micros())
    }
}

async fn stream(addr: SocketAddr, users: &[String], heard: &Heard) -> Result<(), String> {
    let mut stream = connect(addr).await?;
    let users = users.join(",");
    let request = format!("GET /api/v2/presence/stream?users={users} HTTP/1.1\r\nhost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|e| e.to_string())?;
    let mut read: Vec<u8> = Vec::new();
    let mut is_ready = false;
    loop {
        if stream.read_buf(&mut read).await.map_err(|e| e.to_string())? == 0 {
            return Err("a stream ended".to_owned());
        }
        // An event ends with an empty line.
        let Some(end) = read.windows(2).rposition(|two| two == b"\n\n") else { continue };
        if is_ready {
            heard.take(&read[..end]);
        } else {
            if !read.starts_with(b"HTTP/1.1 200") {
                return Err(String::from_utf8_lossy(&read).lines().next().unwrap_or_default().to_owned());
            }
            is_ready = true;
            heard.ready.fetch_add(1, Ordering::Release);
        }
        read = read.split_off(end + 2);
    }
}

async fn socket(addr: SocketAddr, users: &[String], heard: &Heard) -> Result<(), String> {
    let mut stream = connect(addr).await?;
    let head = "GET /api/v2/presence/ws HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(head.as_bytes()).await.map_err(|e| e.to_string())?;
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        read.push(stream.read_u8().await.map_err(|e| e.to_string())?);
    }
    if !read.starts_with(b"HTTP/1.1 101") {
        return Err(String::from_utf8_lossy(&read).lines().next().unwrap_or_default().to_owned());
    }
    let text = serde_json::json!({ "op": "subscribe", "users": users }).to_string();
    // Masked with zeros (RFC 6455 §5.3), of middle length: 126 to 65,535 bytes.
    let length = u16::try_from(text.len()).map_err(|_| "too many users for one message")?;
    let mut frame = vec![0x81, 0x80 | 126];
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(text.as_bytes());
    stream.write_all(&frame).await.map_err(|e| e.to_string())?;
    drop(message(&mut stream).await?);
    heard.ready.fetch_add(1, Ordering::Release);
    loop {
        heard.take(&message(&mut stream).await?);
    }
}

/// The next message.
async fn message(stream: &mut TcpStream) -> Result<Vec<u8>, String> {
    let read = async {
        let kind = stream.read_u8().await?;
        let length = match stream.read_u8().await? {
            126 => usize::from(stream.read_u16().await?),
            127 => usize::try_from(stream.read_u64().await?).unwrap_or(0),
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await?;
        Ok::<_, std::io::Error>((kind, payload))
    };
    match read.await.map_err(|e| e.to_string())? {
        (0x88, reason) => Err(format!("closed: {}", String::from_utf8_lossy(reason.get(2..).unwrap_or_default()))),
        (_, payload) => Ok(payload),
    }
}
