//! A client that costs little: one connection, one request at a time, nothing parsed but what is needed.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// A connection that is kept.
pub(crate) struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

/// A stream of events.
pub(crate) struct Stream(BufReader<TcpStream>);

pub(crate) fn get(user: &str) -> String {
    format!("GET /api/v2/presence/{user} HTTP/1.1\r\nhost: x\r\n\r\n")
}

pub(crate) fn put(user: &str, token: &str, body: &str) -> String {
    let head = format!("PUT /api/v2/presence/{user} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n");
    format!("{head}content-length: {}\r\n\r\n{body}", body.len())
}

async fn connect(addr: SocketAddr) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(addr).await.map_err(|e| format!("{addr}: {e}"))?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    Ok(stream)
}

impl Client {
    pub(crate) async fn connect(addr: SocketAddr) -> Result<Self, String> {
        Ok(Self { stream: connect(addr).await?, read: Vec::with_capacity(4_096) })
    }

    /// Asks, reads the answer, and says its status.
    pub(crate) async fn ask(&mut self, request: &str) -> Result<u16, String> {
        self.stream.write_all(request.as_bytes()).await.map_err(|e| e.to_string())?;
        self.read.clear();
        loop {
            let got = self.stream.read_buf(&mut self.read).await.map_err(|e| e.to_string())?;
            if got == 0 {
                return Err("the connection ended".to_owned());
            }
            let Some(head) = self.read.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let text = std::str::from_utf8(&self.read[..head]).map_err(|e| e.to_string())?;
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.and_then(|length| length.parse().ok()).ok_or("an answer without a length")?;
            if self.read.len() >= head + 4 + length {
                return text.get(9..12).and_then(|status| status.parse().ok()).ok_or_else(|| "no status".to_owned());
            }
        }
    }
}

impl Stream {
    pub(crate) async fn open(addr: SocketAddr, users: &str) -> Result<Self, String> {
        let mut stream = connect(addr).await?;
        let request = format!("GET /api/v2/presence/stream?users={users} HTTP/1.1\r\nhost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.map_err(|e| e.to_string())?;
        Ok(Self(BufReader::new(stream)))
    }

    /// The data of the next event.
    pub(crate) async fn next(&mut self) -> Result<String, String> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.0.read_line(&mut line).await.map_err(|e| e.to_string())? == 0 {
                return Err("the stream ended".to_owned());
            }
            if let Some(json) = line.strip_prefix("data: ") {
                return Ok(json.to_owned());
            }
        }
    }
}
