//! Reads a body as lines of JSON.

use std::io;
use std::marker::PhantomData;

use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use mcp_auth_protocol::bounds::MAX_REPORT_BYTES;
use mcp_auth_protocol::sync::Report;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio_util::codec::{Decoder, LinesCodec, LinesCodecError};

#[derive(Debug, Error)]
pub enum LineError {
    #[error("a line is longer than {0} bytes")]
    TooLong(usize),
    #[error("a line is not UTF-8 text; reports are JSON in UTF-8")]
    NotUtf8,
    /// It may quote the line.
    #[error("a line is not a report: {0}")]
    NotAReport(serde_json::Error),
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
}

/// A line of a body.
#[derive(Debug)]
pub enum Line<T> {
    /// It is empty.
    Heartbeat,
    Value(T),
}

/// Reports and the heartbeats between them.
pub type Reports = BoxStream<'static, Result<Line<Report>, LineError>>;

/// The reports of a body, or of a connection that carries nothing else, as they arrive. Ends at the first error.
pub fn reports(
    pieces: impl Stream<Item = Result<Bytes, impl std::error::Error + Send + Sync + 'static>>
    + Send
    + Unpin
    + 'static,
) -> Reports {
    all_lines(pieces, MAX_REPORT_BYTES, Unreadable::Ends).boxed()
}

/// The values of a body, one a line, as they arrive; empty lines between them are heartbeats. A line that is no such value costs
/// that line alone; any other error is the last.
pub fn lines<T: DeserializeOwned + Send>(
    body: impl Stream<Item = Result<Bytes, impl std::error::Error + Send + Sync + 'static>> + Send + Unpin,
    max_bytes: usize,
) -> impl Stream<Item = Result<T, LineError>> + Send {
    all_lines(body, max_bytes, Unreadable::CostsTheLine).filter_map(async |line| match line {
        Ok(Line::Heartbeat) => None,
        Ok(Line::Value(value)) => Some(Ok(value)),
        Err(error) => Some(Err(error)),
    })
}

/// What becomes of a body with a line that is no value of the type.
#[derive(Clone, Copy, PartialEq)]
enum Unreadable {
    Ends,
    /// As between programs of two versions.
    CostsTheLine,
}

fn all_lines<T: DeserializeOwned + Send>(
    body: impl Stream<Item = Result<Bytes, impl std::error::Error + Send + Sync + 'static>> + Send + Unpin,
    max_bytes: usize,
    unreadable: Unreadable,
) -> impl Stream<Item = Result<Line<T>, LineError>> + Send {
    let reader = LineReader {
        body: body.map_err(io::Error::other),
        unreadable,
        is_over: false,
        buffer: BytesMut::new(),
        decoder: LineDecoder {
            codec: LinesCodec::new_with_max_length(max_bytes),
            max_bytes,
            value: PhantomData,
        },
    };
    stream::unfold(reader, async |mut reader| {
        let line = reader.next().await?;
        Some((line, reader))
    })
}

/// There is one for each sidecar, and most of the time none of them has anything to read: then it holds no buffer, and nothing of
/// the connection's either, as tokio-util's readers do.
struct LineReader<B, T> {
    body: B,
    unreadable: Unreadable,
    is_over: bool,
    /// What has arrived of the next line.
    buffer: BytesMut,
    decoder: LineDecoder<T>,
}

impl<B: Stream<Item = io::Result<Bytes>> + Unpin, T: DeserializeOwned> LineReader<B, T> {
    async fn next(&mut self) -> Option<Result<Line<T>, LineError>> {
        while !self.is_over {
            match self.decoder.decode(&mut self.buffer) {
                Ok(None) => {}
                Ok(Some(line)) => return Some(Ok(line)),
                Err(error @ LineError::NotAReport(_)) if self.unreadable == Unreadable::CostsTheLine => {
                    return Some(Err(error));
                }
                Err(error) => return self.ended_by(error),
            }
            if self.buffer.is_empty() {
                self.buffer = BytesMut::new();
            }
            match self.body.next().await {
                Some(Ok(chunk)) => self.buffer.extend_from_slice(&chunk),
                Some(Err(error)) => return self.ended_by(error.into()),
                // A line that the end of the body cuts off is left out.
                None => self.is_over = true,
            }
        }
        None
    }

    fn ended_by(&mut self, error: LineError) -> Option<Result<Line<T>, LineError>> {
        self.is_over = true;
        Some(Err(error))
    }
}

struct LineDecoder<T> {
    codec: LinesCodec,
    max_bytes: usize,
    value: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> LineDecoder<T> {
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Line<T>>, LineError> {
        let line = self.codec.decode(buffer).map_err(|error| match error {
            LinesCodecError::MaxLineLengthExceeded => LineError::TooLong(self.max_bytes),
            // The codec does no input or output of its own: only the text can be wrong.
            LinesCodecError::Io(_) => LineError::NotUtf8,
        })?;
        let Some(line) = line else { return Ok(None) };
        if line.is_empty() {
            return Ok(Some(Line::Heartbeat));
        }
        let value = serde_json::from_str(&line).map_err(LineError::NotAReport)?;
        Ok(Some(Line::Value(value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read<T: AsRef<[u8]>>(chunks: &[T]) -> Vec<Result<Option<String>, String>> {
        let chunks = chunks.iter().map(|chunk| Bytes::copy_from_slice(chunk.as_ref()));
        read_all(chunks.map(Ok).collect()).await
    }

    async fn read_all(chunks: Vec<Result<Bytes, axum::Error>>) -> Vec<Result<Option<String>, String>> {
        let body = stream::iter(chunks);
        let read = |line: Result<Line<Report>, LineError>| match line {
            Ok(Line::Heartbeat) => Ok(Some("a heartbeat".to_owned())),
            Ok(Line::Value(report)) => Ok(report.applied),
            Err(error) => Err(error.to_string()),
        };
        reports(body).map(read).collect().await
    }

    fn line(applied: &str) -> String {
        let report = Report {
            applied: Some(applied.into()),
            ..Report::default()
        };
        format!("{}\n", serde_json::to_string(&report).unwrap())
    }

    #[tokio::test]
    async fn lines_are_found_however_they_are_cut() {
        let text = format!("{}\n{}", line("1"), line("2"));
        for cut in 0..text.len() {
            let (a, b) = text.split_at(cut);
            let read = read(&[a, b]).await;
            let heartbeat = Ok(Some("a heartbeat".into()));
            let whole = [Ok(Some("1".into())), heartbeat, Ok(Some("2".into()))];
            assert_eq!(read, whole, "cut at {cut}");
            let chunks = [a, b].map(|part| Ok::<_, io::Error>(Bytes::copy_from_slice(part.as_bytes())));
            let values = lines::<Report>(stream::iter(chunks), MAX_REPORT_BYTES);
            let values: Vec<_> = values.map(|report| report.unwrap().applied).collect().await;
            assert_eq!(
                values,
                ["1", "2"].map(|applied| Some(applied.to_owned())),
                "cut at {cut}"
            );
        }
    }

    #[tokio::test]
    async fn a_line_that_the_end_of_the_body_cuts_off_is_left_out() {
        let whole = line("1");
        let cut = &whole[..whole.len() / 2];
        assert_eq!(read(&[&*whole, cut]).await, [Ok(Some("1".into()))]);
        assert_eq!(read(&[cut]).await, []);
    }

    #[tokio::test]
    async fn an_endless_line_is_an_error_and_not_endless_memory() {
        let chunk = "x".repeat(MAX_REPORT_BYTES / 2 + 1);
        assert_eq!(
            read(&[&chunk, &chunk, &chunk]).await,
            [Err(LineError::TooLong(MAX_REPORT_BYTES).to_string())]
        );
    }

    #[tokio::test]
    async fn what_is_no_json_ends_the_stream_with_an_error() {
        let read = read(&["{]\n", &line("1")]).await;
        assert_eq!(read.len(), 1);
        assert!(
            read[0]
                .as_ref()
                .unwrap_err()
                .starts_with("a line is not a report")
        );
    }

    #[tokio::test]
    async fn what_is_no_utf8_is_named_and_not_taken_for_a_broken_connection() {
        let first = line("1");
        let read = read(&[
            first.as_bytes(),
            b"{\"applied\":\"\xff\"}\n",
            line("2").as_bytes(),
        ])
        .await;
        assert_eq!(read, [Ok(Some("1".into())), Err(LineError::NotUtf8.to_string())]);
    }

    #[tokio::test]
    async fn a_connection_that_breaks_is_named_as_that() {
        let broken = axum::Error::new(io::Error::from(io::ErrorKind::ConnectionReset));
        let read = read_all(vec![Ok(line("1").into()), Err(broken)]).await;
        assert_eq!(read[0], Ok(Some("1".into())));
        let error = read[1].as_ref().unwrap_err();
        assert!(error.starts_with("the connection broke: "), "{error}");
        assert_eq!(read.len(), 2);
    }

    #[tokio::test]
    async fn between_replicas_a_line_of_another_version_costs_that_line_alone() {
        let text = format!("{}{{\"applied\":1}}\n{}", line("1"), line("2"));
        let chunks = [Ok::<_, io::Error>(Bytes::from(text))];
        let values = lines::<Report>(stream::iter(chunks), MAX_REPORT_BYTES);
        let values: Vec<_> = values
            .map(|report| report.ok().map(|it| it.applied))
            .collect()
            .await;
        let applied = |text: &str| Some(Some(text.to_owned()));
        assert_eq!(values, [applied("1"), None, applied("2")]);
    }
}
