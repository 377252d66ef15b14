//! Request smuggling guard: whether a request can be understood in one way only. The parser refuses most of
//! what is ambiguous; this is the rest (RFC 9112 sections 3.2 and 6.1), refused so that LiteLLM's server
//! never has to guess what we did not.

use http::header::{CONTENT_LENGTH, HOST, HeaderMap, TRANSFER_ENCODING};
use http::{Request, Version};

/// What of a request could be understood in more than one way.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FramingError {
    #[error("it has no Host header")]
    HostMissing,
    #[error("it has more than one Host header")]
    HostRepeated,
    #[error("its Transfer-Encoding is something else than one \"chunked\"")]
    TransferEncoding,
    #[error("it has one of the headers that carry a key for LiteLLM more than once, with different values")]
    KeyRepeated,
}

/// Of any other version than HTTP/1, framing is the protocol's own matter.
pub fn check<B>(request: &Request<B>) -> Result<(), FramingError> {
    one_host(request)?;
    if request.version() > Version::HTTP_11 {
        return Ok(());
    }
    only_chunked(request.headers())
}

/// Of an answer, before its hop-by-hop headers go. The parser takes a list of lengths that agree, which not
/// every client does, and a length beside chunks, which we would pass on alone.
pub fn one_length(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (None, _) => true,
        (Some(length), None) => {
            length.as_bytes().iter().all(u8::is_ascii_digit) && !headers.contains_key(TRANSFER_ENCODING)
        }
        (Some(_), Some(_)) => false,
    }
}

fn one_host<B>(request: &Request<B>) -> Result<(), FramingError> {
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(_), None) => Ok(()),
        // HTTP/1.0 knows no Host, and HTTP/2 has it in the target.
        (None, _) if request.version() != Version::HTTP_11 => Ok(()),
        (None, _) => Err(FramingError::HostMissing),
        (Some(_), Some(_)) => Err(FramingError::HostRepeated),
    }
}

/// Another coding below the chunks would be lost on the way: the header is of this connection only.
fn only_chunked(headers: &HeaderMap) -> Result<(), FramingError> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(FramingError::TransferEncoding),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(version: Version, lines: &[(&str, &str)]) -> bool {
        let mut request = Request::builder().version(version);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        check(&request.body(()).unwrap()).is_ok()
    }

    #[test]
    fn there_is_one_host_and_only_http_1_0_may_leave_it_out() {
        assert!(passes(Version::HTTP_11, &[("host", "a")]));
        assert!(!passes(Version::HTTP_11, &[]));
        assert!(!passes(Version::HTTP_11, &[("host", "a"), ("host", "a")]));
        assert!(passes(Version::HTTP_10, &[]));
        assert!(!passes(Version::HTTP_10, &[("host", "a"), ("host", "b")]));
        assert!(passes(Version::HTTP_2, &[]));
        assert!(!passes(Version::HTTP_2, &[("host", "a"), ("host", "b")]));
    }

    #[test]
    fn a_length_is_one_number() {
        let one = |lengths: &[&'static str]| {
            let value = |length: &&'static str| (CONTENT_LENGTH, http::HeaderValue::from_static(length));
            one_length(&lengths.iter().map(value).collect())
        };
        assert!(one(&[]) && one(&["2"]));
        assert!(!one(&["2, 2"]) && !one(&["2", "2"]) && !one(&["+2"]));
        let both = [(CONTENT_LENGTH, "2"), (TRANSFER_ENCODING, "chunked")];
        let value = |(name, value)| (name, http::HeaderValue::from_static(value));
        assert!(!one_length(&both.into_iter().map(value).collect()));
    }

    #[test]
    fn the_only_coding_is_chunked() {
        let coded = |codings: &[&'static str]| {
            let mut lines = vec![("host", "a")];
            lines.extend(codings.iter().map(|coding| ("transfer-encoding", *coding)));
            passes(Version::HTTP_11, &lines)
        };
        assert!(coded(&["chunked"]));
        assert!(coded(&["Chunked "]));
        for codings in [
            &["gzip, chunked"][..],
            &["chunked", "chunked"],
            &["chunked, chunked"],
        ] {
            assert!(!coded(codings), "{codings:?}");
        }
    }
}
