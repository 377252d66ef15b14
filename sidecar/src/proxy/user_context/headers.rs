//! The allow-listed headers of a request that name its user.

use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::cookies::{FilteredPairs, trim};
use super::{Allowlist, has_controls};

/// Headers whose name is allowed. One that is stated more than once is ambiguous and left out; so is an empty
/// one, which names no user. HTTP/2 may carry spaces around a value, which HTTP/1.1 does not count as part of
/// it.
pub(super) fn filter<'a>(headers: &'a HeaderMap, allowed: &'a Allowlist) -> FilteredPairs<'a> {
    let mut filtered = FilteredPairs::default();
    for name in allowed.headers() {
        let mut values = headers.get_all(name).iter();
        let Some(value) = values.next() else { continue };
        if values.next().is_some() {
            filtered.duplicates += 1;
            continue;
        }
        let value = trim(value.as_bytes());
        let value = match *name == AUTHORIZATION {
            true => users_bearer_token(value),
            false => value,
        };
        if has_controls(value) {
            filtered.malformed += 1;
        } else if !value.is_empty() {
            filtered.pairs.push((name.as_str().as_bytes(), value));
        }
    }
    filtered
}

/// What stands behind `Bearer` (RFC 6750 section 2.1): a user's own token, which may be exchanged for another one. Nothing
/// of another scheme, and nothing that is a key of LiteLLM's: those begin with `sk-` and are for nobody else.
fn users_bearer_token(value: &[u8]) -> &[u8] {
    const SCHEME: &[u8] = b"bearer ";
    match value.split_at_checked(SCHEME.len()) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(SCHEME) => match trim(token) {
            key if key.starts_with(b"sk-") => b"",
            token => token,
        },
        _ => b"",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

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
            ("x-blank", " \t"),
            ("x-space", " ada "),
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
            "x-blank",
            "x-space",
            "x-absent",
        ];
        let allowed = Allowlist::new([], names.map(HeaderName::from_static));
        let filtered = filter(&headers, &allowed);
        assert_eq!(
            filtered.pairs,
            [
                (&b"x-forwarded-user"[..], &b"ada"[..]),
                (&b"x-space"[..], &b"ada"[..])
            ]
        );
        assert_eq!((filtered.duplicates, filtered.malformed), (1, 1));
    }

    #[test]
    fn of_authorization_it_is_the_users_token_without_its_scheme_and_never_a_key_of_litellms() {
        let found = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_static(value));
            let allowed = Allowlist::new([], [AUTHORIZATION]);
            let filtered = filter(&headers, &allowed);
            filtered.pairs.first().map(|(_, value)| value.to_vec())
        };
        for (value, token) in [
            ("Bearer eyJ.a.b", Some("eyJ.a.b")),
            ("bearer   opaque-1", Some("opaque-1")),
            ("Bearer sk-1234", None),
            ("Bearer  sk-1234", None),
            ("Basic dXNlcjpwYXNz", None),
            ("Bearer", None),
            ("Bearer ", None),
            ("sk-1234", None),
            ("eyJ.a.b", None),
        ] {
            assert_eq!(
                found(value),
                token.map(|token| token.as_bytes().to_vec()),
                "{value}"
            );
        }
    }

    /// Names that a server may take for one another.
    const NAMES: [&str; 5] = ["x-user", "x_user", "x-user2", "x-forwarded-user", "x-roles"];

    proptest! {
        #[test]
        fn exactly_what_is_stated_once_and_allowed_is_found(
            stated in prop::collection::vec((prop::sample::select(&NAMES[..]), "[ a-z\t\u{e9},]{0,5}"), 0..8),
            allowed in prop::collection::btree_set(prop::sample::select(&NAMES[..]), 0..4),
        ) {
            let mut headers = HeaderMap::new();
            for (name, value) in &stated {
                let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
                headers.append(HeaderName::from_static(name), value);
            }
            let names = Allowlist::new([], allowed.iter().copied().map(HeaderName::from_static));
            let filtered = filter(&headers, &names);
            let mut expected = FilteredPairs::default();
            for name in &allowed {
                let values: Vec<&str> = stated.iter().filter(|(stated, _)| stated == name)
                    .map(|(_, value)| value.trim()).collect();
                match values.as_slice() {
                    [] | [""] => {}
                    [one] if one.contains('\t') => expected.malformed += 1,
                    [one] => expected.pairs.push((name.as_bytes(), one.as_bytes())),
                    _ => expected.duplicates += 1,
                }
            }
            prop_assert_eq!(filtered, expected);
        }
    }
}
