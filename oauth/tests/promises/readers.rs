//! Promises about untrusted input: what must hold of a token response, of metadata, of a JWT and of a key,
//! whatever it is. Each function takes any bytes and panics where a promise is broken. A fuzzer looks for
//! such bytes (`make fuzz`), and unit tests repeat those that once mattered, from `fuzz/corpus`. Part of the
//! crate where it is built for one of these, since it calls the readers themselves. What makes sense of the
//! input is tested beside what reads it.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use http::{HeaderValue, StatusCode};
use jiff::Timestamp;
use oauth2::{AccessToken, Scope};
use serde_json::Value;
use url::Url;

use crate::discovery::{metadata, well_known};
use crate::redact::Redactor;
use crate::token_check::{self, Expectation};
use crate::token_request::response::{self, ExpectedToken, RequestedBy};
use crate::transport::Answer;
use crate::{SigningKey, TokenCheckMode, TokenType};

/// Longest text of ours about anything of theirs.
const MAX_MESSAGE_LEN: usize = 4000;

/// An answer of the token endpoint: a byte of choices, the status in a byte, the body.
pub fn token_response(data: &[u8]) {
    let [choices, status, body @ ..] = data else {
        return;
    };
    let answer = Answer {
        status: StatusCode::from_u16(200 + u16::from(*status) * 2).expect("it is 200 to 710"),
        content_type: None,
        retry_after: None,
        date: None,
        location_host: None,
        dpop_nonce: None,
        challenge_error: None,
        body: body.to_vec(),
    };
    let expected = ExpectedToken {
        token_type: if choices & 1 == 0 {
            TokenType::Bearer
        } else {
            TokenType::DPoP
        },
        by: requested_by(choices >> 1),
    };
    let fields = serde_json::from_slice::<Value>(body).unwrap_or_default();
    let read = response::accept(answer, &Redactor::default(), expected)
        .and_then(|accepted| response::parse(accepted.body()))
        .map(|issued| issued.into_token(&Redactor::default(), expected.token_type));
    match read {
        Ok(issued) => {
            let token = issued.access_token.secret();
            assert_eq!(fields["access_token"].as_str(), Some(token.as_str()));
            assert!(HeaderValue::from_str(&format!("Bearer {token}")).is_ok());
            assert!(token.len() < 32 || !format!("{issued:?}").contains(token));
        }
        Err(error) => {
            assert!(error.message().len() < MAX_MESSAGE_LEN);
            // A token in an answer that is not taken is as secret as one that is.
            if let Some(token) = fields["access_token"].as_str().filter(|token| token.len() >= 24) {
                assert!(!error.message().contains(token));
            }
        }
    }
}

/// Each kind by a number.
pub(crate) fn requested_by(number: u8) -> RequestedBy {
    match number % 4 {
        0 => RequestedBy::Grant,
        1 | 3 => RequestedBy::TokenExchange,
        _ => RequestedBy::IdJagExchange,
    }
}

/// Metadata: the issuer that was asked for, a line end, the document.
pub fn metadata(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let expected = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    if let Ok(url) = well_known::parse(&expected, true) {
        let urls = [
            well_known::server_metadata(&url),
            well_known::resource_metadata(&url),
        ]
        .concat();
        assert!(urls.iter().all(|candidate| candidate.origin() == url.origin()));
    }
    let Ok(Value::Object(fields)) = serde_json::from_slice(parts.next().unwrap_or_default()) else {
        return;
    };
    for allow_insecure_http in [false, true] {
        let Ok(metadata) = metadata::server(&fields, |issuer| issuer == expected, allow_insecure_http) else {
            continue;
        };
        assert_eq!(metadata.issuer, expected);
        let endpoints = [
            Some(metadata.token_endpoint.as_str()),
            metadata.mtls_token_endpoint.as_deref(),
            metadata.revocation_endpoint.as_deref(),
            metadata.mtls_revocation_endpoint.as_deref(),
        ];
        for endpoint in endpoints.into_iter().flatten() {
            let url = Url::parse(endpoint).expect("an endpoint is a URL");
            assert!(
                url.has_host() && (url.scheme() == "https" || allow_insecure_http && url.scheme() == "http")
            );
        }
    }
    if let Ok(metadata) = metadata::resource(&fields) {
        assert!((1..=16).contains(&metadata.issuers.len()) && metadata.scopes.len() <= 64);
    }
}

/// An access token: as it is, and with the two lines as header and claims of a JWT.
pub fn jwt(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let mut part = || BASE64_URL_SAFE_NO_PAD.encode(parts.next().unwrap_or_default());
    let made = format!("{}.{}.x", part(), part());
    let expectation = Expectation {
        issuers: vec!["https://auth.example.com".into()],
        audiences: vec!["https://tools.example.com".into()],
        scopes: vec![Scope::new("a".into())],
        key_thumbprint: Some("thumb".into()),
        certificate_thumbprint: Some("print".into()),
    };
    let now = Timestamp::UNIX_EPOCH;
    for token in [String::from_utf8_lossy(data).into_owned(), made] {
        let secret = AccessToken::new(token.clone());
        match token_check::check(
            &secret,
            &expectation,
            TokenCheckMode::Enforce,
            &Redactor::default(),
            now,
        ) {
            Ok(checked) => {
                let told = checked
                    .mismatch
                    .is_none_or(|mismatch| !mismatch.is_of_another_use());
                assert!(told);
            }
            Err(error) => {
                assert!(error.message().len() < MAX_MESSAGE_LEN);
                assert!(!error.message().contains(&token));
            }
        }
    }
}

/// A private key, PEM or JWK.
pub fn key(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match SigningKey::parse(text, None, None) {
        Ok(key) => assert!(key.sign(b"message").is_ok()),
        Err(error) => {
            let message = format!("{} {} {error:?}", error.message(), error.hint());
            assert!(message.len() < MAX_MESSAGE_LEN);
            // What is as long and as dense as a piece of a key is repeated nowhere.
            let dense = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=-_".contains(byte);
            let pieces = data.windows(24).filter(|piece| piece.iter().all(dense));
            for piece in pieces {
                let piece = std::str::from_utf8(piece).expect("it is ASCII");
                assert!(!message.contains(piece));
            }
        }
    }
}

#[cfg(test)]
#[path = "generated.rs"]
mod tests;
