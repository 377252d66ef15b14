//! CA bundles by their digest: resources that name the same one share its text, and what was found of it, for as long as one of them
//! has it. A company's bundle is some hundred kilobytes, and all of its resources name it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

/// Those in use, by SHA-256.
static IN_USE: Mutex<Option<HashMap<[u8; 32], SharedBundle>>> = Mutex::new(None);

struct SharedBundle {
    text: Weak<str>,
    /// Another replica's is in use before this one has looked at it.
    is_checked: bool,
}

/// The text that others have already, or else this one. It was checked by another replica.
pub fn shared_bundle(text: &str) -> Arc<str> {
    share(digest(text), text, false)
}

/// The same where `check` has nothing to say of it, which is asked once while the text is in use.
pub fn shared_unless<E>(text: &str, check: impl FnOnce(&str) -> Result<(), E>) -> Result<Arc<str>, E> {
    let digest = digest(text);
    let is_checked = IN_USE
        .lock()
        .as_ref()
        .and_then(|in_use| in_use.get(&digest))
        .is_some_and(|known| known.is_checked && known.text.strong_count() > 0);
    // Not while it is locked: it takes milliseconds.
    if !is_checked {
        check(text)?;
    }
    Ok(share(digest, text, true))
}

fn share(digest: [u8; 32], text: &str, is_checked: bool) -> Arc<str> {
    let mut in_use = IN_USE.lock();
    let in_use = in_use.get_or_insert_default();
    if let Some(known) = in_use.get_mut(&digest)
        && let Some(text) = known.text.upgrade()
    {
        known.is_checked |= is_checked;
        return text;
    }
    let text: Arc<str> = text.into();
    in_use.retain(|_, known| known.text.strong_count() > 0);
    let shared = SharedBundle {
        text: Arc::downgrade(&text),
        is_checked,
    };
    in_use.insert(digest, shared);
    text
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_that_name_the_same_bundle_share_it_and_it_is_checked_once() {
        let text = "a bundle of this test";
        assert_eq!(shared_unless(text, |_| Err("unusable")), Err("unusable"));
        let first = shared_unless(text, |_| Ok::<_, ()>(())).unwrap();
        let again = shared_unless(text, |_| Err("checked again")).unwrap();
        assert!(Arc::ptr_eq(&first, &again) && Arc::ptr_eq(&first, &shared_bundle(text)));
        assert!(!Arc::ptr_eq(
            &first,
            &shared_bundle("another bundle of this test")
        ));
        drop((first, again));
        assert_eq!(shared_unless(text, |_| Err("forgotten")), Err("forgotten"));

        let of_another_replica = shared_bundle(text);
        assert_eq!(shared_unless(text, |_| Err("looked at")), Err("looked at"));
        let own = shared_unless(text, |_| Ok::<_, ()>(())).unwrap();
        assert!(Arc::ptr_eq(&own, &of_another_replica));
    }
}
