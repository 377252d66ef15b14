//! An assertion of a Secret, as the grant or as the client's authentication: used until its end, or once where the server takes it once.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use jiff::Timestamp;
use mcp_auth_oauth::{
    Assertions, Client, ClientAssertionType, ClientAuthentication, Clock, Error, GivenAssertion, Grant,
    IssuedToken, TokenRequest,
};

use crate::TOKEN;
use crate::server::{self, Server, json};

const NOW: i64 = 1_900_000_000;
/// What Keycloak 26 answers to an assertion that it has seen.
const REUSED: &str = r#"{"error":"invalid_grant","error_description":"Token reuse detected"}"#;

fn assertion(expires_at: i64) -> String {
    let part = |json: String| BASE64_URL_SAFE_NO_PAD.encode(json);
    let claims = format!(r#"{{"iss":"https://spiffe.example.com","exp":{expires_at}}}"#);
    format!("{}.{}.c2ln", part(r#"{"alg":"RS256"}"#.into()), part(claims))
}

fn client(server: &Server, assertion: &str) -> Client {
    server::install_provider();
    let mut registration = server.registration(ClientAuthentication::None);
    registration.client_id = None;
    registration.grant = Grant::JwtBearer(Assertions::Given(assertion.into()));
    Client::new(registration)
        .unwrap()
        .with_clock(Clock::starting_at(Timestamp::from_second(NOW).unwrap()))
}

async fn ask(client: &Client) -> Result<IssuedToken, Error> {
    client.request_token(&TokenRequest::default()).await
}

#[tokio::test]
async fn one_that_is_taken_once_is_not_sent_in_vain_and_the_error_says_what_is_waited_for() {
    let server = Server::answering([json("200 OK", TOKEN), json("400 Bad Request", REUSED)]).await;
    let client = client(&server, &assertion(NOW + 600));
    ask(&client).await.unwrap();
    for _ in 0..3 {
        let error = ask(&client).await.unwrap_err();
        assert_eq!(
            error,
            Error::AssertionUsed {
                field: "jwtBearer.assertionRef"
            }
        );
        assert!(
            error.message().contains("another one is waited for"),
            "{}",
            error.message()
        );
    }
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn one_that_is_taken_again_is_used_again() {
    let server = Server::answering([json("200 OK", TOKEN)]).await;
    let client = client(&server, &assertion(NOW + 600));
    for _ in 0..3 {
        ask(&client).await.unwrap();
    }
    assert_eq!(server.connections(), 3);
}

#[tokio::test]
async fn one_that_is_refused_from_the_start_is_told_with_the_server_s_words_and_may_have_been_used_elsewhere()
{
    let server = Server::answering([json("400 Bad Request", REUSED)]).await;
    let client = client(&server, &assertion(NOW + 600));
    for connections in 1..3 {
        let error = ask(&client).await.unwrap_err();
        assert_eq!(error.code(), "invalid_grant");
        let message = error.message();
        assert!(message.contains("Token reuse detected"), "{message}");
        assert!(message.contains("whether it was used before"), "{message}");
        assert_eq!(server.connections(), connections);
    }
}

#[tokio::test]
async fn one_that_is_over_is_not_sent() {
    let server = Server::answering([json("200 OK", TOKEN)]).await;
    let client = client(&server, &assertion(NOW));
    let error = ask(&client).await.unwrap_err();
    assert_eq!(
        error.message(),
        "the assertion in jwtBearer.assertionRef expired at 2030-03-17T17:46:40Z: another one is waited for: \
         put it into that Secret, and it is used at once; check the clock too"
    );
    assert_eq!(server.connections(), 0);
}

/// A JWT-SVID, say, or a JWT of AWS STS: something else keeps it in a Secret.
fn client_by(server: &Server, assertion: &str, kind: ClientAssertionType) -> Client {
    server::install_provider();
    let given = Assertions::Given(GivenAssertion::for_client(assertion.into()));
    let mut registration = server.registration(ClientAuthentication::Assertion(given, kind));
    registration.client_id = None;
    Client::new(registration)
        .unwrap()
        .with_clock(Clock::starting_at(Timestamp::from_second(NOW).unwrap()))
}

#[tokio::test]
async fn a_client_s_assertion_of_a_secret_is_sent_with_its_type() {
    for (kind, name) in [
        (ClientAssertionType::JwtBearer, "jwt-bearer"),
        (ClientAssertionType::JwtSpiffe, "jwt-spiffe"),
    ] {
        let mut server = Server::answering([json("200 OK", TOKEN)]).await;
        let svid = assertion(NOW + 600);
        ask(&client_by(&server, &svid, kind)).await.unwrap();
        let (_, form) = server.form().await;
        assert_eq!(form["grant_type"], "client_credentials");
        assert_eq!(form["client_assertion"], svid);
        assert_eq!(
            form["client_assertion_type"],
            format!("urn:ietf:params:oauth:client-assertion-type:{name}")
        );
        assert_eq!(form.get("client_id"), None);
    }
}

#[tokio::test]
async fn a_client_s_assertion_that_ended_or_is_taken_once_is_not_sent_and_its_field_is_named() {
    const FIELD: &str = "clientAuthentication.clientAssertion.secretKeyRef";
    let reused = r#"{"error":"invalid_client","error_description":"Token reuse detected"}"#;
    let server = Server::answering([json("200 OK", TOKEN), json("401 Unauthorized", reused)]).await;
    let client = client_by(&server, &assertion(NOW + 600), ClientAssertionType::JwtBearer);
    ask(&client).await.unwrap();
    for _ in 0..2 {
        let error = ask(&client).await.unwrap_err();
        assert_eq!(error, Error::AssertionUsed { field: FIELD });
        assert!(error.message().contains(FIELD), "{}", error.message());
    }
    assert_eq!(server.connections(), 2, "not a third time");

    let ended = client_by(&server, &assertion(NOW), ClientAssertionType::JwtSpiffe);
    let error = ask(&ended).await.unwrap_err();
    assert_eq!(error.reason(), "AssertionExpired");
    assert!(error.message().contains(FIELD), "{}", error.message());
    assert_eq!(server.connections(), 2);
}
