//! The grants, and the tokens that they bring.

use std::time::Duration;

use mcp_auth_oauth::{
    Assertions, Client, ClientAuthentication, Error, Grant, IssuedToken, Limits, Registration, Scope,
    TokenExchange, TokenRequest, TokenType,
};

use crate::server::{self, Server, json};
use crate::{TOKEN, basic};

fn client(registration: Registration) -> Client {
    server::install_provider();
    Client::new(registration).unwrap()
}

fn answer_of(token_type: &str, issued_token_type: &str) -> Vec<u8> {
    let body = format!(
        r#"{{"access_token":"us3r","token_type":"{token_type}","issued_token_type":"{issued_token_type}"}}"#
    );
    json("200 OK", &body)
}

async fn exchange(answer: Vec<u8>) -> Result<IssuedToken, Error> {
    let server = Server::answering([answer]).await;
    server
        .client(basic(), Limits::default())
        .exchange_token(&"subj3ct".into())
        .await
}

#[tokio::test]
async fn scopes_that_are_demanded_are_added_to_those_of_the_registration() {
    let mut server = Server::answering([json("200 OK", TOKEN)]).await;
    let client = client(Registration {
        scopes: vec![Scope::new("a".into()), Scope::new("b".into())],
        ..server.registration(basic())
    });
    let ask = TokenRequest {
        scopes: vec![Scope::new("b".into()), Scope::new("c".into())],
        ..TokenRequest::default()
    };
    client.request_token(&ask).await.unwrap();
    client.request_token(&TokenRequest::default()).await.unwrap();
    assert_eq!(server.form().await.1["scope"], "a b c");
    assert_eq!(server.form().await.1["scope"], "a b");
}

#[tokio::test]
async fn an_assertion_can_be_the_grant_with_or_without_client_authentication() {
    let mut server = Server::answering([json("200 OK", TOKEN)]).await;
    for (authentication, client_id) in [(basic(), None), (ClientAuthentication::None, Some("client"))] {
        let client = client(Registration {
            grant: Grant::JwtBearer(Assertions::Given("e.y.j".into())),
            resource: Some("https://tools.example.com/mcp".into()),
            ..server.registration(authentication)
        });
        client.request_token(&TokenRequest::default()).await.unwrap();
        let (head, form) = server.form().await;
        assert_eq!(
            server::header(&head, "authorization").is_none(),
            client_id.is_some()
        );
        assert_eq!(form["grant_type"], "urn:ietf:params:oauth:grant-type:jwt-bearer");
        assert_eq!(form["assertion"], "e.y.j");
        assert_eq!(form["resource"], "https://tools.example.com/mcp");
        assert_eq!(form.get("client_id").map(String::as_str), client_id);
    }
}

#[tokio::test]
async fn a_users_token_is_exchanged_with_the_parameters_of_the_registration() {
    let mut server = Server::answering([json("200 OK", TOKEN)]).await;
    let client = client(Registration {
        // Those of the service's own grant are none of an exchange's.
        grant: Grant::JwtBearer(Assertions::Given("e.y.j".into())),
        token_exchange: TokenExchange {
            subject_token_type: "urn:ietf:params:oauth:token-type:jwt".into(),
            requested_token_type: Some("urn:ietf:params:oauth:token-type:access_token".into()),
        },
        scopes: vec![Scope::new("a".into())],
        audience: Some("urn:tools".into()),
        resource: Some("https://tools.example.com/mcp".into()),
        ..server.registration(basic())
    });
    let issued = client.exchange_token(&"subj3ct".into()).await.unwrap();
    assert_eq!(issued.access_token.secret(), "t0p-s3cret");
    let (head, form) = server.form().await;
    assert!(server::header(&head, "authorization").is_some());
    let form: Vec<_> = form
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(
        form,
        [
            ("audience", "urn:tools"),
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            (
                "requested_token_type",
                "urn:ietf:params:oauth:token-type:access_token"
            ),
            ("resource", "https://tools.example.com/mcp"),
            ("scope", "a"),
            ("subject_token", "subj3ct"),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
        ]
    );
}

#[tokio::test]
async fn what_is_exchanged_for_counts_where_a_request_can_carry_it() {
    for (token_type, issued_token_type) in [
        ("Bearer", "urn:ietf:params:oauth:token-type:access_token"),
        ("Bearer", "urn:example:own"),
        ("N_A", "urn:ietf:params:oauth:token-type:jwt"),
        ("n_a", "urn:ietf:params:oauth:token-type:id_token"),
    ] {
        let issued = exchange(answer_of(token_type, issued_token_type)).await.unwrap();
        assert_eq!(issued.access_token.secret(), "us3r");
        assert_eq!(issued.token_type, TokenType::Bearer);
    }
    for (token_type, issued_token_type) in [
        ("N_A", "urn:ietf:params:oauth:token-type:refresh_token"),
        ("N_A", "urn:ietf:params:oauth:token-type:saml2"),
        ("Bearer", "urn:ietf:params:oauth:token-type:refresh_token"),
        ("N_A", "urn:example:own"),
        ("N_A", ""),
    ] {
        let error = exchange(answer_of(token_type, issued_token_type))
            .await
            .unwrap_err();
        assert_eq!(error.reason(), "UnsupportedTokenType", "{issued_token_type}");
    }
}

#[tokio::test]
async fn a_token_of_no_type_is_none_where_nothing_was_exchanged() {
    let answer = answer_of("N_A", "urn:ietf:params:oauth:token-type:jwt");
    let server = Server::answering([answer]).await;
    let client = server.client(basic(), Limits::default());
    let error = client.request_token(&TokenRequest::default()).await.unwrap_err();
    assert_eq!(error.reason(), "UnsupportedTokenType");
}

#[tokio::test]
async fn a_refused_subject_is_told_with_what_to_check() {
    let body = r#"{"error":"invalid_grant","error_description":"expired subject"}"#;
    let error = exchange(json("400 Bad Request", body)).await.unwrap_err();
    assert_eq!(error.code(), "invalid_grant");
    assert!(error.message().contains("subject token"), "{}", error.message());
}

#[tokio::test]
async fn an_exchange_meets_the_deadline_too() {
    let server = Server::start(server::Step::SendAndHang(Vec::new())).await;
    let deadline = Duration::from_millis(300);
    let limits = Limits {
        deadline,
        ..Limits::default()
    };
    let error = server
        .client(basic(), limits)
        .exchange_token(&"subj3ct".into())
        .await
        .unwrap_err();
    assert_eq!(error, Error::Timeout { limit: deadline });
}
