//! The keys of one client, and what becomes of them with time: a pure function of what is stored, what is wanted and
//! when it is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use mcp_auth_crds::{ManagedKeyAlgorithm, McpServerAuth};
use mcp_auth_credentials::ResourceRef;
use mcp_auth_oauth::{GeneratedKey, KeyError, SigningKey};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

/// The very first key signs a little later than it is published: other replicas see it a moment after the one that
/// made it, and the authorization server may ask any of them.
const FIRST_USE_DELAY: Duration = Duration::from_secs(5);
/// A key is published for at least so long before it signs. Authorization servers cache key sets for minutes.
const MIN_PUBLISHED: Duration = Duration::from_secs(3600);
/// A key that signs no more stays published for so long: an assertion lives for a minute, clocks differ by minutes,
/// and a request may be under way.
const RETIRED_FOR: Duration = Duration::from_secs(3600);

/// What the API server takes as a Secret's data.
const MAX_BYTES: usize = 1024 * 1024;
/// Of one resource besides its name, as JSON: two keys, and the one that was rotated last.
const MAX_KEY_SET_BYTES: usize = 1280;
/// The same where one of the keys is of P-521, or RSA's.
const MAX_P521_KEY_SET_BYTES: usize = 1536;
const MAX_RSA_KEY_SET_BYTES: usize = 4608;

/// By resource.
pub type KeySets = BTreeMap<ResourceRef, KeySet>;

/// A private key with its text, as it is stored.
#[derive(Clone)]
pub struct OwnKey {
    /// Named by its thumbprint.
    pub key: SigningKey,
    pub pem: SecretString,
    /// From when on it signs, or, of one that is next, since when it is published.
    pub since: Timestamp,
}

/// A key that signed before. Its private half is gone.
#[derive(Clone, Debug, PartialEq)]
pub struct RetiredKey {
    pub public_jwk: Value,
    /// Until when it is published.
    pub until: Timestamp,
}

#[derive(Clone)]
pub struct KeySet {
    pub current: OwnKey,
    pub next: OwnKey,
    pub retired: Vec<RetiredKey>,
}

/// What a resource wants of its keys.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Wanted {
    pub kind: GeneratedKey,
    pub rotate_after: Duration,
    /// When the resource was created.
    pub created: Option<Timestamp>,
}

/// What the keys are to be, where something is to be changed, and when to look again.
#[derive(Default)]
pub struct Plan {
    /// `None`: they are as they should be.
    pub changed: Option<KeySets>,
    pub next_change: Option<Timestamp>,
    /// Those that get no key, since the Secret has no room for one.
    pub refused: BTreeSet<ResourceRef>,
}

impl OwnKey {
    pub fn new(pem: SecretString, since: Timestamp) -> Result<Self, KeyError> {
        let key = SigningKey::parse(pem.expose_secret(), None, None)?.with_thumbprint_as_id();
        Ok(Self { key, pem, since })
    }

    fn generate(kind: GeneratedKey, since: Timestamp) -> Self {
        Self::new(kind.generate(), since).expect("a key that was just made is one")
    }

    pub fn id(&self) -> &str {
        self.key.key_id().unwrap_or_default()
    }

    fn is_of(&self, kind: GeneratedKey) -> bool {
        self.key.algorithm() == kind.algorithm()
    }
}

impl PartialEq for OwnKey {
    fn eq(&self, other: &Self) -> bool {
        (self.id(), self.since) == (other.id(), other.since)
    }
}

impl PartialEq for KeySet {
    fn eq(&self, other: &Self) -> bool {
        (&self.current, &self.next, &self.retired) == (&other.current, &other.next, &other.retired)
    }
}

impl KeySet {
    fn generate(kind: GeneratedKey, now: Timestamp) -> Self {
        Self {
            current: OwnKey::generate(kind, now + FIRST_USE_DELAY),
            next: OwnKey::generate(kind, now),
            retired: Vec::new(),
        }
    }

    /// The members of the JWK set, the one that signs first.
    pub fn published(&self) -> Vec<Value> {
        let own = [&self.current, &self.next].map(|own| own.key.public_jwk());
        let retired = self.retired.iter().map(|retired| retired.public_jwk.clone());
        own.into_iter().chain(retired).collect()
    }

    /// Whether every replica has had time to publish the key that signs. One that is further ahead than a new key ever is
    /// was made by a clock that was ahead, and is published by now.
    pub fn may_sign(&self, now: Timestamp) -> bool {
        let since = self.current.since;
        since <= now || since > now + FIRST_USE_DELAY
    }

    /// When the next key is to sign.
    pub fn rotates_at(&self, rotate_after: Duration) -> Timestamp {
        let due = self.current.since + rotate_after;
        due.max(self.next.since + MIN_PUBLISHED)
    }

    /// What a Secret has to have room for, whatever becomes of these keys while no larger kind is wanted.
    fn reserved_bytes(&self) -> usize {
        let published = self.published();
        let kinds = GeneratedKey::ALL.into_iter();
        let present = kinds.filter(|kind| {
            published
                .iter()
                .any(|jwk| jwk["alg"] == kind.algorithm().as_str())
        });
        present.map(max_bytes).max().unwrap_or(MAX_KEY_SET_BYTES)
    }

    fn advance(&self, wanted: Wanted, now: Timestamp) -> Self {
        let mut keys = self.clone();
        if !keys.next.is_of(wanted.kind) {
            keys.next = OwnKey::generate(wanted.kind, now);
        }
        if keys.rotates_at(wanted.rotate_after) <= now {
            keys.retired.push(RetiredKey {
                public_jwk: keys.current.key.public_jwk(),
                until: now + RETIRED_FOR,
            });
            let next = std::mem::replace(&mut keys.next, OwnKey::generate(wanted.kind, now));
            keys.current = OwnKey { since: now, ..next };
        }
        keys.retired.retain(|retired| retired.until > now);
        keys
    }

    /// The same but for the kind, which is that of the next key.
    fn unchanged_kind(&self, wanted: Wanted) -> Wanted {
        let mut kinds = GeneratedKey::ALL.into_iter();
        let kind = kinds.find(|kind| self.next.is_of(*kind));
        Wanted {
            kind: kind.unwrap_or(wanted.kind),
            ..wanted
        }
    }

    fn next_change(&self, wanted: Wanted, now: Timestamp) -> Timestamp {
        let first_use = Some(self.current.since).filter(|since| *since > now);
        let retired = self.retired.iter().map(|retired| retired.until);
        retired
            .chain(first_use)
            .fold(self.rotates_at(wanted.rotate_after), Timestamp::min)
    }
}

/// Of a resource that wants a key.
pub fn wanted(resource: &McpServerAuth) -> Option<Wanted> {
    let managed = resource
        .spec
        .oauth2
        .as_ref()?
        .client_authentication
        .managed_key()?;
    Some(Wanted {
        kind: match managed.algorithm {
            ManagedKeyAlgorithm::Es256 => GeneratedKey::P256,
            ManagedKeyAlgorithm::Es384 => GeneratedKey::P384,
            ManagedKeyAlgorithm::Es512 => GeneratedKey::P521,
            ManagedKeyAlgorithm::EdDsa => GeneratedKey::Ed25519,
            ManagedKeyAlgorithm::Rs256 => GeneratedKey::Rsa,
        },
        rotate_after: rotate_after(resource)?,
        created: resource.metadata.creation_timestamp.as_ref().map(|time| time.0),
    })
}

/// Of a resource that wants a key.
pub fn rotate_after(resource: &McpServerAuth) -> Option<Duration> {
    let managed = resource
        .spec
        .oauth2
        .as_ref()?
        .client_authentication
        .managed_key()?;
    // The definition demands the form.
    let hours = managed.rotate_after_hours()?;
    Some(Duration::from_secs(u64::from(hours) * 3600))
}

/// Keys for every resource that wants one, and none for others, as far as the resources of their namespace are known.
/// Where not all have room in one Secret, those that have keys go on, and of the others the oldest get some; one that wants
/// larger keys than it has keeps their kind until there is room. Making RSA keys takes this a while: not for a worker of the runtime.
pub fn plan(
    stored: &KeySets,
    wanted: &BTreeMap<ResourceRef, Wanted>,
    is_known: impl Fn(&str) -> bool,
    now: Timestamp,
) -> Plan {
    let is_kept =
        |resource_ref: &ResourceRef| wanted.contains_key(resource_ref) || !is_known(&resource_ref.namespace);
    let mut keys: KeySets = stored
        .iter()
        .filter(|(resource_ref, _)| is_kept(resource_ref))
        .map(|(resource_ref, keys)| (resource_ref.clone(), keys.clone()))
        .collect();
    let reserved = keys
        .iter()
        .map(|(resource_ref, keys)| name_bytes(resource_ref) + keys.reserved_bytes());
    let mut bytes: usize = reserved.sum();
    for (resource_ref, keys) in &mut keys {
        if let Some(wanted) = wanted.get(resource_ref) {
            let before = keys.reserved_bytes();
            let more = max_bytes(wanted.kind).saturating_sub(before);
            let has_room = bytes + more <= MAX_BYTES || more == 0;
            *keys = match has_room {
                true => keys.advance(*wanted, now),
                false => keys.advance(keys.unchanged_kind(*wanted), now),
            };
            bytes = bytes - before + keys.reserved_bytes().max(before);
        }
    }
    let mut refused = BTreeSet::new();
    let mut new: Vec<_> = wanted
        .iter()
        .filter(|(resource_ref, _)| !stored.contains_key(resource_ref))
        .collect();
    new.sort_by_key(|(_, wanted)| wanted.created);
    for (resource_ref, wanted) in new {
        bytes += name_bytes(resource_ref) + max_bytes(wanted.kind);
        if bytes <= MAX_BYTES {
            keys.insert(resource_ref.clone(), KeySet::generate(wanted.kind, now));
        } else {
            refused.insert(resource_ref.clone());
        }
    }
    let changes = keys
        .iter()
        .filter_map(|(resource_ref, keys)| Some(keys.next_change(*wanted.get(resource_ref)?, now)));
    Plan {
        next_change: changes.min(),
        changed: (keys != *stored).then_some(keys),
        refused,
    }
}

fn name_bytes(ResourceRef { namespace, name }: &ResourceRef) -> usize {
    namespace.len() + name.len()
}

/// Of a resource that has keys of this kind.
fn max_bytes(kind: GeneratedKey) -> usize {
    match kind {
        GeneratedKey::Rsa => MAX_RSA_KEY_SET_BYTES,
        GeneratedKey::P521 => MAX_P521_KEY_SET_BYTES,
        GeneratedKey::P256 | GeneratedKey::P384 | GeneratedKey::Ed25519 => MAX_KEY_SET_BYTES,
    }
}

#[cfg(test)]
mod tests;
