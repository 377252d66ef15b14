//! The headers that authenticate to a collector, as OpenTelemetry's `OTEL_EXPORTER_OTLP_HEADERS` has them: `NAME=VALUE`
//! separated by commas, values percent-encoded where they hold a comma.

use std::fmt;
use std::str::FromStr;

use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Their values are secret.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct OtlpHeaders(HeaderMap);

/// Which part of the text is wrong, counted from 1. It repeats nothing of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OtlpHeadersError {
    #[error("header {position} has no `=`: headers are NAME=VALUE, separated by commas")]
    NoValue { position: usize },
    #[error("header {position} has a name that HTTP does not allow")]
    Name { position: usize },
    #[error("header {position} is set by the sender itself: leave it out")]
    Reserved { position: usize },
    #[error(
        "header {position} has a value with a character that HTTP does not allow, or a `%` that encodes none"
    )]
    Value { position: usize },
}

impl OtlpHeaders {
    pub fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.0.iter()
    }
}

impl fmt::Debug for OtlpHeaders {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} headers", self.0.len())
    }
}

impl FromStr for OtlpHeaders {
    type Err = OtlpHeadersError;

    fn from_str(text: &str) -> Result<Self, OtlpHeadersError> {
        let mut headers = HeaderMap::new();
        let stated = text.split(',').map(str::trim).enumerate();
        for (index, header) in stated.filter(|(_, header)| !header.is_empty()) {
            let position = index + 1;
            let (name, value) = header
                .split_once('=')
                .ok_or(OtlpHeadersError::NoValue { position })?;
            let name: HeaderName = name
                .trim()
                .parse()
                .map_err(|_| OtlpHeadersError::Name { position })?;
            if [CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING].contains(&name) {
                return Err(OtlpHeadersError::Reserved { position });
            }
            let value = percent_decoded(value.trim()).and_then(|value| HeaderValue::from_bytes(&value).ok());
            let mut value = value.ok_or(OtlpHeadersError::Value { position })?;
            value.set_sensitive(true);
            headers.append(name, value);
        }
        Ok(Self(headers))
    }
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            plain => plain,
        });
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_opentelemetry_writes_them() {
        let headers: OtlpHeaders = "Authorization=Basic%20YWRh, x-scope-orgid = tenant%2C1,"
            .parse()
            .unwrap();
        let read: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        assert_eq!(
            read,
            [("authorization", "Basic YWRh"), ("x-scope-orgid", "tenant,1")]
        );
        assert_eq!(
            "".parse::<OtlpHeaders>().unwrap().iter().count(),
            0,
            "none is allowed"
        );
    }

    #[test]
    fn what_is_wrong_is_counted_and_never_repeated() {
        for (text, expected) in [
            ("a=1,s3cret", OtlpHeadersError::NoValue { position: 2 }),
            ("na me=s3cret", OtlpHeadersError::Name { position: 1 }),
            ("=s3cret", OtlpHeadersError::Name { position: 1 }),
            ("host=s3cret", OtlpHeadersError::Reserved { position: 1 }),
            ("a=s3cret%0a", OtlpHeadersError::Value { position: 1 }),
            ("a=s3cret%4", OtlpHeadersError::Value { position: 1 }),
            ("a=s3cret%zz", OtlpHeadersError::Value { position: 1 }),
        ] {
            let error = text.parse::<OtlpHeaders>().unwrap_err();
            assert_eq!(error, expected, "{text}");
            assert!(!error.to_string().contains("s3cret"));
        }
        let headers: OtlpHeaders = "authorization=s3cret".parse().unwrap();
        assert_eq!(format!("{headers:?}"), "1 headers");
    }
}
