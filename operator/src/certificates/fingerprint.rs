//! The key of fingerprints in the audit logs of all sidecars: random, in the certificates' Secret, and handed to
//! sidecars in a form of their namespace.

use ring::hmac;

/// Digits of the key: 256 bits.
const LENGTH: usize = 64;

/// A new key, as hexadecimal digits.
pub fn new_key() -> String {
    hexadecimal(&rand::random::<[u8; LENGTH / 2]>())
}

/// Whether this is one. Whoever puts a value of their own into the Secret gets a random one in its place otherwise,
/// rather than fingerprints that can be guessed.
pub fn is_key(text: &str) -> bool {
    text.len() == LENGTH && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The key of a namespace.
pub fn key_of(key: &str, namespace: &str) -> String {
    derived(key, &format!("mcp-auth audit fingerprints of {namespace}"))
}

/// The key where nobody keeps one: all replicas that have the same private key have the same.
pub fn key_from(private_key: &str) -> String {
    derived(private_key, "mcp-auth audit fingerprints")
}

fn derived(key: &str, purpose: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    hexadecimal(hmac::sign(&key, purpose.as_bytes()).as_ref())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_namespace_has_a_key_of_its_own_and_each_replica_the_same() {
        let key = new_key();
        assert!(is_key(&key));
        assert_ne!(key, new_key());
        assert_eq!(key_of(&key, "apps"), key_of(&key, "apps"));
        assert_ne!(key_of(&key, "apps"), key_of(&key, "other"));
        assert_ne!(key_of(&key, "apps"), key_of(&new_key(), "apps"));
        for other in ["", "guess", &"g".repeat(LENGTH)] {
            assert!(!is_key(other));
        }
    }

    #[test]
    fn a_key_that_comes_of_a_private_key_is_one_and_says_nothing_of_it() {
        let key = key_from("private");
        assert!(is_key(&key));
        assert_eq!(key, key_from("private"));
        assert_ne!(key, key_from("another"));
    }
}
