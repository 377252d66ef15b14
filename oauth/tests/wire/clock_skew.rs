//! A clock that differs from the authorization server's: assertions and proofs say the server's time.

use std::sync::Arc;

use jiff::Timestamp;
use mcp_auth_oauth::{
    AssertionAudience, AssertionSigner, Assertions, Client, ClientAuthentication, Clock, Grant, Registration,
    SigningKey, TokenRequest, TokenType,
};

use crate::server::{self, Server, answer, header};
use crate::{TOKEN, basic, jwt};

const NOW: i64 = 1_900_000_000;
/// Seconds that the server is ahead.
const AHEAD: i64 = 300;
/// Seconds that assertions are dated back.
const BACKDATED: i64 = 10;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// With the server's time.
fn dated(status: &str, body: &str) -> Vec<u8> {
    let date = at(NOW + AHEAD).strftime("%a, %d %b %Y %H:%M:%S GMT");
    answer(
        status,
        &format!("content-type: application/json\r\ndate: {date}\r\n"),
        body,
    )
}

fn by_assertion() -> (ClientAuthentication, Vec<u8>) {
    let pair = rcgen::KeyPair::generate().unwrap();
    let authentication = ClientAuthentication::PrivateKeyJwt {
        key: SigningKey::parse(&pair.serialize_pem(), None, None).unwrap(),
        audience: AssertionAudience::Issuer,
    };
    (authentication, pair.public_key_raw().to_vec())
}

fn client(server: &Server, authentication: ClientAuthentication, token_type: TokenType) -> Client {
    server::install_provider();
    let registration = Registration {
        token_type,
        ..server.registration(authentication)
    };
    Client::new(registration)
        .unwrap()
        .with_clock(Clock::starting_at(at(NOW)))
}

#[tokio::test]
async fn an_assertion_that_was_refused_for_its_time_is_made_again_by_the_servers_clock() {
    let refused = dated(
        "401 Unauthorized",
        r#"{"error":"invalid_client","error_description":"iat"}"#,
    );
    let mut server = Server::answering([refused, dated("200 OK", TOKEN)]).await;
    let (authentication, point) = by_assertion();
    let client = client(&server, authentication, TokenType::Bearer);
    client.request_token(&TokenRequest::default()).await.unwrap();
    let mut issued_at = Vec::new();
    for _ in 0..2 {
        let (_, form) = server.form().await;
        let (_, claims) = jwt::verify(&form["client_assertion"], &point);
        assert_eq!(
            claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(),
            60 + BACKDATED
        );
        issued_at.push(claims["iat"].as_i64().unwrap() + BACKDATED);
    }
    assert_eq!(issued_at[0], NOW);
    assert!((issued_at[1] - NOW - AHEAD).abs() <= 1, "{issued_at:?}");
    assert!(
        (client.clock_offset() - AHEAD).abs() <= 1,
        "{}",
        client.clock_offset()
    );
}

/// As a key file of Google has it, and as the app of GitHub does, whose clocks take no excuse.
#[tokio::test]
async fn a_grant_that_was_refused_for_its_time_is_signed_again_by_the_servers_clock() {
    let pair = rcgen::KeyPair::generate().unwrap();
    let signer = AssertionSigner {
        key: SigningKey::parse(&pair.serialize_pem(), None, None).unwrap(),
        issuer: "tools@p.iam.gserviceaccount.com".into(),
        subject: "tools@p.iam.gserviceaccount.com".into(),
        audience: AssertionAudience::Issuer,
        claims: [].into(),
    };
    let refusal =
        r#"{"error":"invalid_grant","error_description":"Invalid JWT: Token must be a short-lived token"}"#;
    let refused = dated("400 Bad Request", refusal);
    let mut server = Server::answering([refused.clone(), dated("200 OK", TOKEN)]).await;
    let client = |server: &Server| {
        server::install_provider();
        let registration = Registration {
            client_id: None,
            grant: Grant::JwtBearer(Assertions::Signed(Arc::new(signer.clone()))),
            ..server.registration(ClientAuthentication::None)
        };
        let clock = Clock::starting_at(at(NOW));
        Client::new(registration).unwrap().with_clock(clock)
    };
    client(&server)
        .request_token(&TokenRequest::default())
        .await
        .unwrap();
    let mut issued_at = Vec::new();
    for _ in 0..2 {
        let (_, form) = server.form().await;
        let (_, claims) = jwt::verify(&form["assertion"], pair.public_key_raw());
        issued_at.push(claims["iat"].as_i64().unwrap() + BACKDATED);
    }
    assert_eq!(issued_at[0], NOW);
    assert!((issued_at[1] - NOW - AHEAD).abs() <= 1, "{issued_at:?}");

    // What is refused by the right time too is not asked a third time.
    let server = Server::answering([refused]).await;
    let error = client(&server).request_token(&TokenRequest::default()).await;
    assert_eq!(error.unwrap_err().code(), "invalid_grant");
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_proof_says_the_time_of_the_server_that_answered_before() {
    let bound = TOKEN.replace("Bearer", "DPoP");
    let mut server = Server::answering([dated("200 OK", &bound)]).await;
    let client = client(&server, basic(), TokenType::DPoP);
    let mut issued_at = Vec::new();
    for _ in 0..2 {
        client.request_token(&TokenRequest::default()).await.unwrap();
        let (head, _) = server.form().await;
        let (_, claims) = jwt::verify_proof(header(&head, "dpop").unwrap());
        issued_at.push(claims["iat"].as_i64().unwrap());
    }
    assert_eq!(issued_at[0], NOW);
    assert!((issued_at[1] - NOW - AHEAD).abs() <= 1, "{issued_at:?}");
}

#[tokio::test]
async fn a_refusal_that_the_time_has_nothing_to_do_with_is_asked_once() {
    for (authentication, refused) in [
        // Nothing that says a time.
        (
            basic(),
            dated("401 Unauthorized", r#"{"error":"invalid_client"}"#),
        ),
        // The clocks agree, as far as is known.
        (
            by_assertion().0,
            server::json("401 Unauthorized", r#"{"error":"invalid_client"}"#),
        ),
    ] {
        let server = Server::answering([refused]).await;
        let client = client(&server, authentication, TokenType::Bearer);
        let error = client.request_token(&TokenRequest::default()).await.unwrap_err();
        assert_eq!(error.code(), "invalid_client");
        assert_eq!(server.connections(), 1);
    }
}

#[tokio::test]
async fn a_server_that_refuses_after_that_too_is_not_asked_a_third_time() {
    let server = Server::answering([dated("401 Unauthorized", r#"{"error":"invalid_client"}"#)]).await;
    let client = client(&server, by_assertion().0, TokenType::Bearer);
    client.request_token(&TokenRequest::default()).await.unwrap_err();
    assert_eq!(server.connections(), 2);
}
