//! LiteLLM in the namespace of the operator itself, as one team installs both.

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, Patch, PatchParams};
use mcp_auth_crds::conditions::TOKEN_ISSUED;
use mcp_auth_crds::reasons::ISSUED;
use mcp_auth_tests::oauth;
use mcp_auth_tests::resource::{SECRET, oauth2, owned, resource};
use mcp_auth_tests::wait::until;
use serde_json::json;

use crate::installation::{Installation, litellm, sidecar_of};

#[tokio::test]
async fn litellm_in_the_operators_own_namespace_gets_the_sidecar_and_tokens() {
    let installation = Installation::new("one-team", json!({})).await;
    let world = &installation.world;
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    let opted_in = json!({"metadata": {"labels": {"mcpauth.dev/injection": "enabled"}}});
    namespaces
        .patch(
            &world.namespace,
            &PatchParams::default(),
            &Patch::Merge(&opted_in),
        )
        .await
        .unwrap();
    let replica = installation.start(&[]).await;
    replica.until_ready().await;
    world.secret(SECRET, "client-secret", &oauth::secret()).await;
    world
        .apply(&resource("tools", "tools", oauth2(&oauth::token_url())))
        .await
        .unwrap();
    world.condition("tools", TOKEN_ISSUED, "True", ISSUED).await;
    let owned = owned(world, litellm("litellm")).await;
    let created = async || {
        let pod: Pod = world.create(owned.clone()).await.unwrap();
        world.delete::<Pod>("litellm").await;
        sidecar_of(&pod)
    };
    let sidecar = until("the pod to be injected", created, Option::is_some)
        .await
        .unwrap();
    assert!(sidecar.contains("tools.example.com"), "{sidecar}");
}
