//! An assertion of a Secret as the grant: used until its end, or once where the server takes it once.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use jiff::Timestamp;
use mcp_auth_oauth::{
    Assertions, Client, ClientAuthentication, Clock, Error, Grant, IssuedToken, TokenRequest,
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
        assert_eq!(error, Error::AssertionUsed);
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
