//! What a client sends over a WebSocket passes alike however it is cut, at its length, and no whole message names headers.

use bytes::BytesMut;

use super::key_filter::{SERVERS, names_headers};
use crate::http::json_key_filter::ServerNames;
use crate::http::websocket_filter::WebSocketFilter;

/// The first four bytes seed how the others are cut.
pub fn websocket(data: &[u8]) {
    let Some((seed, sent)) = data.split_first_chunk() else {
        return;
    };
    let whole = passed(&[sent]);
    let cut = passed(&super::pieces(sent, u32::from_be_bytes(*seed), 8));
    assert_eq!(whole, cut, "however it is cut");
    let (passed, is_whole) = whole;
    assert!(passed.len() <= sent.len());
    if is_whole {
        // A header or a letter at the end may wait for what follows.
        assert!(sent.len() - passed.len() < 14 + 1);
    }
    for message in messages(&passed) {
        assert_ne!(names_headers(&message), Some(true));
    }
}

/// What is sent on, and whether all of it was taken.
fn passed(chunks: &[&[u8]]) -> (Vec<u8>, bool) {
    let mut filter = WebSocketFilter::new(ServerNames::new(SERVERS));
    let mut output = BytesMut::new();
    for chunk in chunks {
        if filter.pass(&mut BytesMut::from(*chunk), &mut output).is_err() {
            return (output.to_vec(), false);
        }
    }
    (output.to_vec(), true)
}

/// The whole messages of data, by RFC 6455 section 5.
fn messages(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut messages, mut message) = (Vec::new(), None);
    while let Some((is_final, opcode, payload, rest)) = frame(bytes) {
        bytes = rest;
        match opcode {
            8.. => continue,
            // Of nothing: no receiver takes it.
            0 if message.is_none() => return messages,
            0 => {}
            // Nor one within another.
            _ if message.is_some() => return messages,
            _ => message = Some(Vec::new()),
        }
        let mut whole: Vec<u8> = message.take().unwrap_or_default();
        whole.extend(payload);
        match is_final {
            true => messages.push(whole),
            false => message = Some(whole),
        }
    }
    messages
}

fn frame(bytes: &[u8]) -> Option<(bool, u8, Vec<u8>, &[u8])> {
    let (&[first, second], rest) = bytes.split_first_chunk()?;
    let (length, rest) = match second & 0x7f {
        126 => {
            let (length, rest) = rest.split_first_chunk()?;
            (u64::from(u16::from_be_bytes(*length)), rest)
        }
        127 => {
            let (length, rest) = rest.split_first_chunk()?;
            (u64::from_be_bytes(*length), rest)
        }
        length => (u64::from(length), rest),
    };
    let (mask, rest) = rest.split_first_chunk::<4>()?;
    let (payload, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    let unmasked = payload
        .iter()
        .zip(mask.iter().cycle())
        .map(|(byte, key)| byte ^ key);
    Some((first & 0x80 != 0, first & 0x0f, unmasked.collect(), rest))
}
