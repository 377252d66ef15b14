//! The allow-listed identity headers of a request.

use http::HeaderMap;

use super::cookies::Filtered;
use super::{Allowed, has_controls};

/// Headers whose name is allowed. One that is stated more than once says nothing reliable and is left out; so is
/// an empty one, which names nobody.
pub(super) fn filter<'a>(headers: &'a HeaderMap, allowed: &'a Allowed) -> Filtered<'a> {
    let mut filtered = Filtered::default();
    for name in allowed.headers() {
        let mut values = headers.get_all(name).iter();
        let Some(value) = values.next() else { continue };
        if values.next().is_some() {
            filtered.duplicates += 1;
        } else if has_controls(value.as_bytes()) {
            filtered.malformed += 1;
        } else if !value.is_empty() {
            filtered.pairs.push((name.as_str().as_bytes(), value.as_bytes()));
        }
    }
    filtered
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    #[test]
    fn names_match_in_any_case_and_duplicates_are_dropped_and_counted() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("X-Forwarded-User", "ada"),
            ("X-Auth-Request-Email", "a@example.com"),
            ("x-auth-request-EMAIL", "b@example.com"),
            ("x-forwarded-users", "eve"),
            ("x-team", ""),
            ("x-tab", "a\tb"),
        ] {
            headers.append(
                name.parse::<HeaderName>().unwrap(),
                HeaderValue::from_static(value),
            );
        }
        let names = [
            "x-forwarded-user",
            "x-auth-request-email",
            "x-team",
            "x-tab",
            "x-absent",
        ];
        let allowed = Allowed::new([], names.map(HeaderName::from_static));
        let filtered = filter(&headers, &allowed);
        assert_eq!(filtered.pairs, [(&b"x-forwarded-user"[..], &b"ada"[..])]);
        assert_eq!((filtered.duplicates, filtered.malformed), (1, 1));
    }
}
