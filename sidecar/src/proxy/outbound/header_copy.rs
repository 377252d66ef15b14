//! Header copy: the headers of a request in one buffer, from which it is sent once more. Nearly none is, so that they are
//! copied has to be cheap: a map of its own would take twice the instructions, and count each name and value up and down.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Fields in order: the lengths of name and value in four bytes each, a byte that says whether the value is sensitive, name,
/// value.
pub struct HeaderCopy(Vec<u8>);

const FIELD_HEAD: usize = 9;

/// Bytes of nearly all copies: to add up the lengths takes longer than to take more where it is not enough.
const USUAL_LENGTH: usize = 1000;

impl HeaderCopy {
    pub fn of(headers: &HeaderMap) -> Self {
        let mut copy = Vec::with_capacity(USUAL_LENGTH);
        for (name, value) in headers {
            let (name, is_sensitive) = (name.as_str().as_bytes(), u8::from(value.is_sensitive()));
            let value = value.as_bytes();
            copy.reserve(FIELD_HEAD + name.len() + value.len());
            // What a connection brings is far shorter; a length that did not fit would be read as malformed.
            let length = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
            let ([a, b, c, d], [e, f, g, h]) = (length(name.len()), length(value.len()));
            let head: [u8; FIELD_HEAD] = [a, b, c, d, e, f, g, h, is_sensitive];
            copy.extend_from_slice(&head);
            copy.extend_from_slice(name);
            copy.extend_from_slice(value);
        }
        Self(copy)
    }

    /// The headers once more. `None` is impossible.
    pub fn to_map(&self) -> Option<HeaderMap> {
        let mut headers = HeaderMap::new();
        let mut rest = self.0.as_slice();
        while !rest.is_empty() {
            let (name, value, is_sensitive) = next_field(&mut rest)?;
            let mut value = HeaderValue::from_bytes(value).ok()?;
            value.set_sensitive(is_sensitive);
            headers.append(HeaderName::from_bytes(name).ok()?, value);
        }
        Some(headers)
    }
}

fn next_field<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8], bool)> {
    let mut take = |length: usize| {
        let (field, after) = rest.split_at_checked(length)?;
        *rest = after;
        Some(field)
    };
    let length = |bytes: &[u8]| {
        let bytes = bytes.try_into().ok()?;
        usize::try_from(u32::from_be_bytes(bytes)).ok()
    };
    let (name, value) = (length(take(4)?)?, length(take(4)?)?);
    let is_sensitive = take(1)? == [1];
    Some((take(name)?, take(value)?, is_sensitive))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_headers_come_back_as_they_were() {
        let mut headers = HeaderMap::new();
        assert_eq!(HeaderCopy::of(&headers).to_map(), Some(headers.clone()));
        for (name, value) in [
            ("host", &b"a"[..]),
            ("accept", b"text/event-stream"),
            ("x-repeated", b"1"),
            ("x-repeated", b"2"),
            ("x-empty", b""),
            ("x-not-ascii", b"\xe4\xff"),
        ] {
            let value = HeaderValue::from_bytes(value).unwrap();
            headers.append(HeaderName::from_static(name), value);
        }
        let mut cookie = HeaderValue::from_static("sid=secret");
        cookie.set_sensitive(true);
        headers.insert("cookie", cookie);
        let copy = HeaderCopy::of(&headers).to_map().unwrap();
        assert_eq!(copy, headers);
        let sensitive: Vec<_> = copy.iter().filter(|(_, value)| value.is_sensitive()).collect();
        assert_eq!(sensitive.len(), 1);
        assert_eq!(sensitive[0].0, "cookie");
    }
}
