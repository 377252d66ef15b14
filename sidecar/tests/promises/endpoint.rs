//! After the rewriting an event stream holds the same events, and its endpoint leads through the sidecar.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use mcp_auth_protocol::sync::Transport;

use crate::proxy::outbound::endpoint::EndpointRewriter;
use crate::proxy::routes::{McpServer, OpeningStream};

static TOOLS: LazyLock<Arc<McpServer>> =
    LazyLock::new(|| super::server("http://tools.example.com/sse", Transport::Sse));

/// Longer than what the rewriter buffers whole.
const LONG: usize = 17 * 1024;

/// How a client cuts a stream into lines.
#[derive(Clone, Copy)]
enum Lines {
    /// By the specification.
    Strict,
    /// By Python's `splitlines`, as old clients do.
    Lenient,
}

#[derive(Debug, Default, PartialEq)]
struct Event {
    kind: String,
    data: Vec<String>,
    /// All other fields, without comments.
    rest: Vec<String>,
}

/// The first four bytes seed how the others are cut. 0xFE, which is no text, stands for something long.
pub fn endpoint(data: &[u8]) {
    let Some((seed, stream)) = data.split_first_chunk() else {
        return;
    };
    let mut long = 0;
    let stream: Vec<u8> = stream
        .iter()
        .flat_map(|byte| match *byte {
            0xFE if long < 3 => {
                long += 1;
                vec![b'x'; LONG]
            }
            byte => vec![byte],
        })
        .collect();
    let max_piece = if long == 0 { 8 } else { LONG };
    let (whole, rejected) = rewritten(&[&stream]);
    let (cut, cut_rejected) = rewritten(&super::pieces(&stream, u32::from_be_bytes(*seed), max_piece));
    assert_eq!(rejected, cut_rejected, "however it is cut");
    for out in [&whole, &cut] {
        for lines in [Lines::Strict, Lines::Lenient] {
            let endpoints = events(out, lines)
                .into_iter()
                .filter(|event| event.kind == "endpoint");
            for event in endpoints {
                assert!(event.data.concat().starts_with("/tools/"), "{event:?}");
            }
        }
    }
    if rejected {
        return;
    }
    assert!(whole == cut, "however it is cut");
    let (before, after) = (events(&stream, Lines::Strict), events(&whole, Lines::Strict));
    if memchr::memmem::find(&stream, b"endpoint").is_none() {
        assert!(whole == stream, "byte for byte");
    }
    assert_eq!(before.len(), after.len());
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((&before.kind, &before.rest), (&after.kind, &after.rest));
        assert!(before.kind == "endpoint" || before.data == after.data);
    }
}

fn rewritten(chunks: &[&[u8]]) -> (Vec<u8>, bool) {
    let mut rewriter = EndpointRewriter::new(TOOLS.clone(), "/sse", OpeningStream::default());
    let mut out = Vec::new();
    for chunk in chunks {
        out.extend_from_slice(&rewriter.pass(Bytes::copy_from_slice(chunk)));
    }
    let rejected = rewriter.has_rejected();
    if !rejected {
        out.extend_from_slice(&rewriter.finish());
    }
    (out, rejected)
}

/// The events of a client that has read the whole stream.
fn events(stream: &[u8], lines: Lines) -> Vec<Event> {
    let text = String::from_utf8_lossy(stream).replace("\r\n", "\n");
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let ends: &[char] = match lines {
        Lines::Strict => &['\n', '\r'],
        Lines::Lenient => &[
            '\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}',
        ],
    };
    let mut cut: Vec<&str> = text.split(ends).collect();
    match lines {
        // What follows the last end is no line yet.
        Lines::Strict => drop(cut.pop()),
        // Some take the end of the stream for that of the event.
        Lines::Lenient => cut.extend(["", ""]),
    }
    let (mut events, mut event) = (Vec::new(), Event::default());
    for line in cut {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "" if line.is_empty() => events.push(std::mem::take(&mut event)),
            "event" => event.kind = value.to_owned(),
            "" => {}
            "data" => event.data.push(value.to_owned()),
            _ => event.rest.push(line.to_owned()),
        }
    }
    events
}
