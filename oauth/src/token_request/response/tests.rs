//! What each answer is read as, and that none of them is repeated.

use http::StatusCode;
use oauth2::basic::BasicErrorResponseType;
use oauth2::{ClientSecret, TokenResponse};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{IssuedToken, RetryAfter};

const SECRET: &str = "cl1ent-s3cret-of-ours";

fn redactor() -> Redactor {
    Redactor::default().hide_client_secret("client", &ClientSecret::new(SECRET.into()))
}

fn read(answer: Answer, redactor: &Redactor, expected: ExpectedToken) -> Result<IssuedToken, Error> {
    let accepted = accept(answer, redactor, expected)?;
    Ok(parse(accepted.body())?.into_token(redactor, expected.token_type))
}

const BEARER: ExpectedToken = ExpectedToken {
    token_type: TokenType::Bearer,
    by: RequestedBy::Grant,
};

fn answer(status: u16, body: impl Into<Vec<u8>>) -> Answer {
    Answer {
        status: StatusCode::from_u16(status).unwrap(),
        content_type: Some("application/json".into()),
        retry_after: None,
        date: None,
        location_host: None,
        dpop_nonce: None,
        challenge_error: None,
        body: body.into(),
    }
}

fn read_json(status: u16, body: Value) -> Result<IssuedToken, Error> {
    read(answer(status, body.to_string()), &redactor(), BEARER)
}

fn life(expires_in: Value) -> Option<i64> {
    read_json(
        200,
        json!({"access_token": "t0p", "token_type": "Bearer", "expires_in": expires_in}),
    )
    .unwrap()
    .expires_in
}

#[test]
fn reads_a_complete_token_response() {
    let issued = read_json(
        200,
        json!({
            "access_token": "t0p",
            "token_type": "Bearer",
            "expires_in": 3600,
            "scope": "a b",
            "more": {},
        }),
    )
    .unwrap();
    assert_eq!(issued.access_token.secret(), "t0p");
    assert_eq!(issued.expires_in, Some(3600));
    assert_eq!(issued.scope.as_deref(), Some("a b"));
}

#[test]
fn the_access_token_is_enough() {
    let issued = read_json(201, json!({"access_token": "t0p"})).unwrap();
    assert_eq!((issued.expires_in, issued.scope), (None, None));
}

#[test]
fn the_type_bearer_counts_in_any_case_and_no_other_type_does() {
    for kind in ["Bearer", "bearer", "BEARER"] {
        assert!(read_json(200, json!({"access_token": "t0p", "token_type": kind})).is_ok());
    }
    for kind in [json!("DPoP"), json!("mac"), json!(7)] {
        let error = read_json(200, json!({"access_token": "t0p", "token_type": kind})).unwrap_err();
        assert_eq!(error.reason(), "UnsupportedTokenType");
    }
}

#[test]
fn the_life_is_read_from_numbers_and_texts_and_kept_within_bounds() {
    for (value, expected) in [
        (json!(3600), Some(3600)),
        (json!("3600"), Some(3600)),
        (json!(" 3600 "), Some(3600)),
        (json!(3599.9), Some(3599)),
        (json!("3599.9"), Some(3599)),
        (json!(0), Some(0)),
        (json!(-5), Some(-5)),
        (json!("-5"), Some(-5)),
        (json!(0.5), Some(0)),
        (json!(u64::MAX), Some(i64::MAX)),
        (json!(1e300), Some(i64::MAX)),
        (json!("99999999999999999999999"), Some(i64::MAX)),
        (json!(-1e300), Some(i64::MIN)),
        (json!("inf"), Some(i64::MAX)),
        (json!("NaN"), None),
        (json!(null), None),
        (json!(""), None),
        (json!("soon"), None),
        (json!(true), None),
        (json!([3600]), None),
    ] {
        assert_eq!(life(value.clone()), expected, "{value}");
    }
}

#[test]
fn a_list_of_scopes_is_joined() {
    let issued = read_json(200, json!({"access_token": "t0p", "scope": ["a", "b"]})).unwrap();
    assert_eq!(issued.scope.as_deref(), Some("a b"));
}

#[test]
fn a_token_that_no_header_can_carry_is_none() {
    for token in [
        json!(""),
        json!("a b"),
        json!("a\r\nHost: x"),
        json!("é"),
        json!(7),
        json!(null),
    ] {
        let error = read_json(200, json!({"access_token": token})).unwrap_err();
        assert_eq!(error.reason(), "NoAccessToken", "{token}");
    }
    assert_eq!(read_json(200, json!({})).unwrap_err().reason(), "NoAccessToken");
}

#[test]
fn a_token_that_is_too_long_for_any_header_is_none_and_the_error_says_so() {
    assert!(read_json(200, json!({"access_token": "t".repeat(16 * 1024)})).is_ok());
    let error = read_json(200, json!({"access_token": "t".repeat(16 * 1024 + 1)})).unwrap_err();
    assert_eq!(error.reason(), "NoAccessToken");
    let message = error.message();
    assert!(message.contains("longer than 16 KiB"), "{message}");
    assert!(!message.contains("tttt"), "{message}");
}

#[test]
fn an_oauth_error_is_read_whatever_the_status() {
    for status in [200, 400, 401, 403, 500] {
        let body = json!({"error": "invalid_client", "error_description": "Unknown \"client\""});
        let error = read_json(status, body).unwrap_err();
        assert_eq!(
            error,
            Error::Rejected(ErrorResponse {
                code: ErrorCode::Basic(BasicErrorResponseType::InvalidClient),
                description: Some("Unknown 'client'".into()),
                status,
                retry_after: None,
                advice: None,
            })
        );
    }
}

#[test]
fn an_error_in_the_names_that_okta_has_for_it_is_read() {
    let error = |status| {
        let body = json!({
            "errorCode": "invalid_client", "errorSummary": "The parsing of the client_assertion failed.",
            "errorLink": "invalid_client", "errorId": "oaeyeSqWRUQR2", "errorCauses": [],
        });
        read_json(status, body).unwrap_err()
    };
    let refused = error(401);
    assert_eq!(refused.code(), "invalid_client");
    assert!(refused.is_permanent());
    let message = refused.message();
    assert!(
        message.contains("The parsing of the client_assertion failed."),
        "{message}"
    );
    // A token that comes with a code of the gateway's is one.
    let beside = json!({"access_token": "t0p", "token_type": "Bearer", "errorCode": "0"});
    assert_eq!(read_json(200, beside).unwrap().access_token.secret(), "t0p");
}

#[test]
fn a_refusal_in_the_form_of_a_framework_is_told_by_its_word_and_needs_a_change() {
    let body = json!({"timestamp": 1445441285803_i64, "status": 401, "error": "Unauthorized", "path": "/oauth/token"});
    let refused = read_json(401, body).unwrap_err();
    assert_eq!(refused.code(), "Unauthorized");
    assert!(refused.is_permanent(), "{refused}");
}

#[test]
fn a_refresh_token_that_comes_with_it_is_left_alone() {
    let body =
        json!({"access_token": "t0p", "token_type": "Bearer", "expires_in": 60, "refresh_token": "r3fresh"});
    let issued = read_json(200, body).unwrap();
    assert_eq!(issued.access_token.secret(), "t0p");
    assert!(!format!("{issued:?}").contains("r3fresh"));
}

#[test]
fn an_empty_error_beside_a_token_is_none() {
    assert!(read_json(200, json!({"access_token": "t0p", "error": ""})).is_ok());
}

#[test]
fn the_errors_of_gateways_count_by_their_status() {
    for (status, body) in [
        (503, json!({"error": "overloaded"})),
        (404, json!({"status": 404, "error": "Not Found"})),
        (429, json!({"error": {"message": "slow down"}})),
        (500, json!({"message": "oops"})),
        (401, json!(["no"])),
    ] {
        let expected = Error::HttpStatus {
            status,
            retry_after: None,
        };
        assert_eq!(read_json(status, body).unwrap_err(), expected);
    }
}

#[test]
fn retry_after_is_kept_with_the_error() {
    for body in ["", r#"{"error": "temporarily_unavailable"}"#] {
        let retry_after_header = RetryAfter::parse("7");
        let answer = Answer {
            retry_after: retry_after_header,
            ..answer(503, body)
        };
        assert_eq!(
            read(answer, &redactor(), BEARER).unwrap_err().retry_after(),
            retry_after_header
        );
    }
}

#[test]
fn what_is_not_json_is_told_by_its_shape_and_type() {
    for (body, shape) in [
        ("", BodyShape::Empty),
        (" \n", BodyShape::Empty),
        ("\u{feff}<!DOCTYPE html><html>", BodyShape::Html),
        ("\n<HTML>", BodyShape::Html),
        ("<?xml version='1.0'?>", BodyShape::Xml),
        (r#"{"access_token": "t0p"#, BodyShape::BrokenJson),
        (r#"["t0p"]"#, BodyShape::NoObject),
        ("access_token=t0p", BodyShape::Other),
    ] {
        let answer = Answer {
            content_type: Some("text/html; charset=utf-8".into()),
            ..answer(200, body)
        };
        let error = read(answer, &redactor(), BEARER).unwrap_err();
        let content_type = Some("text/html; charset=utf-8".into());
        assert_eq!(error, Error::NotJson { shape, content_type }, "{body}");
        assert!(!error.message().contains("t0p"));
    }
}

#[test]
fn json_of_another_content_type_is_read_all_the_same() {
    let answer = Answer {
        content_type: Some("text/plain".into()),
        ..answer(200, r#"{"access_token": "t0p"}"#)
    };
    assert!(read(answer, &redactor(), BEARER).is_ok());
}

#[test]
fn nothing_repeats_the_secret_or_the_token_wherever_the_server_puts_them() {
    const TOKEN: &str = "t0ken-of-the-server";
    for echoed in [SECRET, TOKEN] {
        let words = format!("you sent {echoed}, really");
        for body in [
            json!({"access_token": TOKEN, "token_type": words}),
            json!({"access_token": TOKEN, "scope": words}),
            json!({"access_token": TOKEN, "scope": [echoed]}),
        ] {
            let seen = format!("{:?}", read_json(200, body));
            assert!(!seen.contains(echoed), "{seen}");
        }
        let body = json!({"access_token": TOKEN, "error": echoed, "error_description": words});
        let error = read_json(400, body).unwrap_err();
        let seen = format!("{error:?} {} {}", error.message(), error.code());
        assert!(!seen.contains(echoed), "{seen}");
    }
    let html = Answer {
        content_type: Some(SECRET.into()),
        ..answer(200, SECRET)
    };
    let redirect = Answer {
        location_host: Some(format!("{SECRET}.example.com")),
        ..answer(302, "")
    };
    for answer in [html, redirect] {
        let error = read(answer, &redactor(), BEARER).unwrap_err();
        assert!(!format!("{error:?} {}", error.message()).contains(SECRET));
    }
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,40}".prop_map(Value::from),
        "[+-]?[0-9]{0,40}(\\.[0-9]{0,3})?(e[+-]?[0-9]{1,4})?".prop_map(Value::from),
        proptest::collection::vec("\\PC{0,9}", 0..3).prop_map(Value::from),
    ]
}

proptest! {
    #[test]
    fn reading_any_bytes_never_panics(status in 200_u16..600, body: Vec<u8>) {
        for (token_type, by) in
            [
                (TokenType::Bearer, RequestedBy::Grant),
                (TokenType::Bearer, RequestedBy::TokenExchange),
                (TokenType::DPoP, RequestedBy::TokenExchange),
                (TokenType::Bearer, RequestedBy::IdJagExchange),
            ]
        {
            let expected = ExpectedToken { token_type, by };
            let _ = read(answer(status, body.clone()), &redactor(), expected);
        }
    }

    #[test]
    fn reading_any_fields_never_panics_and_issues_only_what_a_header_can_carry(
        status in 200_u16..600,
        access_token in value(), token_type in value(), expires_in in value(), scope in value(),
        error in proptest::option::of(value()), error_description in value(),
    ) {
        let mut body = json!({
            "access_token": access_token, "token_type": token_type, "expires_in": expires_in, "scope": scope,
            "error_description": error_description,
        });
        if let Some(error) = error {
            body["error"] = error;
        }
        if let Ok(issued) = read_json(status, body) {
            prop_assert!((200..300).contains(&status));
            let token = issued.access_token.secret();
            prop_assert!(!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()));
        }
    }
}

/// As another program would read it through the oauth2 crate.
#[test]
fn the_response_is_one_of_the_oauth2_crate_and_shows_its_token_in_no_other_way() {
    let body =
        json!({"access_token": "t0p-s3cret", "token_type": "DPoP", "expires_in": "-5", "scope": "a b"});
    let response = parse(body.to_string().as_bytes()).unwrap();
    assert_eq!(response.access_token().secret(), "t0p-s3cret");
    assert_eq!(response.token_type().as_ref(), "DPoP");
    assert_eq!(response.expires_in(), Some(std::time::Duration::ZERO));
    assert_eq!(response.scopes().unwrap().len(), 2);
    assert!(!format!("{response:?}").contains("t0p-s3cret"));
    assert!(serde_json::to_string(&response).is_err());
}
