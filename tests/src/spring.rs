//! The third real OAuth server that the script around the tests started (Spring Authorization Server), and what tests
//! turn there.

use reqwest::Method as HttpMethod;
use serde_json::{Value, json};

use crate::registration::{Grant, Method, Registration};
use crate::resource::merge;
use crate::{keys, seen, setting};

/// Whether it runs: a developer may go without it.
pub fn is_there() -> bool {
    issuer() != "none"
}

pub fn issuer() -> String {
    setting("MCPAUTH_TEST_SPRING")
}

/// Whether it can verify what is signed with this algorithm.
pub fn knows(algorithm: &str) -> bool {
    algorithm != "EdDSA"
}

/// Registers a client, or changes what it is registered with. The audience of its tokens is what requests name.
pub async fn register(registration: &Registration) {
    let mut client = json!({
        "id": registration.id,
        "grant": registration.grant.name(),
        "certificateBound": registration.certificate_bound,
    });
    let method = match &registration.method {
        Method::SecretBasic(secret) => with_secret("client_secret_basic", secret),
        Method::SecretPost(secret) => with_secret("client_secret_post", secret),
        Method::PrivateKeyJwt(key) => json!({
            "method": "private_key_jwt", "algorithm": key.algorithm, "keys": {"keys": [key.jwk().await]},
        }),
        Method::Tls { subject } => json!({"method": "tls_client_auth", "subject": subject}),
        Method::SelfSignedTls { certificate } => json!({
            "method": "self_signed_tls_client_auth", "keys": {"keys": [keys::certified(certificate).await]},
        }),
        Method::PublishedKeys { .. } | Method::Federated { .. } | Method::None => {
            panic!("these tests do not register {:?} here", registration.method)
        }
    };
    assert_ne!(
        registration.grant,
        Grant::JwtBearer,
        "this server has no such grant"
    );
    merge(&mut client, method);
    administer(HttpMethod::POST, "/clients", client).await;
}

/// What it has granted a client and what was revoked, in order: `event`, `method`, `grant`.
pub async fn requests(client: &str) -> Vec<Value> {
    let path = format!("/clients/{client}/requests");
    let answer = administer(HttpMethod::GET, &path, json!(null)).await;
    answer.as_array().cloned().expect("a list")
}

/// An access token of a user, as a front end with this client would have it.
pub async fn user_token(user: &str, client: &str) -> String {
    let path = format!("/users/{user}/token");
    let answer = administer(HttpMethod::POST, &path, json!({"client": client})).await;
    let token = answer["token"].as_str().expect("a token").to_owned();
    seen::note(&token);
    token
}

fn with_secret(method: &str, secret: &str) -> Value {
    seen::note(secret);
    json!({"method": method, "secret": secret})
}

async fn administer(method: HttpMethod, path: &str, body: Value) -> Value {
    let url = format!("{}/tests{path}", setting("MCPAUTH_TEST_SPRING_ADMIN"));
    let mut request = reqwest::Client::new()
        .request(method, url)
        .bearer_auth(setting("MCPAUTH_TEST_SPRING_SECRET"));
    if !body.is_null() {
        request = request.json(&body);
    }
    let response = request
        .send()
        .await
        .expect("Spring Authorization Server is there");
    let status = response.status();
    let answer = response.text().await.expect("an answer");
    assert!(status.is_success(), "{path}: {status} {answer}");
    serde_json::from_str(&answer).expect("JSON")
}
