//! Revocation: what is asked, and what each answer means.

use mcp_auth_oauth::{
    AccessToken, Client, ClientAuthentication, ClientSecret, ClientSecrets, Error, Registration,
    ServerLocation, TokenType,
};

use crate::basic;
use crate::server::{self, Server, answer, header, json};

fn client(server: &Server, authentication: ClientAuthentication, token_type: TokenType) -> Client {
    server::install_provider();
    Client::new(Registration {
        server: ServerLocation::Endpoints {
            token_url: "http://127.0.0.1:1/token".into(),
            revocation_url: Some(format!("http://127.0.0.1:{}/revoke", server.port)),
        },
        token_type,
        ..server.registration(authentication)
    })
    .unwrap()
}

async fn revoke(answer: Vec<u8>) -> Result<bool, Error> {
    let server = Server::answering([answer]).await;
    client(&server, basic(), TokenType::Bearer)
        .revoke(&AccessToken::new("t0p-s3cret".into()))
        .await
}

#[tokio::test]
async fn a_token_is_revoked_with_the_clients_own_authentication() {
    let mut server = Server::answering([answer("200 OK", "", "")]).await;
    for token_type in [TokenType::Bearer, TokenType::DPoP] {
        let client = client(&server, basic(), token_type);
        assert_eq!(
            client.revoke(&AccessToken::new("t0p-s3cret".into())).await,
            Ok(true)
        );
        let (head, form) = server.form().await;
        assert!(head.starts_with("POST /revoke HTTP/1.1"), "{head}");
        assert!(header(&head, "authorization").unwrap().starts_with("Basic "));
        assert_eq!(header(&head, "dpop"), None);
        assert_eq!(form["token"], "t0p-s3cret");
        assert_eq!(form["token_type_hint"], "access_token");
        assert_eq!(form.len(), 2);
    }
}

#[tokio::test]
async fn a_server_without_revocation_is_asked_nothing() {
    let server = Server::answering([answer("200 OK", "", "")]).await;
    let client = server.client(basic(), mcp_auth_oauth::Limits::default());
    assert_eq!(
        client.revoke(&AccessToken::new("t0p-s3cret".into())).await,
        Ok(false)
    );
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_server_that_revokes_no_such_tokens_is_no_fault() {
    let body = r#"{"error":"unsupported_token_type"}"#;
    assert_eq!(revoke(json("400 Bad Request", body)).await, Ok(false));
    assert_eq!(revoke(answer("200 OK", "", "revoked")).await, Ok(true));
}

/// Its own words where they are of any request, and those of a grant not: no token is requested here.
#[tokio::test]
async fn what_the_providers_words_say_of_any_request_is_told_of_a_revocation_too() {
    let refused = async |code: &str, words: &str| {
        let body = serde_json::json!({"error": code, "error_description": words});
        revoke(json("401 Unauthorized", &body.to_string()))
            .await
            .unwrap_err()
            .message()
    };
    let words = "The OAuth 2.0 Client supports client authentication method 'client_secret_post'.";
    let told = refused("invalid_client", words).await;
    assert!(told.contains("registered for another method"), "{told}");
    let told = refused("access_denied", "Unauthorized").await;
    assert!(told.contains("both are of one application"), "{told}");
    let told = refused("unauthorized_client", "no client credentials user enabled").await;
    assert!(!told.contains("Run As"), "{told}");
}

#[tokio::test]
async fn everything_else_is_a_fault_that_does_not_repeat_the_token() {
    for (answer, reason) in [
        (
            json(
                "401 Unauthorized",
                r#"{"error":"invalid_client","error_description":"t0p-s3cret"}"#,
            ),
            "invalid_client",
        ),
        (answer("503 Service Unavailable", "", "t0p-s3cret"), "HttpStatus"),
        (answer("404 Not Found", "", ""), "HttpStatus"),
        (
            answer("302 Found", "location: https://t0p-s3cret.example/\r\n", ""),
            "Redirected",
        ),
    ] {
        let error = revoke(answer).await.unwrap_err();
        assert_eq!(error.reason(), reason);
        assert!(!format!("{error:?} {}", error.message()).contains("t0p-s3cret"));
    }
}

#[tokio::test]
async fn the_alternate_secret_revokes_too() {
    let refused = json("401 Unauthorized", r#"{"error":"invalid_client"}"#);
    let server = Server::answering([refused, answer("200 OK", "", "")]).await;
    let secrets = ClientSecrets {
        first: ClientSecret::new("first-s3cret".into()),
        alternate: Some(ClientSecret::new("alternate-s3cret".into())),
    };
    let client = client(
        &server,
        ClientAuthentication::SecretPost(secrets),
        TokenType::Bearer,
    );
    assert_eq!(
        client.revoke(&AccessToken::new("t0p-s3cret".into())).await,
        Ok(true)
    );
    assert_eq!(server.connections(), 2);
}
