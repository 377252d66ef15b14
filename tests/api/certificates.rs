//! The operator's own certificates, in the Secret that its replicas share.

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
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

    // What something else restored, such as a backup, may be of another type and not whole.
    let mut restored = Secret {
        type_: Some("Opaque".to_owned()),
        data: Some(before.clone()),
        ..Secret::default()
    };
    restored.metadata.name = Some(name.to_owned());
    restored.metadata.labels = Some([("restored-by".to_owned(), "backup".to_owned())].into());
    restored.data.get_or_insert_default().remove("ca.key");
    let restore = async || {
        // The operator may be faster.
        let _ = secrets.delete(name, &DeleteParams::default()).await;
        secrets.create(&PostParams::default(), &restored).await.is_ok()
    };
    until(
        "the Secret to be restored by something else",
        restore,
        |restored| *restored,
    )
    .await;
    let look = async || secrets.get(name).await.unwrap();
    let healed = until("the restored Secret to be whole", look, |secret| {
        secret.data.as_ref() == Some(&before)
    })
    .await;
    assert_eq!(healed.type_.as_deref(), Some("Opaque"), "which nobody can change");
    assert_eq!(healed.metadata.labels, restored.metadata.labels);
    secrets.delete(name, &DeleteParams::default()).await.unwrap();
    let look = async || secrets.get_opt(name).await.unwrap();
    until(
        "the operator's own Secret to be there again",
        look,
        Option::is_some,
    )
    .await;

    let configurations: Api<MutatingWebhookConfiguration> = Api::all(world.client.clone());
    let configuration = configurations.get("mcp-auth").await.unwrap();
    for webhook in configuration.webhooks.into_iter().flatten() {
        assert_eq!(webhook.client_config.ca_bundle.as_ref(), after.get("ca.crt"));
    }
}
