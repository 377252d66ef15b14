//! A promise about untrusted input: what must hold of a challenge, whatever bytes it is made of. A fuzzer
//! looks for bytes that break it (`make fuzz`), and a test repeats those that once mattered, from
//! `fuzz/corpus`.

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderValue};
use mcp_auth_http_auth::Challenge;

/// `WWW-Authenticate`, a field in each line.
pub fn challenge(data: &[u8]) {
    let headers: HeaderMap = data
        .split(|byte| *byte == b'\n')
        .filter_map(|field| Some((WWW_AUTHENTICATE, HeaderValue::from_bytes(field).ok()?)))
        .collect();
    if let Some(challenge) = Challenge::from_headers(&headers) {
        assert!(format!("{challenge:?}").len() < 64 * 260 + 4000);
    }
}
