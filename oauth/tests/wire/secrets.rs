//! Two client secrets: which is tried, which is remembered, and what is told where neither is taken.

use base64::prelude::{BASE64_STANDARD, Engine};
use mcp_auth_oauth::{
    Client, ClientAuthentication, ClientSecret, ClientSecrets, Error, IssuedToken, Limits, TokenRequest,
};

use crate::TOKEN;
use crate::server::{self, Server, answer, json};

const REFUSED: &str = r#"{"error":"invalid_client","error_description":"to the first"}"#;
const REFUSED_TOO: &str = r#"{"error":"invalid_client","error_description":"to the second"}"#;

fn taken() -> Vec<u8> {
    json("200 OK", TOKEN)
}

fn refused() -> Vec<u8> {
    json("401 Unauthorized", REFUSED)
}

fn refused_too() -> Vec<u8> {
    json("401 Unauthorized", REFUSED_TOO)
}

fn two() -> ClientSecrets {
    ClientSecrets {
        first: ClientSecret::new("first-s3cret".into()),
        alternate: Some(ClientSecret::new("alternate-s3cret".into())),
    }
}

fn basic(server: &Server) -> Client {
    server.client(ClientAuthentication::SecretBasic(two()), Limits::default())
}

async fn ask(client: &Client) -> Result<IssuedToken, Error> {
    client.request_token(&TokenRequest::default()).await
}

/// The secret that the next request is made with.
async fn shown(server: &mut Server) -> String {
    let (head, form) = server.form().await;
    match server::header(&head, "authorization") {
        Some(value) => {
            let both = BASE64_STANDARD
                .decode(value.strip_prefix("Basic ").unwrap())
                .unwrap();
            String::from_utf8(both)
                .unwrap()
                .split_once(':')
                .unwrap()
                .1
                .to_owned()
        }
        None => form["client_secret"].clone(),
    }
}

#[tokio::test]
async fn the_alternate_secret_is_tried_where_the_first_is_refused() {
    for (status, method) in [
        (
            "401 Unauthorized",
            ClientAuthentication::SecretBasic as fn(_) -> _,
        ),
        ("400 Bad Request", ClientAuthentication::SecretPost),
    ] {
        let mut server = Server::answering([json(status, REFUSED), taken()]).await;
        let client = server.client(method(two()), Limits::default());
        assert!(ask(&client).await.unwrap().by_alternate_secret);
        assert_eq!(shown(&mut server).await, "first-s3cret");
        assert_eq!(shown(&mut server).await, "alternate-s3cret");
    }
}

#[tokio::test]
async fn a_client_that_is_not_believed_counts_as_refused_in_keycloaks_words_too() {
    let refused = json("401 Unauthorized", r#"{"error":"unauthorized_client"}"#);
    let server = Server::answering([refused, taken()]).await;
    assert!(ask(&basic(&server)).await.unwrap().by_alternate_secret);
}

#[tokio::test]
async fn neither_secret_is_told_by_the_answer_to_either() {
    for echoed in ["first-s3cret", "alternate-s3cret", "an-innocent-word"] {
        let body = format!(r#"{{"error":"invalid_scope","error_description":"you sent {echoed}"}}"#);
        let echo = json("400 Bad Request", &body);
        let server = Server::answering([refused(), echo.clone(), echo]).await;
        let client = basic(&server);
        for _ in 0..2 {
            let error = ask(&client).await.unwrap_err();
            assert_eq!(error.code(), "invalid_scope");
            let seen = format!("{error:?} {}", error.message());
            assert_eq!(seen.contains(echoed), !echoed.ends_with("s3cret"), "{seen}");
        }
    }
}

#[tokio::test]
async fn while_the_first_secret_is_taken_the_alternate_is_never_shown() {
    let mut server = Server::answering([taken()]).await;
    let client = basic(&server);
    for _ in 0..2 {
        assert!(!ask(&client).await.unwrap().by_alternate_secret);
        assert_eq!(shown(&mut server).await, "first-s3cret");
    }
}

#[tokio::test]
async fn the_secret_that_was_taken_goes_first_and_the_other_is_still_tried() {
    let mut server = Server::answering([refused(), taken(), taken(), refused_too(), taken(), taken()]).await;
    let client = basic(&server);
    for alternate in [true, true, false, false] {
        // A clone knows it too: the client is the same.
        assert_eq!(ask(&client.clone()).await.unwrap().by_alternate_secret, alternate);
    }
    for expected in [
        "first-s3cret",
        "alternate-s3cret",
        "alternate-s3cret",
        "alternate-s3cret",
        "first-s3cret",
        "first-s3cret",
    ] {
        assert_eq!(shown(&mut server).await, expected);
    }
    assert_eq!(server.connections(), 6);
}

#[tokio::test]
async fn where_both_are_refused_the_first_ones_answer_is_told_whichever_was_tried_first() {
    let server = Server::answering([
        refused(),
        refused_too(),
        refused(),
        taken(),
        refused_too(),
        refused(),
    ])
    .await;
    let client = basic(&server);
    for both in [true, false, true] {
        let outcome = ask(&client).await;
        if !both {
            outcome.unwrap();
            continue;
        }
        let error = outcome.unwrap_err();
        assert_eq!(
            (error.reason(), error.code()),
            ("invalid_client", "invalid_client")
        );
        let message = error.message();
        assert!(
            message.contains("(to the first) to both client secrets"),
            "{message}"
        );
        assert!(message.contains("alternateClientSecretRef"), "{message}");
    }
    assert_eq!(server.connections(), 6);
}

#[tokio::test]
async fn another_refusal_than_that_of_the_client_does_not_show_the_alternate() {
    for refusal in [
        json("400 Bad Request", r#"{"error":"invalid_scope"}"#),
        json("400 Bad Request", r#"{"error":"unauthorized_client"}"#),
        json("401 Unauthorized", r#"{"message":"no"}"#),
        json("401 Unauthorized", r#"{"error":"access_denied"}"#),
        json("401 Unauthorized", r#"{"error":"invalid_grant"}"#),
        answer("401 Unauthorized", "www-authenticate: Basic\r\n", "<html>"),
        answer("503 Service Unavailable", "", ""),
    ] {
        let server = Server::answering([refusal]).await;
        ask(&basic(&server)).await.unwrap_err();
        assert_eq!(server.connections(), 1);
    }
}

#[tokio::test]
async fn a_single_secret_is_shown_once() {
    let server = Server::answering([refused()]).await;
    let client = server.client(
        ClientAuthentication::SecretBasic("s3cret".into()),
        Limits::default(),
    );
    let error = ask(&client).await.unwrap_err();
    assert!(!error.message().contains("both"), "{}", error.message());
    assert_eq!(server.connections(), 1);
}
