//! Rewrites the `endpoint` event of a legacy SSE stream, by which the server says where messages go, so that
//! LiteLLM sends them through the sidecar. Everything else in the stream passes byte for byte.
//!
//! Clients act on an event only at the blank line that ends it, so buffering an unfinished event delays no
//! client. An event that grows long passes in pieces, and ends the stream if it turns out to be an `endpoint`
//! event after all: the client would resolve its path at the sidecar, where it could name another server.

mod event;

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};

use super::location::rewrite_location;
use super::path::split_server;
use crate::proxy::routes::{Announcement, McpServer, OpeningStream, RefusalStream, ServerState, SessionId};
use event::{claims_endpoint, content, endpoint_data, field, lines};

/// Longest event that is buffered whole.
const MAX_BUFFERED_BYTES: usize = 16 * 1024;

/// How much of a long event is searched again with the next chunk: more than `event: endpoint` between two
/// line ends.
const OVERLAP_BYTES: usize = 32;

/// Sent to the client instead of an endpoint at another origin.
const OTHER_ORIGIN_EVENT: &[u8] =
    b"event: error\ndata: the MCP server names an endpoint at another origin\n\n";

/// Sent to the client instead of an endpoint that not all clients would read in the same way.
const UNCLEAR_EVENT: &[u8] =
    b"event: error\ndata: the MCP server names an endpoint in an event that is too long or not clear\n\n";

pub struct EndpointRewriter {
    server: Arc<McpServer>,
    /// Path and query that the stream is the answer to.
    requested: Box<str>,
    /// What is known of the session that the stream is going to name.
    stream: OpeningStream,
    /// The event that has not ended yet.
    buffered: BytesMut,
    /// How far `buffered` has been searched for its end.
    scanned: usize,
    line: LinePosition,
    /// The first endpoint of the stream and the latest one: clients differ in which of several they take.
    announced: Vec<Announcement>,
    /// By which messages of the session are refused.
    refusals: Option<RefusalStream>,
    /// The event was too long to buffer, and its beginning has been passed on.
    is_streaming: bool,
    rejected: bool,
}

/// Where the next byte stands in its line.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum LinePosition {
    #[default]
    Start,
    /// After a CR, which ended the line; an LF would still belong to it.
    AfterCr,
    /// After a CR, which ended an event; an LF would still belong to it, and clients may wait for it.
    AfterEvent,
    /// In a line that is not empty.
    Within,
}

impl EndpointRewriter {
    pub fn new(server: Arc<McpServer>, requested: &str, stream: OpeningStream) -> Self {
        Self {
            server,
            requested: requested.into(),
            stream,
            buffered: BytesMut::new(),
            scanned: 0,
            line: LinePosition::Start,
            announced: Vec::new(),
            refusals: None,
            is_streaming: false,
            rejected: false,
        }
    }

    /// Takes the next chunk and returns the bytes to send now, which may be none.
    pub fn pass(&mut self, chunk: Bytes) -> Bytes {
        if self.rejected {
            return Bytes::new();
        }
        self.buffered.extend_from_slice(&chunk);
        let mut output = BytesMut::new();
        while let Some(end) = self.end_of_event() {
            let event = self.buffered.split_to(end);
            self.scanned = 0;
            let is_continuation = std::mem::take(&mut self.is_streaming);
            let is_complete = !is_continuation && event.len() <= MAX_BUFFERED_BYTES;
            match endpoint_data(&event).filter(|_| is_complete) {
                None if claims_endpoint(&event, is_continuation) => {
                    return self.reject(output, if is_continuation { b"" } else { UNCLEAR_EVENT });
                }
                None => output.unsplit(event),
                Some(endpoint_url) => match self.rewrite(&event, &endpoint_url) {
                    Some(rewritten) => output.extend_from_slice(&rewritten),
                    None => return self.reject(output, OTHER_ORIGIN_EVENT),
                },
            }
        }
        if self.is_streaming || self.buffered.len() > MAX_BUFFERED_BYTES {
            let is_continuation = std::mem::replace(&mut self.is_streaming, true);
            if claims_endpoint(&self.buffered, is_continuation) {
                return self.reject(output, if is_continuation { b"" } else { UNCLEAR_EVENT });
            }
            let passing = self.buffered.len().saturating_sub(OVERLAP_BYTES);
            output.unsplit(self.buffered.split_to(passing));
            self.scanned = self.buffered.len();
        }
        output.freeze()
    }

    /// The bytes that are still buffered when the stream ends. Clients discard an unfinished event, but not
    /// all of them if it ends with CR.
    pub fn finish(&mut self) -> Bytes {
        let mut rest = self.buffered.split();
        rest.extend_from_slice(b"\n");
        if claims_endpoint(&rest, self.is_streaming) {
            return Bytes::new();
        }
        rest.truncate(rest.len() - 1);
        rest.freeze()
    }

    /// An event of the sidecar's own, between two of the server's: why a message of the session is refused.
    pub fn poll_refusal(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        match &mut self.refusals {
            Some(refusals) if self.buffered.is_empty() && !self.is_streaming => refusals.poll_event(cx),
            _ => Poll::Pending,
        }
    }

    /// The server named an endpoint that cannot be used, so the stream has ended.
    pub fn has_rejected(&self) -> bool {
        self.rejected
    }

    /// The position after the blank line that ends the event at the beginning of `buffered`.
    fn end_of_event(&mut self) -> Option<usize> {
        while let Some(byte) = self.buffered.get(self.scanned) {
            self.scanned += 1;
            let (line, ended) = match (self.line, byte) {
                (LinePosition::Within | LinePosition::AfterCr, b'\n') => (LinePosition::Start, false),
                (LinePosition::Within, b'\r') => (LinePosition::AfterCr, false),
                (LinePosition::Start | LinePosition::AfterEvent, b'\n') => (LinePosition::Start, true),
                (LinePosition::Start | LinePosition::AfterCr | LinePosition::AfterEvent, b'\r') => {
                    (LinePosition::AfterEvent, true)
                }
                (_, _) => (LinePosition::Within, false),
            };
            self.line = line;
            if ended {
                return Some(self.scanned);
            }
        }
        None
    }

    /// Ends the stream after `output`, with the event `instead`.
    fn reject(&mut self, mut output: BytesMut, instead: &'static [u8]) -> Bytes {
        self.rejected = true;
        self.buffered.clear();
        output.extend_from_slice(instead);
        output.freeze()
    }

    fn rewrite(&mut self, event: &[u8], endpoint_url: &str) -> Option<BytesMut> {
        let ServerState::Usable(usable) = &self.server.state else {
            return None;
        };
        let location = rewrite_location(&self.server.name, usable, &self.requested, endpoint_url)?;
        let (_, endpoint) = split_server(&location);
        let path = endpoint.split('?').next().unwrap_or_default();
        self.announced.truncate(1);
        self.announced.push(usable.announced.announce(path));
        let session = SessionId::of_endpoint(endpoint);
        usable
            .sessions
            .record_stream(&session, &self.stream, usable.affinity_names());
        // First closed, so that a stream that announces its endpoint twice does not count as two.
        self.refusals = None;
        self.refusals = Some(usable.refusals.open(session));
        let mut output = BytesMut::with_capacity(event.len() + location.len());
        let mut has_data = false;
        for line in lines(event) {
            if field(line).is_some_and(|(name, _)| name == b"data") {
                // A comment replaces each further data line: if the line were removed, a CR before it and an
                // LF after it would become one line end, and the event would go on.
                match std::mem::replace(&mut has_data, true) {
                    true => output.extend_from_slice(b":"),
                    false => output.extend_from_slice(format!("data: {location}").as_bytes()),
                }
                output.extend_from_slice(&line[content(line).len()..]);
            } else {
                output.extend_from_slice(line);
            }
        }
        Some(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::outbound::tests::server;
    use mcp_auth_protocol::sync::Transport;

    fn tools() -> Arc<McpServer> {
        server("https://tools.example.com/sse", Transport::Sse)
    }

    fn rewriter() -> EndpointRewriter {
        EndpointRewriter::new(tools(), "/sse", OpeningStream::default())
    }

    fn rewritten(server: &Arc<McpServer>, chunks: &[&[u8]]) -> String {
        let mut rewriter = EndpointRewriter::new(server.clone(), "/sse", OpeningStream::default());
        let mut output = Vec::new();
        for chunk in chunks {
            output.extend(rewriter.pass(Bytes::copy_from_slice(chunk)));
        }
        output.extend(rewriter.finish());
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn the_endpoint_is_rewritten_in_all_chunkings_and_with_all_line_ends() {
        let tools = tools();
        for end in ["\n", "\r\n", "\r"] {
            let lines = |endpoint: &str| {
                [
                    "id: 1",
                    "event: message",
                    "data: {\"event\": \"endpoint\"}",
                    "",
                    ": ping",
                    "",
                    "",
                    "event: endpoint",
                    "id: 2",
                    endpoint,
                    "",
                    "event:message",
                    "data: x",
                    "data: y",
                    "",
                    "rest",
                ]
                .join(end)
            };
            let stream = lines("data: /messages/?session_id=a");
            let expected = lines("data: /tools/messages/?session_id=a");
            let bytes = stream.as_bytes();
            for first in 0..=bytes.len() {
                for second in first..=bytes.len() {
                    let chunks = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                    assert_eq!(
                        rewritten(&tools, &chunks),
                        expected,
                        "{end:?} cut at {first} and {second}"
                    );
                }
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(rewritten(&tools, &single), expected);
        }
    }

    #[test]
    fn absolute_and_relative_endpoints_of_the_same_origin_lead_through_us() {
        let tools = tools();
        for (endpoint_url, expected) in [
            ("https://tools.example.com/messages?s=1", "/tools/messages?s=1"),
            ("messages?s=1", "/tools/messages?s=1"),
            ("?s=1", "/tools/sse?s=1"),
        ] {
            let output = rewritten(
                &tools,
                &[format!("data:{endpoint_url}\nevent:endpoint\n\n").as_bytes()],
            );
            assert_eq!(output, format!("data: {expected}\nevent:endpoint\n\n"));
        }
    }

    #[test]
    fn an_endpoint_at_another_origin_ends_the_stream_and_is_not_shown() {
        let mut rewriter = rewriter();
        let output = rewriter.pass(Bytes::from_static(
            b"data: first\n\nevent: endpoint\ndata: https://evil.example.com/m\n\ndata: later\n\n",
        ));
        assert_eq!(output, [b"data: first\n\n", OTHER_ORIGIN_EVENT].concat());
        assert!(rewriter.has_rejected());
        assert!(rewriter.pass(Bytes::from_static(b"data: more\n\n")).is_empty());
    }

    #[test]
    fn a_whole_event_is_passed_on_at_once_and_an_unfinished_one_is_not_waited_for() {
        let mut rewriter = rewriter();
        assert_eq!(
            rewriter.pass(Bytes::from_static(b"data: 1\n\ndata: 2")),
            "data: 1\n\n"
        );
        assert_eq!(rewriter.pass(Bytes::from_static(b"\n\n")), "data: 2\n\n");
        assert_eq!(
            rewriter.pass(Bytes::from_static(b"data: 3\r\n\r\n")),
            "data: 3\r\n\r\n"
        );
        assert_eq!(
            rewriter.pass(Bytes::from_static(b"data: 4\r\n\r")),
            "data: 4\r\n\r"
        );
        assert_eq!(rewriter.pass(Bytes::from_static(b"\n")), "\n");
    }

    #[test]
    fn long_events_pass_in_pieces_and_the_next_endpoint_is_found() {
        let mut rewriter = rewriter();
        let long = Bytes::from(vec![b'x'; MAX_BUFFERED_BYTES + 1]);
        assert_eq!(rewriter.pass(long.clone()), long.slice(OVERLAP_BYTES..));
        assert_eq!(rewriter.pass(Bytes::from_static(b"more")), "xxxx");
        let output = rewriter.pass(Bytes::from_static(b"\n\nevent: endpoint\ndata: /m\n\n"));
        let rest = "x".repeat(OVERLAP_BYTES - 4);
        assert_eq!(
            output,
            format!("{rest}more\n\nevent: endpoint\ndata: /tools/m\n\n")
        );
    }

    #[test]
    fn an_endpoint_of_several_lines_ends_where_it_ended() {
        let output = rewritten(
            &tools(),
            &[b"event: endpoint\rdata: /m\rdata: x\n\ndata: ../../other/mcp\n\n"],
        );
        assert_eq!(
            output,
            "event: endpoint\rdata: /tools/mx\r:\n\ndata: ../../other/mcp\n\n"
        );
    }

    #[test]
    fn an_endpoint_hidden_in_a_long_event_ends_the_stream_however_it_is_cut() {
        let comment = format!(": {}\n", "x".repeat(MAX_BUFFERED_BYTES));
        for event in [
            format!("{comment}event: endpoint\ndata: /other/mcp\n\n"),
            format!("data: /other/mcp\nevent:endpoint\n{comment}\n"),
            format!("event: endpoint\r{comment}data: /other/mcp\n\n"),
        ] {
            for size in [1, 7, 1000, MAX_BUFFERED_BYTES, event.len()] {
                let mut rewriter = rewriter();
                let mut output = Vec::new();
                for chunk in event.as_bytes().chunks(size) {
                    output.extend_from_slice(&rewriter.pass(Bytes::copy_from_slice(chunk)));
                }
                assert!(rewriter.has_rejected(), "cut at {size}");
                assert!(!String::from_utf8(output).unwrap().contains("endpoint\n"));
            }
        }
        let harmless = format!(
            "data: {} event: endpoint, says the manual\n\n",
            "x".repeat(MAX_BUFFERED_BYTES)
        );
        assert_eq!(rewritten(&tools(), &[harmless.as_bytes()]), harmless);
    }

    #[test]
    fn an_endpoint_that_only_some_clients_would_see_ends_the_stream() {
        for event in [
            "data: a\u{2028}event: endpoint\u{2028}data: /other/mcp\n\n",
            "data: a\u{b}event:endpoint\u{b}data: /other/mcp\n\n",
            "event: endpoint\ndata: /other/mcp\nevent: message\n\n",
        ] {
            let mut rewriter = rewriter();
            assert_eq!(
                rewriter.pass(Bytes::copy_from_slice(event.as_bytes())),
                UNCLEAR_EVENT,
                "{event:?}"
            );
            assert!(rewriter.has_rejected());
        }
        let marked = "\u{feff}event: endpoint\ndata: /m\n\n";
        assert_eq!(
            rewritten(&tools(), &[marked.as_bytes()]),
            "\u{feff}event: endpoint\ndata: /tools/m\n\n"
        );
    }

    #[test]
    fn an_unfinished_endpoint_is_left_out_and_anything_else_that_is_unfinished_is_not() {
        let tools = tools();
        for event in [
            "event: endpoint\rdata: /other/mcp\r",
            "data: /other/mcp\nevent: endpoint",
        ] {
            assert_eq!(rewritten(&tools, &[event.as_bytes()]), "");
        }
        assert_eq!(rewritten(&tools, &[b"data: x\r"]), "data: x\r");
    }
}
