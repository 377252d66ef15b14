use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use http::HeaderValue;

use super::ContentCoding::{Gzip, Zstd};
use super::*;
use crate::http::json_key_filter::ServerNames;

const FORGED: &str = r#"{"tools":[{"type":"mcp","headers":{"mcpauth-context":"of somebody else"}}]}"#;
const PLAIN: &str = r#"{"messages":[{"content":"what does mcpauth-context do?"}],"model":"m"}"#;
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd\x20\x02\x11\0\0{}";

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn filter() -> KeyFilter {
    KeyFilter::new(ServerNames::new(["tools"]))
}

/// What becomes of the last chunk.
fn look(coding: ContentCoding, form: FormCheck, chunks: &[&[u8]]) -> Result<Look, BodyError> {
    let mut body = CodedBody::new(coding, DecoderLimit::default(), form, filter());
    let mut last = Look::Identity;
    for chunk in chunks {
        body.push(&Bytes::copy_from_slice(chunk))?;
        last = Look::Unfinished;
        while last == Look::Unfinished {
            last = body.look()?;
        }
    }
    Ok(last)
}

fn look_at_gzip(chunks: &[&[u8]]) -> Result<Look, BodyError> {
    look(Gzip, FormCheck::new(false), chunks)
}

#[test]
fn what_names_our_header_is_found_however_it_is_cut() {
    let body = gzip(FORGED.as_bytes());
    for first in 0..=body.len() {
        let (before, after) = body.split_at(first);
        let found = look_at_gzip(&[before, after]);
        assert!(matches!(found, Err(BodyError::NamesHeaders)), "cut at {first}");
    }
    let single: Vec<&[u8]> = body.chunks(1).collect();
    assert!(matches!(look_at_gzip(&single), Err(BodyError::NamesHeaders)));
    let for_server = gzip(br#"{"x-mcp-tools-x-tenant":1}"#);
    assert!(matches!(
        look_at_gzip(&[&for_server]),
        Err(BodyError::NamesHeaders)
    ));
    let wide: Vec<u8> = FORGED.encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(matches!(look_at_gzip(&[&gzip(&wide)]), Err(BodyError::NotUtf8)));
}

/// Behind what takes more than one turn.
#[test]
fn what_names_our_header_is_found_at_the_end_of_a_long_body() {
    let mut text = b"[\"".to_vec();
    let mut random = 1_u64;
    text.extend((0..1_000_000).map(|_| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        b'a' + (random >> 60) as u8
    }));
    text.extend_from_slice(b"\",");
    text.extend_from_slice(FORGED.as_bytes());
    text.push(b']');
    let body = gzip(&text);
    let chunks: Vec<&[u8]> = body.chunks(60_000).collect();
    let (last, before) = chunks.split_last().unwrap();
    assert_eq!(look_at_gzip(before).unwrap(), Look::Encoded);
    assert!(matches!(
        look_at_gzip(&[before, &[*last]].concat()),
        Err(BodyError::NamesHeaders)
    ));
    let spaces = [&vec![b' '; 20_000_000][..], FORGED.as_bytes()].concat();
    assert!(matches!(
        look_at_gzip(&[&gzip(&spaces)]),
        Err(BodyError::NamesHeaders)
    ));
}

#[test]
fn what_does_not_name_it_passes_and_its_end_frees_the_decoder() {
    let limit = DecoderLimit::within(3 * DECODER_BYTES);
    let begin = |body: &[u8]| {
        let mut coded = CodedBody::new(Gzip, limit.clone(), FormCheck::new(false), filter());
        coded.push(&Bytes::copy_from_slice(body))?;
        Ok((coded.look()?, coded))
    };
    let body = gzip(PLAIN.as_bytes());
    let half = &body[..body.len() / 2];
    let begun: Vec<_> = (0..3).map(|_| begin(half).unwrap()).collect();
    assert!(matches!(begin(half), Err(BodyError::NoDecoder)));
    drop(begun);
    let mut ended: Vec<_> = (0..5).map(|_| begin(&body).unwrap()).collect();
    let (look, coded) = &mut ended[0];
    assert_eq!(*look, Look::Encoded);
    assert!(matches!(
        coded.push(&Bytes::from_static(b"x")),
        Err(BodyError::Undecodable)
    ));
}

#[test]
fn what_does_not_begin_as_encoded_is_read_as_it_is() {
    for body in [
        PLAIN.as_bytes(),
        b"\x1e",
        b"\x1f",
        b"\x1f{}",
        b"\x28\xb5\x2f\xfe",
        b"\x50\x2a\x4dx",
        b"P",
    ] {
        for coding in [Gzip, Zstd] {
            let chunks: Vec<&[u8]> = body.chunks(1).collect();
            let looked = look(coding, FormCheck::new(false), &chunks);
            assert_eq!(looked.unwrap(), Look::Identity, "{coding:?} {body:?}");
        }
    }
    let looked = look(Zstd, FormCheck::new(false), &[&gzip(b"{}")]);
    assert_eq!(looked.unwrap(), Look::Identity);
    assert_eq!(look_at_gzip(&[ZSTD]).unwrap(), Look::Identity);
}

#[test]
fn what_cannot_be_decoded_or_goes_on_behind_its_end_is_refused() {
    let changed = |mut body: Vec<u8>, at: usize| {
        body[at] ^= 0xff;
        body
    };
    for body in [
        [gzip(b"{}"), gzip(FORGED.as_bytes())].concat(),
        [gzip(b"{}"), b"x".to_vec()].concat(),
        changed(gzip(PLAIN.as_bytes()), 40),
        changed(gzip(b"{}"), 3),
    ] {
        let looked = look_at_gzip(&[&body]);
        assert!(
            matches!(looked, Err(BodyError::Undecodable)),
            "{body:?}: {looked:?}"
        );
    }
    for body in [ZSTD, &[b"\x5f\x2a\x4d\x18\0\0\0\0", ZSTD].concat()] {
        let single: Vec<&[u8]> = body.chunks(1).collect();
        for chunks in [&[body][..], &single] {
            let looked = look(Zstd, FormCheck::new(false), chunks);
            assert!(matches!(looked, Err(BodyError::Zstd)), "{body:?}: {looked:?}");
        }
    }
}

#[test]
fn a_form_in_gzip_is_left_alone_and_json_that_is_said_to_be_one_is_not() {
    let form = gzip(format!("--x\r\n\r\n{FORGED}\r\n--x--").as_bytes());
    assert_eq!(look(Gzip, FormCheck::new(true), &[&form]).unwrap(), Look::Encoded);
    let looked = look(Gzip, FormCheck::new(true), &[&gzip(FORGED.as_bytes())]);
    assert!(matches!(looked, Err(BodyError::NamesHeaders)));
}

#[test]
fn the_coding_is_known_by_litellms_rules() {
    let of = |values: &[&[u8]]| {
        let value = |value: &&[u8]| (CONTENT_ENCODING, HeaderValue::from_bytes(value).unwrap());
        ContentCoding::of(&values.iter().map(value).collect())
    };
    for name in [
        &b"gzip"[..],
        b"GZip",
        b"x-gzip",
        b" gzip\t",
        b"gzip\xa0",
        b"\x85gzip",
    ] {
        assert_eq!(of(&[name]), Some(Gzip), "{name:?}");
    }
    assert_eq!(of(&[b"zstd"]), Some(Zstd));
    for values in [
        &[][..],
        &[&b"identity"[..]],
        &[b"gzip, gzip"],
        &[b"gzip", b"gzip"],
        &[b"br"],
        &[b""],
    ] {
        assert_eq!(of(values), None, "{values:?}");
    }
}
