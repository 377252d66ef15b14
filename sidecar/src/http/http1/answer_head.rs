//! Turns the head of an answer into status and headers, and says how its body ends (RFC 9112 section 6.3). What could
//! be understood in more than one way is an error, or ends the connection with the answer.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use httparse::{Header, ParserConfig, Status};
use hyper::ext::ReasonPhrase;

use super::body_decoder::BodyDecoder;
use super::content_length::parse_content_length;
use super::error::Http1Error;

/// Most fields of a head.
pub const MAX_FIELDS: usize = 256;

pub struct AnswerHead {
    pub response: Response<()>,
    /// Its length.
    pub bytes: usize,
    /// 1xx but 101: the answer is yet to come.
    pub is_interim: bool,
    pub body: BodyDecoder,
    /// Whether the connection may go on after the answer, as far as its head tells.
    pub is_reusable: bool,
    /// Whether its length, if any, is stated once and in one way.
    pub has_one_length: bool,
    pub has_keep_alive: bool,
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// What the fields say of the body and of the connection.
#[derive(Default)]
struct Framing {
    lengths: usize,
    length: u64,
    is_malformed_length: bool,
    codings: usize,
    is_chunked: bool,
    closes: bool,
    has_keep_alive: bool,
}

/// A head that is whole, which it takes from `buffer`; `None` where more has to come. `headers` is an empty map, which is used
/// for those of the answer. `answers_head`: the request was a HEAD.
pub fn parse(
    buffer: &mut BytesMut,
    headers: &mut HeaderMap,
    answers_head: bool,
) -> Result<Option<AnswerHead>, Http1Error> {
    let mut fields = [const { MaybeUninit::<Header<'_>>::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = ParserConfig::default();
    let length = match config.parse_response_with_uninit_headers(&mut parsed, buffer, &mut fields) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Http1Error::HeadTooLarge),
        Err(error) => return Err(Http1Error::Head(error)),
    };
    // A copy: values are slices of it, and would keep all that was read.
    let head = Bytes::copy_from_slice(&buffer[..length]);
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Http1Error::Head(httparse::Error::Status))?;
    let is_http_1_0 = parsed.version != Some(1);
    let mut headers = std::mem::take(headers);
    headers.reserve(parsed.headers.len());
    let mut framing = Framing::default();
    append_fields(&mut headers, buffer, &head, parsed.headers, |name, value| {
        framing.read(name, value)
    })?;
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if let Some(reason) = parsed.reason
        && status.canonical_reason() != Some(reason)
        && let Ok(reason) = ReasonPhrase::try_from(reason.as_bytes())
    {
        response.extensions_mut().insert(reason);
    }
    buffer.advance(length);
    let is_interim = status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS;
    let (body, is_reusable) = match is_interim {
        true => (BodyDecoder::Done, true),
        false => framing.body(status, is_http_1_0, answers_head)?,
    };
    Ok(Some(AnswerHead {
        response,
        bytes: length,
        is_interim,
        body,
        is_reusable,
        has_one_length: framing.has_one_length(),
        has_keep_alive: framing.has_keep_alive,
    }))
}

/// Whether the end of a head may have come with what is behind the first `seen` bytes.
pub fn may_end(buffer: &[u8], seen: usize) -> bool {
    let from = seen.saturating_sub(3);
    memchr::memchr_iter(b'\n', &buffer[from..]).any(|at| {
        let rest = &buffer[from + at + 1..];
        rest.starts_with(b"\n") || rest.starts_with(b"\r\n")
    })
}

/// Appends fields that were parsed from `parsed`, of which `copy` has the bytes, and shows each to `look`.
pub fn append_fields(
    headers: &mut HeaderMap,
    parsed: &[u8],
    copy: &Bytes,
    fields: &[Header<'_>],
    mut look: impl FnMut(&HeaderName, &HeaderValue),
) -> Result<(), Http1Error> {
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let name = name.map_err(|_| Http1Error::Head(httparse::Error::HeaderName))?;
        let start = field.value.as_ptr().addr().wrapping_sub(parsed.as_ptr().addr());
        let value = match field.value.is_empty() {
            true => Bytes::new(),
            false => copy.slice(start..start + field.value.len()),
        };
        let value = HeaderValue::from_maybe_shared(value);
        let value = value.map_err(|_| Http1Error::Head(httparse::Error::HeaderValue))?;
        look(&name, &value);
        headers.append(name, value);
    }
    Ok(())
}

impl Framing {
    fn read(&mut self, name: &HeaderName, value: &HeaderValue) {
        if name == CONTENT_LENGTH {
            // A list of lengths that agree is taken, and the connection ends with it.
            for length in value.as_bytes().split(|byte| *byte == b',') {
                match parse_content_length(length.trim_ascii()) {
                    Some(length) if self.lengths == 0 || length == self.length => self.length = length,
                    _ => self.is_malformed_length = true,
                }
                self.lengths += 1;
            }
        } else if name == TRANSFER_ENCODING {
            self.codings += 1;
            self.is_chunked = value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
        } else if name == CONNECTION {
            let mut options = value.as_bytes().split(|byte| *byte == b',');
            self.closes |= options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"));
        } else if name == KEEP_ALIVE {
            self.has_keep_alive = true;
        }
    }

    fn has_one_length(&self) -> bool {
        !self.is_malformed_length && (self.lengths == 0 || self.lengths == 1 && self.codings == 0)
    }

    /// How the body ends, and whether the connection may go on behind it.
    fn body(
        &self,
        status: StatusCode,
        is_http_1_0: bool,
        answers_head: bool,
    ) -> Result<(BodyDecoder, bool), Http1Error> {
        let is_reusable = self.has_one_length() && !self.closes && !is_http_1_0;
        match status {
            StatusCode::SWITCHING_PROTOCOLS => return Ok((BodyDecoder::Done, false)),
            // Whoever states a body there may well send it.
            StatusCode::NO_CONTENT => {
                let states_none = self.codings == 0 && self.length == 0;
                return Ok((BodyDecoder::Done, is_reusable && states_none));
            }
            StatusCode::NOT_MODIFIED => return Ok((BodyDecoder::Done, is_reusable)),
            _ if answers_head => return Ok((BodyDecoder::Done, is_reusable)),
            _ => {}
        }
        if self.codings > 0 {
            return match self.codings == 1 && self.is_chunked && !is_http_1_0 {
                true => Ok((BodyDecoder::chunked(), is_reusable)),
                false => Err(Http1Error::Framing("another Transfer-Encoding than chunked")),
            };
        }
        if self.is_malformed_length {
            return Err(Http1Error::Framing(
                "Content-Length is no number, or there are several",
            ));
        }
        match self.lengths {
            0 => Ok((BodyDecoder::UntilClose, false)),
            _ => Ok((BodyDecoder::length(self.length), is_reusable)),
        }
    }
}
