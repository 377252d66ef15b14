//! Keyed fingerprints: what stands in a line for a value that is as good as a password, such as a session or a
//! client's key. Equal values have equal fingerprints, and without the key nothing can be told from one, nor a
//! guess be tried against it.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use ring::hmac;
use serde::{Serialize, Serializer};

/// The beginning of an HMAC-SHA-256: 64 bits tell far more users apart than there are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fingerprint(pub [u8; Self::LENGTH]);

/// What a fingerprint is of. Equal values of two kinds have different fingerprints.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    User,
    Session,
    ClientKey,
}

/// Holds the key. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Fingerprinter(Arc<ArcSwap<hmac::Key>>);

impl Fingerprint {
    pub const LENGTH: usize = 8;
}

impl Fingerprinter {
    /// With a new random key: fingerprints mean nothing outside of this process.
    pub fn new() -> Self {
        let secret: [u8; 32] = rand::random();
        Self(Arc::new(ArcSwap::from_pointee(key(&secret))))
    }

    pub fn fingerprint<'a>(&self, kind: Kind, parts: impl IntoIterator<Item = &'a [u8]>) -> Fingerprint {
        let mut context = hmac::Context::with_key(&self.0.load());
        context.update(kind.label());
        for part in parts {
            // Lengths, so that no two lists of parts are one text.
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut first = [0; Fingerprint::LENGTH];
        first.copy_from_slice(&context.sign().as_ref()[..Fingerprint::LENGTH]);
        Fingerprint(first)
    }
}

impl Default for Fingerprinter {
    fn default() -> Self {
        Self::new()
    }
}

fn key(secret: &[u8]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret)
}

impl Kind {
    fn label(self) -> &'static [u8] {
        match self {
            Self::User => b"mcp-auth audit user",
            Self::Session => b"mcp-auth audit session",
            Self::ClientKey => b"mcp-auth audit client key",
        }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_of_one_kind_under_one_key_are_equal_and_no_others() {
        let ours = Fingerprinter::new();
        let of = |kind, parts: &[&'static [u8]]| ours.fingerprint(kind, parts.iter().copied());
        assert_eq!(of(Kind::User, &[b"ab", b"c"]), of(Kind::User, &[b"ab", b"c"]));
        assert_ne!(of(Kind::User, &[b"ab", b"c"]), of(Kind::User, &[b"a", b"bc"]));
        assert_ne!(of(Kind::User, &[b"a"]), of(Kind::Session, &[b"a"]));
        let theirs = Fingerprinter::new();
        assert_ne!(
            of(Kind::User, &[b"a"]),
            theirs.fingerprint(Kind::User, [&b"a"[..]])
        );
    }

    #[test]
    fn it_is_written_as_sixteen_hexadecimal_digits() {
        assert_eq!(
            Fingerprint([0, 1, 2, 3, 4, 5, 6, 0xff]).to_string(),
            "00010203040506ff"
        );
    }
}
