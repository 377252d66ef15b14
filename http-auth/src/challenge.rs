//! `WWW-Authenticate` (RFC 9110 section 11.6.1): the challenges of a resource server, read generously.
//! Several in one field or in several fields, commas left out, values without quotes: what can be understood
//! is.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// Bounds of what is read of a field, and of what is kept.
const MAX_FIELD_LEN: usize = 16 * 1024;
const MAX_FIELDS: usize = 16;
const MAX_ERROR_LEN: usize = 64;
const MAX_URL_LEN: usize = 2048;
const MAX_SCOPE_LEN: usize = 256;
const MAX_SCOPES: usize = 64;

/// What a protected resource says of the token it wants (RFC 6750 section 3, RFC 9449 section 7.1, RFC 9728
/// section 5.1).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Challenge {
    /// Error code, such as `invalid_token`, `insufficient_scope`, `use_dpop_nonce`.
    pub error: Option<String>,
    /// Scopes demanded.
    pub scopes: Vec<String>,
    /// URL of the protected resource's metadata.
    pub resource_metadata: Option<String>,
}

/// The bytes of a field that are still to be read.
struct Reader<'a>(&'a [u8]);

impl Challenge {
    /// Of the challenges of the schemes Bearer and DPoP the first with an error, else the first that says
    /// anything of use, else the first; nothing where there is none. Where the metadata are is said of the
    /// resource and not of the scheme, so any of them may say it.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut all: Vec<Self> = Vec::new();
        for field in headers.get_all(WWW_AUTHENTICATE).iter().take(MAX_FIELDS) {
            read(field.as_bytes(), &mut all);
        }
        let metadata = all.iter().find_map(|one| one.resource_metadata.clone());
        let best = all
            .iter()
            .position(|one| one.error.is_some())
            .or_else(|| all.iter().position(|one| *one != Self::default()))
            .unwrap_or(0);
        let mut chosen = (best < all.len()).then(|| all.swap_remove(best))?;
        chosen.resource_metadata = chosen.resource_metadata.or(metadata);
        Some(chosen)
    }

    /// The first of two equal names counts.
    fn set(&mut self, name: &[u8], value: &[u8]) {
        let text = String::from_utf8_lossy(value);
        if name.eq_ignore_ascii_case(b"error") && self.error.is_none() {
            self.error = bounded(&text, MAX_ERROR_LEN, is_code);
        } else if name.eq_ignore_ascii_case(b"scope") && self.scopes.is_empty() {
            self.scopes = valid_scopes(text.split_whitespace());
        } else if name.eq_ignore_ascii_case(b"resource_metadata") && self.resource_metadata.is_none() {
            self.resource_metadata = bounded(&text, MAX_URL_LEN, |byte| byte.is_ascii_graphic());
        }
    }
}

/// Those that can be scopes (RFC 6749 section 3.3), each once, and not too many of them.
pub fn valid_scopes<'a>(words: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for word in words.take(4 * MAX_SCOPES) {
        if let Some(word) = bounded(word, MAX_SCOPE_LEN, |byte| is_code(byte) && byte != b' ')
            && kept.len() < MAX_SCOPES
            && !kept.contains(&word)
        {
            kept.push(word);
        }
    }
    kept
}

/// Adds the challenges of one field.
fn read(field: &[u8], all: &mut Vec<Challenge>) {
    let mut reader = Reader(&field[..field.len().min(MAX_FIELD_LEN)]);
    // Whether parameters are those of the last of `all`; others belong to a scheme that is not ours.
    let mut is_supported_scheme = false;
    while !reader.0.is_empty() {
        reader.skip(|byte| is_space(byte) || byte == b',');
        let word = reader.take(is_token);
        if word.is_empty() {
            // What cannot be here is passed over, a byte a round, so that every round makes progress.
            reader.0 = reader.0.get(1..).unwrap_or_default();
            continue;
        }
        let spaced = reader.skip(is_space);
        if reader.0.first() == Some(&b'=') {
            reader.0 = &reader.0[1..];
            reader.skip(is_space);
            let value = reader.value();
            if is_supported_scheme && let Some(challenge) = all.last_mut() {
                challenge.set(word, &value);
            }
        } else {
            is_supported_scheme = word.eq_ignore_ascii_case(b"bearer") || word.eq_ignore_ascii_case(b"dpop");
            if is_supported_scheme {
                all.push(Challenge::default());
            }
            if spaced {
                reader.skip_token68();
            }
        }
    }
}

impl<'a> Reader<'a> {
    fn take(&mut self, is_part: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self
            .0
            .iter()
            .position(|byte| !is_part(*byte))
            .unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        taken
    }

    /// Whether there was any.
    fn skip(&mut self, is_part: impl Fn(u8) -> bool) -> bool {
        !self.take(is_part).is_empty()
    }

    /// A quoted string, or all up to a comma or space. One that never ends ends with the field.
    fn value(&mut self) -> Vec<u8> {
        let Some((b'"', rest)) = self.0.split_first() else {
            return self.take(|byte| !is_space(byte) && byte != b',').to_vec();
        };
        let mut value = Vec::new();
        let mut bytes = rest.iter();
        while let Some(&byte) = bytes.next() {
            match byte {
                b'"' => break,
                b'\\' => value.extend(bytes.next()),
                other => value.push(other),
            }
        }
        self.0 = bytes.as_slice();
        value
    }

    /// Credentials such as `abc==`, which stand in the place of parameters. `a=b` is a parameter.
    fn skip_token68(&mut self) {
        let parameters = self.0;
        let some = self.skip(|byte| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte));
        self.skip(|byte| byte == b'=');
        self.skip(is_space);
        if !some || !matches!(self.0.first(), None | Some(b',')) {
            self.0 = parameters;
        }
    }
}

/// `None`: too long, empty, or with other characters.
fn bounded(text: &str, most: usize, is_allowed: impl Fn(u8) -> bool) -> Option<String> {
    let is_valid = !text.is_empty() && text.len() <= most && text.bytes().all(is_allowed);
    is_valid.then(|| text.to_owned())
}

/// The characters of `error` (RFC 6750 section 3), which but for the space are those of scopes.
fn is_code(byte: u8) -> bool {
    matches!(byte, b' '..=b'!' | b'#'..=b'[' | b']'..=b'~')
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn headers(fields: &[&str]) -> HeaderMap {
        fields
            .iter()
            .map(|field| {
                (
                    WWW_AUTHENTICATE,
                    HeaderValue::from_bytes(field.as_bytes()).unwrap(),
                )
            })
            .collect()
    }

    fn parse(field: &str) -> Challenge {
        Challenge::from_headers(&headers(&[field])).unwrap()
    }

    fn challenge(error: &str, scopes: &[&str], resource_metadata: &str) -> Challenge {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Challenge {
            error: some(error),
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            resource_metadata: some(resource_metadata),
        }
    }

    const URL: &str = "https://tools.example.com/.well-known/oauth-protected-resource/mcp";

    #[test]
    fn reads_all_that_it_is_to_know() {
        let field = format!(
            r#"Bearer realm="mcp, \"tools\"", error="insufficient_scope", {scope}, {metadata}"#,
            scope = r#"scope="a:read  b:call a:read""#,
            metadata = format_args!(r#"resource_metadata="{URL}""#),
        );
        assert_eq!(
            parse(&field),
            challenge("insufficient_scope", &["a:read", "b:call"], URL)
        );
    }

    #[test]
    fn without_a_challenge_of_ours_there_is_none() {
        assert_eq!(Challenge::from_headers(&HeaderMap::new()), None);
        for field in [
            "",
            " , ,",
            "Basic realm=\"x\"",
            "Negotiate abc==",
            "Bearerish scope=\"a\"",
            "scope=\"a\"",
        ] {
            assert_eq!(Challenge::from_headers(&headers(&[field])), None, "{field}");
        }
    }

    #[test]
    fn other_schemes_before_between_and_after_do_not_disturb() {
        let ours = r#"bEaReR scope="ours""#;
        for field in [
            format!(r#"Basic realm="x", scope="theirs", {ours}"#),
            format!(r#"Negotiate abc==, {ours}"#),
            format!(r#"Negotiate, {ours}"#),
            format!(r#"{ours}, Digest error="theirs", scope="theirs""#),
            format!(r#"Basic realm="Bearer scope=\"theirs\"", {ours}"#),
        ] {
            assert_eq!(parse(&field), challenge("", &["ours"], ""), "{field}");
        }
    }

    #[test]
    fn a_bare_scheme_counts_but_one_that_says_more_is_preferred() {
        assert_eq!(parse("Bearer"), Challenge::default());
        assert_eq!(parse(r#"Bearer realm="x""#), Challenge::default());
        let several = headers(&["Bearer", "Basic realm=\"x\"", "DPoP algs=\"ES256\", scope=\"a\""]);
        assert_eq!(Challenge::from_headers(&several), Some(challenge("", &["a"], "")));
    }

    #[test]
    fn the_challenge_with_the_error_counts_and_knows_where_the_metadata_are() {
        let field = format!(r#"Bearer resource_metadata="{URL}", DPoP error="use_dpop_nonce", algs="ES256""#);
        assert_eq!(parse(&field), challenge("use_dpop_nonce", &[], URL));
    }

    #[test]
    fn sloppy_spelling_is_understood() {
        for field in [
            r#"Bearer scope="a b",error="invalid_token""#,
            r#"Bearer scope = "a b" , error = invalid_token"#,
            "Bearer\tscope=\"a b\" error=\"invalid_token\"",
            r#"Bearer ,, SCOPE="a b", Error=invalid_token, error="second""#,
            r#"Bearer scope="a\ b", error="invalid_token"#,
        ] {
            assert_eq!(
                parse(field),
                challenge("invalid_token", &["a", "b"], ""),
                "{field}"
            );
        }
        let bare = format!("Bearer resource_metadata={URL}");
        assert_eq!(parse(&bare), challenge("", &[], URL));
    }

    #[test]
    fn what_is_too_long_or_has_strange_characters_is_left_out() {
        let long = "x".repeat(5000);
        for field in [
            format!(r#"Bearer error="{long}", scope="{long}", resource_metadata="https://{long}""#),
            "Bearer error=\"é\", scope=\"\u{80} é\", resource_metadata=\"https://a b\"".to_owned(),
        ] {
            assert_eq!(parse(&field), Challenge::default());
        }
        let many: String = (0..1000).map(|n| format!("s{n} ")).collect();
        assert_eq!(
            parse(&format!("Bearer scope=\"{many}\"")).scopes.len(),
            MAX_SCOPES
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic_and_within_bounds(
            fields in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..4),
            ours: bool,
        ) {
            let fields: HeaderMap = fields
                .into_iter()
                .map(|field| if ours { [b"Bearer error=".as_slice(), &field].concat() } else { field })
                .filter_map(|field| Some((WWW_AUTHENTICATE, HeaderValue::from_bytes(&field).ok()?)))
                .collect();
            if let Some(challenge) = Challenge::from_headers(&fields) {
                prop_assert!(challenge.error.is_none_or(|error| error.len() <= MAX_ERROR_LEN));
                let mut bytes = challenge.scopes.iter().flat_map(|scope| scope.bytes());
                prop_assert!(bytes.all(|byte| byte.is_ascii_graphic()));
            }
        }

        #[test]
        fn what_is_written_by_the_rules_is_read_as_it_was_meant(
            error in "[a-z_]{1,20}",
            scopes in proptest::collection::btree_set("[a-zA-Z0-9:/._-]{1,20}", 0..5),
            realm in "[ -~]{0,30}",
            first in 0_usize..3,
        ) {
            let quoted = realm.replace('\\', "\\\\").replace('"', "\\\"");
            let list = scopes.iter().cloned().collect::<Vec<_>>().join(" ");
            let mut parts = [
                format!(r#"realm="{quoted}""#),
                format!(r#"error="{error}""#),
                format!(r#"scope="{list}""#),
            ];
            parts.rotate_left(first);
            let bearer = parts.join(", ");
            let challenge = parse(&format!("Basic realm=\"{quoted}\", Bearer {bearer}, Digest qop=\"auth\""));
            prop_assert_eq!(challenge.error, Some(error));
            prop_assert_eq!(challenge.scopes.into_iter().collect::<std::collections::BTreeSet<_>>(), scopes);
        }
    }
}
