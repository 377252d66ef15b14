//! The first real OAuth server that the script around the tests started (oidc-provider), and what tests turn
//! there.

use serde_json::{Value, json};

use crate::registration::{Grant, Method, Registration};
use crate::{seen, setting};

pub fn token_url() -> String {
    format!("{}/token", setting("MCPAUTH_TEST_OAUTH"))
}

/// The same server by https, whose metadata name an endpoint of its own for client certificates.
pub fn issuer() -> String {
    setting("MCPAUTH_TEST_OAUTH_SECURE")
}

/// The secret that the server accepts from the start, of the client that [`crate::resource::oauth2`] names.
pub fn secret() -> String {
    let secret = setting("MCPAUTH_TEST_OAUTH_SECRET");
    seen::note(&secret);
    secret
}

/// A new secret of that client, accepted beside the others.
pub async fn rotate() -> (u64, String) {
    rotate_of(crate::resource::CLIENT_ID).await
}

/// A new secret of a client, accepted beside the others.
pub async fn rotate_of(client: &str) -> (u64, String) {
    let answer = administer("POST", &format!("/clients/{client}/rotate"), json!({})).await;
    let generation = answer["generation"].as_u64().expect("a generation");
    let secret = answer["secret"].as_str().expect("a secret").to_owned();
    seen::note(&secret);
    (generation, secret)
}

/// Secrets of this generation are refused from now on.
pub async fn retire(client: &str, generation: u64) {
    let path = format!("/clients/{client}/retire");
    administer("POST", &path, json!({"generation": generation})).await;
}

/// Registers a client, or changes what it is registered with.
pub async fn register(registration: &Registration) {
    register_with(registration, json!({})).await;
}

/// And with what only this server knows: `opaque`, `nonce`, `scope`, `lifetime`.
pub async fn register_with(registration: &Registration, more: Value) {
    let mut client = json!({
        "id": registration.id,
        "grants": ["client_credentials"],
        "dpopBound": registration.dpop_bound,
        "certificateBound": registration.certificate_bound,
    });
    if registration.grant != Grant::ClientCredentials {
        client["grants"] = json!(["client_credentials", registration.grant.name()]);
    }
    let method = match &registration.method {
        Method::SecretBasic(secret) => json!({"method": "client_secret_basic", "secret": secret}),
        Method::SecretPost(secret) => json!({"method": "client_secret_post", "secret": secret}),
        Method::PrivateKeyJwt(key) => json!({
            "method": "private_key_jwt",
            "keys": [{"pem": key.public_pem, "id": key.id, "algorithm": key.algorithm}],
        }),
        Method::PublishedKeys { jwks_uri, .. } => json!({"method": "private_key_jwt", "jwksUri": jwks_uri}),
        Method::Tls { subject } => json!({"method": "tls_client_auth", "subject": subject}),
        Method::SelfSignedTls { certificate } => {
            json!({"method": "self_signed_tls_client_auth", "certificate": certificate})
        }
        Method::Federated { .. } => {
            panic!("this server takes no assertion of another issuer as client authentication")
        }
        Method::None => json!({"method": "none"}),
    };
    crate::resource::merge(&mut client, method);
    crate::resource::merge(&mut client, more);
    if let Some(secret) = client["secret"].as_str() {
        seen::note(secret);
    }
    administer("POST", "/clients", client).await;
}

/// What a client has asked for so far, and how: see record.mjs beside the server.
pub async fn requests(client: &str) -> Vec<Value> {
    let answer = administer("GET", &format!("/clients/{client}/requests"), json!({})).await;
    answer.as_array().cloned().expect("a list")
}

/// How many token requests of a client were answered with a token.
pub async fn issued(client: &str) -> usize {
    let requests = requests(client).await;
    requests
        .iter()
        .filter(|request| request["event"] == "issued")
        .count()
}

/// Token requests of this client are answered so from now on; `{}` ends it.
pub async fn fail(client: &str, fault: Value) {
    administer("POST", &format!("/clients/{client}/fault"), fault).await;
}

/// An access token of a user, as a front end with this client would have it.
pub async fn user_token(user: &str, client: &str) -> String {
    token_of(user, json!({"client": client})).await
}

/// The same as a signed JWT for this resource.
pub async fn signed_user_token(user: &str, client: &str, resource: &str) -> String {
    token_of(user, json!({"client": client, "resource": resource})).await
}

async fn token_of(user: &str, wishes: Value) -> String {
    let answer = administer("POST", &format!("/users/{user}/token"), wishes).await;
    let token = answer["token"].as_str().expect("a token").to_owned();
    seen::note(&token);
    token
}

async fn administer(method: &str, path: &str, body: Value) -> Value {
    let url = format!("{}{path}", setting("MCPAUTH_TEST_OAUTH_ADMIN"));
    let method: reqwest::Method = method.parse().expect("a method");
    let mut request = reqwest::Client::new().request(method.clone(), url);
    if method != reqwest::Method::GET {
        request = request.json(&body);
    }
    let response = request.send().await.expect("the OAuth server is there");
    let status = response.status();
    let answer: Value = response.json().await.expect("JSON");
    assert!(status.is_success(), "{path}: {status} {}", answer["error"]);
    answer
}
