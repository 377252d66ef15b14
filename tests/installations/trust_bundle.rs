//! `trustBundle`: the authority of authorization servers for all resources, from a ConfigMap or a Secret of the release's namespace.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use mcp_auth_crds::conditions::TOKEN_ISSUED;
use mcp_auth_crds::reasons::{ISSUED, REQUEST_FAILED};
use mcp_auth_tests::authority;
use mcp_auth_tests::registration::{Method, Registration};
use mcp_auth_tests::resource::resource;
use mcp_auth_tests::servers::Server;
use mcp_auth_tests::world::{World, message};
use serde_json::json;

use crate::installation::Installation;

const SECRET: &str = "trusted-client-s3cret";

/// A namespace with a resource at an authorization server by https, whose authority the resource does not state.
async fn namespace(name: &str) -> World {
    let world = World::new(name, false).await;
    world.secret("client", "client-secret", SECRET).await;
    let server = Server::OidcProvider;
    server
        .register(&Registration::new(name, Method::SecretBasic(SECRET.into())))
        .await;
    let authentication =
        json!({"method": "ClientSecretBasic", "clientSecretRef": {"name": "client", "key": "client-secret"}});
    let mut spec = server.oauth2(name, authentication);
    let oauth2 = spec["oauth2"].as_object_mut().unwrap();
    oauth2.remove("caBundle");
    // Without discovery: the token endpoint itself has to be trusted.
    oauth2.remove("issuer");
    oauth2.insert("tokenUrl".to_owned(), json!(server.token_url()));
    world.apply(&resource("tools", "tools", spec)).await.unwrap();
    world
}

/// A release whose bundle holds this, in a ConfigMap or in a Secret.
async fn release(name: &str, in_secret: bool, bundle: &str) -> Installation {
    let field = if in_secret { "secret" } else { "configMap" };
    let installation = Installation::new(name, json!({"trustBundle": {field: "company-ca"}})).await;
    let (metadata, data) = (json!({"name": "company-ca"}), json!({"root.pem": bundle}));
    if in_secret {
        let secret = json!({"metadata": metadata, "stringData": data});
        installation.world.create::<Secret>(secret).await.unwrap();
    } else {
        let config_map = json!({"metadata": metadata, "data": data});
        installation.world.create::<ConfigMap>(config_map).await.unwrap();
    }
    installation
}

#[tokio::test]
async fn an_authority_that_only_the_trust_bundle_holds_is_trusted_and_no_other() {
    let world = namespace("trust-bundle-of").await;
    let another = authority::self_signed("another authority").chain;
    // The timeout makes another version of the resource, so that the condition says of which operator it is.
    for (name, timeout, in_secret, bundle, is_trusted) in [
        ("trust-another", "9s", false, &another, false),
        ("trust-in-config-map", "8s", false, &authority::bundle(), true),
        ("trust-another-secret", "7s", true, &another, false),
        (
            "trust-in-secret",
            "6s",
            true,
            &format!("{another}\n{}", authority::bundle()),
            true,
        ),
    ] {
        let installation = release(name, in_secret, bundle).await;
        let mut replica = installation.start(&[]).await;
        replica.until_ready().await;
        let again = json!({"spec": {"oauth2": {"requestTimeout": timeout}}});
        let applied = world.patch("tools", &again).await.unwrap();
        let (status, reason) = if is_trusted {
            ("True", ISSUED)
        } else {
            ("False", REQUEST_FAILED)
        };
        let is_of_it = |found: &mcp_auth_crds::McpServerAuthStatus| {
            found.conditions.iter().any(|condition| {
                condition.type_ == TOKEN_ISSUED
                    && (&*condition.status, &*condition.reason) == (status, reason)
                    && condition.observed_generation == applied.metadata.generation
            })
        };
        let found = mcp_auth_tests::wait::until(
            &format!("{name}: {TOKEN_ISSUED}={status}"),
            async || world.status("tools").await,
            is_of_it,
        )
        .await;
        if !is_trusted {
            let told = message(&found, TOKEN_ISSUED);
            assert!(
                told.contains("certificate") && told.contains("caBundle"),
                "{told}"
            );
        }
        assert!(replica.terminate().await);
    }
}
