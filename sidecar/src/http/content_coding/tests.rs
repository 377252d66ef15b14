use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures::task::noop_waker_ref;
use http::HeaderValue;
use tokio::time::advance;

use super::ContentCoding::{Gzip, Zstd};
use super::*;
use crate::http::json_key_filter::ServerNames;
use crate::server::Bounds;

const FORGED: &str = r#"{"tools":[{"type":"mcp","headers":{"mcpauth-context":"of somebody else"}}]}"#;
const PLAIN: &str = r#"{"messages":[{"content":"what does mcpauth-context do?"}],"model":"m"}"#;

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn zstd(text: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(zstd_safe::compress_bound(text.len()));
    zstd_safe::compress(&mut frame, text, 3).unwrap();
    frame
}

fn encoded(coding: ContentCoding, text: &[u8]) -> Vec<u8> {
    match coding {
        Gzip => gzip(text),
        Zstd => zstd(text),
    }
}

fn filter() -> KeyFilter {
    KeyFilter::new(ServerNames::new(["tools"]))
}

/// What becomes of the last chunk.
fn look(coding: ContentCoding, form: FormCheck, chunks: &[&[u8]]) -> Result<Look, BodyError> {
    let mut body = CodedBody::new(coding, DecoderLimit::default(), Arc::default(), form, filter());
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

fn look_at(coding: ContentCoding, chunks: &[&[u8]]) -> Result<Look, BodyError> {
    look(coding, FormCheck::new(false), chunks)
}

#[test]
fn what_names_our_header_is_found_however_it_is_cut() {
    for coding in [Gzip, Zstd] {
        let body = encoded(coding, FORGED.as_bytes());
        for first in 0..=body.len() {
            let (before, after) = body.split_at(first);
            let found = look_at(coding, &[before, after]);
            assert!(
                matches!(found, Err(BodyError::NamesHeaders)),
                "{coding:?} cut at {first}"
            );
        }
        let single: Vec<&[u8]> = body.chunks(1).collect();
        assert!(matches!(look_at(coding, &single), Err(BodyError::NamesHeaders)));
        let for_server = encoded(coding, br#"{"x-mcp-tools-x-tenant":1}"#);
        assert!(matches!(
            look_at(coding, &[&for_server]),
            Err(BodyError::NamesHeaders)
        ));
        let wide: Vec<u8> = FORGED.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let wide = encoded(coding, &wide);
        assert!(matches!(look_at(coding, &[&wide]), Err(BodyError::NotUtf8)));
    }
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
    for coding in [Gzip, Zstd] {
        let body = encoded(coding, &text);
        let chunks: Vec<&[u8]> = body.chunks(60_000).collect();
        let (last, before) = chunks.split_last().unwrap();
        assert_eq!(look_at(coding, before).unwrap(), Look::Encoded);
        assert!(matches!(
            look_at(coding, &[before, &[*last]].concat()),
            Err(BodyError::NamesHeaders)
        ));
    }
    let spaces = [&vec![b' '; 20_000_000][..], FORGED.as_bytes()].concat();
    assert!(matches!(
        look_at(Gzip, &[&gzip(&spaces)]),
        Err(BodyError::NamesHeaders)
    ));
}

/// LiteLLM takes 200 times, of the whole body, which is not there yet.
#[test]
fn a_beginning_may_be_denser_than_litellm_lets_a_whole_body_be() {
    let mut random = 1_u64;
    let dense = vec![b' '; 120_000];
    let other = (0..40_000).map(|_| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        b'!' + (random >> 59) as u8
    });
    let text: Vec<u8> = dense.iter().copied().chain(other).collect();
    for coding in [Gzip, Zstd] {
        let body = encoded(coding, &text);
        assert!(text.len() < 200 * body.len(), "LiteLLM takes the whole");
        let beginning = encoded(coding, &dense);
        assert!(dense.len() > 200 * beginning.len(), "and not this alone");
        let chunks: Vec<&[u8]> = body.chunks(beginning.len()).collect();
        assert_eq!(look_at(coding, &chunks).unwrap(), Look::Encoded);
    }
}

/// Where there are many, a user's request waits for all of them at each of its steps.
#[test]
fn the_more_bodies_are_looked_into_the_less_of_each_is_in_one_turn() {
    let bodies = Bodies {
        limit: DecoderLimit::within(200 * GZIP_BYTES),
    };
    let spaces = gzip(&vec![b' '; 200_000]);
    let turns = |limit: &DecoderLimit| {
        let mut coded = CodedBody::new(
            Gzip,
            limit.clone(),
            Arc::default(),
            FormCheck::new(false),
            filter(),
        );
        coded.push(&Bytes::copy_from_slice(&spaces)).unwrap();
        let unfinished = std::iter::repeat_with(|| coded.look().unwrap());
        unfinished.take_while(|look| *look == Look::Unfinished).count()
    };
    assert_eq!(turns(&bodies.limit), 1, "128 KiB, then the rest");
    let body = gzip(PLAIN.as_bytes());
    let begin = |_| bodies.begin(Gzip, half(&body)).unwrap();
    let many: Vec<_> = (0..184).map(begin).collect();
    assert_eq!(turns(&bodies.limit), 200_000 / (1024 * 1024 / 185));
    drop(many);
    assert_eq!(turns(&bodies.limit), 1);
}

/// Deflate cannot do that, and LiteLLM takes less by far.
#[test]
fn what_becomes_far_too_long_is_refused_before_it_is_all_looked_at() {
    let spaces = zstd(&vec![b' '; 200_000_000]);
    assert!(spaces.len() < 100_000, "{}", spaces.len());
    assert!(matches!(look_at(Zstd, &[&spaces]), Err(BodyError::Undecodable)));
}

struct Bodies {
    limit: DecoderLimit,
}

impl Bodies {
    fn begin(&self, coding: ContentCoding, body: &[u8]) -> Result<(CodedBody, Arc<BodyProgress>), BodyError> {
        let progress = Arc::<BodyProgress>::default();
        let form = FormCheck::new(false);
        let mut coded = CodedBody::new(coding, self.limit.clone(), progress.clone(), form, filter());
        coded.push(&Bytes::copy_from_slice(body))?;
        while coded.look()? == Look::Unfinished {}
        Ok((coded, progress))
    }
}

fn half(body: &[u8]) -> &[u8] {
    &body[..body.len() / 2]
}

fn has_ended(body: &CodedBody) -> bool {
    body.check(&Context::from_waker(noop_waker_ref())).is_err()
}

#[test]
fn what_does_not_name_it_passes_and_its_end_frees_the_decoder() {
    let bodies = Bodies {
        limit: DecoderLimit::within(3 * GZIP_BYTES),
    };
    let body = gzip(PLAIN.as_bytes());
    let begin = |body: &[u8]| bodies.begin(Gzip, body);
    let begun: Vec<_> = (0..3).map(|_| begin(half(&body)).unwrap()).collect();
    assert!(matches!(begin(half(&body)), Err(BodyError::NoDecoder)));
    drop(begun);
    let mut ended: Vec<_> = (0..5).map(|_| begin(&body).unwrap()).collect();
    assert_eq!(bodies.limit.held(), 0);
    let (coded, _) = &mut ended[0];
    assert!(matches!(
        coded.push(&Bytes::from_static(b"x")),
        Err(BodyError::Undecodable)
    ));
}

#[test]
fn a_body_that_drips_loses_its_decoder_to_another_and_one_that_comes_does_not() {
    let bodies = Bodies {
        limit: DecoderLimit::within(3 * GZIP_BYTES),
    };
    let body = gzip(PLAIN.as_bytes());
    let mut begun: Vec<_> = (0..3).map(|_| bodies.begin(Gzip, half(&body)).unwrap()).collect();
    // The second one drips for longer than the first one, and the third one comes.
    for (number, looks) in [(1, 3), (0, 2)] {
        let (_, progress) = &begun[number];
        progress.awaits();
        (0..looks).for_each(|_| progress.look(|| 1));
    }
    let (_, coming) = &begun[2];
    coming.awaits();
    assert!(
        begun.iter().all(|(body, _)| !has_ended(body)),
        "nobody needs their room"
    );

    let (mut next, _) = bodies.begin(Gzip, half(&body)).unwrap();
    let ended: Vec<_> = begun.iter().map(|(body, _)| has_ended(body)).collect();
    assert_eq!(ended, [false, true, false], "the longest first");
    let rest = Bytes::copy_from_slice(&body[body.len() / 2..]);
    assert!(matches!(begun[1].0.push(&rest), Err(BodyError::NoDecoder)));
    for (coded, _) in [&mut begun[0], &mut (next, Arc::default())] {
        coded.push(&rest).unwrap();
        assert_eq!(coded.look().unwrap(), Look::Encoded, "its decoder goes on");
    }
    next = begun.remove(2).0;
    next.push(&rest).unwrap();
    drop((begun, next));
    assert_eq!(bodies.limit.held(), 0);
}

/// A stranger who sends just enough not to be slow is no reason to end a user whose packet was lost.
#[tokio::test(start_paused = true)]
async fn a_body_that_has_paused_once_keeps_its_decoder_before_one_that_takes_too_long() {
    let bodies = Bodies {
        limit: DecoderLimit::within(3 * GZIP_BYTES),
    };
    let body = gzip(PLAIN.as_bytes());
    let begin = || bodies.begin(Gzip, half(&body)).unwrap();
    let (trickling, trickle) = begin();
    advance(Duration::from_secs(600)).await;
    let (paused, pause) = begin();
    let (dripping, drip) = begin();
    trickle.received(1024);
    for (progress, looks) in [(&trickle, 1), (&pause, 1), (&drip, 2)] {
        progress.awaits();
        (0..looks).for_each(|_| progress.look(|| 1));
    }
    let mut next = Vec::new();
    for expected in [[true, false, false], [true, true, false], [true, true, true]] {
        next.push(begin());
        let ended = [&trickling, &dripping, &paused].map(has_ended);
        assert_eq!(ended, expected);
    }
}

/// Two windows of 8 MiB are nearly all that zstd may hold at the memory limit of the chart.
#[tokio::test(start_paused = true)]
async fn the_larger_its_window_the_sooner_a_body_that_trickles_makes_room() {
    let bodies = Bodies {
        limit: DecoderLimit::within(Bounds::within(Some(256 << 20), None).decoding),
    };
    let (large, window_of_a_user) = (b"\x28\xb5\x2f\xfd\x00\x68", b"\x28\xb5\x2f\xfd\x00\x58");
    let body = gzip(PLAIN.as_bytes());
    let strangers = [bodies.begin(Zstd, large), bodies.begin(Zstd, large)].map(Result::unwrap);
    let small = bodies.begin(Gzip, half(&body)).unwrap();
    let progress = [&strangers[0].1, &strangers[1].1, &small.1];
    progress.iter().for_each(|progress| progress.awaits());
    let user = || bodies.begin(Zstd, window_of_a_user);
    assert!(matches!(user(), Err(BodyError::NoDecoder)));

    advance(Duration::from_secs(2)).await;
    for progress in progress {
        progress.received(1024);
        progress.awaits();
        progress.look(|| 1);
    }
    let _user = user().unwrap();
    let ended = strangers.iter().filter(|(body, _)| has_ended(body)).count();
    assert_eq!(ended, 1, "no more than are needed");
    assert!(!has_ended(&small.0), "what needs little has its time");
}

#[test]
fn who_waits_for_the_rest_of_a_body_is_woken_when_its_decoder_is_taken() {
    let bodies = Bodies {
        limit: DecoderLimit::within(GZIP_BYTES),
    };
    let body = gzip(PLAIN.as_bytes());
    let (first, progress) = bodies.begin(Gzip, half(&body)).unwrap();
    let (waker, woken) = waker_with_flag();
    assert!(first.check(&Context::from_waker(&waker)).is_ok());
    progress.awaits();
    progress.look(|| 1);
    bodies.begin(Gzip, &body).unwrap();
    assert!(woken.load(std::sync::atomic::Ordering::Relaxed));
    assert!(matches!(
        first.check(&Context::from_waker(&waker)),
        Err(BodyError::NoDecoder)
    ));
}

fn waker_with_flag() -> (std::task::Waker, Arc<std::sync::atomic::AtomicBool>) {
    struct Flag(Arc<std::sync::atomic::AtomicBool>);
    impl std::task::Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }
    let woken = Arc::<std::sync::atomic::AtomicBool>::default();
    (Arc::new(Flag(woken.clone())).into(), woken)
}

/// A window is up to seventy times what gzip needs.
#[test]
fn large_windows_leave_room_for_gzip_and_there_is_always_room_for_one() {
    let large = b"\x28\xb5\x2f\xfd\x00\x68";
    let bodies = Bodies {
        limit: DecoderLimit::within(27 << 20),
    };
    let first = bodies.begin(Zstd, large).unwrap();
    let second = bodies.begin(Zstd, large);
    assert!(first.0.limit.held() > 8 << 20);
    assert!(second.is_ok(), "two windows of 8 MiB");
    let third = bodies.begin(Zstd, large);
    assert!(
        matches!(third, Err(BodyError::NoDecoder)),
        "there is room for it, which is for gzip"
    );
    let body = gzip(PLAIN.as_bytes());
    let small: Vec<_> = (0..48)
        .map(|_| bodies.begin(Gzip, half(&body)).unwrap())
        .collect();
    drop((first, second, small));
    assert_eq!(bodies.limit.held(), 0);

    let little = Bodies {
        limit: DecoderLimit::within(1 << 20),
    };
    let one = little.begin(Zstd, large).unwrap();
    assert!(matches!(little.begin(Zstd, large), Err(BodyError::NoDecoder)));
    drop(one);
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
    assert_eq!(look_at(Zstd, &[&gzip(b"{}")]).unwrap(), Look::Identity);
    assert_eq!(look_at(Gzip, &[&zstd(b"{}")]).unwrap(), Look::Identity);
}

#[test]
fn what_cannot_be_decoded_or_goes_on_behind_its_end_is_refused() {
    let changed = |mut body: Vec<u8>, at: usize| {
        body[at] ^= 0xff;
        body
    };
    for (coding, body) in [
        (Gzip, [gzip(b"{}"), gzip(FORGED.as_bytes())].concat()),
        (Gzip, [gzip(b"{}"), b"x".to_vec()].concat()),
        (Gzip, changed(gzip(PLAIN.as_bytes()), 40)),
        (Gzip, changed(gzip(b"{}"), 3)),
        (Zstd, [zstd(b"{}"), zstd(FORGED.as_bytes())].concat()),
        (Zstd, [zstd(b"{}"), b"x".to_vec()].concat()),
        (
            Zstd,
            [b"\x5f\x2a\x4d\x18\0\0\0\0".to_vec(), zstd(FORGED.as_bytes())].concat(),
        ),
        (Zstd, changed(zstd(b"{}"), 6)),
    ] {
        let single: Vec<&[u8]> = body.chunks(1).collect();
        for chunks in [&[&*body][..], &single] {
            let looked = look_at(coding, chunks);
            assert!(
                matches!(looked, Err(BodyError::Undecodable)),
                "{coding:?} {body:?}: {looked:?}"
            );
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
