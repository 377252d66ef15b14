//! The key by which a user's client authenticates to LiteLLM, as its fingerprint. LiteLLM does not pass the key
//! on to MCP servers, so the inbound half takes the fingerprint and seals it into the user context.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use http::{HeaderMap, HeaderName};
use parking_lot::Mutex;

use super::fingerprint::{Fingerprint, Fingerprinter, Kind};

/// Where LiteLLM looks for a key, in its order (1.109.1, `get_api_key`).
const KEY_HEADERS: [HeaderName; 6] = [
    HeaderName::from_static("x-litellm-api-key"),
    http::header::AUTHORIZATION,
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-goog-api-key"),
    HeaderName::from_static("ocp-apim-subscription-key"),
];

/// Fingerprints that are remembered. A fleet has some hundred keys; with more, they are computed again.
const MAX_REMEMBERED: usize = 1024;

/// Fingerprints the keys of requests, and remembers the fingerprints, since most requests bring a key that was
/// seen before. The keys themselves are not kept, only a keyed hash of each.
pub struct ClientKeys {
    fingerprinter: Fingerprinter,
    hasher: RandomState,
    known: Mutex<HashMap<u64, Fingerprint>>,
}

impl ClientKeys {
    pub fn new(fingerprinter: Fingerprinter) -> Self {
        Self {
            fingerprinter,
            hasher: RandomState::new(),
            known: Mutex::default(),
        }
    }

    /// The fingerprint of the key that a request carries, without the word `Bearer`.
    pub fn fingerprint(&self, headers: &HeaderMap) -> Option<Fingerprint> {
        let value = KEY_HEADERS.iter().find_map(|name| headers.get(name))?;
        let key = without_scheme(value.as_bytes());
        if key.is_empty() {
            return None;
        }
        let hash = self.hasher.hash_one(key);
        if let Some(known) = self.known.lock().get(&hash) {
            return Some(*known);
        }
        let fingerprint = self.fingerprinter.fingerprint(Kind::ClientKey, [key]);
        let mut known = self.known.lock();
        if known.len() >= MAX_REMEMBERED {
            known.clear();
        }
        known.insert(hash, fingerprint);
        Some(fingerprint)
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
    fn more_keys_than_are_remembered_keep_their_fingerprints() {
        let keys = ClientKeys::new(Fingerprinter::new());
        let of = |number: usize| {
            let value = HeaderValue::try_from(format!("sk-{number}")).unwrap();
            keys.fingerprint(&[(KEY_HEADERS[2].clone(), value)].into_iter().collect())
        };
        let first = of(0);
        (1..=MAX_REMEMBERED).for_each(|number| assert_ne!(of(number), first));
        assert_eq!(of(0), first);
        assert!(keys.known.lock().len() <= MAX_REMEMBERED);
    }
}
