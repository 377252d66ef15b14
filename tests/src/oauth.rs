//! The real OAuth server that the script around the tests started, and what tests turn there.

use serde_json::{Value, json};

use crate::setting;

pub fn token_url() -> String {
    format!("{}/token", setting("MCPAUTH_TEST_OAUTH"))
}

/// The secret that the server accepts from the start.
pub fn secret() -> String {
    setting("MCPAUTH_TEST_OAUTH_SECRET")
}

/// A new secret of the client, accepted beside the others.
pub async fn rotate() -> (u64, String) {
    let answer = administer(
        "POST",
        &format!("/clients/{}/rotate", crate::resource::CLIENT_ID),
        json!({}),
    )
    .await;
    let generation = answer["generation"].as_u64().expect("a generation");
    (
        generation,
        answer["secret"].as_str().expect("a secret").to_owned(),
    )
}

async fn administer(method: &str, path: &str, body: Value) -> Value {
    let url = format!("{}{path}", setting("MCPAUTH_TEST_OAUTH_ADMIN"));
    let method = method.parse().expect("a method");
    let request = reqwest::Client::new().request(method, url).json(&body);
    let response = request.send().await.expect("the OAuth server is there");
    assert!(response.status().is_success(), "{}", response.status());
    response.json().await.expect("JSON")
}
