//! A compressed body is refused or passes however it is cut, and what passes decodes to a text that names no headers.

use std::io::{Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use super::key_filter::{SERVERS, names_headers};
use crate::http::content_coding::{CodedBody, ContentCoding, DecoderLimit, Look};
use crate::http::json_encoding::FormCheck;
use crate::http::json_key_filter::{KeyFilter, ServerNames};

/// More than LiteLLM's default, and what a plain decoder is given here.
const MAX_DECODED: usize = 4 << 20;

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
    assert_eq!(whole, cut, "however it is cut");
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
