//! Identity assertion authorization grants: both requests as draft-ietf-oauth-identity-assertion-authz-grant has them, and
//! what comes of each fault.

use std::collections::BTreeMap;

use mcp_auth_oauth::{
    Client, ClientAuthentication, ClientId, Error, ExchangeProfile, ID_TOKEN_TYPE, Registration, Scope,
    TokenExchange,
};

use crate::server::{self, Server, json as json_answer};
use crate::{TOKEN, basic};

const ID_JAG: &str = r#"{"issued_token_type":"urn:ietf:params:oauth:token-type:id-jag","access_token":"gr4nt.of.idp",
    "token_type":"N_A","expires_in":300}"#;
const SUBJECT: &str = "us3rs.id.token";

/// A client of the second server whose exchanges are granted by the first.
fn client(identity_provider: &Server, server: &Server) -> Client {
    server::install_provider();
    let there = Registration {
        client_id: Some(ClientId::new("client-there".into())),
        ..identity_provider.registration(ClientAuthentication::SecretPost("s3cret-there".into()))
    };
    let registration = Registration {
        token_exchange: TokenExchange {
            profile: ExchangeProfile::IdJag,
            subject_token_type: ID_TOKEN_TYPE.into(),
            audience: Some("https://as.example.com".into()),
            extra_parameters: Some([("tenant".into(), "acme".into())].into()),
            identity_provider: Some(Box::new(there)),
            ..TokenExchange::default()
        },
        scopes: vec![Scope::new("chat.read".into())],
        audience: Some("of-the-service".into()),
        resource: Some("https://tools.example.com/mcp".into()),
        extra_parameters: [("flavour".into(), "own".into())].into(),
        ..server.registration(basic())
    };
    Client::new(registration).unwrap()
}

fn pairs(form: &BTreeMap<String, String>) -> Vec<(&str, &str)> {
    form.iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

async fn error(first: Vec<u8>, second: Vec<u8>) -> Error {
    let (identity_provider, server) = (
        Server::answering([first]).await,
        Server::answering([second]).await,
    );
    let client = client(&identity_provider, &server);
    let error = client.exchange_token(&SUBJECT.into()).await.unwrap_err();
    for secret in ["gr4nt.of.idp", SUBJECT, "s3cret-there"] {
        assert!(
            !format!("{error:?} {}", error.message()).contains(secret),
            "{error:?}"
        );
    }
    error
}

#[tokio::test]
async fn the_identity_provider_is_asked_for_a_grant_and_the_authorization_server_for_the_token() {
    let mut identity_provider = Server::answering([json_answer("200 OK", ID_JAG)]).await;
    let mut server = Server::answering([json_answer("200 OK", TOKEN)]).await;
    let issued = client(&identity_provider, &server)
        .exchange_token(&SUBJECT.into())
        .await
        .unwrap();
    assert_eq!(issued.access_token.secret(), "t0p-s3cret");

    let (_, form) = identity_provider.form().await;
    assert_eq!(
        pairs(&form),
        [
            ("audience", "https://as.example.com"),
            ("client_id", "client-there"),
            ("client_secret", "s3cret-there"),
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("requested_token_type", "urn:ietf:params:oauth:token-type:id-jag"),
            ("resource", "https://tools.example.com/mcp"),
            ("scope", "chat.read"),
            ("subject_token", SUBJECT),
            ("subject_token_type", ID_TOKEN_TYPE),
            ("tenant", "acme"),
        ]
    );
    let (head, form) = server.form().await;
    assert!(
        server::header(&head, "authorization").is_some(),
        "its own authentication"
    );
    assert_eq!(
        pairs(&form),
        [
            ("assertion", "gr4nt.of.idp"),
            ("flavour", "own"),
            ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
        ]
    );
}

#[tokio::test]
async fn what_the_identity_provider_refuses_is_told_as_its_own_and_asks_nothing_of_the_other() {
    let refused = r#"{"error":"invalid_grant","error_description":"us3rs.id.token is not for you"}"#;
    let identity_provider = Server::answering([json_answer("400 Bad Request", refused)]).await;
    let server = Server::answering([json_answer("200 OK", TOKEN)]).await;
    let client = client(&identity_provider, &server);
    let error = client.exchange_token(&SUBJECT.into()).await.unwrap_err();
    assert_eq!(error.code(), "invalid_grant");
    let message = error.message();
    assert!(message.starts_with("at the identity provider: "), "{message}");
    for part in ["tokenExchange.audience", "subjectTokenType"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(!message.contains(SUBJECT), "{message}");
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_client_that_the_identity_provider_does_not_believe_is_told_whose_secret_that_is() {
    let refused = json_answer("401 Unauthorized", r#"{"error":"invalid_client"}"#);
    let error = error(refused, json_answer("200 OK", TOKEN)).await;
    assert!(error.is_permanent());
    let message = error.message();
    assert!(message.contains("tokenExchange.identityProvider"), "{message}");
}

#[tokio::test]
async fn an_access_token_is_no_grant() {
    for answer in [
        TOKEN.to_owned(),
        ID_JAG.replace("id-jag", "access_token"),
        ID_JAG.replace("issued_token_type", "other"),
    ] {
        let error = error(json_answer("200 OK", &answer), json_answer("200 OK", TOKEN)).await;
        assert_eq!(error, Error::NoIdJag, "{answer}");
        assert!(error.message().contains("id-jag"), "{}", error.message());
    }
}

#[tokio::test]
async fn a_grant_that_the_authorization_server_refuses_is_told_without_the_grant() {
    let refused = r#"{"error":"invalid_grant","error_description":"gr4nt.of.idp: aud"}"#;
    let error = error(
        json_answer("200 OK", ID_JAG),
        json_answer("400 Bad Request", refused),
    )
    .await;
    assert_eq!(error.code(), "invalid_grant");
    assert!(
        !error.message().contains("identity provider"),
        "{}",
        error.message()
    );
}
