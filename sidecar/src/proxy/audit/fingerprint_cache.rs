//! Fingerprint cache: remembers fingerprints, since most calls bring a session, a user and a key that were seen before, and
//! a fingerprint takes longer than the rest of a line. The values themselves are not kept, only a keyed hash of each.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};

use parking_lot::Mutex;

use crate::proxy::fingerprint::{Fingerprint, Fingerprinter, Fingerprints, Kind, Parts};

/// Fingerprints that are remembered. A fleet has some hundred keys, and a pod some hundred users at a time; with more, they
/// are computed again.
const MAX_REMEMBERED: usize = 1024;

/// Of one kind of values.
pub struct FingerprintCache {
    kind: Kind,
    fingerprinter: Fingerprinter,
    hasher: RandomState,
    known: Mutex<Known>,
}

/// What is remembered, by one key of the fingerprints.
struct Known {
    fingerprints: Fingerprints,
    by_hash: HashMap<u64, Fingerprint, BuildHasherDefault<AlreadyHashed>>,
}

/// A hash of what is a hash already.
#[derive(Default)]
struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(self.0.rotate_left(8) ^ u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl FingerprintCache {
    pub fn new(fingerprinter: Fingerprinter, kind: Kind) -> Self {
        Self {
            kind,
            known: Mutex::new(Known {
                fingerprints: fingerprinter.current(),
                by_hash: HashMap::default(),
            }),
            fingerprinter,
            hasher: RandomState::new(),
        }
    }

    /// Of all `parts`.
    pub fn fingerprint(&self, parts: &Parts) -> Fingerprint {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(parts.as_bytes());
        let hash = hasher.finish();
        let current = self.fingerprinter.current();
        {
            let mut known = self.known.lock();
            if !known.fingerprints.is_by_key_of(&current) {
                known.by_hash.clear();
                known.fingerprints = self.fingerprinter.current();
            }
            if let Some(fingerprint) = known.by_hash.get(&hash) {
                return *fingerprint;
            }
        }
        let fingerprint = current.fingerprint(self.kind, parts);
        let mut known = self.known.lock();
        if known.by_hash.len() >= MAX_REMEMBERED {
            known.by_hash.clear();
        }
        if known.fingerprints.is_by_key_of(&current) {
            known.by_hash.insert(hash, fingerprint);
        }
        fingerprint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_what_would_be_computed() {
        let fingerprinter = Fingerprinter::new();
        let cache = FingerprintCache::new(fingerprinter.clone(), Kind::User);
        let lists: [&[&[u8]]; 4] = [&[b"ab", b"c"], &[b"a", b"bc"], &[b"abc"], &[]];
        for _ in 0..2 {
            for parts in lists.map(|parts| parts.iter().copied().collect()) {
                let computed = fingerprinter.current().fingerprint(Kind::User, &parts);
                assert_eq!(cache.fingerprint(&parts), computed);
            }
        }
        assert_eq!(cache.known.lock().by_hash.len(), lists.len());
        // A key that comes later counts for what is remembered, too.
        fingerprinter.set_key(&"k1".into());
        let parts = lists[0].iter().copied().collect();
        let computed = fingerprinter.current().fingerprint(Kind::User, &parts);
        assert_eq!(cache.fingerprint(&parts), computed);
    }

    #[test]
    fn more_values_than_are_remembered_keep_their_fingerprints() {
        let cache = FingerprintCache::new(Fingerprinter::new(), Kind::ClientKey);
        let of = |number: usize| cache.fingerprint(&Parts::from_iter([&number.to_be_bytes()[..]]));
        let first = of(0);
        (1..=MAX_REMEMBERED).for_each(|number| assert_ne!(of(number), first));
        assert_eq!(of(0), first);
        assert!(cache.known.lock().by_hash.len() <= MAX_REMEMBERED);
    }
}
