//! What identity providers write otherwise than the standards, and what is told of their refusals.

use std::io::Write;
use std::sync::{Arc, Mutex};

use mcp_auth_oauth::{
    AssertionAudience, Client, ClientAuthentication, Error, IssuedToken, Limits, Registration, SigningKey,
    TokenRequest, ZeroExpiresIn,
};

use crate::basic;
use crate::server::{self, Server, json};

const REFUSED: &str = r#"{"error":"invalid_client"}"#;

async fn ask(registration: Registration) -> Result<IssuedToken, Error> {
    server::install_provider();
    Client::new(registration)?
        .request_token(&TokenRequest::default())
        .await
}

fn token(token_type: &str, expires_in: &str) -> Vec<u8> {
    let body =
        format!(r#"{{"access_token":"t0p-s3cret","token_type":"{token_type}","expires_in":{expires_in}}}"#);
    json("200 OK", &body)
}

/// What is logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Apigee's `OAuthV2` policy writes `BearerToken`, and times as text; other gateways name the format.
#[tokio::test]
async fn bearer_tokens_under_other_names_are_taken_and_tokens_of_other_schemes_are_not() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .finish();
    let _captured = tracing::subscriber::set_default(subscriber);
    for (name, warnings) in [("bearer", 0), ("BearerToken", 1), ("JWT", 2), ("jwt", 3)] {
        let server = Server::answering([token(name, r#""3599""#)]).await;
        let issued = ask(server.registration(basic())).await.unwrap();
        assert_eq!(issued.expires_in, Some(3599), "{name}");
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let told = text.matches("it is used as a bearer token").count();
        assert_eq!(told, warnings, "{name}: {text}");
        assert!(!text.contains("t0p-s3cret"));
    }
    for name in ["mac", "DPoP", "pop", "N_A", "hawk"] {
        let server = Server::answering([token(name, "3599")]).await;
        let error = ask(server.registration(basic())).await.unwrap_err();
        assert_eq!(error.reason(), "UnsupportedTokenType", "{name}");
    }
}

#[tokio::test]
async fn a_life_of_zero_is_no_end_where_the_registration_says_so() {
    let server = Server::answering([token("Bearer", "0")]).await;
    let mut registration = server.registration(basic());
    assert_eq!(ask(registration.clone()).await.unwrap().expires_in, Some(0));
    registration.zero_expires_in = ZeroExpiresIn::Unlimited;
    assert_eq!(ask(registration).await.unwrap().expires_in, None);
    // Less than nothing is no way to write that.
    let server = Server::answering([token("Bearer", "-1")]).await;
    let mut registration = server.registration(basic());
    registration.zero_expires_in = ZeroExpiresIn::Unlimited;
    assert_eq!(ask(registration).await.unwrap().expires_in, Some(-1));
}

#[tokio::test]
async fn a_refused_secret_with_characters_that_some_servers_do_not_decode_leads_to_the_other_method() {
    for (secret, is_encoded) in [
        ("k3y~with.tilde", true),
        ("a+b/c=", true),
        ("plain-s3cret_1", false),
    ] {
        let server = Server::answering([json("401 Unauthorized", REFUSED)]).await;
        let authentication = ClientAuthentication::SecretBasic(secret.into());
        let error = ask(server.registration(authentication)).await.unwrap_err();
        let message = error.message();
        assert_eq!(message.contains("ClientSecretPost"), is_encoded, "{message}");
        assert!(!message.contains(secret), "{message}");
        let server = Server::answering([json("401 Unauthorized", REFUSED)]).await;
        let authentication = ClientAuthentication::SecretPost(secret.into());
        let error = ask(server.registration(authentication)).await.unwrap_err();
        assert!(
            !error.message().contains("ClientSecretPost"),
            "{}",
            error.message()
        );
    }
}

#[tokio::test]
async fn a_refused_assertion_leads_to_its_audience() {
    let server = Server::answering([json("401 Unauthorized", REFUSED)]).await;
    let pair = rcgen::KeyPair::generate().unwrap();
    let key = SigningKey::parse(&pair.serialize_pem(), None, None).unwrap();
    let authentication = ClientAuthentication::PrivateKeyJwt {
        key,
        audience: AssertionAudience::default(),
    };
    let error = ask(server.registration(authentication)).await.unwrap_err();
    let message = error.message();
    assert!(message.contains("privateKeyJwt.audience"), "{message}");
}

/// Some servers offer HTTP/2 and fail at it; the oauth client has nothing to gain from it.
#[tokio::test]
async fn requests_are_made_by_http_1_1() {
    let mut server = Server::answering([token("Bearer", "60")]).await;
    server
        .client(basic(), Limits::default())
        .request_token(&TokenRequest::default())
        .await
        .unwrap();
    let (head, _) = server.form().await;
    assert!(head.starts_with("POST /token HTTP/1.1\r\n"), "{head}");
}
