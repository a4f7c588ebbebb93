//! Frames on a stream: four bytes of length, then kind and body as `kith_gossip_proto::frame` has them.

use bytes::{BufMut, Bytes, BytesMut};
use kith_gossip_proto::DecodeError;
use kith_gossip_proto::Frame;
use kith_gossip_proto::frame::FRAME_MAX;
use quinn::{ReadExactError, RecvStream, WriteError};
use thiserror::Error;

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

/// The next frame; None at the end of the stream. Not cancel-safe: what was read of a frame is lost with the future.
pub(crate) async fn read(stream: &mut RecvStream) -> Result<Option<Frame>, FrameError> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(error) => return Err(FrameError::Read(error)),
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
        stream.read_exact(&mut body[start..]).await.map_err(FrameError::Read)?;
    }
    Ok(Some(Frame::decode(&body)?))
}
