//! The allow-listed cookies of a request (RFC 6265bis).

use http::HeaderMap;
use http::header::COOKIE;

use super::{Allowlist, Pair, has_controls};

/// The allowed pairs of a request, and how many names were left out.
#[derive(Debug, Default, PartialEq)]
pub(super) struct FilteredPairs<'a> {
    pub pairs: Vec<Pair<'a>>,
    pub duplicates: u64,
    pub malformed: u64,
}

/// Cookies whose name is allowed, with the value as it came: never decoded, never encoded anew. A name that
/// occurs more than once is left out altogether, because a cookie planted from a sibling domain or another
/// path would otherwise decide whose session it is.
pub(super) fn filter<'a>(headers: &'a HeaderMap, allowed: &Allowlist) -> FilteredPairs<'a> {
    let mut pairs: Vec<(Pair<'a>, bool)> = Vec::new();
    for field in headers.get_all(COOKIE) {
        // Several fields count as one, joined by `; ` (RFC 9113 section 8.2.3), so each can be split alone.
        for pair in split(field.as_bytes()) {
            let pair = trim(pair);
            let Some(equals) = memchr::memchr(b'=', pair) else {
                continue;
            };
            let (name, value) = (&pair[..equals], &pair[equals + 1..]);
            if !allowed.cookie(name) {
                continue;
            }
            match pairs.iter_mut().find(|((seen, _), _)| *seen == name) {
                Some((_, is_duplicate)) => *is_duplicate = true,
                None => pairs.push(((name, value), false)),
            }
        }
    }
    let mut filtered = FilteredPairs::default();
    for (pair, is_duplicate) in pairs {
        if is_duplicate {
            filtered.duplicates += 1;
        } else if has_controls(pair.1) {
            filtered.malformed += 1;
        } else {
            filtered.pairs.push(pair);
        }
    }
    filtered
}

/// What stands between semicolons. Cookies are long, so the next one is searched for many bytes at a time.
fn split(field: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(field);
    std::iter::from_fn(move || {
        let field = rest?;
        match memchr::memchr(b';', field) {
            Some(end) => {
                rest = field.get(end + 1..);
                field.get(..end)
            }
            None => rest.take(),
        }
    })
}

/// Optional whitespace is space and tab (RFC 9110 section 5.6.3), nothing else.
pub(super) fn trim(mut pair: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = pair {
        pair = rest;
    }
    pair
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::promises::Expected;
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
        let allowed = Allowlist::new(names.iter().copied(), []);
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
        let allowed = Allowlist::new(["a", "b", "c"], []);
        let expected: [Pair; 3] = [(b"a", b"\"q=1%3B+x==\""), (b"b", b""), (b"c", b"\xc3\xa9 \xff")];
        assert_eq!(filter(&headers, &allowed).pairs, expected);
    }

    #[test]
    fn all_copies_of_a_name_that_occurs_twice_go_and_are_counted_once() {
        let headers = fields(&[b"sid=1; csrf=c", b"sid=2;sid=3"]);
        let filtered = filter(&headers, &Allowlist::new(["sid", "csrf"], []));
        assert_eq!(filtered.pairs, [(&b"csrf"[..], &b"c"[..])]);
        assert_eq!((filtered.duplicates, filtered.malformed), (1, 0));
    }

    #[test]
    fn pairs_without_equals_sign_and_values_with_controls_are_dropped() {
        let headers = fields(&[b"sid; ;;=; a=1\t2; b=3"]);
        let filtered = filter(&headers, &Allowlist::new(["sid", "a", "b"], []));
        assert_eq!(filtered.pairs, [(&b"b"[..], &b"3"[..])]);
        assert_eq!((filtered.duplicates, filtered.malformed), (0, 1));
    }

    #[test]
    fn a_cookie_without_a_name_is_left_out_even_if_its_value_looks_like_a_cookie() {
        let cookie: &[u8] = b"=sid=1; ==sid=2; = sid=3; =4; sid";
        assert!(kept(&[cookie], &["sid", ""]).is_empty());
        assert_eq!(
            kept(&[cookie, b"sid=5"], &["sid", ""]),
            [("sid".into(), "5".into())]
        );
    }

    #[test]
    fn quotes_hold_nothing_together() {
        // The semicolon ends the pair whatever a server that reads quotes may have meant by it.
        let cookie: &[u8] = b"a=\"1; b=2\"; \"c\"=3; d=\"; sid=4; e=\"";
        assert_eq!(
            kept(&[cookie], &["a", "b", "c", "sid"]),
            [("a", "\"1"), ("b", "2\""), ("sid", "4")].map(|(name, value)| (name.into(), value.into()))
        );
    }

    /// Names that are easily taken for one another.
    const NAMES: [&str; 8] = [
        "sid",
        "SID",
        "__Host-sid",
        "__host-sid",
        "__Secure-sid",
        "sid2",
        "%73id",
        "a",
    ];

    fn name() -> impl Strategy<Value = String> {
        prop_oneof![
            8 => prop::sample::select(&NAMES[..]).prop_map(str::to_owned),
            1 => "[ -~]{0,6}",
        ]
    }

    /// Every byte that a header may hold, those with a meaning often.
    fn value() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![
            4 => prop::sample::select(&b"av1=\", %\\"[..]),
            1 => 0x80u8..=0xff,
            1 => Just(b'\t'),
        ];
        prop::collection::vec(byte, 0..8)
    }

    fn pair() -> impl Strategy<Value = Vec<u8>> {
        let space = || prop::sample::select(&["", " ", "\t "][..]);
        let written =
            (space(), name(), space(), value(), space()).prop_map(|(before, name, within, value, after)| {
                [
                    before.as_bytes(),
                    name.as_bytes(),
                    within.as_bytes(),
                    b"=",
                    &value,
                    after.as_bytes(),
                ]
                .concat()
            });
        prop_oneof![8 => written, 1 => value()]
    }

    /// Fields of pairs, as browsers, HTTP/2 and those who try send them.
    fn request() -> impl Strategy<Value = Vec<Vec<Vec<u8>>>> {
        prop::collection::vec(prop::collection::vec(pair(), 0..6), 0..4)
    }

    fn written(request: &[Vec<Vec<u8>>]) -> Vec<Vec<u8>> {
        request.iter().map(|pairs| pairs.join(&b';')).collect()
    }

    fn map(fields: &[Vec<u8>]) -> HeaderMap {
        fields
            .iter()
            .map(|value| (COOKIE, HeaderValue::from_bytes(value).unwrap()))
            .collect()
    }

    fn sorted(mut filtered: FilteredPairs<'_>) -> FilteredPairs<'_> {
        filtered.pairs.sort_unstable();
        filtered
    }

    proptest! {
        #[test]
        fn agrees_with_a_naive_reading(
            request in request(),
            allowed in prop::collection::btree_set(prop::sample::select(&NAMES[..]), 0..5),
        ) {
            let fields = written(&request);
            let plain: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
            let expected = Expected::from_fields(&plain, &allowed);
            let (headers, names) = (map(&fields), Allowlist::new(allowed.iter().copied(), []));
            let filtered = sorted(filter(&headers, &names));
            let pairs = expected.pairs.iter().map(|(name, value)| (&name[..], &value[..]));
            let pairs: Vec<Pair<'_>> = pairs.collect();
            prop_assert_eq!(filtered.pairs, pairs);
            prop_assert_eq!(filtered.duplicates, expected.duplicates);
            prop_assert_eq!(filtered.malformed, expected.malformed);
        }

        #[test]
        fn order_and_distribution_over_fields_mean_nothing(
            (pairs, shuffled) in prop::collection::vec(pair(), 0..8).prop_flat_map(|pairs| {
                (Just(pairs.clone()), Just(pairs).prop_shuffle())
            }),
        ) {
            let allowed = Allowlist::new(NAMES, []);
            let (one, each) = (map(&[pairs.join(&b';')]), map(&shuffled));
            prop_assert_eq!(sorted(filter(&one, &allowed)), sorted(filter(&each, &allowed)));
        }

        #[test]
        fn what_is_not_allowed_changes_nothing(
            request in request(),
            others in prop::collection::vec(pair(), 0..8),
        ) {
            let allowed = Allowlist::new(["sid", "__Host-sid"], []);
            let alone = written(&request);
            let stranger = |pair: &Vec<u8>| {
                let name = trim(pair).split(|byte| *byte == b'=').next().unwrap_or_default();
                pair.contains(&b';') || !allowed.cookie(name)
            };
            let among: Vec<Vec<u8>> = others.into_iter().filter(stranger).chain(alone.clone()).collect();
            let (alone, among) = (map(&alone), map(&among));
            prop_assert_eq!(filter(&alone, &allowed), filter(&among, &allowed));
        }

        #[test]
        fn a_second_copy_anywhere_leaves_the_name_out(
            request in request(),
            at: prop::sample::Index,
            value in value(),
        ) {
            let allowed = Allowlist::new(["sid"], []);
            let mut fields = written(&request);
            let had = fields.iter().flat_map(|field| field.split(|byte| *byte == b';')).any(|pair| {
                trim(pair).starts_with(b"sid=")
            });
            fields.insert(at.index(fields.len() + 1), [b"sid=".as_slice(), &value].concat());
            let headers = map(&fields);
            let filtered = filter(&headers, &allowed);
            prop_assert_eq!(filtered.duplicates, u64::from(had));
            prop_assert!(!had || filtered.pairs.is_empty());
        }
    }
}
