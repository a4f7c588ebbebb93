//! A client that costs little: one connection, one request at a time, nothing parsed but what is needed.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection that is kept.
pub(crate) struct Client {
    stream: TcpStream,
    read: Vec<u8>,
    /// Where the body of the last answer begins.
    body: usize,
}

pub(crate) fn get(user: &str) -> String {
    format!("GET /api/v2/presence/{user} HTTP/1.1\r\nhost: x\r\n\r\n")
}

pub(crate) fn put(user: &str, token: &str, body: &str) -> String {
    with_body("PUT", &format!("/api/v2/presence/{user}"), token, body)
}

pub(crate) fn post(path: &str, token: &str, body: &str) -> String {
    with_body("POST", path, token, body)
}

fn with_body(method: &str, path: &str, token: &str, body: &str) -> String {
    let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n");
    format!("{head}content-length: {}\r\n\r\n{body}", body.len())
}

pub(crate) async fn connect(addr: SocketAddr) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(addr).await.map_err(|e| format!("{addr}: {e}"))?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    Ok(stream)
}

impl Client {
    pub(crate) async fn connect(addr: SocketAddr) -> Result<Self, String> {
        Ok(Self { stream: connect(addr).await?, read: Vec::with_capacity(4_096), body: 0 })
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
            let length =
                text.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            let length: usize = length.ok_or("an answer without a length")?;
            if self.read.len() >= head + 4 + length {
                self.body = head + 4;
                return text.get(9..12).and_then(|status| status.parse().ok()).ok_or_else(|| "no status".to_owned());
            }
        }
    }

    /// The body of the last answer.
    pub(crate) fn body(&self) -> &[u8] {
        &self.read[self.body..]
    }
}
