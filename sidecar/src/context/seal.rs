//! Seals a [`Context`] into an opaque header value and opens it again.
//!
//! The value is deterministic: LiteLLM keeps one session to an MCP server for each set of headers, so the same
//! user must get the same value again. AES-256-GCM-SIV (RFC 8452) is made for that: with one nonce for all, equal
//! contexts give equal values and nothing else shows. The nonce is the hour, so values change with it and age.
//! The key is random and never leaves the process; values of an earlier process are worth nothing.
//!
//! Form: the version `1`, then in base64url without padding: the lowest byte of the hour, ciphertext, tag.

use aes_gcm_siv::aead::{Buffer, Generate, Key};
use aes_gcm_siv::{AeadInOut, Aes256GcmSiv, KeyInit, Nonce};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;

use super::Context;

/// How long values stay equal, in seconds. One is accepted in the epoch it was made in and in the next.
pub const EPOCH_SECONDS: i64 = 60 * 60;

const VERSION: u8 = b'1';
/// Bytes of the tag and of the epoch.
const AROUND: usize = 16 + 1;
/// Bound to every value, so that the key can never be used for anything else.
const PURPOSE: &[u8] = b"mcpauth-context";

/// Holds the key.
pub struct Sealer {
    cipher: Aes256GcmSiv,
}

/// Why a value is no user context.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OpenError {
    #[error("the value is not of the form this version writes")]
    Malformed,
    #[error("the value was not sealed by this process")]
    Forged,
    #[error("the value is older than the epoch before this one")]
    Expired,
}

impl OpenError {
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Forged => "forged",
            Self::Expired => "expired",
        }
    }
}

impl Sealer {
    /// With a new random key.
    pub fn new() -> Self {
        Self {
            cipher: Aes256GcmSiv::new(&Key::<Aes256GcmSiv>::generate()),
        }
    }

    /// `now` in Unix seconds.
    pub fn seal(&self, context: &Context, now: i64) -> HeaderValue {
        let epoch = epoch(now);
        let mut sealed = Vec::with_capacity(context.encoded.len() + AROUND);
        sealed.extend_from_slice(&context.encoded);
        self.cipher
            .encrypt_in_place(&nonce(epoch), PURPOSE, &mut sealed as &mut dyn Buffer)
            .expect("a context is far shorter than the cipher's limit");
        // The byte before the ciphertext says which of the last epochs it is of, so that opening never guesses.
        sealed.insert(0, epoch.to_be_bytes()[7]);
        let mut text = String::with_capacity(2 + sealed.len() * 4 / 3 + 2);
        text.push(char::from(VERSION));
        URL_SAFE_NO_PAD.encode_string(&sealed, &mut text);
        let mut value = HeaderValue::try_from(text).expect("base64url is made of header characters");
        value.set_sensitive(true);
        value
    }

    /// `now` in Unix seconds.
    pub fn open(&self, value: &HeaderValue, now: i64) -> Result<Context, OpenError> {
        let text = value
            .as_bytes()
            .strip_prefix(&[VERSION])
            .ok_or(OpenError::Malformed)?;
        let mut plain = URL_SAFE_NO_PAD.decode(text).map_err(|_| OpenError::Malformed)?;
        if plain.is_empty() {
            return Err(OpenError::Malformed);
        }
        // From here on it is the ciphertext, and then what was sealed.
        let lowest = plain.remove(0);
        let current = epoch(now);
        let age = u64::from(current.to_be_bytes()[7].wrapping_sub(lowest));
        let sealed_in = current.checked_sub(age).ok_or(OpenError::Forged)?;
        self.cipher
            .decrypt_in_place(&nonce(sealed_in), PURPOSE, &mut plain as &mut dyn Buffer)
            .map_err(|_| OpenError::Forged)?;
        if age > 1 {
            return Err(OpenError::Expired);
        }
        Context::decode(plain).ok_or(OpenError::Malformed)
    }
}

impl Default for Sealer {
    fn default() -> Self {
        Self::new()
    }
}

fn epoch(now: i64) -> u64 {
    u64::try_from(now / EPOCH_SECONDS).unwrap_or(0)
}

fn nonce(epoch: u64) -> Nonce {
    let mut nonce = Nonce::default();
    nonce[4..].copy_from_slice(&epoch.to_be_bytes());
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: i64 = 1_800_000_000;

    fn context(cookie: &[u8]) -> Context {
        Context::encode(vec![(b"session_id", cookie)], vec![(b"x-forwarded-user", b"ada")])
    }

    #[test]
    fn opens_what_it_sealed_in_this_epoch_and_the_next_and_not_after() {
        let sealer = Sealer::new();
        let sealed = sealer.seal(&context(b"S-a"), NOW);
        assert_eq!(sealer.open(&sealed, NOW), Ok(context(b"S-a")));
        assert_eq!(sealer.open(&sealed, NOW + EPOCH_SECONDS), Ok(context(b"S-a")));
        assert_eq!(
            sealer.open(&sealed, NOW + 2 * EPOCH_SECONDS),
            Err(OpenError::Expired)
        );
        assert_eq!(
            sealer.open(&sealed, NOW + 255 * EPOCH_SECONDS),
            Err(OpenError::Expired)
        );
        assert_eq!(
            sealer.open(&sealed, NOW + 256 * EPOCH_SECONDS),
            Err(OpenError::Forged)
        );
        assert_eq!(sealer.open(&sealed, NOW - EPOCH_SECONDS), Err(OpenError::Forged));
    }

    #[test]
    fn the_same_user_gets_the_same_value_within_an_epoch() {
        let sealer = Sealer::new();
        let start = NOW - NOW % EPOCH_SECONDS;
        let first = sealer.seal(&context(b"S-a"), start);
        assert_eq!(first, sealer.seal(&context(b"S-a"), start + EPOCH_SECONDS - 1));
        assert_ne!(first, sealer.seal(&context(b"S-b"), start));
        assert_ne!(first, sealer.seal(&context(b"S-a"), start + EPOCH_SECONDS));
    }

    #[test]
    fn another_process_has_another_key() {
        let sealed = Sealer::new().seal(&context(b"S-a"), NOW);
        assert_eq!(Sealer::new().open(&sealed, NOW), Err(OpenError::Forged));
    }

    #[test]
    fn the_value_shows_nothing_of_the_context() {
        let sealed = Sealer::new().seal(&context(b"S-a"), NOW);
        let bytes = URL_SAFE_NO_PAD.decode(&sealed.as_bytes()[1..]).unwrap();
        for part in [&b"S-a"[..], b"session_id", b"ada"] {
            assert!(memchr::memmem::find(&bytes, part).is_none());
        }
        assert_eq!(format!("{sealed:?}"), "Sensitive");
    }

    #[test]
    fn other_forms_are_malformed() {
        for text in ["", "1", "2AAAA", "1?", "1====", "1A"] {
            let value = HeaderValue::from_static(text);
            assert_eq!(
                Sealer::new().open(&value, NOW),
                Err(OpenError::Malformed),
                "{text:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_context_comes_back(cookie in prop::collection::vec(0x20u8..0x7f, 0..400), now in 0i64..1 << 40) {
            let sealer = Sealer::new();
            let sealed = sealer.seal(&context(&cookie), now);
            prop_assert_eq!(sealer.open(&sealed, now), Ok(context(&cookie)));
        }

        #[test]
        fn a_value_with_one_character_changed_opens_nothing(at in 0usize..60, to in "[A-Za-z0-9_-]") {
            let sealer = Sealer::new();
            let sealed = sealer.seal(&context(b"S-a"), NOW);
            let mut bytes = sealed.as_bytes().to_vec();
            let at = at % bytes.len();
            prop_assume!(bytes[at] != to.as_bytes()[0]);
            bytes[at] = to.as_bytes()[0];
            prop_assert!(sealer.open(&HeaderValue::from_bytes(&bytes).unwrap(), NOW).is_err());
        }

        #[test]
        fn arbitrary_values_open_nothing(text in "1[A-Za-z0-9_-]{0,200}") {
            prop_assert!(Sealer::new().open(&HeaderValue::try_from(text).unwrap(), NOW).is_err());
        }
    }
}
