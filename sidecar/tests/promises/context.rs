//! Only what this process sealed opens, and only unchanged.

use std::sync::LazyLock;

use http::HeaderValue;

use crate::proxy::user_context::Context;
use crate::proxy::user_context::seal::{EPOCH_SECONDS, Sealer};

static SEALER: LazyLock<Sealer> = LazyLock::new(Sealer::new);
/// The sealer of another process, none of whose values a fuzzer can have seen.
static OTHER: LazyLock<Sealer> = LazyLock::new(Sealer::new);

const NOW: i64 = 1_800_000_000;

/// The bytes as a sealed value, as the plain form of a context, and as changes to a value that was sealed:
/// each three of them are a position and what is added there.
pub fn context(data: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(data) {
        assert!(OTHER.open(&value, NOW).is_err(), "the key is unknown");
    }
    if let Some(context) = Context::decode(data.to_vec()) {
        let names: Vec<&[u8]> = context.cookies().map(|(name, _)| name).collect();
        assert!(names.is_sorted_by(|a, b| a < b), "each name once");
        let encoded = Context::encode(context.cookies().collect(), context.headers().collect());
        let encoded = match context.client_key() {
            Some(fingerprint) => encoded.with_client_key(fingerprint),
            None => encoded,
        };
        assert_eq!(encoded, context, "there is one form of each");
        let sealed = SEALER.seal(&context, NOW);
        assert_eq!(SEALER.open(&sealed, NOW).as_ref(), Ok(&context));
        assert!(OTHER.open(&sealed, NOW).is_err());
    }
    let sealed = SEALER.seal(&Context::encode(vec![(b"sid", b"S-a")], vec![]), NOW);
    let mut changed = sealed.as_bytes().to_vec();
    for change in data.chunks_exact(3) {
        let at = usize::from(u16::from_be_bytes([change[0], change[1]])) % (changed.len() + 1);
        match changed.get_mut(at) {
            Some(byte) => *byte = byte.wrapping_add(change[2]),
            None => changed.push(change[2]),
        }
    }
    if let Ok(value) = HeaderValue::from_bytes(&changed) {
        let now = NOW + i64::from(data.first().copied().unwrap_or_default()) * EPOCH_SECONDS;
        let opens = SEALER.open(&value, now).is_ok();
        assert_eq!(opens, value == sealed && now <= NOW + EPOCH_SECONDS);
    }
}
