//! Upstream auth outcome: what status and challenge of an MCP server's answer say about the token of the
//! request.

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, WWW_AUTHENTICATE};
use mcp_auth_http_auth::Challenge;

pub const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// Longest nonce that is sent back.
const MAX_NONCE_BYTES: usize = 1024;

#[derive(Debug, Eq, PartialEq)]
pub enum AuthOutcome {
    /// The token was accepted; the answer is for the client.
    Accepted,
    /// 401.
    Unauthorized,
    /// 403 with the scopes that the server demands (RFC 6750 section 3.1).
    InsufficientScope(Vec<String>),
    /// The token may be good: the proof must hold the nonce that came with the answer (RFC 9449 section 9).
    NonceRequired,
    /// 403 with a challenge that says something else.
    OtherChallenge,
}

/// `has_proof`: whether the request carried a proof of possession. A 403 without a challenge is about this
/// user or tool and says nothing about the token.
pub fn auth_outcome(status: StatusCode, headers: &HeaderMap, has_proof: bool) -> AuthOutcome {
    let challenged = || headers.contains_key(WWW_AUTHENTICATE);
    let challenge = || challenged().then(|| Challenge::from_headers(headers)).flatten();
    let has_error = |challenge: &Challenge, error: &str| challenge.error.as_deref() == Some(error);
    match status {
        StatusCode::UNAUTHORIZED => match challenge() {
            Some(challenge)
                if has_proof && has_error(&challenge, "use_dpop_nonce") && nonce(headers).is_some() =>
            {
                AuthOutcome::NonceRequired
            }
            _ => AuthOutcome::Unauthorized,
        },
        StatusCode::FORBIDDEN if challenged() => match challenge() {
            Some(challenge) if has_error(&challenge, "insufficient_scope") => {
                AuthOutcome::InsufficientScope(challenge.scopes)
            }
            _ => AuthOutcome::OtherChallenge,
        },
        _ => AuthOutcome::Accepted,
    }
}

/// The nonce for the next proof, if it is one of visible ASCII characters (RFC 9449 section 8).
pub fn nonce(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(DPOP_NONCE).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let text = value.to_str().ok()?;
    let is_visible = text.bytes().all(|byte| byte.is_ascii_graphic());
    (!text.is_empty() && is_visible && text.len() <= MAX_NONCE_BYTES).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn outcome(status: u16, lines: &[(&'static str, &'static str)], has_proof: bool) -> AuthOutcome {
        let headers = lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        auth_outcome(StatusCode::from_u16(status).unwrap(), &headers, has_proof)
    }

    #[test]
    fn only_what_a_challenge_says_is_of_the_token() {
        let challenge = |text| ("www-authenticate", text);
        let scopes = challenge(r#"Bearer error="insufficient_scope", scope="a b""#);
        assert_eq!(outcome(200, &[], false), AuthOutcome::Accepted);
        assert_eq!(outcome(500, &[scopes], false), AuthOutcome::Accepted);
        assert_eq!(outcome(401, &[], false), AuthOutcome::Unauthorized);
        assert_eq!(outcome(401, &[scopes], false), AuthOutcome::Unauthorized);
        assert_eq!(outcome(403, &[], false), AuthOutcome::Accepted);
        assert_eq!(
            outcome(403, &[challenge("Bearer")], false),
            AuthOutcome::OtherChallenge
        );
        assert_eq!(
            outcome(403, &[scopes], false),
            AuthOutcome::InsufficientScope(vec!["a".into(), "b".into()])
        );
    }

    #[test]
    fn a_nonce_is_demanded_only_of_a_proof_and_only_with_one_at_hand() {
        let challenge = ("www-authenticate", r#"DPoP error="use_dpop_nonce""#);
        let given = ("dpop-nonce", "n-1");
        assert_eq!(
            outcome(401, &[challenge, given], true),
            AuthOutcome::NonceRequired
        );
        assert_eq!(
            outcome(401, &[challenge, given], false),
            AuthOutcome::Unauthorized
        );
        assert_eq!(outcome(401, &[challenge], true), AuthOutcome::Unauthorized);
        assert_eq!(
            outcome(401, &[challenge, ("dpop-nonce", "a b")], true),
            AuthOutcome::Unauthorized
        );
    }
}
