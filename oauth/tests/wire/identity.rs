//! Who asks: each client authentication but secrets and certificates, as the server sees it.

use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use mcp_auth_oauth::{
    AssertionAudience, AssertionFuture, AssertionSource, Assertions, Client, ClientAssertionType,
    ClientAuthentication, ClientId, Clock, Error, Registration, SigningKey, TokenRequest,
};
use serde_json::json;

use crate::server::{self, Server, json as json_answer};
use crate::{TOKEN, jwt};

const NOW: i64 = 1_900_000_000;
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Writes down what it is asked for.
struct Source {
    audiences: Mutex<Vec<String>>,
    gives: Result<&'static str, Error>,
}

impl AssertionSource for Source {
    fn assertion<'a>(&'a self, audience: &'a str) -> AssertionFuture<'a> {
        self.audiences.lock().unwrap().push(audience.to_owned());
        Box::pin(async { self.gives.clone().map(Into::into) })
    }
}

fn source(gives: Result<&'static str, Error>) -> Arc<Source> {
    Arc::new(Source {
        audiences: Mutex::default(),
        gives,
    })
}

async fn server() -> Server {
    server::install_provider();
    Server::answering([json_answer("200 OK", TOKEN)]).await
}

async fn ask(registration: Registration) -> Result<(), Error> {
    Client::new(registration)?
        .with_clock(Clock::starting_at(Timestamp::from_second(NOW).unwrap()))
        .request_token(&TokenRequest::default())
        .await
        .map(drop)
}

#[tokio::test]
async fn a_private_key_signs_an_assertion_for_the_token_endpoint_and_each_request_has_its_own() {
    let mut server = server().await;
    let pair = rcgen::KeyPair::generate().unwrap();
    let key = SigningKey::parse(&pair.serialize_pem(), None, Some("k-1".into())).unwrap();
    let client = Client::new(server.registration(ClientAuthentication::PrivateKeyJwt {
        key,
        audience: AssertionAudience::default(),
    }))
    .unwrap()
    .with_clock(Clock::starting_at(Timestamp::from_second(NOW).unwrap()));
    let mut ids = Vec::new();
    for _ in 0..2 {
        client.request_token(&TokenRequest::default()).await.unwrap();
        let (head, mut form) = server.form().await;
        assert_eq!(server::header(&head, "authorization"), None);
        let assertion = form.remove("client_assertion").unwrap();
        assert_eq!(
            form.into_iter().collect::<Vec<_>>(),
            [
                ("client_assertion_type", JWT_BEARER),
                ("client_id", "client"),
                ("grant_type", "client_credentials"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
        let (header, mut claims) = jwt::verify(&assertion, pair.public_key_raw());
        assert_eq!(header, json!({"alg": "ES256", "typ": "JWT", "kid": "k-1"}));
        ids.push(claims["jti"].take());
        assert_eq!(
            claims,
            json!({
                "iss": "client", "sub": "client", "aud": server.url(),
                "iat": NOW - 10, "exp": NOW + 60, "jti": null,
            })
        );
    }
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn the_audience_is_the_one_that_is_set() {
    let mut server = server().await;
    let pair = rcgen::KeyPair::generate().unwrap();
    let authentication = ClientAuthentication::PrivateKeyJwt {
        key: SigningKey::parse(&pair.serialize_pem(), None, None).unwrap(),
        audience: AssertionAudience::Stated("https://as.example.com".into()),
    };
    ask(server.registration(authentication)).await.unwrap();
    let (_, form) = server.form().await;
    let (_, claims) = jwt::verify(&form["client_assertion"], pair.public_key_raw());
    assert_eq!(claims["aud"], "https://as.example.com");
}

#[tokio::test]
async fn an_assertion_of_somebody_else_is_asked_for_with_each_request_and_needs_no_client_id() {
    let mut server = server().await;
    let source = source(Ok("e.y.j"));
    let client = Client::new(Registration {
        client_id: None,
        ..server.registration(ClientAuthentication::Assertion(
            Assertions::From(source.clone()),
            ClientAssertionType::JwtBearer,
        ))
    })
    .unwrap();
    for _ in 0..2 {
        client.request_token(&TokenRequest::default()).await.unwrap();
        let (_, form) = server.form().await;
        assert_eq!(form["client_assertion"], "e.y.j");
        assert_eq!(form["client_assertion_type"], JWT_BEARER);
        assert_eq!(form.get("client_id"), None);
    }
    assert_eq!(*source.audiences.lock().unwrap(), [server.url(), server.url()]);
}

#[tokio::test]
async fn without_an_assertion_nothing_is_sent() {
    let server = server().await;
    let none = Error::NoAssertion {
        problem: "forbidden".into(),
    };
    let assertions = Assertions::From(source(Err(none.clone())));
    let error = ask(server.registration(ClientAuthentication::Assertion(
        assertions,
        ClientAssertionType::JwtBearer,
    )))
    .await
    .unwrap_err();
    assert_eq!(error, none);
    assert_eq!(server.connections(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_assertion_that_never_comes_meets_the_deadline() {
    struct Never;
    impl AssertionSource for Never {
        fn assertion<'a>(&'a self, _audience: &'a str) -> AssertionFuture<'a> {
            Box::pin(std::future::pending())
        }
    }
    server::install_provider();
    let assertions = Assertions::From(Arc::new(Never));
    let authentication = ClientAuthentication::Assertion(assertions, ClientAssertionType::JwtBearer);
    let registration = Registration::new("https://127.0.0.1:1/token", "client", authentication);
    assert_eq!(ask(registration).await.unwrap_err().reason(), "NoAssertion");
}

#[tokio::test]
async fn a_client_without_authentication_says_its_name_if_it_has_one() {
    let mut server = server().await;
    for client_id in [Some(ClientId::new("client".into())), None] {
        let registration = Registration {
            client_id: client_id.clone(),
            ..server.registration(ClientAuthentication::None)
        };
        ask(registration).await.unwrap();
        let (head, form) = server.form().await;
        assert_eq!(server::header(&head, "authorization"), None);
        assert_eq!(form.get("client_id"), client_id.as_deref());
    }
}

#[test]
fn a_missing_client_id_is_told_before_anything_is_asked() {
    server::install_provider();
    let key = SigningKey::parse(&rcgen::KeyPair::generate().unwrap().serialize_pem(), None, None).unwrap();
    for authentication in [
        ClientAuthentication::SecretBasic("s3cret".into()),
        ClientAuthentication::SecretPost("s3cret".into()),
        ClientAuthentication::PrivateKeyJwt {
            key,
            audience: AssertionAudience::default(),
        },
    ] {
        let registration = Registration {
            client_id: None,
            ..Registration::new("https://as.example.com/token", "", authentication)
        };
        assert_eq!(Client::new(registration).unwrap_err(), Error::NoClientId);
    }
}
