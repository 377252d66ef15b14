//! Exactly the allowed cookies of a user arrive at a server, unchanged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};
use mcp_auth_protocol::sync::Transport;

use crate::proxy::outbound::headers::{UserPart, prepare_request};
use crate::proxy::routes::McpServer;
use crate::proxy::user_context::seal::Sealer;
use crate::proxy::user_context::{Allowlist, LIMIT, gather};

/// The result of a naive reading of the cookies.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    /// By name.
    pub pairs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub duplicates: u64,
    pub malformed: u64,
}

static TOOLS: LazyLock<Arc<McpServer>> =
    LazyLock::new(|| super::server("http://tools.example.com/mcp", Transport::StreamableHttp));
static SEALER: LazyLock<Sealer> = LazyLock::new(Sealer::new);

/// The first line names the cookies that this server is allowed, the second those of another server, by
/// commas. The others are the request's Cookie fields.
pub fn cookies(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let ours = names(lines.next());
    let others = names(lines.next());
    let fields: Vec<HeaderValue> = lines
        .filter_map(|line| HeaderValue::from_bytes(line).ok())
        .collect();
    let headers: HeaderMap = fields.iter().map(|value| (COOKIE, value.clone())).collect();
    let plain: Vec<&[u8]> = fields.iter().map(HeaderValue::as_bytes).collect();

    let all_names: BTreeSet<&str> = ours.union(&others).copied().collect();
    let expected = Expected::from_fields(&plain, &all_names);
    let own = Allowlist::new(ours.iter().copied(), []);
    let all = Allowlist::union([&own, &Allowlist::new(others.iter().copied(), [])].into_iter());
    let bytes: usize = expected
        .pairs
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    let gathered = match gather(&headers, &all) {
        Ok(gathered) => gathered,
        Err(too_large) => {
            assert!(bytes > LIMIT && too_large.bytes == bytes);
            return;
        }
    };
    assert!(bytes <= LIMIT);
    assert_eq!(gathered.duplicates, expected.duplicates);
    assert_eq!(gathered.malformed, expected.malformed);
    assert_eq!(gathered.context.is_none(), expected.pairs.is_empty());

    let now = 1_800_000_000;
    let opened = gathered.context.as_ref().map(|context| {
        let sealed = SEALER.seal(context, now);
        assert_eq!(sealed, SEALER.seal(context, now), "the same again");
        SEALER.open(&sealed, now).expect("what was sealed opens")
    });
    assert_eq!(opened, gathered.context);
    let server = TOOLS.usable().expect("it can be used");
    let mut out = headers;
    prepare_request(
        &mut out,
        server,
        &UserPart::from_context(opened.as_ref(), &own),
        None,
    );
    let sent: Vec<&[u8]> = out.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    assert_eq!(sent, expected.cookie(&ours).as_slice());
}

fn names(line: Option<&[u8]>) -> BTreeSet<&str> {
    let line = std::str::from_utf8(line.unwrap_or_default()).unwrap_or_default();
    line.split(',').filter(|name| is_token(name)).take(64).collect()
}

/// Whether the resource accepts the name.
fn is_token(name: &str) -> bool {
    let other = |byte: u8| b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || other(byte))
}

impl Expected {
    /// All fields are one; a pair is what stands between semicolons; its name is what stands before the first
    /// equals sign; only what occurs once and holds no control character counts.
    pub(crate) fn from_fields(fields: &[&[u8]], allowed: &BTreeSet<&str>) -> Self {
        let joined = fields.join(&b"; "[..]);
        let mut copies: BTreeMap<&[u8], Vec<&[u8]>> = BTreeMap::new();
        for pair in joined.split(|byte| *byte == b';') {
            let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
            let Some(first) = pair.iter().position(|byte| !is_space(byte)) else {
                continue;
            };
            let last = pair.iter().rposition(|byte| !is_space(byte)).unwrap_or(first);
            let pair = &pair[first..=last];
            let mut parts = pair.splitn(2, |byte| *byte == b'=');
            if let (Some(name), Some(value)) = (parts.next(), parts.next()) {
                copies.entry(name).or_default().push(value);
            }
        }
        let mut expected = Self::default();
        for name in allowed {
            match copies.get(name.as_bytes()).map(Vec::as_slice) {
                None => {}
                Some([one]) if one.iter().any(|byte| *byte < 32 || *byte == 127) => expected.malformed += 1,
                Some([one]) => {
                    expected.pairs.insert(name.as_bytes().into(), one.to_vec());
                }
                Some(_) => expected.duplicates += 1,
            }
        }
        expected
    }

    /// The one field that goes to a server that is allowed these.
    pub(crate) fn cookie(&self, allowed: &BTreeSet<&str>) -> Option<Vec<u8>> {
        let pairs: Vec<Vec<u8>> = self
            .pairs
            .iter()
            .filter(|(name, _)| allowed.iter().any(|allowed| allowed.as_bytes() == *name))
            .map(|(name, value)| [name, b"=".as_slice(), value].concat())
            .collect();
        (!pairs.is_empty()).then(|| pairs.join(&b"; "[..]))
    }
}
