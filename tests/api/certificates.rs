//! The operator's own certificates, in the Secret that its replicas share.

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use mcp_auth_tests::replica::{ANY_ADDRESS, Operator};
use mcp_auth_tests::resource::{merge, resource};
use mcp_auth_tests::setting;
use mcp_auth_tests::sidecar_process::{Endpoint, OperatorEndpoint, SidecarProcess};
use mcp_auth_tests::wait::until;
use mcp_auth_tests::web::Web;
use mcp_auth_tests::world::World;
use reqwest::{Certificate, Client};
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

/// The authority and the key of another installation, as when its backup was restored here.
async fn another_authority(world: &World) -> Secret {
    let other = Operator {
        namespace: world.namespace.clone(),
        watched_namespace: world.namespace.clone(),
        lease: "certificates-other".into(),
        certificate_secret: "other-tls".into(),
        url: None,
        program: None,
        arguments: vec![ANY_ADDRESS.into()],
    };
    let mut replica = other.start("other", None, None).await;
    assert!(replica.terminate().await);
    world.api::<Secret>().get("other-tls").await.unwrap()
}

fn text(secret: &Secret, key: &str) -> String {
    let ByteString(bytes) = &secret.data.as_ref().unwrap()[key];
    String::from_utf8(bytes.clone()).unwrap()
}

/// Whether a client that trusts this authority alone is answered.
async fn is_trusted_by(authority: &str, url: &str) -> bool {
    let authority = Certificate::from_pem(authority.as_bytes()).unwrap();
    let client = Client::builder().tls_certs_only([authority]).build().unwrap();
    client.get(url).send().await.is_ok()
}

/// What the MCP server gets as `Authorization` of a call through the sidecar.
async fn authorization(endpoint: &Endpoint) -> String {
    let mut request = Client::new()
        .post(&endpoint.url)
        .body(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#);
    for (name, value) in &endpoint.static_headers {
        request = request.header(name, value);
    }
    request.send().await.unwrap().text().await.unwrap()
}

#[tokio::test]
async fn a_running_sidecar_stays_connected_when_the_authority_is_replaced_by_another() {
    let world = World::new("certificates-replaced", false).await;
    let folder = tempfile::tempdir().unwrap();
    let server = Web::start().await;
    server.by_request("/mcp", |request| {
        ("200 OK", json!(request.header("authorization")))
    });
    world.secret("token", "token", "t0ken-1").await;
    let given = json!({"bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}}});
    let mut tools = resource("tools", "tools", given);
    let url = format!("{}/mcp", server.url);
    merge(
        &mut tools["spec"]["server"],
        json!({"url": url, "allowInsecureHttp": true}),
    );
    world.apply(&tools).await.unwrap();

    let operator = Operator {
        namespace: world.namespace.clone(),
        watched_namespace: world.namespace.clone(),
        lease: "certificates-replaced".into(),
        certificate_secret: "replaced-tls".into(),
        url: None,
        program: None,
        arguments: vec![ANY_ADDRESS.into(), "--longest-stream-seconds=5".into()],
    };
    let log = folder.path().join("operator.log");
    let replica = operator.start("replaced", None, Some(&log)).await;
    replica.until_leads().await;
    let secrets: Api<Secret> = world.api();
    let before = text(&secrets.get("replaced-tls").await.unwrap(), "ca.crt");
    let endpoint = OperatorEndpoint {
        url: format!("https://{}", replica.address),
        authority: before.clone(),
    };
    let program = setting("MCPAUTH_TEST_SIDECAR_BINARY");
    let at = ("tools", folder.path());
    let sidecar = SidecarProcess::start_at(&endpoint, &program, &world, "litellm-0", at).await;
    assert_eq!(authorization(&sidecar.endpoint).await, "\"Bearer t0ken-1\"");

    let another = another_authority(&world).await;
    let mut replaced = secrets.get("replaced-tls").await.unwrap();
    replaced.data.clone_from(&another.data);
    secrets
        .replace("replaced-tls", &PostParams::default(), &replaced)
        .await
        .unwrap();
    let authority = text(&another, "ca.crt");
    let served = async || is_trusted_by(&authority, &endpoint.url).await;
    until(
        "a certificate of the other authority to be served",
        served,
        |served| *served,
    )
    .await;
    assert!(
        !is_trusted_by(&before, &endpoint.url).await,
        "who knows the first one alone is locked out"
    );

    // A stream ends after five seconds, so that the next one is by the new certificate.
    let connections = || {
        std::fs::read_to_string(&log)
            .unwrap()
            .matches("sidecar connected")
            .count()
    };
    let so_far = connections();
    until("another stream", async || connections(), |count| *count > so_far).await;
    world.secret("token", "token", "t0ken-2").await;
    let authorization = async || authorization(&sidecar.endpoint).await;
    until("the new token", authorization, |value| {
        value == "\"Bearer t0ken-2\""
    })
    .await;
}
