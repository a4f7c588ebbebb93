//! A body as lines: one JSON text each, whole, however the network cut it.

use std::io;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use reqwest::Response;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::io::StreamReader;

use crate::endpoint::Endpoint;
use crate::error::{Cause, Error};

/// Longest line that is taken, in bytes. The largest row a client can write is 1 MiB of JSON; a blob comes back as an
/// array of numbers, at most four characters a byte, and a SELECT may join several. Beyond it: [`Error::TooLarge`].
const MAX_LINE: usize = 16 * 1024 * 1024;

type Chunks = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// The lines of one answer.
pub(crate) struct Lines {
    endpoint: Endpoint,
    frames: FramedRead<StreamReader<Chunks, Bytes>, LinesCodec>,
}

impl Lines {
    /// The lines of this answer's body.
    pub(crate) fn of(endpoint: &Endpoint, response: Response) -> Lines {
        let chunks: Chunks = Box::pin(response.bytes_stream().map_err(io::Error::other));
        let frames = FramedRead::new(StreamReader::new(chunks), LinesCodec::new_with_max_length(MAX_LINE));
        Lines { endpoint: endpoint.clone(), frames }
    }

    /// The next line, `None` at the orderly end of the body. Dropping the future loses nothing: what was read stays in
    /// the frame buffer.
    pub(crate) async fn next(&mut self) -> Result<Option<String>, Error> {
        match self.frames.next().await {
            None => Ok(None),
            Some(Ok(line)) => Ok(Some(line)),
            Some(Err(LinesCodecError::MaxLineLengthExceeded)) => Err(Error::TooLarge { max: MAX_LINE }),
            Some(Err(LinesCodecError::Io(e))) if e.kind() == io::ErrorKind::InvalidData => {
                Err(Error::Malformed { excerpt: "bytes that are not UTF-8".to_owned(), source: Cause::of(&e) })
            }
            Some(Err(LinesCodecError::Io(e))) => {
                Err(Error::Broken { endpoint: self.endpoint.clone(), source: Cause::of(&e) })
            }
        }
    }
}
