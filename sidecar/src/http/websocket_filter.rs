//! WebSocket filter: the [`KeyFilter`] for the messages of a client, which stream by in frames (RFC 6455 section 5).
//! LiteLLM reads requests from them as it does from bodies, such as `response.create` at `/v1/responses` with
//! `tools[].headers`.
//!
//! Frames keep their length and their mask, and a frame is never waited for: its payload passes as it comes. Where a
//! message is cut within a key that may become the name, the letter that has to be sent before that is known is changed.
//! No extension is negotiated, so nothing is compressed.

use bytes::{Buf, BytesMut};

use super::json_key_filter::{KeyFilter, ServerNames};

/// Two bytes, the length in up to eight, and the mask.
const MAX_HEADER_BYTES: usize = 14;

const FINAL: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OPCODE: u8 = 0x0f;
const CONTINUATION: u8 = 0;
const FIRST_CONTROL: u8 = 8;
const MASKED: u8 = 0x80;

/// The bytes are no WebSocket frame without extensions, or none of a client.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame uses an extension that was not negotiated")]
    Reserved,
    #[error("a frame of a client is not masked")]
    NotMasked,
    #[error("the length of a frame has its highest bit set")]
    Length,
}

/// One for each connection.
#[derive(Debug, Default)]
pub struct WebSocketFilter {
    /// The beginning of a frame that is not whole yet.
    header: BytesMut,
    frame: Option<Frame>,
    /// Of the message whose frames come in, between which frames of control may stand.
    message: KeyFilter,
}

/// The frame whose payload comes in.
#[derive(Debug)]
struct Frame {
    is_final: bool,
    is_control: bool,
    mask: [u8; 4],
    /// Bytes of the payload that are still to be read.
    remaining: u64,
    /// Bytes of it that were read and that were passed on, modulo four: where they are in the mask.
    read: usize,
    written: usize,
}

impl WebSocketFilter {
    /// Messages may set no headers for these servers.
    pub fn new(servers: ServerNames) -> Self {
        Self {
            message: KeyFilter::new(servers),
            ..Self::default()
        }
    }

    /// Takes the next bytes of the client, and appends what is to be sent of them to `output`.
    pub fn pass(&mut self, input: &mut BytesMut, output: &mut BytesMut) -> Result<(), FrameError> {
        loop {
            match &mut self.frame {
                Some(frame) => {
                    frame.pass(input, output, &mut self.message);
                    if frame.remaining > 0 {
                        return Ok(());
                    }
                    self.frame = None;
                }
                None => {
                    let Some(frame) = self.next_frame(input, output)? else {
                        return Ok(());
                    };
                    self.frame = Some(frame);
                }
            }
        }
    }

    /// The next frame, whose header goes into `output`; `None` as long as the header is not whole.
    fn next_frame(
        &mut self,
        input: &mut BytesMut,
        output: &mut BytesMut,
    ) -> Result<Option<Frame>, FrameError> {
        let missing = MAX_HEADER_BYTES.saturating_sub(self.header.len());
        let held = self.header.len();
        self.header.extend_from_slice(&input[..missing.min(input.len())]);
        let Some((frame, opcode, length)) = parse(&self.header)? else {
            // All of the input is in the header.
            input.clear();
            return Ok(None);
        };
        input.advance(length - held);
        output.extend_from_slice(&self.header[..length]);
        self.header.clear();
        if !frame.is_control && opcode != CONTINUATION {
            self.message.renew();
        }
        Ok(Some(frame))
    }
}

impl Frame {
    fn pass(&mut self, input: &mut BytesMut, output: &mut BytesMut, message: &mut KeyFilter) {
        let available = usize::try_from(self.remaining)
            .unwrap_or(usize::MAX)
            .min(input.len());
        let mut chunk = input.split_to(available);
        self.remaining -= available as u64;
        if self.is_control {
            output.unsplit(chunk);
            return;
        }
        self.read = apply_mask(&mut chunk, self.mask, self.read);
        let (before, chunk) = message.pass(chunk.freeze());
        let begin = output.len();
        output.extend(before);
        output.extend_from_slice(&chunk);
        if self.remaining == 0 {
            output.extend(match self.is_final {
                true => message.finish(),
                false => message.disarm(),
            });
        }
        self.written = apply_mask(&mut output[begin..], self.mask, self.written);
    }
}

/// The header at the beginning of `bytes`: the frame, its opcode and the header's length. `None` where it is not whole.
fn parse(bytes: &[u8]) -> Result<Option<(Frame, u8, usize)>, FrameError> {
    let [first, second, rest @ ..] = bytes else {
        return Ok(None);
    };
    if first & RESERVED != 0 {
        return Err(FrameError::Reserved);
    }
    if second & MASKED == 0 {
        return Err(FrameError::NotMasked);
    }
    let (remaining, rest) = match second & !MASKED {
        126 => match rest.split_first_chunk() {
            Some((length, rest)) => (u16::from_be_bytes(*length).into(), rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk() {
            Some((length, rest)) => (u64::from_be_bytes(*length), rest),
            None => return Ok(None),
        },
        length => (length.into(), rest),
    };
    if remaining >> 63 != 0 {
        return Err(FrameError::Length);
    }
    let Some((mask, rest)) = rest.split_first_chunk() else {
        return Ok(None);
    };
    let opcode = first & OPCODE;
    let frame = Frame {
        is_final: first & FINAL != 0,
        is_control: opcode >= FIRST_CONTROL,
        mask: *mask,
        remaining,
        read: 0,
        written: 0,
    };
    Ok(Some((frame, opcode, bytes.len() - rest.len())))
}

/// Masks or unmasks what stands `at` in the payload, and returns where the next byte stands.
fn apply_mask(bytes: &mut [u8], mask: [u8; 4], at: usize) -> usize {
    for (byte, key) in bytes.iter_mut().zip(mask.iter().cycle().skip(at)) {
        *byte ^= key;
    }
    (at + bytes.len()) % mask.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: u8 = 1;
    const PING: u8 = 9;
    const NAME: &str = r#"{"type":"response.create","tools":[{"headers":{"mcpauth-context":"forged"}}]}"#;

    fn frame(is_final: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0x5a, 0xa5, 0x00, 0xff];
        let mut bytes = vec![if is_final { FINAL | opcode } else { opcode }];
        match payload.len() {
            length @ 0..126 => bytes.push(MASKED | length as u8),
            length @ 126..0x1_0000 => {
                bytes.push(MASKED | 126);
                bytes.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                bytes.push(MASKED | 127);
                bytes.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        bytes.extend_from_slice(&mask);
        let begin = bytes.len();
        bytes.extend_from_slice(payload);
        apply_mask(&mut bytes[begin..], mask, 0);
        bytes
    }

    fn passed(pieces: &[&[u8]]) -> Vec<u8> {
        let (mut filter, mut output) = (WebSocketFilter::default(), BytesMut::new());
        for piece in pieces {
            filter.pass(&mut BytesMut::from(*piece), &mut output).unwrap();
        }
        output.to_vec()
    }

    #[test]
    fn the_name_is_disarmed_as_a_key_however_the_frames_come() {
        let expected = frame(
            true,
            TEXT,
            NAME.replace("mcpauth-context", "mcpauth-contex_").as_bytes(),
        );
        let sent = frame(true, TEXT, NAME.as_bytes());
        for cut in 0..=sent.len() {
            assert_eq!(passed(&[&sent[..cut], &sent[cut..]]), expected, "cut at {cut}");
        }
        let single: Vec<&[u8]> = sent.chunks(1).collect();
        assert_eq!(passed(&single), expected);
        assert_eq!(
            passed(&[&[sent.clone(), sent].concat()]),
            [expected.clone(), expected].concat()
        );
    }

    #[test]
    fn the_name_is_disarmed_where_a_message_is_cut_and_control_frames_stand_between() {
        for cut in 0..=NAME.len() {
            let (first, last) = NAME.as_bytes().split_at(cut);
            let ping = frame(true, PING, br#"{"mcpauth-context":1}"#);
            let sent = [
                frame(false, TEXT, first),
                ping.clone(),
                frame(true, CONTINUATION, last),
            ]
            .concat();
            let arrived = passed(&[&sent]);
            let disarmed = NAME.replace("mcpauth-context", "mcpauth-contex_");
            let (first, last) = disarmed.as_bytes().split_at(cut);
            let expected = [frame(false, TEXT, first), ping, frame(true, CONTINUATION, last)].concat();
            assert_eq!(arrived, expected, "cut at {cut}");
        }
    }

    #[test]
    fn each_message_is_a_text_of_its_own_and_values_are_left_alone() {
        let value = br#"{"text":"mcpauth-context"}"#;
        let unfinished = br#"{"a":{"mcpauth-context"#;
        let sent = [
            frame(true, TEXT, value),
            frame(true, TEXT, unfinished),
            frame(true, 2, br#"":1}"#),
            frame(true, TEXT, b""),
            frame(true, 8, &[0x03, 0xe8]),
        ];
        let sent = sent.concat();
        assert_eq!(passed(&[&sent]), sent);
        for length in [125, 126, 0xffff, 0x1_0000] {
            let long = frame(true, TEXT, &vec![b'x'; length]);
            let pieces: Vec<&[u8]> = long.chunks(1000).collect();
            assert_eq!(passed(&pieces), long, "{length}");
        }
    }

    #[test]
    fn what_is_no_frame_of_a_client_is_an_error() {
        let pass =
            |bytes: &[u8]| WebSocketFilter::default().pass(&mut BytesMut::from(bytes), &mut BytesMut::new());
        assert_eq!(pass(&[0xc1, 0x80]), Err(FrameError::Reserved));
        assert_eq!(pass(b"GET / HTTP/1.1\r\n\r\n"), Err(FrameError::Reserved));
        assert_eq!(pass(&[0x81, 0x01, b'x']), Err(FrameError::NotMasked));
        let long = [0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(pass(&long), Err(FrameError::Length));
    }
}
