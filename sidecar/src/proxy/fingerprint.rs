//! Keyed fingerprints: what stands in a line for a value that is as good as a password, such as a session or a
//! client's key. Equal values have equal fingerprints, and without the key nothing can be told from one, nor a
//! guess be tried against it.

use std::fmt;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use ring::{digest, hmac};
use secrecy::{ExposeSecret, SecretString};
use serde::{Serialize, Serializer};

use crate::proxy::hex::Hex;

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
pub struct Fingerprinter(Arc<ArcSwap<FingerprintKey>>);

struct FingerprintKey {
    hmac: hmac::Key,
    /// What it was made of, as a digest.
    digest: Option<digest::Digest>,
}

/// What a fingerprint is made of: each part after its length, so that no two lists of parts are one text.
pub struct Parts(Vec<u8>);

/// Fingerprints by one key.
pub struct Fingerprints(Guard<Arc<FingerprintKey>>);

impl Fingerprint {
    pub const LENGTH: usize = 8;

    pub fn hex(self) -> Hex {
        Hex::of(u64::from_be_bytes(self.0))
    }
}

impl Fingerprinter {
    /// With a new random key: fingerprints mean nothing outside of this process.
    pub fn new() -> Self {
        let secret: [u8; 32] = rand::random();
        Self(Arc::new(ArcSwap::from_pointee(FingerprintKey {
            hmac: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            digest: None,
        })))
    }

    /// Takes the key that all pods of the namespace have, so that fingerprints are equal over all of them.
    pub fn set_key(&self, key: &SecretString) {
        let key = key.expose_secret().as_bytes();
        let digest = digest::digest(&digest::SHA256, key);
        let current = self.0.load();
        let is_same = current.digest.as_ref().map(AsRef::as_ref) == Some(digest.as_ref());
        if !is_same {
            self.0.store(Arc::new(FingerprintKey {
                hmac: hmac::Key::new(hmac::HMAC_SHA256, key),
                digest: Some(digest),
            }));
        }
    }

    /// By the key of now.
    pub fn current(&self) -> Fingerprints {
        Fingerprints(self.0.load())
    }
}

impl Parts {
    /// Bytes of nearly all of them.
    const USUAL_LENGTH: usize = 256;

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Different for different lists of parts.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Empty, with room for what nearly all hold.
impl Default for Parts {
    fn default() -> Self {
        Self(Vec::with_capacity(Self::USUAL_LENGTH))
    }
}

impl<'a> Extend<&'a [u8]> for Parts {
    fn extend<I: IntoIterator<Item = &'a [u8]>>(&mut self, parts: I) {
        for part in parts {
            self.0.extend_from_slice(&(part.len() as u64).to_be_bytes());
            self.0.extend_from_slice(part);
        }
    }
}

impl<'a> FromIterator<&'a [u8]> for Parts {
    fn from_iter<I: IntoIterator<Item = &'a [u8]>>(parts: I) -> Self {
        let mut all = Self::default();
        all.extend(parts);
        all
    }
}

impl Fingerprints {
    /// Whether another one has the same key.
    pub fn is_by_key_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub fn fingerprint(&self, kind: Kind, parts: &Parts) -> Fingerprint {
        let mut context = hmac::Context::with_key(&self.0.hmac);
        context.update(kind.label());
        context.update(parts.as_bytes());
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
        formatter.write_str(self.hex().as_str())
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.hex().as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_of_one_kind_under_one_key_are_equal_and_no_others() {
        let ours = Fingerprinter::new();
        let of = |kind, parts: &[&'static [u8]]| {
            let parts = parts.iter().copied().collect();
            ours.current().fingerprint(kind, &parts)
        };
        assert_eq!(of(Kind::User, &[b"ab", b"c"]), of(Kind::User, &[b"ab", b"c"]));
        assert_ne!(of(Kind::User, &[b"ab", b"c"]), of(Kind::User, &[b"a", b"bc"]));
        assert_ne!(of(Kind::User, &[b"a"]), of(Kind::Session, &[b"a"]));
        let theirs = Fingerprinter::new();
        assert_ne!(
            of(Kind::User, &[b"a"]),
            theirs
                .current()
                .fingerprint(Kind::User, &Parts::from_iter([&b"a"[..]]))
        );
    }

    #[test]
    fn processes_that_were_given_the_same_key_have_the_same_fingerprints() {
        let of = |fingerprinter: &Fingerprinter| {
            let parts = Parts::from_iter([&b"a"[..]]);
            fingerprinter.current().fingerprint(Kind::User, &parts)
        };
        let [ours, theirs] = [(); 2].map(|()| Fingerprinter::new());
        let by_own_key = of(&ours);
        ours.set_key(&"k1".into());
        theirs.set_key(&"k1".into());
        assert_eq!(of(&ours), of(&theirs));
        assert_ne!(of(&ours), by_own_key);
        theirs.set_key(&"k2".into());
        assert_ne!(
            of(&ours),
            of(&theirs),
            "a key that is replaced ends the comparison"
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
