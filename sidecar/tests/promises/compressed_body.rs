//! A compressed body is refused or passes however it is cut, and what passes decodes to a text that names no headers.

use std::io::{Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use zstd_safe::{DCtx, InBuffer, OutBuffer};

use super::key_filter::{SERVERS, names_headers};
use crate::http::content_coding::{CodedBody, ContentCoding, DecoderLimit, Look};
use crate::http::json_encoding::FormCheck;
use crate::http::json_key_filter::{KeyFilter, ServerNames};

/// More than LiteLLM's default, and what a plain decoder is given here.
const MAX_DECODED: usize = 4 << 20;
/// May come out of the first bytes, however few they are.
const FREE_BYTES: usize = 128 * 1024;

/// The first byte chooses the coding, and whether the rest is to be encoded; the next four seed how it is cut.
pub fn compressed_body(data: &[u8]) {
    let Some(((choice, seed), rest)) = data
        .split_first()
        .and_then(|(choice, rest)| Some((choice, rest.split_first_chunk()?)))
        .map(|(choice, (seed, rest))| ((choice, seed), rest))
    else {
        return;
    };
    let coding = match choice & 1 {
        0 => ContentCoding::Gzip,
        _ => ContentCoding::Zstd,
    };
    let encoded;
    let body = match choice & 2 {
        0 => rest,
        _ => {
            encoded = encode(coding, rest);
            &encoded
        }
    };
    let whole = passes(coding, &[body]);
    let cut = passes(coding, &super::pieces(body, u32::from_be_bytes(*seed), 64));
    // How dense it is counts by what has come, so that in pieces a beginning can be too dense that is not in the whole.
    if !(cut.is_none() && begins_densely(coding, body)) {
        assert_eq!(whole, cut, "however it is cut");
    }
    if whole == Some(Look::Encoded)
        && let Some(text) = decode(coding, body)
    {
        assert_ne!(
            names_headers(&text),
            Some(true),
            "nothing that names headers passes"
        );
    }
    if choice & 2 != 0
        && let Some(is_named) = names_headers(rest)
    {
        let expected = (!is_named).then_some(Look::Encoded);
        assert_eq!(whole, expected, "what is JSON passes unless it names headers");
    }
}

/// What becomes of it; `None` where it is refused.
fn passes(coding: ContentCoding, chunks: &[&[u8]]) -> Option<Look> {
    let filter = KeyFilter::new(ServerNames::new(SERVERS));
    let form = FormCheck::new(false);
    let mut body = CodedBody::new(coding, DecoderLimit::default(), Arc::default(), form, filter);
    let mut last = Look::Identity;
    for chunk in chunks {
        body.push(&Bytes::copy_from_slice(chunk)).ok()?;
        last = Look::Unfinished;
        while last == Look::Unfinished {
            last = body.look().ok()?;
        }
    }
    Some(last)
}

/// Whether more comes out of it than may from its first byte.
fn begins_densely(coding: ContentCoding, body: &[u8]) -> bool {
    let mut text = vec![0; FREE_BYTES + 1];
    match coding {
        // It cannot be denser than the limit.
        ContentCoding::Gzip => false,
        ContentCoding::Zstd => {
            let mut context = DCtx::create();
            let mut input = InBuffer::around(body);
            let mut output = OutBuffer::around(&mut text[..]);
            // Until it is full, broken, or nothing more comes.
            while output.pos() <= FREE_BYTES {
                let before = (input.pos(), output.pos());
                let decoded = context.decompress_stream(&mut output, &mut input);
                if decoded.is_err() || before == (input.pos(), output.pos()) {
                    break;
                }
            }
            output.pos() > FREE_BYTES
        }
    }
}

fn encode(coding: ContentCoding, text: &[u8]) -> Vec<u8> {
    match coding {
        ContentCoding::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(text).expect("it is written to memory");
            encoder.finish().expect("it is written to memory")
        }
        ContentCoding::Zstd => {
            let mut frame = Vec::with_capacity(zstd_safe::compress_bound(text.len()));
            zstd_safe::compress(&mut frame, text, 1).expect("there is room for it");
            frame
        }
    }
}

/// All of it at once, by the rules of LiteLLM: a single member or frame, and nothing behind it.
fn decode(coding: ContentCoding, body: &[u8]) -> Option<Vec<u8>> {
    match coding {
        ContentCoding::Gzip => {
            let mut text = Vec::new();
            let decoder = GzDecoder::new(body);
            decoder.take(MAX_DECODED as u64).read_to_end(&mut text).ok()?;
            Some(text)
        }
        ContentCoding::Zstd => {
            let mut text = Vec::with_capacity(MAX_DECODED);
            zstd_safe::decompress(&mut text, body).ok()?;
            Some(text)
        }
    }
}
