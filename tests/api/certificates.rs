//! The operator's own certificates, in the Secret that its replicas share.

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use mcp_auth_tests::setting;
use mcp_auth_tests::wait::until;
use mcp_auth_tests::world::World;
use serde_json::json;

use crate::CERTIFICATE_SECRET;

#[tokio::test]
async fn a_lost_or_spoilt_certificate_secret_is_restored() {
    let world = World::new("certificates-lost", false).await;
    let namespace = setting("MCPAUTH_TEST_OPERATOR_NAMESPACE");
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), &namespace);
    let name = "mcp-auth-operator-tls";
    let _alone = CERTIFICATE_SECRET.write().await;
    let before = secrets.get(name).await.unwrap();
    secrets.delete(name, &DeleteParams::default()).await.unwrap();
    let look = async || secrets.get_opt(name).await.unwrap();
    let after = until("the Secret to be there again", look, Option::is_some)
        .await
        .unwrap();
    assert_ne!(after.metadata.uid, before.metadata.uid, "it is another object");
    let [before, after] = [before, after].map(|secret| secret.data.unwrap());
    assert!(before == after, "every sidecar and the API server trust it on");

    // What is spoilt is written over.
    let spoilt = json!({"stringData": {"ca.key": "spoilt"}});
    secrets
        .patch(name, &PatchParams::default(), &Patch::Merge(&spoilt))
        .await
        .unwrap();
    let look = async || secrets.get(name).await.unwrap().data.unwrap();
    until("the key of the authority to be there again", look, |data| {
        *data == before
    })
    .await;

    let configurations: Api<MutatingWebhookConfiguration> = Api::all(world.client.clone());
    let configuration = configurations.get("mcp-auth").await.unwrap();
    for webhook in configuration.webhooks.into_iter().flatten() {
        assert_eq!(webhook.client_config.ca_bundle.as_ref(), after.get("ca.crt"));
    }
}
