//! Generated documents for all readers of untrusted input: token responses, metadata, JWTs.
//! Whatever comes, nothing panics, nothing grows without bound, and no token is repeated.

use std::path::Path;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use http::StatusCode;
use jiff::Timestamp;
use oauth2::{AccessToken, Scope};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Map, Value};
use url::Url;

use super::{jwt, key, metadata as metadata_input, requested_by as requested_by_number, token_response};
use crate::discovery::{metadata, well_known};
use crate::redact::Redactor;
use crate::token_check::{self, Expectation};
use crate::token_request::response::{self, ExpectedToken};
use crate::transport::Answer;
use crate::{TokenCheckMode, TokenType};

fn repeat(folder: &str, holds: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        holds(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0, "{} holds something", folder.display());
}

/// Names that mean something to one of the readers, so that their values are looked at.
const NAMES: [&str; 22] = [
    "access_token",
    "token_type",
    "expires_in",
    "scope",
    "error",
    "error_description",
    "issuer",
    "token_endpoint",
    "revocation_endpoint",
    "mtls_endpoint_aliases",
    "resource",
    "authorization_servers",
    "scopes_supported",
    "iss",
    "aud",
    "scp",
    "exp",
    "nbf",
    "iat",
    "cnf",
    "jkt",
    "x5t#S256",
];

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{0,40}",
        any::<String>(),
        "https?://[a-z0-9.:@\\[\\]-]{0,20}(/[ -~]{0,20})?",
        Just("x".repeat(100_000)),
        Just("https://auth.example.com".to_owned()),
        "[+-]?[0-9]{0,40}(\\.[0-9]{0,3})?(e[+-]?[0-9]{1,4})?",
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            object(inner).prop_map(Value::from),
        ]
    })
}

fn object(values: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
    let name = proptest::sample::select(&NAMES[..]).prop_map(str::to_owned);
    vec((name, values), 0..8).prop_map(|fields| fields.into_iter().collect())
}

/// A JSON object, often broken.
fn document() -> impl Strategy<Value = Vec<u8>> {
    let whole = || object(value()).prop_map(|fields| Value::from(fields).to_string().into_bytes());
    prop_oneof![
        4 => whole(),
        2 => (whole(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut bytes, at, byte)| {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes
        }),
        1 => vec(any::<u8>(), 0..200),
        1 => ("[\\[{\"a:]{1,3}", 1_usize..20_000).prop_map(|(part, times)| part.repeat(times).into_bytes()),
    ]
}

fn answer(status: u16, body: Vec<u8>) -> Answer {
    Answer {
        status: StatusCode::from_u16(status).unwrap(),
        content_type: None,
        retry_after: None,
        date: None,
        location_host: None,
        dpop_nonce: None,
        challenge_error: None,
        body,
    }
}

fn expectation() -> Expectation {
    Expectation {
        issuers: vec!["https://auth.example.com".into()],
        audiences: vec!["https://tools.example.com".into()],
        scopes: vec![Scope::new("a".into())],
        key_thumbprint: Some("thumb".into()),
        certificate_thumbprint: Some("print".into()),
    }
}

proptest! {
    #[test]
    fn any_token_response_is_read(
        status in 200_u16..600, body in document(), requested_by in 0_u8..3, bound: bool,
    ) {
        let token_type = if bound { TokenType::DPoP } else { TokenType::Bearer };
        let expected = ExpectedToken { token_type, by: requested_by_number(requested_by) };
        let read = response::accept(answer(status, body), &Redactor::default(), expected)
            .and_then(|accepted| response::parse(accepted.body()))
            .map(|issued| issued.into_token(&Redactor::default(), token_type));
        match read {
            Ok(issued) => prop_assert!(issued.scope.is_none_or(|scope| scope.len() <= 4096)),
            Err(error) => prop_assert!(error.message().len() < 2000, "{}", error.message()),
        }
    }

    #[test]
    fn any_metadata_are_read(body in document(), expected in text(), allow_insecure_http: bool) {
        if let Ok(Value::Object(fields)) = serde_json::from_slice(&body) {
            let is_expected = |issuer: &str| issuer == expected;
            if let Ok(metadata) = metadata::server(&fields, is_expected, allow_insecure_http) {
                prop_assert!(metadata.issuer == expected);
                prop_assert!(allow_insecure_http || metadata.token_endpoint.starts_with("https://"));
            }
            if let Ok(metadata) = metadata::resource(&fields) {
                prop_assert!((1..=16).contains(&metadata.issuers.len()));
                prop_assert!(metadata.scopes.len() <= 64);
            }
        }
    }

    #[test]
    fn any_jwt_is_read_and_compared(payload in document(), header in document(), now: i32) {
        let part = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let token = format!("{}.{}.x", part(&header), part(&payload));
        let plain = format!("e30.{}.x", part(&payload));
        let now = Timestamp::from_second(now.into()).unwrap();
        for token in [token, plain] {
            let checked = token_check::check(
                &AccessToken::new(token.clone()),
                &expectation(),
                TokenCheckMode::Enforce,
                &Redactor::default(),
                now,
            );
            if let Err(error) = checked {
                prop_assert!(error.message().len() < 4000, "{}", error.message());
                prop_assert!(!error.message().contains(&token));
            }
        }
    }

    #[test]
    fn any_text_is_a_jwt_or_opaque(
        token in prop_oneof![
            any::<String>(),
            "[A-Za-z0-9_=-]{0,40}(\\.[A-Za-z0-9_=-]{0,40}){0,5}",
        ],
    ) {
        let _ = token_check::read(&token);
    }

    /// Whatever an issuer or resource is called, its metadata are asked for at its own origin only.
    #[test]
    fn any_address_is_located_or_refused(server in text(), resource in text()) {
        if let Ok(url) = well_known::parse(&server, true) {
            let urls = [well_known::server_metadata(&url), well_known::resource_metadata(&url)].concat();
            prop_assert!(urls.iter().all(|candidate| candidate.origin() == url.origin()));
            if well_known::covers(&resource, &url) {
                prop_assert_eq!(Url::parse(&resource).unwrap().origin(), url.origin());
            }
        }
    }
}

#[test]
fn what_fuzzing_found_once_still_holds() {
    repeat("../fuzz/corpus/token_response", token_response);
    repeat("../fuzz/corpus/metadata", metadata_input);
    repeat("../fuzz/corpus/jwt", jwt);
    repeat("src/jose/signing_key/testdata", key);
}
