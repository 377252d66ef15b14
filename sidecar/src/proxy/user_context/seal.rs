//! Seals a [`Context`] into an opaque header value and opens it again.
//!
//! The value is deterministic: LiteLLM keeps one session to an MCP server for each set of headers, so the
//! same user must get the same value again. AES-256-GCM-SIV (RFC 8452) is made for that: with one nonce for
//! all, equal contexts give equal values, and that is all that can be seen of them. The nonce is the hour, so
//! values change with it and age: a session that keeps the value it began with has its user for one to two
//! hours. A user's next request brings the new one. The key is random and never leaves the process; values of
//! an earlier process are worth nothing.
//!
//! Form: the version `1`, then in base64url without padding: the lowest byte of the hour, ciphertext, tag.

use aes_gcm_siv::aead::{Buffer, Generate, Key};
use aes_gcm_siv::aes::Aes256Enc;
use aes_gcm_siv::{AeadInOut, AesGcmSiv, KeyInit, Nonce};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;

use super::Context;

/// How long values stay equal, in seconds. A value is accepted in the epoch it was sealed in and in the next,
/// and in the one before, for a clock that was set back.
pub const EPOCH_SECONDS: i64 = 60 * 60;

const VERSION: u8 = b'1';
/// Bytes of the tag and of the epoch, beside the ciphertext.
const OVERHEAD: usize = 16 + 1;
/// Bound to every value, so that the key can never be used for anything else.
const PURPOSE: &[u8] = b"mcpauth-context";

/// AES-256-GCM-SIV. It only ever encrypts blocks, to open too, so no keys for their decryption are derived: that would be
/// done anew for each value.
type Cipher = AesGcmSiv<Aes256Enc>;

/// Holds the key.
pub struct Sealer {
    cipher: Cipher,
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
            cipher: Cipher::new(&Key::<Cipher>::generate()),
        }
    }

    /// `now` in Unix seconds.
    pub fn seal(&self, context: &Context, now: i64) -> HeaderValue {
        let epoch = epoch(now);
        let mut sealed = Vec::with_capacity(context.encoded.len() + OVERHEAD);
        sealed.extend_from_slice(&context.encoded);
        self.cipher
            .encrypt_in_place(&nonce(epoch), PURPOSE, &mut sealed as &mut dyn Buffer)
            .expect("a context is far shorter than the cipher's limit");
        // The byte before the ciphertext states the epoch, so that opening needs one attempt.
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
        // What remains is the ciphertext, which is decrypted in place.
        let lowest = plain.remove(0);
        let latest = epoch(now) + 1;
        let age = u64::from(latest.to_be_bytes()[7].wrapping_sub(lowest));
        let sealed_in = latest.checked_sub(age).ok_or(OpenError::Forged)?;
        self.cipher
            .decrypt_in_place(&nonce(sealed_in), PURPOSE, &mut plain as &mut dyn Buffer)
            .map_err(|_| OpenError::Forged)?;
        if age > 2 {
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

    const START: i64 = NOW - NOW % EPOCH_SECONDS;

    #[test]
    fn opens_what_it_sealed_in_this_epoch_and_the_next_and_not_after() {
        let sealer = Sealer::new();
        for at in [START, START + EPOCH_SECONDS - 1] {
            let sealed = sealer.seal(&context(b"S-a"), at);
            for now in [START, START + EPOCH_SECONDS, START + 2 * EPOCH_SECONDS - 1] {
                assert_eq!(sealer.open(&sealed, now), Ok(context(b"S-a")), "{at} {now}");
            }
            for epochs in [2, 3, 100, 254] {
                let now = START + epochs * EPOCH_SECONDS;
                assert_eq!(sealer.open(&sealed, now), Err(OpenError::Expired), "{at} {now}");
            }
            // So old that its epoch looks like a later one.
            let now = START + 255 * EPOCH_SECONDS;
            assert_eq!(sealer.open(&sealed, now), Err(OpenError::Forged));
        }
    }

    #[test]
    fn a_clock_that_is_set_back_a_little_makes_no_user_a_stranger() {
        let sealer = Sealer::new();
        let sealed = sealer.seal(&context(b"S-a"), START);
        assert_eq!(sealer.open(&sealed, START - 1), Ok(context(b"S-a")));
        assert_eq!(sealer.open(&sealed, START - EPOCH_SECONDS), Ok(context(b"S-a")));
        assert_eq!(
            sealer.open(&sealed, START - EPOCH_SECONDS - 1),
            Err(OpenError::Forged)
        );
    }

    #[test]
    fn a_session_that_outlives_an_epoch_keeps_its_user_while_the_next_request_brings_a_new_value() {
        let sealer = Sealer::new();
        let before = sealer.seal(&context(b"S-a"), START - 1);
        let after = sealer.seal(&context(b"S-a"), START);
        assert_ne!(before, after);
        for value in [&before, &after] {
            assert_eq!(sealer.open(value, START), Ok(context(b"S-a")));
        }
        let end = START + EPOCH_SECONDS;
        assert!(sealer.open(&before, end - 1).is_ok());
        assert_eq!(sealer.open(&before, end), Err(OpenError::Expired));
        assert!(sealer.open(&after, end).is_ok());
    }

    #[test]
    fn the_same_user_gets_the_same_value_within_an_epoch() {
        let sealer = Sealer::new();
        let first = sealer.seal(&context(b"S-a"), START);
        assert_eq!(first, sealer.seal(&context(b"S-a"), START + EPOCH_SECONDS - 1));
        assert_ne!(first, sealer.seal(&context(b"S-b"), START));
        assert_ne!(first, sealer.seal(&context(b"S-a"), START + EPOCH_SECONDS));
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

    #[test]
    fn a_value_with_any_bit_flipped_or_cut_anywhere_opens_nothing() {
        let sealer = Sealer::new();
        // Of each length modulo three, so that the last character has unused bits of every number.
        for cookie in [&b"S-a"[..], b"S-ab", b"S-abc"] {
            let sealed = sealer.seal(&context(cookie), NOW);
            let opens = |bytes: &[u8]| {
                HeaderValue::from_bytes(bytes).is_ok_and(|value| sealer.open(&value, NOW).is_ok())
            };
            assert!(opens(sealed.as_bytes()));
            for at in 0..sealed.len() {
                for bit in 0..8 {
                    let mut bytes = sealed.as_bytes().to_vec();
                    bytes[at] ^= 1 << bit;
                    assert!(!opens(&bytes), "bit {bit} of byte {at}");
                }
                assert!(!opens(&sealed.as_bytes()[..at]), "cut before byte {at}");
                assert!(!opens(&sealed.as_bytes()[at + 1..]), "cut after byte {at}");
            }
            assert!(!opens(&[sealed.as_bytes(), b"A"].concat()));
            assert!(!opens(&[sealed.as_bytes(), b"="].concat()));
        }
    }

    #[test]
    fn two_values_make_no_third() {
        let sealer = Sealer::new();
        let (a, b) = (context(b"S-a"), context(b"S-b"));
        let one = sealer.seal(&a, NOW);
        for other in [sealer.seal(&b, NOW), sealer.seal(&a, NOW + EPOCH_SECONDS)] {
            assert_eq!(one.len(), other.len());
            for at in 0..=one.len() {
                for (first, second) in [(&one, &other), (&other, &one)] {
                    let spliced = [&first.as_bytes()[..at], &second.as_bytes()[at..]].concat();
                    let spliced = HeaderValue::from_bytes(&spliced).unwrap();
                    let opened = sealer.open(&spliced, NOW);
                    assert_eq!(
                        opened.is_ok(),
                        spliced == one || spliced == other,
                        "spliced at {at}"
                    );
                }
            }
        }
        assert_eq!(sealer.open(&one, NOW), Ok(a));
    }

    #[test]
    fn the_longest_value_leaves_most_of_what_litellm_takes_as_headers() {
        let names: Vec<String> = (0..64).map(|number| format!("c{number:02}")).collect();
        let value = vec![b'v'; crate::proxy::user_context::LIMIT / 64 - 3];
        let cookies = names.iter().map(|name| (name.as_bytes(), value.as_slice()));
        let sealed = Sealer::new().seal(&Context::encode(cookies.collect(), vec![]), NOW);
        assert!(sealed.len() < 12 * 1024, "{}", sealed.len());
    }

    proptest! {
        #[test]
        fn any_context_comes_back(
            cookie in prop::collection::vec(0x20u8..0x7f, 0..400),
            now in 0i64..1 << 40,
        ) {
            let sealer = Sealer::new();
            let sealed = sealer.seal(&context(&cookie), now);
            prop_assert_eq!(sealer.open(&sealed, now), Ok(context(&cookie)));
        }

        #[test]
        fn arbitrary_values_open_nothing(text in "1[A-Za-z0-9_-]{0,200}") {
            prop_assert!(Sealer::new().open(&HeaderValue::try_from(text).unwrap(), NOW).is_err());
        }
    }
}
