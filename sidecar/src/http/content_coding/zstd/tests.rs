use zstd_safe::{CCtx, CParameter, compress_bound};

use super::*;

/// Without the length of the content unless `is_whole`, as one writes who compresses what streams by.
fn compressed(text: &[u8], window_log: u32, is_whole: bool) -> Vec<u8> {
    let mut context = CCtx::create();
    context.set_parameter(CParameter::WindowLog(window_log)).unwrap();
    let mut frame = Vec::with_capacity(compress_bound(text.len()));
    if is_whole {
        context.compress2(&mut frame, text).unwrap();
        return frame;
    }
    let mut input = InBuffer::around(text);
    let mut output = OutBuffer::around(&mut frame);
    // Not all at once, as its length would be known then.
    while input.pos() < text.len() {
        context.compress_stream(&mut output, &mut input).unwrap();
    }
    while context.end_stream(&mut output).unwrap() > 0 {}
    frame
}

/// What it becomes, and how much its decoder holds at most.
fn decoded(frame: &[u8], chunk: usize) -> (Result<Vec<u8>, Undecodable>, usize) {
    let (mut decoder, mut text, mut held) = (ZstdDecoder::new(), Vec::new(), 0);
    let mut piece = vec![0; 16 * 1024];
    for chunk in frame.chunks(chunk) {
        decoder.push(Bytes::copy_from_slice(chunk));
        loop {
            match decoder.step(&mut piece) {
                Ok(Step::Decoded(length)) => text.extend_from_slice(&piece[..length]),
                Ok(Step::NeedsMore | Step::Ended) => break,
                Err(error) => return (Err(error), held),
            }
        }
        held = held.max(decoder.held());
    }
    (Ok(text), held)
}

fn random(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 57) as u8
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn what_was_compressed_comes_out_however_it_is_cut() {
    let long = random(700_000);
    for text in [&b""[..], b"{}", &long] {
        for is_whole in [true, false] {
            let frame = compressed(text, 17, is_whole);
            for chunk in [1, 7, 60_000, 1 << 20] {
                let (got, _) = decoded(&frame, chunk);
                assert!(got.as_deref() == Ok(text), "{} {is_whole} {chunk}", text.len());
            }
        }
    }
}

#[test]
fn no_decoder_holds_more_than_its_frame_says_beforehand() {
    let text = random(300_000);
    let long = random(8 << 20);
    for window_log in 10..=23 {
        for (is_whole, text) in [(false, &*text), (true, &text), (true, &text[..300])] {
            holds_what_is_said(text, window_log, is_whole);
        }
    }
    // A single segment as large as a window may be.
    holds_what_is_said(&long, 23, true);
}

fn holds_what_is_said(text: &[u8], window_log: u32, is_whole: bool) {
    let frame = compressed(text, window_log, is_whole);
    let said = decoder_bytes(&frame).unwrap();
    let (got, held) = decoded(&frame, 64 * 1024);
    let what = format!("{window_log} {is_whole} {}", text.len());
    assert!(got.as_deref() == Ok(text), "{what}");
    assert!(held <= said, "{what}: {held} is more than {said}");
}

#[test]
fn a_larger_window_than_litellm_takes_is_an_error() {
    let text = random(300_000);
    let frame = compressed(&text, 24, false);
    assert!(decoded(&frame, 1 << 20).0.is_err());
    assert_eq!(
        decoder_bytes(&frame),
        Some(BASE_BYTES),
        "there is no room made for it"
    );
}

#[test]
fn the_header_tells_only_when_it_is_whole() {
    // With a window; of one segment with a length of one, two, four and eight bytes; with a dictionary's identifier.
    for (header, window) in [
        (&b"\x00\x58"[..], 2 << 20),
        (b"\x20\x05", 1 << 10),
        (b"\x60\x00\x07", 256 + 0x700),
        (b"\xa0\x00\x00\x10\x00", 1 << 20),
        (b"\xe0\x00\x00\x10\x00\x00\x00\x00\x00", 1 << 20),
        (b"\x23\x01\x02\x03\x04\xff", 1 << 10),
        (b"\x00\x5b", (2 << 20) + 3 * (2 << 20) / 8),
    ] {
        let frame = [MAGIC, header].concat();
        for end in 0..frame.len() {
            assert_eq!(decoder_bytes(&frame[..end]), None, "{header:?} {end}");
        }
        let buffers = window + 3 * window.min(128 << 10);
        assert_eq!(decoder_bytes(&frame), Some(BASE_BYTES + buffers), "{header:?}");
    }
    let skippable = [&b"\x5f"[..], SKIPPABLE_MAGIC].concat();
    assert_eq!(decoder_bytes(&skippable), Some(BASE_BYTES));
}

#[test]
fn what_is_no_frame_or_goes_on_behind_one_is_an_error() {
    let frame = compressed(b"{}", 17, true);
    let reserved = [MAGIC, b"\x28\x02\x11\0\0{}"].concat();
    for bytes in [
        [&*frame, b"x"].concat(),
        [&*frame, &*frame].concat(),
        [&b"\x5f\x2a\x4d\x18\0\0\0\0"[..], &frame].concat(),
        reserved,
    ] {
        for chunk in [1, 1 << 20] {
            assert_eq!(decoded(&bytes, chunk).0, Err(Undecodable), "{bytes:?}");
        }
    }
}
