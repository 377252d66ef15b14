//! Lines of a stream, read and written in HTTP, or on a connection that has left it.

use std::convert::Infallible;
use std::future::pending;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use super::error::SyncError;

/// What goes up.
pub type ReportLines = BoxStream<'static, Bytes>;

/// Room for what arrives at once out of HTTP.
const READ_BYTES: usize = 8192;

/// What comes down.
pub enum IncomingLines {
    Http(Incoming),
    Upgraded(ReadHalf<TokioIo<Upgraded>>),
}

/// What goes up, beside the request.
pub enum OutgoingLines {
    /// The request's body is what goes up.
    InRequest,
    Upgraded {
        writer: WriteHalf<TokioIo<Upgraded>>,
        lines: ReportLines,
    },
}

impl IncomingLines {
    /// Adds what has come to the buffer.
    pub async fn read(&mut self, buffer: &mut BytesMut) -> Result<(), SyncError> {
        match self {
            Self::Http(body) => loop {
                let frame = body.frame().await.ok_or(SyncError::Ended)??;
                if let Ok(data) = frame.into_data() {
                    buffer.extend_from_slice(&data);
                    return Ok(());
                }
            },
            Self::Upgraded(reader) => {
                buffer.reserve(READ_BYTES);
                match reader.read_buf(buffer).await? {
                    0 => Err(SyncError::Ended),
                    _ => Ok(()),
                }
            }
        }
    }
}

impl OutgoingLines {
    /// Sends each line as soon as the one before has gone. Ends with an error alone.
    pub async fn send_all(self) -> Result<Infallible, SyncError> {
        if let Self::Upgraded {
            mut writer,
            mut lines,
        } = self
        {
            while let Some(line) = lines.next().await {
                writer.write_all(&line).await?;
                writer.flush().await?;
            }
        }
        // Whoever reports has ended: what comes is read on.
        pending().await
    }
}
