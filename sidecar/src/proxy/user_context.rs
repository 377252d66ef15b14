//! The user context: the allow-listed cookies and headers of a user's request, which may reach MCP servers.
//!
//! [`gather`] turns the headers of a request into a [`Context`], with [`cookies`] and [`headers`] deciding
//! what belongs to it; [`seal`] turns it into an opaque header value and back. A context holds the names
//! allowed for any server; the outbound half picks those of its server.

mod cookies;
mod headers;
pub mod seal;

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};
use mcp_auth_protocol::sync::SubjectTokenSource;

use crate::proxy::fingerprint::Fingerprint;

/// Longest context, in bytes of names and values together. It travels in one header, which LiteLLM's server
/// bounds at 64 KiB together with all others.
pub const LIMIT: usize = 8 * 1024;

/// In place of a sealed context: a user's request led to this one, and has nothing that is allowed. No sealed context is like
/// it, and it is no secret.
pub const NO_CONTEXT: HeaderValue = HeaderValue::from_static("none");

/// Names of cookies and headers that may be passed on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allowlist {
    /// Sorted, for the search. Compared byte for byte.
    cookies: Box<[Box<[u8]>]>,
    /// Sorted, so that equal requests give equal contexts.
    headers: Box<[HeaderName]>,
}

/// Cookies and headers, each name once and in order, in one buffer: a count of two bytes and that many pairs,
/// for cookies and then for headers; name and value each after their length in two bytes. Then, if there is one, the
/// fingerprint of the client's key.
#[derive(Clone, Eq, PartialEq)]
pub struct Context {
    encoded: Vec<u8>,
    /// Where the section of headers begins, and where it ends.
    headers_at: usize,
    headers_end: usize,
}

/// The user context of a request, and how many names were left out of it.
#[derive(Debug, Default, PartialEq)]
pub struct Gathered {
    /// `None` where the request carries nothing that is allowed.
    pub context: Option<Context>,
    /// Names left out because the request states them more than once: which copy the user meant is unknown.
    pub duplicates: u64,
    /// Names left out because their value holds control characters.
    pub malformed: u64,
}

/// The allowed cookies and headers of a request are longer than [`LIMIT`].
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("the cookies and headers passed on to MCP servers are {bytes} bytes, more than the {LIMIT} possible")]
pub struct ContextTooLargeError {
    pub bytes: usize,
}

type Pair<'a> = (&'a [u8], &'a [u8]);

impl Allowlist {
    pub fn new<'a>(
        cookies: impl IntoIterator<Item = &'a str>,
        headers: impl IntoIterator<Item = HeaderName>,
    ) -> Self {
        // A cookie without a name is never allowed: browsers send `=name=value` for one that only looks
        // named.
        let cookies = cookies.into_iter().filter(|name| !name.is_empty());
        let mut cookies: Vec<Box<[u8]>> = cookies.map(|name| name.as_bytes().into()).collect();
        cookies.sort_unstable();
        cookies.dedup();
        let mut headers: Vec<HeaderName> = headers.into_iter().collect();
        headers.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        headers.dedup();
        Self {
            cookies: cookies.into(),
            headers: headers.into(),
        }
    }

    /// Everything that any of `all` allows.
    pub fn union<'a>(all: impl Iterator<Item = &'a Allowlist> + Clone) -> Self {
        let mut cookies: Vec<Box<[u8]>> = all.clone().flat_map(|one| one.cookies.iter().cloned()).collect();
        cookies.sort_unstable();
        cookies.dedup();
        let headers = all.flat_map(|one| one.headers.iter().cloned());
        Self {
            cookies: cookies.into(),
            ..Self::new([], headers)
        }
    }

    pub fn cookie(&self, name: &[u8]) -> bool {
        self.cookies
            .binary_search_by(|one| one.as_ref().cmp(name))
            .is_ok()
    }

    /// Names of the cookies.
    pub fn cookies(&self) -> impl Iterator<Item = &[u8]> {
        self.cookies.iter().map(|name| &**name)
    }

    pub fn header(&self, name: &[u8]) -> bool {
        self.headers.iter().any(|one| one.as_str().as_bytes() == name)
    }

    pub fn headers(&self) -> &[HeaderName] {
        &self.headers
    }

    pub fn is_empty(&self) -> bool {
        self.cookies.is_empty() && self.headers.is_empty()
    }
}

/// Whether a value names a user. Front ends sign a user out by a cookie without a value, which some write in quotes.
pub fn names_user(value: &[u8]) -> bool {
    !matches!(value, b"" | b"\"\"")
}

/// The context of a request. Never shortens one: half a context could speak for another user.
pub fn gather(headers: &HeaderMap, allowed: &Allowlist) -> Result<Gathered, ContextTooLargeError> {
    let cookies = cookies::filter(headers, allowed);
    let user_headers = headers::filter(headers, allowed);
    let bytes = cookies
        .pairs
        .iter()
        .chain(&user_headers.pairs)
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if bytes > LIMIT {
        return Err(ContextTooLargeError { bytes });
    }
    let context = (!cookies.pairs.is_empty() || !user_headers.pairs.is_empty())
        .then(|| Context::encode(cookies.pairs, user_headers.pairs));
    Ok(Gathered {
        context,
        duplicates: cookies.duplicates + user_headers.duplicates,
        malformed: cookies.malformed + user_headers.malformed,
    })
}

impl Context {
    /// At most [`LIMIT`] bytes, so that every length and count fits two bytes.
    pub(crate) fn encode(mut cookies: Vec<Pair<'_>>, mut headers: Vec<Pair<'_>>) -> Self {
        cookies.sort_unstable();
        headers.sort_unstable();
        let mut encoded = Vec::with_capacity(128);
        push_section(&mut encoded, &cookies);
        let headers_at = encoded.len();
        push_section(&mut encoded, &headers);
        Self {
            headers_at,
            headers_end: encoded.len(),
            encoded,
        }
    }

    /// `None` unless [`Context::encode`] could have written exactly this.
    pub(crate) fn decode(encoded: Vec<u8>) -> Option<Self> {
        let after_cookies = check_section(&encoded)?;
        let after_headers = check_section(after_cookies)?;
        if !matches!(after_headers.len(), 0 | Fingerprint::LENGTH) {
            return None;
        }
        Some(Self {
            headers_at: encoded.len() - after_cookies.len(),
            headers_end: encoded.len() - after_headers.len(),
            encoded,
        })
    }

    /// The context with the fingerprint of the key by which the client authenticates to LiteLLM; it has none yet.
    pub fn with_client_key(mut self, fingerprint: Fingerprint) -> Self {
        self.encoded.extend_from_slice(&fingerprint.0);
        self
    }

    /// What of it is allowed by `allowed`; `None` where that is no cookie and no header.
    pub fn part(&self, allowed: &Allowlist) -> Option<Self> {
        let cookies: Vec<_> = self.cookies().filter(|(name, _)| allowed.cookie(name)).collect();
        let headers: Vec<_> = self.headers().filter(|(name, _)| allowed.header(name)).collect();
        if cookies.is_empty() && headers.is_empty() {
            return None;
        }
        let part = Self::encode(cookies, headers);
        Some(match self.client_key() {
            Some(fingerprint) => part.with_client_key(fingerprint),
            None => part,
        })
    }

    /// The fingerprint of the client's key.
    pub fn client_key(&self) -> Option<Fingerprint> {
        let rest = self.encoded.get(self.headers_end..)?;
        rest.try_into().ok().map(Fingerprint)
    }

    /// Its length in bytes; no header made of it is longer.
    pub fn size(&self) -> usize {
        self.encoded.len()
    }

    /// Names and values, by name.
    pub fn cookies(&self) -> impl Iterator<Item = Pair<'_>> {
        pairs(&self.encoded)
    }

    /// Value of a cookie, or of a header by its name in lower case.
    pub fn value(&self, subject: &SubjectTokenSource) -> Option<&[u8]> {
        let pair = match subject {
            SubjectTokenSource::Cookie(name) => self.cookies().find(|(stated, _)| *stated == name.as_bytes()),
            SubjectTokenSource::Header(name) => self.headers().find(|(stated, _)| *stated == name.as_bytes()),
        };
        pair.map(|(_, value)| value)
    }

    /// Names in lower case and values, by name.
    pub fn headers(&self) -> impl Iterator<Item = Pair<'_>> {
        pairs(self.encoded.get(self.headers_at..).unwrap_or_default())
    }
}

/// Without cookies and headers.
impl Default for Context {
    fn default() -> Self {
        Self::encode(Vec::new(), Vec::new())
    }
}

/// The values are a user's session: they have no place in a log.
impl fmt::Debug for Context {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Context")
            .field("cookies", &self.cookies().count())
            .field("headers", &self.headers().count())
            .finish()
    }
}

/// The rest of the pairs of one section.
struct Pairs<'a> {
    remaining: usize,
    bytes: &'a [u8],
}

impl<'a> Iterator for Pairs<'a> {
    type Item = Pair<'a>;

    fn next(&mut self) -> Option<Pair<'a>> {
        self.remaining = self.remaining.checked_sub(1)?;
        let (name, rest) = sized(self.bytes)?;
        let (value, rest) = sized(rest)?;
        self.bytes = rest;
        Some((name, value))
    }
}

/// The section at the beginning of `bytes`.
fn pairs(bytes: &[u8]) -> Pairs<'_> {
    let (remaining, bytes) = length(bytes).unwrap_or_default();
    Pairs { remaining, bytes }
}

/// What follows the section at the beginning of `bytes`; `None` unless [`push_section`] could have written it.
fn check_section(bytes: &[u8]) -> Option<&[u8]> {
    let (count, mut rest) = length(bytes)?;
    let mut last: &[u8] = &[];
    for _ in 0..count {
        let (name, after_name) = sized(rest)?;
        let (value, after_value) = sized(after_name)?;
        // No name is empty, so each is greater than the one before, and the first than none.
        if name <= last || has_controls(value) {
            return None;
        }
        last = name;
        rest = after_value;
    }
    Some(rest)
}

fn push_section(encoded: &mut Vec<u8>, pairs: &[Pair<'_>]) {
    push_length(encoded, pairs.len());
    for (name, value) in pairs {
        push_length(encoded, name.len());
        encoded.extend_from_slice(name);
        push_length(encoded, value.len());
        encoded.extend_from_slice(value);
    }
}

fn sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = length(bytes)?;
    rest.split_at_checked(length)
}

fn length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*length).into(), rest))
}

fn push_length(encoded: &mut Vec<u8>, length: usize) {
    let length = u16::try_from(length).expect("a context is bounded far below 64 KiB");
    encoded.extend_from_slice(&length.to_be_bytes());
}

/// C0 controls and DEL, which servers never set in a cookie (RFC 6265bis section 4.1.1) and no user name
/// holds. Among them are CR, LF and NUL, by which one header could become two.
fn has_controls(value: &[u8]) -> bool {
    // Without an end in between: a few bytes at a time are compared at once.
    value
        .iter()
        .fold(false, |found, byte| found | byte.is_ascii_control())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn allowed() -> Allowlist {
        Allowlist::new(
            ["session_id", "csrf"],
            [HeaderName::from_static("x-forwarded-user")],
        )
    }

    fn request(lines: &[(&'static str, &str)]) -> HeaderMap {
        let value = |value: &str| HeaderValue::from_bytes(value.as_bytes()).unwrap();
        lines
            .iter()
            .map(|(name, text)| (HeaderName::from_static(name), value(text)))
            .collect()
    }

    #[test]
    fn holds_allowed_cookies_and_headers_and_nothing_else() {
        let headers = request(&[
            ("cookie", "token=ui; session_id=S-a; tracking=1"),
            ("x-forwarded-user", "ada"),
            ("authorization", "Bearer k"),
        ]);
        let context = gather(&headers, &allowed()).unwrap().context.unwrap();
        assert_eq!(
            context.cookies().collect::<Vec<_>>(),
            [(&b"session_id"[..], &b"S-a"[..])]
        );
        assert_eq!(
            context.headers().collect::<Vec<_>>(),
            [(&b"x-forwarded-user"[..], &b"ada"[..])]
        );
    }

    #[test]
    fn is_the_same_in_whatever_order_the_cookies_come() {
        let one = request(&[("cookie", "csrf=2; session_id=1")]);
        let other = request(&[("cookie", "session_id=1"), ("cookie", "x=1;csrf=2")]);
        assert_eq!(gather(&one, &allowed()), gather(&other, &allowed()));
    }

    #[test]
    fn a_context_above_the_limit_is_an_error_and_one_at_it_is_not() {
        let with_length = |length: usize| request(&[("cookie", &format!("csrf={}", "v".repeat(length - 4)))]);
        assert!(gather(&with_length(LIMIT), &allowed()).unwrap().context.is_some());
        assert_eq!(
            gather(&with_length(LIMIT + 1), &allowed()),
            Err(ContextTooLargeError { bytes: LIMIT + 1 })
        );
    }

    #[test]
    fn only_what_was_encoded_decodes() {
        let headers = request(&[("cookie", "session_id=S-a; csrf=b"), ("x-forwarded-user", "ada")]);
        let context = gather(&headers, &allowed()).unwrap().context.unwrap();
        assert_eq!(Context::decode(context.encoded.clone()), Some(context.clone()));
        for end in 0..context.encoded.len() {
            assert_eq!(
                Context::decode(context.encoded[..end].to_vec()),
                None,
                "cut at {end}"
            );
        }
        assert_eq!(Context::decode([context.encoded.as_slice(), b"x"].concat()), None);
        let fingerprint = Fingerprint([7; Fingerprint::LENGTH]);
        for context in [context, Context::default()] {
            assert_eq!(context.client_key(), None);
            let with_key = context.with_client_key(fingerprint);
            assert_eq!(with_key.client_key(), Some(fingerprint));
            assert_eq!(Context::decode(with_key.encoded.clone()), Some(with_key));
        }
        let twice = Context::encode(vec![(b"a", b"1"), (b"a", b"2")], vec![]);
        assert_eq!(Context::decode(twice.encoded), None);
        let split = Context::encode(vec![(b"a", b"1\r\nx: y")], vec![]);
        assert_eq!(Context::decode(split.encoded), None);
    }

    #[test]
    fn a_part_is_what_is_allowed_and_none_where_that_is_nothing() {
        let headers = request(&[("cookie", "session_id=S-a; csrf=b"), ("x-forwarded-user", "ada")]);
        let context = gather(&headers, &allowed()).unwrap().context.unwrap();
        assert_eq!(context.part(&allowed()).as_ref(), Some(&context));
        let part = context.part(&Allowlist::new(["csrf", "other"], [])).unwrap();
        assert_eq!(part.cookies().collect::<Vec<_>>(), [(&b"csrf"[..], &b"b"[..])]);
        assert_eq!(part.headers().count(), 0);
        let fingerprint = Fingerprint([7; Fingerprint::LENGTH]);
        let with_key = context.with_client_key(fingerprint);
        assert_eq!(with_key.part(&Allowlist::new(["other"], [])), None);
        let part = with_key.part(&Allowlist::new(["csrf"], [])).unwrap();
        assert_eq!(part.client_key(), Some(fingerprint));
    }

    #[test]
    fn debug_output_holds_no_value() {
        let context = gather(&request(&[("cookie", "session_id=S-a")]), &allowed())
            .unwrap()
            .context;
        assert_eq!(format!("{context:?}"), "Some(Context { cookies: 1, headers: 0 })");
    }
}
