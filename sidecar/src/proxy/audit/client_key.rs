//! The key by which a user's client authenticates to LiteLLM, as its fingerprint. LiteLLM does not pass the key
//! on to MCP servers, so the inbound half takes the fingerprint and seals it into the user context.

use http::{HeaderMap, HeaderName};

use super::fingerprint::{Fingerprint, Fingerprinter, Kind};
use super::fingerprint_cache::FingerprintCache;

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

    /// The fingerprint of the key that a request carries, without the word `Bearer`.
    pub fn fingerprint(&self, headers: &HeaderMap) -> Option<Fingerprint> {
        let value = KEY_HEADERS.iter().find_map(|name| headers.get(name))?;
        let key = without_scheme(value.as_bytes());
        (!key.is_empty()).then(|| self.0.fingerprint(&[key]))
    }
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
    use http::HeaderValue;

    #[test]
    fn one_key_has_one_fingerprint_in_whatever_header_it_comes() {
        let keys = ClientKeys::new(Fingerprinter::new());
        let of = |lines: &[(&'static str, &'static str)]| {
            let headers = lines
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
            keys.fingerprint(&headers.collect())
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
    fn a_key_of_the_fingerprints_that_comes_later_counts_for_keys_that_are_remembered() {
        let fingerprinter = Fingerprinter::new();
        let keys = ClientKeys::new(fingerprinter.clone());
        let headers: HeaderMap = [(KEY_HEADERS[2].clone(), HeaderValue::from_static("sk-ada"))]
            .into_iter()
            .collect();
        let before = keys.fingerprint(&headers);
        fingerprinter.set_key(&"k1".into());
        let after = keys.fingerprint(&headers);
        assert_ne!(before, after);
        let elsewhere = Fingerprinter::new();
        elsewhere.set_key(&"k1".into());
        assert_eq!(after, ClientKeys::new(elsewhere).fingerprint(&headers));
    }
}
