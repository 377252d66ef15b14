//! CA bundles by their digest: resources that name the same one share its text, and what was found of it, for as long as one of them
//! has it. A company's bundle is some hundred kilobytes, and all of its resources name it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

/// Those in use, by SHA-256.
static IN_USE: Mutex<Option<HashMap<[u8; 32], Weak<str>>>> = Mutex::new(None);

/// The text that others have already, or else this one.
pub fn shared_bundle(text: &str) -> Arc<str> {
    shared_unless(text, |_| Ok::<_, std::convert::Infallible>(())).unwrap_or_else(|never| match never {})
}

/// The same where `check` has nothing to say of it. What is in use was checked before.
pub fn shared_unless<E>(text: &str, check: impl FnOnce(&str) -> Result<(), E>) -> Result<Arc<str>, E> {
    let digest: [u8; 32] = Sha256::digest(text).into();
    let find = || IN_USE.lock().as_ref()?.get(&digest)?.upgrade();
    if let Some(known) = find() {
        return Ok(known);
    }
    // Not while it is locked: it takes milliseconds.
    check(text)?;
    let mut in_use = IN_USE.lock();
    let in_use = in_use.get_or_insert_default();
    if let Some(known) = in_use.get(&digest).and_then(Weak::upgrade) {
        return Ok(known);
    }
    let text: Arc<str> = text.into();
    in_use.retain(|_, text| text.strong_count() > 0);
    in_use.insert(digest, Arc::downgrade(&text));
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_name_the_same_bundle_share_it_and_it_is_checked_once() {
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
    }
}
