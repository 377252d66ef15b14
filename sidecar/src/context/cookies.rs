//! The allow-listed cookies of a request (RFC 6265bis).

use http::HeaderMap;
use http::header::COOKIE;

use super::{Allowed, Pair, has_controls};

/// What a filter found.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Filtered<'a> {
    pub pairs: Vec<Pair<'a>>,
    pub duplicates: u64,
    pub malformed: u64,
}

/// Cookies whose name is allowed, with the value as it came: never decoded, never encoded anew. A name that
/// occurs more than once is left out altogether, because a cookie planted from a sibling domain or another path
/// would otherwise decide whose session it is.
pub(super) fn filter<'a>(headers: &'a HeaderMap, allowed: &Allowed) -> Filtered<'a> {
    let mut found: Vec<(Pair<'a>, bool)> = Vec::new();
    for field in headers.get_all(COOKIE) {
        // Several fields count as one, joined by `; ` (RFC 9113 section 8.2.3), so each can be split alone.
        for pair in field.as_bytes().split(|byte| *byte == b';') {
            let pair = trim(pair);
            let Some(equals) = memchr::memchr(b'=', pair) else {
                continue;
            };
            let (name, value) = (&pair[..equals], &pair[equals + 1..]);
            if !allowed.cookie(name) {
                continue;
            }
            match found.iter_mut().find(|((known, _), _)| *known == name) {
                Some((_, again)) => *again = true,
                None => found.push(((name, value), false)),
            }
        }
    }
    let mut filtered = Filtered::default();
    for (pair, again) in found {
        if again {
            filtered.duplicates += 1;
        } else if has_controls(pair.1) {
            filtered.malformed += 1;
        } else {
            filtered.pairs.push(pair);
        }
    }
    filtered
}

/// Optional whitespace is space and tab (RFC 9110 section 5.6.3), nothing else.
fn trim(mut pair: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = pair {
        pair = rest;
    }
    pair
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn fields(values: &[&[u8]]) -> HeaderMap {
        values
            .iter()
            .map(|value| (COOKIE, HeaderValue::from_bytes(value).unwrap()))
            .collect()
    }

    fn kept(values: &[&[u8]], names: &[&str]) -> Vec<(String, String)> {
        let headers = fields(values);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let allowed = Allowed::new(names.iter().copied(), []);
        filter(&headers, &allowed)
            .pairs
            .iter()
            .map(|(name, value)| (text(name), text(value)))
            .collect()
    }

    #[test]
    fn look_alikes_are_other_names() {
        let cookie = b"__host-s=1; __Host-S=2; __Host-s =3; __Host-s%20=4; \x22__Host-s\x22=5; x__Host-s=6";
        assert!(kept(&[cookie], &["__Host-s"]).is_empty());
        assert_eq!(
            kept(&[b"__host-s=1; __Host-s=2"], &["__Host-s"]),
            [("__Host-s".into(), "2".into())]
        );
    }

    #[test]
    fn values_stay_as_they_are() {
        let cookie: &[u8] = b"a=\"q=1%3B+x==\"; b=; c=\xc3\xa9 \xff";
        let headers = fields(&[cookie]);
        let allowed = Allowed::new(["a", "b", "c"], []);
        let expected: [Pair; 3] = [(b"a", b"\"q=1%3B+x==\""), (b"b", b""), (b"c", b"\xc3\xa9 \xff")];
        assert_eq!(filter(&headers, &allowed).pairs, expected);
    }

    #[test]
    fn all_copies_of_a_name_that_occurs_twice_go_and_are_counted_once() {
        let headers = fields(&[b"sid=1; csrf=c", b"sid=2;sid=3"]);
        let filtered = filter(&headers, &Allowed::new(["sid", "csrf"], []));
        assert_eq!(filtered.pairs, [(&b"csrf"[..], &b"c"[..])]);
        assert_eq!((filtered.duplicates, filtered.malformed), (1, 0));
    }

    #[test]
    fn pairs_without_equals_sign_and_values_with_controls_are_dropped() {
        let headers = fields(&[b"sid; ;;=; =x; a=1\t2; b=3"]);
        let filtered = filter(&headers, &Allowed::new(["sid", "a", "b", ""], []));
        assert_eq!(filtered.pairs, [(&b"b"[..], &b"3"[..])]);
        assert_eq!(
            (filtered.duplicates, filtered.malformed),
            (1, 1),
            "the empty name occurs twice"
        );
    }

    proptest! {
        #[test]
        fn whatever_comes_in_only_single_allowed_names_come_out(
            values in prop::collection::vec("[ab=; \t\u{e9}\"%]{0,40}", 0..4)
        ) {
            let bytes: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
            let headers = fields(&bytes);
            let joined = values.join("; ");
            let filtered = filter(&headers, &Allowed::new(["a", "ab"], []));
            for name in ["a", "ab"] {
                let copies: Vec<&str> = joined
                    .split(';')
                    .map(|pair| pair.trim_matches([' ', '\t']))
                    .filter_map(|pair| pair.split_once('='))
                    .filter(|(found, _)| *found == name)
                    .map(|(_, value)| value)
                    .collect();
                let expected = match copies.as_slice() {
                    [one] if !one.contains('\t') => Some(one.as_bytes()),
                    _ => None,
                };
                let found = filtered.pairs.iter().find(|(found, _)| *found == name.as_bytes());
                prop_assert_eq!(found.map(|(_, value)| *value), expected);
            }
            prop_assert!(filtered.pairs.len() <= 2);
        }
    }
}
