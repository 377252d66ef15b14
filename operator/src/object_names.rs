//! Names of Kubernetes objects, by the rules of its API server: whatever else stands where a name is expected was made up, and must not
//! get into the path of a request.

/// Longest DNS label (RFC 1123), in bytes.
const MAX_LABEL_BYTES: usize = 63;
/// Longest DNS subdomain (RFC 1123) that Kubernetes takes, in bytes.
const MAX_SUBDOMAIN_BYTES: usize = 253;

/// A DNS label (RFC 1123), as names of namespaces are.
pub fn is_dns_label(name: &str) -> bool {
    name.len() <= MAX_LABEL_BYTES && is_part(name)
}

/// A DNS subdomain (RFC 1123), as names of most other objects are.
pub fn is_dns_subdomain(name: &str) -> bool {
    name.len() <= MAX_SUBDOMAIN_BYTES && name.split('.').all(is_part)
}

/// One part of a name, of any length.
fn is_part(part: &str) -> bool {
    let is_letter = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    let bytes = part.as_bytes();
    bytes.iter().all(|letter| is_letter(*letter) || *letter == b'-')
        && bytes.first().is_some_and(|letter| is_letter(*letter))
        && bytes.last().is_some_and(|letter| is_letter(*letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_api_server_takes_for_a_name_is_one_and_nothing_that_shapes_a_request() {
        for name in ["llm", "0", "a-b", &"a".repeat(63)] {
            assert!(is_dns_label(name) && is_dns_subdomain(name), "{name}");
        }
        assert!(is_dns_subdomain("a.b-c.0") && !is_dns_label("a.b-c.0"));
        assert!(!is_dns_label(&"a".repeat(64)) && is_dns_subdomain(&"a".repeat(64)));
        assert!(!is_dns_subdomain(&"a".repeat(254)));
        for name in [
            "", "-a", "a-", "A", "ü", "a/b", "a?b", "a#b", "a%2fb", "a b", "a..b", ".", "..", "a_b", "a\n",
            "a&b",
        ] {
            assert!(!is_dns_label(name) && !is_dns_subdomain(name), "{name}");
        }
    }
}
