//! The key by which a user's client authenticates to LiteLLM, as its fingerprint. LiteLLM does not pass the key
//! on to MCP servers, so the inbound half takes the fingerprint and seals it into the user context.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::fingerprint_cache::FingerprintCache;
use crate::http::framing::FramingError;
use crate::proxy::fingerprint::{Fingerprint, Fingerprinter, Kind, Parts};

/// Where LiteLLM looks for a key, in its order (1.109.1, `get_api_key`).
const KEY_HEADERS: [HeaderName; 6] = [
    HeaderName::from_static("x-litellm-api-key"),
    http::header::AUTHORIZATION,
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-goog-api-key"),
    HeaderName::from_static("ocp-apim-subscription-key"),
];

/// Fingerprints the keys of requests.
pub struct ClientKeys(FingerprintCache);

impl ClientKeys {
    pub fn new(fingerprinter: Fingerprinter) -> Self {
        Self(FingerprintCache::new(fingerprinter, Kind::ClientKey))
    }

    /// The fingerprint of the key that a request carries, without the word `Bearer`. Of a header that is there more than
    /// once LiteLLM takes the first value or the last, depending on the path: with different ones it would be anybody's guess
    /// whose call is recorded.
    pub fn fingerprint(&self, headers: &HeaderMap) -> Result<Option<Fingerprint>, FramingError> {
        let Some(mut values) = KEY_HEADERS.iter().find_map(|name| values(headers, name)) else {
            return Ok(None);
        };
        let value = values.next().map_or(&b""[..], HeaderValue::as_bytes);
        if values.any(|other| other.as_bytes() != value) {
            return Err(FramingError::KeyRepeated);
        }
        let key = without_scheme(value);
        Ok((!key.is_empty()).then(|| self.0.fingerprint(&Parts::from_iter([key]))))
    }
}

/// `None` if there is none.
fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<http::header::ValueIter<'a, HeaderValue>> {
    let values = headers.get_all(name);
    headers.contains_key(name).then(|| values.iter())
}

fn without_scheme(value: &[u8]) -> &[u8] {
    let value = value.trim_ascii();
    match value.split_at_checked(b"Bearer".len()) {
        Some((scheme, rest))
            if scheme.eq_ignore_ascii_case(b"Bearer") && matches!(rest, [] | [b' ' | b'\t', ..]) =>
        {
            rest.trim_ascii()
        }
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_has_one_fingerprint_in_whatever_header_it_comes() {
        let keys = ClientKeys::new(Fingerprinter::new());
        let of = |lines: &[(&'static str, &'static str)]| {
            let headers = lines
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
            keys.fingerprint(&headers.collect()).unwrap()
        };
        let ada = of(&[("authorization", "Bearer sk-ada")]);
        assert!(ada.is_some());
        assert_eq!(ada, of(&[("authorization", "bearer  sk-ada")]));
        assert_eq!(ada, of(&[("x-api-key", "sk-ada")]));
        assert_ne!(ada, of(&[("x-api-key", "sk-eve")]));
        assert_eq!(
            ada,
            of(&[
                ("authorization", "Bearer sk-eve"),
                ("x-litellm-api-key", "sk-ada")
            ])
        );
        assert_eq!(of(&[("authorization", "Bearer ")]), None);
        assert!(of(&[("x-api-key", "bearer-sk-ada")]).is_some());
        assert_eq!(of(&[("cookie", "a=b")]), None);
    }

    #[test]
    fn a_header_with_two_keys_is_nobodys() {
        let keys = ClientKeys::new(Fingerprinter::new());
        let of = |lines: &[(&'static str, &'static str)]| {
            let headers = lines
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
            keys.fingerprint(&headers.collect())
        };
        let ada = ("authorization", "Bearer sk-ada");
        let eve = ("authorization", "Bearer sk-eve");
        assert_eq!(of(&[ada, eve]), Err(FramingError::KeyRepeated));
        assert_eq!(of(&[ada, ada]), of(&[ada]));
        let preferred = ("x-litellm-api-key", "sk-ada");
        assert_eq!(
            of(&[ada, eve, preferred]),
            of(&[preferred]),
            "LiteLLM looks there alone"
        );
    }

    #[test]
    fn a_key_of_the_fingerprints_that_comes_later_counts_for_keys_that_are_remembered() {
        let fingerprinter = Fingerprinter::new();
        let keys = ClientKeys::new(fingerprinter.clone());
        let headers: HeaderMap = [(KEY_HEADERS[2].clone(), HeaderValue::from_static("sk-ada"))]
            .into_iter()
            .collect();
        let before = keys.fingerprint(&headers).unwrap();
        fingerprinter.set_key(&"k1".into());
        let after = keys.fingerprint(&headers).unwrap();
        assert_ne!(before, after);
        let elsewhere = Fingerprinter::new();
        elsewhere.set_key(&"k1".into());
        assert_eq!(after, ClientKeys::new(elsewhere).fingerprint(&headers).unwrap());
    }
}
