//! Frames on a stream: four bytes of length, then kind and body as `kith_gossip_proto::frame` has them.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kith_gossip_proto::DecodeError;
use kith_gossip_proto::Frame;
use kith_gossip_proto::frame::FRAME_MAX;
use quinn::{ReadExactError, RecvStream, WriteError};
use thiserror::Error;
use tokio::time::timeout;

/// Why a stream is of no further use.
#[derive(Debug, Error)]
pub(crate) enum FrameError {
    #[error("the stream cannot be read")]
    Read(#[source] ReadExactError),
    #[error("the stream cannot be written")]
    Write(#[from] WriteError),
    #[error("the peer sends a frame that cannot be decoded")]
    Decode(#[from] DecodeError),
    #[error("a frame of {0} bytes is over the limit of {FRAME_MAX}")]
    TooLarge(usize),
    #[error("the connection is lost")]
    Connection(#[from] quinn::ConnectionError),
    #[error("the peer did not {0} in time")]
    Timeout(&'static str),
    #[error("the peer sends {0}, which is not what belongs here")]
    Unexpected(&'static str),
    #[error("one of the two stores is not the one that wrote its site before")]
    Forked,
    #[error("the store cannot say whom it has met")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A frame as it goes onto a stream, or its size if that is over the limit.
pub(crate) fn encode(frame: &Frame) -> Result<Bytes, FrameError> {
    let body = frame.encode();
    let length = u32::try_from(body.len()).ok().filter(|&length| length as usize <= FRAME_MAX);
    let length = length.ok_or(FrameError::TooLarge(body.len()))?;
    let mut bytes = BytesMut::with_capacity(4 + body.len());
    bytes.put_u32(length);
    bytes.put_slice(&body);
    Ok(bytes.freeze())
}

/// How long a reader waits for the next byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// As long as the connection lives: there may be nothing to say.
    Endless,
    /// This long. A slow link delivers something; one that is stuck does not.
    Stall(Duration),
}

/// The next frame; None at the end of the stream. Not cancel-safe: what was read of a frame is lost with the future.
pub(crate) async fn read(stream: &mut RecvStream, patience: Patience) -> Result<Option<Frame>, FrameError> {
    let mut length = [0; 4];
    match fill(stream, &mut length, patience).await {
        Ok(()) => {}
        Err(FrameError::Read(ReadExactError::FinishedEarly(0))) => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > FRAME_MAX {
        return Err(FrameError::TooLarge(length));
    }
    let mut body = BytesMut::new();
    // Room is made as bytes come, so that a length alone takes no memory.
    while body.len() < length {
        let wanted = (length - body.len()).min(64 << 10);
        let start = body.len();
        body.resize(start + wanted, 0);
        fill(stream, &mut body[start..], patience).await?;
    }
    Ok(Some(Frame::decode(&body)?))
}

async fn fill(stream: &mut RecvStream, buffer: &mut [u8], patience: Patience) -> Result<(), FrameError> {
    let mut filled = 0;
    while filled < buffer.len() {
        let read = stream.read(&mut buffer[filled..]);
        let read = match patience {
            Patience::Endless => read.await,
            Patience::Stall(limit) => timeout(limit, read).await.map_err(|_| FrameError::Timeout("go on"))?,
        };
        match read.map_err(|error| FrameError::Read(error.into()))? {
            Some(bytes) => filled += bytes,
            None => return Err(FrameError::Read(ReadExactError::FinishedEarly(filled))),
        }
    }
    Ok(())
}
