//! DPoP at the token endpoint: the proof, the nonce, and tokens of the wrong type.

use std::collections::BTreeSet;

use jiff::Timestamp;
use mcp_auth_oauth::{
    AssertionAudience, Client, ClientAuthentication, Clock, Error, IssuedToken, Registration, SigningKey,
    TokenRequest, TokenType,
};
use serde_json::Value;

use crate::server::{self, Server, answer, header, json};
use crate::{TOKEN, basic, jwt};

const NOW: i64 = 1_900_000_000;
const BOUND: &str = r#"{"access_token":"t0p-s3cret","token_type":"DPoP","expires_in":3600}"#;
const DEMAND: &str = r#"{"error":"use_dpop_nonce"}"#;

fn client_by(server: &Server, authentication: ClientAuthentication) -> Client {
    server::install_provider();
    Client::new(Registration {
        token_type: TokenType::DPoP,
        ..server.registration(authentication)
    })
    .unwrap()
    .with_clock(Clock::starting_at(Timestamp::from_second(NOW).unwrap()))
}

fn client(server: &Server) -> Client {
    client_by(server, basic())
}

fn demand(nonce: &str) -> Vec<u8> {
    let headers = format!("content-type: application/json\r\ndpop-nonce: {nonce}\r\n");
    answer("400 Bad Request", &headers, DEMAND)
}

async fn ask(client: &Client) -> Result<IssuedToken, Error> {
    client.request_token(&TokenRequest::default()).await
}

/// Header and claims of the proof with the next request.
async fn proof(server: &mut Server) -> (Value, Value) {
    let (head, _) = server.form().await;
    assert_eq!(head.matches("dpop: ").count(), 1, "{head}");
    jwt::verify_proof(header(&head, "dpop").unwrap())
}

#[tokio::test]
async fn every_request_carries_a_proof_by_the_key_that_the_token_is_bound_to() {
    let mut server = Server::answering([json("200 OK", BOUND)]).await;
    let client = client(&server);
    let mut seen = BTreeSet::new();
    for _ in 0..2 {
        let issued = ask(&client).await.unwrap();
        assert_eq!(issued.token_type, TokenType::DPoP);
        let (header, claims) = proof(&mut server).await;
        assert_eq!(header["typ"], "dpop+jwt");
        assert_eq!(header["jwk"].get("d"), None);
        assert_eq!(claims["htm"], "POST");
        assert_eq!(claims["htu"], server.url());
        assert_eq!(claims["iat"], NOW);
        assert_eq!((claims.get("ath"), claims.get("nonce")), (None, None));
        let own = issued.proof_key.unwrap();
        let again = own.proof(
            &http::Method::GET,
            &server.url().parse().unwrap(),
            None,
            None,
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(jwt::verify_proof(&again).0, header);
        seen.insert(claims["jti"].to_string());
    }
    assert_eq!(seen.len(), 2);
}

#[tokio::test]
async fn a_demanded_nonce_is_sent_once_more_and_from_then_on() {
    let newer = format!(
        "HTTP/1.1 200 OK\r\ndpop-nonce: n-2\r\ncontent-length: {}\r\n\r\n{BOUND}",
        BOUND.len()
    );
    let mut server = Server::answering([demand("n-1"), newer.into(), json("200 OK", BOUND)]).await;
    let client = client(&server);
    ask(&client).await.unwrap();
    ask(&client.clone()).await.unwrap();
    for expected in [None, Some("n-1"), Some("n-2")] {
        let (_, claims) = proof(&mut server).await;
        assert_eq!(claims.get("nonce").and_then(Value::as_str), expected);
    }
    assert_eq!(server.connections(), 3);
}

#[tokio::test]
async fn a_server_that_demands_nonces_without_end_is_told() {
    let server = Server::answering([demand("n-1"), demand("n-2"), demand("n-3")]).await;
    let error = ask(&client(&server)).await.unwrap_err();
    assert_eq!((error.reason(), server.connections()), ("use_dpop_nonce", 2));
}

#[tokio::test]
async fn a_demand_without_a_usable_nonce_is_not_answered() {
    let endless = "n".repeat(1025);
    for nonce in ["", "a b", "\"n\"", &endless] {
        let server = Server::answering([demand(nonce)]).await;
        let error = ask(&client(&server)).await.unwrap_err();
        assert_eq!(
            (error.reason(), server.connections()),
            ("use_dpop_nonce", 1),
            "{nonce}"
        );
    }
}

#[tokio::test]
async fn a_client_without_proofs_answers_no_demand_for_a_nonce() {
    let server = Server::answering([demand("n-1")]).await;
    let client = server.client(basic(), mcp_auth_oauth::Limits::default());
    let error = ask(&client).await.unwrap_err();
    assert_eq!((error.reason(), server.connections()), ("use_dpop_nonce", 1));
}

#[tokio::test]
async fn an_answer_to_a_nonce_has_a_client_assertion_of_its_own() {
    let mut server = Server::answering([demand("n-1"), json("200 OK", BOUND)]).await;
    let pair = rcgen::KeyPair::generate().unwrap();
    let key = SigningKey::parse(&pair.serialize_pem(), None, None).unwrap();
    let client = client_by(
        &server,
        ClientAuthentication::PrivateKeyJwt {
            key,
            audience: AssertionAudience::default(),
        },
    );
    ask(&client).await.unwrap();
    let mut ids = BTreeSet::new();
    for _ in 0..2 {
        let (_, form) = server.form().await;
        let (_, claims) = jwt::verify(&form["client_assertion"], pair.public_key_raw());
        ids.insert(claims["jti"].to_string());
    }
    assert_eq!(ids.len(), 2);
}

#[tokio::test]
async fn a_token_that_is_not_bound_is_refused_where_a_bound_one_was_asked_for() {
    for body in [TOKEN, r#"{"access_token":"t0p-s3cret"}"#] {
        let server = Server::answering([json("200 OK", body)]).await;
        let error = ask(&client(&server)).await.unwrap_err();
        assert_eq!(error.reason(), "UnsupportedTokenType");
        assert!(
            error.message().contains("which is not a DPoP token"),
            "{}",
            error.message()
        );
    }
}

#[tokio::test]
async fn a_bound_token_is_refused_where_a_bearer_token_was_asked_for_and_no_proof_was_sent() {
    let mut server = Server::answering([json("200 OK", BOUND)]).await;
    let client = server.client(basic(), mcp_auth_oauth::Limits::default());
    let error = ask(&client).await.unwrap_err();
    assert_eq!(
        error,
        Error::UnsupportedTokenType {
            token_type: Some("DPoP".into()),
            expected: TokenType::Bearer,
        }
    );
    let (head, _) = server.form().await;
    assert_eq!(header(&head, "dpop"), None);
}

#[tokio::test]
async fn a_users_token_is_bound_to_the_same_key() {
    let mut server = Server::answering([json("200 OK", BOUND)]).await;
    let client = client(&server);
    let service = ask(&client).await.unwrap();
    let user = client.exchange_token(&"subj3ct".into()).await.unwrap();
    assert_eq!(proof(&mut server).await.0, proof(&mut server).await.0);
    assert_eq!(
        service.proof_key.unwrap().thumbprint(),
        user.proof_key.unwrap().thumbprint()
    );
}
