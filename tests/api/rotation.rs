//! Credentials change while their tokens are in use: nobody waits, and nothing that still serves is dropped.

use mcp_auth_crds::{McpServerAuth, conditions, reasons};
use mcp_auth_protocol::sync::Snapshot;
use mcp_auth_tests::keys::Key;
use mcp_auth_tests::registration::{Method, Registration};
use mcp_auth_tests::resource::{merge, resource};
use mcp_auth_tests::servers::Server;
use mcp_auth_tests::sidecar::{Sidecar, bearer};
use mcp_auth_tests::wait::until;
use mcp_auth_tests::world::{World, message};
use mcp_auth_tests::{jwt, oauth};
use serde_json::{Value, json};

const SECRET: &str = "the-f1rst-secret";

fn by_secret() -> Value {
    json!({"method": "ClientSecretBasic", "clientSecretRef": {"name": "client", "key": "client-secret"}})
}

async fn world(namespace: &str) -> World {
    let world = World::new(namespace, false).await;
    world.trust().await;
    world
}

/// Applies the resource, and returns a sidecar that has its token, and the token.
async fn start(world: &World, spec: Value) -> (Sidecar, String) {
    world.apply(&resource("tools", "tools", spec)).await.unwrap();
    world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
    let pod = world
        .pod("litellm-0", json!({"app.kubernetes.io/name": "litellm"}))
        .await;
    let mut sidecar = Sidecar::in_pod(world, &pod).await;
    let snapshot = sidecar
        .until(|snapshot| bearer(snapshot, "tools").is_some())
        .await;
    let token = bearer(&snapshot, "tools").unwrap();
    (sidecar, token)
}

/// The next token, by a stream that never goes without one.
async fn next(sidecar: &mut Sidecar, old: &str) -> String {
    let changed = |snapshot: &Snapshot| {
        let token = bearer(snapshot, "tools");
        assert!(token.is_some(), "there is a token at every moment: {snapshot:?}");
        token.as_deref() != Some(old)
    };
    bearer(&sidecar.until(changed).await, "tools").unwrap()
}

#[tokio::test]
async fn a_changed_secret_brings_a_new_token_before_the_old_one_is_dropped() {
    let id = "rotation-secret";
    let world = world(id).await;
    world.secret("client", "client-secret", SECRET).await;
    oauth::register(&Registration::new(id, Method::SecretBasic(SECRET.into()))).await;
    let (mut sidecar, old) = start(&world, Server::OidcProvider.oauth2(id, by_secret())).await;
    assert_eq!(jwt::claims(&old)["credential"], 1);

    let (generation, secret) = oauth::rotate_of(id).await;
    oauth::retire(id, 1).await;
    world.secret("client", "client-secret", &secret).await;
    let new = next(&mut sidecar, &old).await;
    assert_eq!(jwt::claims(&new)["credential"], generation);
    assert_eq!(oauth::issued(id).await, 2, "one request for each secret");
}

#[tokio::test]
async fn a_broken_new_secret_keeps_the_old_token_serving_and_is_told() {
    for server in Server::all() {
        let id = format!("rotation-broken-{}", server.name());
        let world = world(&id).await;
        world.secret("client", "client-secret", SECRET).await;
        server
            .register(&Registration::new(&id, Method::SecretBasic(SECRET.into())))
            .await;
        let (_, old) = start(&world, server.oauth2(&id, by_secret())).await;

        world.secret("client", "client-secret", "br0ken-new-secret").await;
        let status = world
            .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::RENEWAL_FAILED)
            .await;
        let said = message(&status, conditions::TOKEN_ISSUED);
        assert!(said.contains("still serves until"), "{said}");
        let pod = world
            .pod("litellm-1", json!({"app.kubernetes.io/name": "litellm"}))
            .await;
        let mut late = Sidecar::in_pod(&world, &pod).await;
        let snapshot = late.next().await.unwrap();
        assert_eq!(bearer(&snapshot, "tools").as_deref(), Some(&*old));

        world.secret("client", "client-secret", SECRET).await;
        let status = world
            .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
            .await;
        assert!(status.token.unwrap().last_error.is_none());
    }
}

#[tokio::test]
async fn a_second_secret_is_tried_where_the_first_is_refused_and_the_condition_says_so() {
    for server in Server::all() {
        let id = format!("rotation-alternate-{}", server.name());
        let world = world(&id).await;
        world.secret("client", "client-secret", "0utdated-secret").await;
        world.secret("next", "client-secret", SECRET).await;
        server
            .register(&Registration::new(&id, Method::SecretBasic(SECRET.into())))
            .await;
        let mut authentication = by_secret();
        authentication["alternateClientSecretRef"] = json!({"name": "next", "key": "client-secret"});
        let tools = resource("tools", "tools", server.oauth2(&id, authentication));
        world.apply(&tools).await.unwrap();
        let status = world
            .condition(
                "tools",
                conditions::TOKEN_ISSUED,
                "True",
                reasons::ALTERNATE_SECRET_IN_USE,
            )
            .await;
        let said = message(&status, conditions::TOKEN_ISSUED);
        assert!(said.contains("alternateClientSecretRef works"), "{said}");

        world.secret("client", "client-secret", SECRET).await;
        world
            .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
            .await;
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_taken_over_without_a_restart() {
    for server in Server::all() {
        let id = format!("rotation-certificate-{}", server.name());
        let world = world(&id).await;
        world.certificate("client", &server.certificate(&id)).await;
        let subject = format!("CN={id}");
        let registration = Registration {
            certificate_bound: true,
            ..Registration::new(&id, Method::Tls { subject })
        };
        server.register(&registration).await;
        let authentication = json!({"method": "TlsClientAuth", "certificateRef": {"name": "client"}});
        let (mut sidecar, old) = start(&world, server.oauth2(&id, authentication)).await;
        world.certificate("client", &server.certificate(&id)).await;
        let new = next(&mut sidecar, &old).await;
        let bound_to = |token: &str| jwt::claims(token)["cnf"]["x5t#S256"].clone();
        assert!(bound_to(&new).is_string());
        assert_ne!(bound_to(&new), bound_to(&old), "the new certificate was shown");
    }
}

#[tokio::test]
async fn a_new_signing_key_is_used_from_the_moment_it_is_there() {
    let id = "rotation-key";
    let world = world(id).await;
    let first = Key::new("ES256", "first").await;
    world.secret("client", "key", &first.private_pem).await;
    oauth::register(&Registration::new(id, Method::PrivateKeyJwt(first))).await;
    // Nothing but the Secret changes: the key says what it is for, and the server tells its keys apart by
    // trying.
    let authentication =
        json!({"method": "PrivateKeyJwt", "privateKeyJwt": {"keyRef": {"name": "client", "key": "key"}}});
    let (mut sidecar, old) = start(&world, Server::OidcProvider.oauth2(id, authentication)).await;

    let second = Key::new("EdDSA", "second").await;
    oauth::register(&Registration::new(id, Method::PrivateKeyJwt(second.clone()))).await;
    world.secret("client", "key", &second.private_pem).await;
    next(&mut sidecar, &old).await;
    let requests = oauth::requests(id).await;
    let asked = requests.iter();
    let algorithms: Vec<_> = asked.map(|request| &request["clientAssertion"]["alg"]).collect();
    assert_eq!(algorithms, ["ES256", "EdDSA"]);
}

#[tokio::test]
async fn a_given_token_that_is_a_jwt_says_until_when_it_serves() {
    let world = World::new("rotation-given", false).await;
    let now = i64::try_from(
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs(),
    )
    .unwrap();
    let token = |expires: i64| jwt::unsigned(&json!({"sub": "litellm", "exp": expires}));
    let given = json!({"bearerToken": {"secretKeyRef": {"name": "given", "key": "token"}}});
    world.secret("given", "token", &token(now + 3600)).await;
    let (mut sidecar, old) = start(&world, given).await;
    let ends = world.status("tools").await.token.unwrap().expires_at.unwrap();
    assert_eq!(ends.0.as_second(), now + 3600);

    world.secret("given", "token", &token(now + 7200)).await;
    let new = next(&mut sidecar, &old).await;
    assert_eq!(jwt::claims(&new)["exp"], now + 7200);

    world.secret("given", "token", &token(now - 60)).await;
    let status = world
        .condition("tools", conditions::TOKEN_ISSUED, "False", reasons::EXPIRED)
        .await;
    let said = message(&status, conditions::TOKEN_ISSUED);
    assert!(said.contains("spec.bearerToken"), "{said}");
    sidecar
        .until(|snapshot| bearer(snapshot, "tools").is_none())
        .await;
}

#[tokio::test]
async fn a_token_is_revoked_with_its_resource_where_that_is_wished_for_and_only_there() {
    for server in Server::all() {
        for (revoke, word) in [(true, "revoked"), (false, "kept")] {
            let id = format!("rotation-{word}-{}", server.name());
            let world = world(&id).await;
            world.secret("client", "client-secret", SECRET).await;
            let registration = Registration::new(&id, Method::SecretBasic(SECRET.into()));
            match server {
                // It revokes what it has to look up anyway, and so no JWT.
                Server::OidcProvider => {
                    oauth::register_with(&registration, json!({"opaque": true})).await;
                }
                Server::Keycloak | Server::Spring => server.register(&registration).await,
            }
            let mut spec = server.oauth2(&id, by_secret());
            merge(&mut spec, json!({"oauth2": {"revokeOnDeletion": revoke}}));
            let (mut sidecar, _) = start(&world, spec).await;
            world.delete::<McpServerAuth>("tools").await;
            sidecar.until(|snapshot| snapshot.servers.is_empty()).await;
            if revoke {
                until("the revocation", async || server.revoked(&id).await, |done| *done).await;
            } else {
                assert!(!server.revoked(&id).await);
            }
        }
    }
}
