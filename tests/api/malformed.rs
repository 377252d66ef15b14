//! What users and servers write wrong: a condition names the field, and a neighbour is not disturbed.

use mcp_auth_crds::{conditions, reasons};
use mcp_auth_tests::authority::{Certificate, certificate};
use mcp_auth_tests::registration::{Method, Registration};
use mcp_auth_tests::resource::{merge, resource};
use mcp_auth_tests::servers::Server;
use mcp_auth_tests::sidecar::{Sidecar, bearer};
use mcp_auth_tests::token_endpoint::TokenEndpoint;
use mcp_auth_tests::world::{World, message};
use mcp_auth_tests::{jwt, oauth};
use serde_json::{Value, json};

const SECRET: &str = "ne1ghbours-client-secret";

fn by_secret() -> Value {
    json!({"method": "ClientSecretBasic", "clientSecretRef": {"name": "client", "key": "client-secret"}})
}

/// A namespace with a neighbour that is served.
async fn world(namespace: &str) -> (World, Sidecar, String) {
    let world = World::new(namespace, false).await;
    world.trust().await;
    world.secret("client", "client-secret", SECRET).await;
    let registration = Registration::new(namespace, Method::SecretBasic(SECRET.into()));
    oauth::register(&registration).await;
    let spec = Server::OidcProvider.oauth2(namespace, by_secret());
    world
        .apply(&resource("neighbour", "neighbour", spec))
        .await
        .unwrap();
    let pod = world
        .pod("litellm-0", json!({"app.kubernetes.io/name": "litellm"}))
        .await;
    let mut sidecar = Sidecar::in_pod(&world, &pod).await;
    let snapshot = sidecar
        .until(|snapshot| bearer(snapshot, "neighbour").is_some())
        .await;
    let token = bearer(&snapshot, "neighbour").unwrap();
    (world, sidecar, token)
}

/// The neighbour has the token it had, and its condition says so.
async fn undisturbed(world: &World, sidecar: &mut Sidecar, token: &str, servers: usize) {
    let snapshot = sidecar.until(|snapshot| snapshot.servers.len() == servers).await;
    assert_eq!(bearer(&snapshot, "neighbour").as_deref(), Some(token));
    world
        .condition("neighbour", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
}

#[tokio::test]
async fn keys_that_are_none_are_named_and_never_quoted() {
    let id = "malformed-keys";
    let (world, mut sidecar, token) = world(id).await;
    let small = "-----BEGIN PRIVATE KEY-----\nAAECAwQFBgcICQ==\n-----END PRIVATE KEY-----\n";
    let cases = [
        ("empty", ""),
        ("prose", "n0t-a-key-at-all"),
        ("truncated", small),
        ("half-a-jwk", r#"{"kty": "EC", "crv": "P-256", "x": "AAAA"}"#),
        ("binary", "\u{0}\u{1}\u{2}\u{3}\u{4}\u{5}\u{6}\u{7}"),
    ];
    for (name, key) in cases {
        world.secret(&format!("{name}-key"), "key", key).await;
        let authentication = json!({"method": "PrivateKeyJwt", "privateKeyJwt": {
            "keyRef": {"name": format!("{name}-key"), "key": "key"},
        }});
        let wrong = Server::OidcProvider.oauth2(id, authentication);
        world
            .apply(&resource(name, &name.replace('-', "_"), wrong))
            .await
            .unwrap();
    }
    for (name, key) in cases {
        let status = world
            .condition(
                name,
                conditions::SECRETS_RESOLVED,
                "False",
                reasons::SECRET_INVALID,
            )
            .await;
        let said = message(&status, conditions::SECRETS_RESOLVED);
        assert!(said.contains("privateKeyJwt.keyRef"), "{name}: {said}");
        assert!(key.is_empty() || !said.contains(key.trim()), "{name}: {said}");
    }
    undisturbed(&world, &mut sidecar, &token, 1 + cases.len()).await;
}

#[tokio::test]
async fn certificates_that_are_none_or_of_another_key_are_named() {
    let id = "malformed-certificates";
    let (world, mut sidecar, token) = world(id).await;
    let (good, other) = (certificate("good"), certificate("other"));
    let of = |chain: &str, key: &str| Certificate {
        chain: chain.to_owned(),
        key: key.to_owned(),
    };
    let cases = [
        ("prose", of("no certificate", &good.key)),
        ("no-key", of(&good.chain, "no key")),
        ("swapped", of(&good.key, &good.chain)),
        ("of-another-key", of(&good.chain, &other.key)),
    ];
    for (name, certificate) in &cases {
        let secret = format!("{name}-tls");
        // The API server itself looks into Secrets of type kubernetes.io/tls no further than for their keys.
        world.certificate(&secret, certificate).await;
        let authentication = json!({"method": "TlsClientAuth", "certificateRef": {"name": secret}});
        let wrong = Server::OidcProvider.oauth2(id, authentication);
        world
            .apply(&resource(name, &name.replace('-', "_"), wrong))
            .await
            .unwrap();
    }
    for (name, _) in &cases {
        let status = world
            .condition(name, conditions::READY, "False", reasons::SECRET_INVALID)
            .await;
        let said = message(&status, conditions::READY);
        assert!(said.contains("certificateRef"), "{name}: {said}");
        assert!(!said.contains("BEGIN"), "{name}: {said}");
    }
    undisturbed(&world, &mut sidecar, &token, 1 + cases.len()).await;
}

#[tokio::test]
async fn urls_and_authorities_that_cannot_be_used_are_named() {
    let id = "malformed-urls";
    let (world, mut sidecar, token) = world(id).await;
    world.secret("prose", "ca.crt", "no certificate").await;
    let bundle =
        json!({"caBundle": {"configMapKeyRef": null, "secretKeyRef": {"name": "prose", "key": "ca.crt"}}});
    let cases = [
        ("authority", bundle, "caBundle"),
        ("port", json!({"issuer": "https://127.0.0.1:99999"}), "issuer"),
    ];
    for (name, change, _) in &cases {
        let mut wrong = Server::OidcProvider.oauth2(id, by_secret());
        merge(&mut wrong["oauth2"], change.clone());
        world.apply(&resource(name, name, wrong)).await.unwrap();
    }
    for (name, _, field) in &cases {
        let said = not_ready(&world, name).await;
        assert!(said.contains(field), "{name}: {said}");
    }
    undisturbed(&world, &mut sidecar, &token, 1 + cases.len()).await;
}

#[tokio::test]
async fn a_token_for_somebody_else_is_kept_back_and_the_condition_says_what_was_expected() {
    let id = "malformed-tokens";
    let (world, mut sidecar, token) = world(id).await;
    let elsewhere =
        jwt::unsigned(&json!({"aud": "https://elsewhere.example.com/mcp", "exp": 4_000_000_000_u64}));
    let answer = json!({"access_token": elsewhere, "token_type": "Bearer", "expires_in": 600}).to_string();
    let endpoint = TokenEndpoint::answering("200 OK", "application/json", &answer).await;
    let mut spec = mcp_auth_tests::resource::oauth2(&endpoint.url);
    merge(
        &mut spec,
        json!({"oauth2": {"clientAuthentication": by_secret()}}),
    );
    world
        .apply(&resource("other", "other", spec.clone()))
        .await
        .unwrap();
    let status = world
        .condition(
            "other",
            conditions::TOKEN_ISSUED,
            "False",
            reasons::TOKEN_MISMATCH,
        )
        .await;
    let said = message(&status, conditions::TOKEN_ISSUED);
    assert!(
        said.contains("https://elsewhere.example.com/mcp") && said.contains("https://other.example.com/mcp"),
        "{said}"
    );
    let snapshot = sidecar.until(|snapshot| snapshot.servers.len() == 2).await;
    assert_eq!(bearer(&snapshot, "other"), None);

    // Whoever wants it all the same is told that it does not fit.
    merge(&mut spec, json!({"oauth2": {"tokenCheck": {"mode": "Report"}}}));
    world.apply(&resource("other", "other", spec)).await.unwrap();
    world
        .condition("other", conditions::TOKEN_ISSUED, "True", reasons::TOKEN_MISMATCH)
        .await;
    let snapshot = sidecar
        .until(|snapshot| bearer(snapshot, "other").is_some())
        .await;
    assert_eq!(bearer(&snapshot, "neighbour"), Some(token));
}

/// Why a resource is not ready, whatever the reason.
async fn not_ready(world: &World, name: &str) -> String {
    let refused = [
        reasons::INVALID_SPEC,
        reasons::DISCOVERY_FAILED,
        reasons::SECRET_INVALID,
        reasons::REQUEST_FAILED,
    ];
    let status = mcp_auth_tests::wait::until(
        &format!("{name} is refused"),
        async || world.status(name).await,
        |status| {
            let ready = status
                .conditions
                .iter()
                .find(|found| found.type_ == conditions::READY);
            ready.is_some_and(|found| refused.contains(&&*found.reason))
        },
    )
    .await;
    message(&status, conditions::READY)
}
