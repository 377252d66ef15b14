//! What an answer of an MCP server says of the token it was asked with. Pure.

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, WWW_AUTHENTICATE};
use mcp_auth_http_auth::Challenge;

pub const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// Longest nonce that is sent back.
const MAX_NONCE: usize = 1024;

#[derive(Debug, Eq, PartialEq)]
pub enum Verdict {
    /// The token was taken; the answer is for the client.
    Taken,
    /// 401.
    Unauthorized,
    /// 403 with the scopes that would do (RFC 6750 section 3.1).
    InsufficientScope(Vec<String>),
    /// The token may be good: the proof must hold the nonce that came with the answer (RFC 9449 section 9).
    NonceDemanded,
    /// 403 with a challenge that says something else.
    Challenged,
}

/// `proved`: whether the request carried a proof of possession. A 403 without a challenge is the server's word on
/// this user or tool, and none of the token's.
pub fn verdict(status: StatusCode, headers: &HeaderMap, proved: bool) -> Verdict {
    let challenged = headers.contains_key(WWW_AUTHENTICATE);
    let challenge = || challenged.then(|| Challenge::from_headers(headers)).flatten();
    let says = |challenge: &Challenge, error: &str| challenge.error.as_deref() == Some(error);
    match status {
        StatusCode::UNAUTHORIZED => match challenge() {
            Some(challenge) if proved && says(&challenge, "use_dpop_nonce") && nonce(headers).is_some() => {
                Verdict::NonceDemanded
            }
            _ => Verdict::Unauthorized,
        },
        StatusCode::FORBIDDEN if challenged => match challenge() {
            Some(challenge) if says(&challenge, "insufficient_scope") => {
                Verdict::InsufficientScope(challenge.scopes)
            }
            _ => Verdict::Challenged,
        },
        _ => Verdict::Taken,
    }
}

/// The nonce for the next proof, of whatever characters a nonce may have.
pub fn nonce(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(DPOP_NONCE).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let text = value.to_str().ok()?;
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    (!text.is_empty() && plain && text.len() <= MAX_NONCE).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn judged(status: u16, lines: &[(&'static str, &'static str)], proved: bool) -> Verdict {
        let headers = lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        verdict(StatusCode::from_u16(status).unwrap(), &headers, proved)
    }

    #[test]
    fn only_what_a_challenge_says_is_of_the_token() {
        let challenge = |text| ("www-authenticate", text);
        let scopes = challenge(r#"Bearer error="insufficient_scope", scope="a b""#);
        assert_eq!(judged(200, &[], false), Verdict::Taken);
        assert_eq!(judged(500, &[scopes], false), Verdict::Taken);
        assert_eq!(judged(401, &[], false), Verdict::Unauthorized);
        assert_eq!(judged(401, &[scopes], false), Verdict::Unauthorized);
        assert_eq!(judged(403, &[], false), Verdict::Taken);
        assert_eq!(judged(403, &[challenge("Bearer")], false), Verdict::Challenged);
        assert_eq!(
            judged(403, &[scopes], false),
            Verdict::InsufficientScope(vec!["a".into(), "b".into()])
        );
    }

    #[test]
    fn a_nonce_is_demanded_only_of_a_proof_and_only_with_one_at_hand() {
        let challenge = ("www-authenticate", r#"DPoP error="use_dpop_nonce""#);
        let given = ("dpop-nonce", "n-1");
        assert_eq!(judged(401, &[challenge, given], true), Verdict::NonceDemanded);
        assert_eq!(judged(401, &[challenge, given], false), Verdict::Unauthorized);
        assert_eq!(judged(401, &[challenge], true), Verdict::Unauthorized);
        assert_eq!(
            judged(401, &[challenge, ("dpop-nonce", "a b")], true),
            Verdict::Unauthorized
        );
    }
}
