//! Namespaces with pods and resources.

use std::ops::Range;

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{Api, ListParams, ResourceExt};
use mcp_auth_protocol::pod::AUDIENCE;
use mcp_auth_tests::resource::{merge, oauth2, resource};
use mcp_auth_tests::setting;
use mcp_auth_tests::sidecar::request_token;
use mcp_auth_tests::world::World;
use serde_json::json;

use crate::token_endpoint::TokenEndpoints;

/// Requests of this program to the API server at once.
const CONCURRENCY: usize = 24;
/// Longer than any run.
const TOKEN_SECONDS: u32 = 12 * 3600;

/// A pod, and the token that the kubelet would mount in it.
pub struct PodWithToken {
    pub pod: Pod,
    pub token: String,
}

/// Resources with these numbers in the namespace, each with a Secret of its own. `first` is the number of its first resource among all.
pub async fn resources(world: &World, numbers: Range<usize>, first: usize, endpoints: &TokenEndpoints) {
    let create = |index: usize| async move {
        let (name, secret) = (format!("tools-{index:03}"), format!("oauth-{index:03}"));
        world
            .secret(&secret, "client-secret", "scale-client-s3cret")
            .await;
        let mut spec = oauth2(&endpoints.url(first + index));
        let reference = json!({"name": secret, "key": "client-secret"});
        merge(
            &mut spec,
            json!({
                "oauth2": {"clientAuthentication": {"clientSecretRef": reference}},
                "cookiePassthrough": {"enabled": true, "cookieNames": ["session_id", "user_id"]},
            }),
        );
        world
            .apply(&resource(&name, &server_name(index), spec))
            .await
            .unwrap();
    };
    stream::iter(numbers)
        .map(create)
        .buffer_unordered(CONCURRENCY)
        .for_each(async |()| {})
        .await;
}

/// Of the MCP server of the resource with this number in its namespace.
pub fn server_name(index: usize) -> String {
    format!("tools_{index:03}")
}

/// The pods with these numbers.
pub async fn pods_from(world: &World, from: usize, to: usize) -> Vec<PodWithToken> {
    let create = |index: usize| async move {
        let labels = json!({"app.kubernetes.io/name": "litellm", "app.kubernetes.io/instance": "litellm",
                            "pod-template-hash": "6d5f8c7b9c"});
        let pod = world.pod(&format!("litellm-6d5f8c7b9c-{index:04}"), labels).await;
        let accounts: Api<ServiceAccount> = world.api();
        let token = request_token(&accounts, "default", AUDIENCE, Some(&pod), TOKEN_SECONDS).await;
        PodWithToken { pod, token }
    };
    stream::iter(from..to)
        .map(create)
        .buffer_unordered(CONCURRENCY)
        .collect()
        .await
}

/// A kubeconfig with the rights of the operator and no more.
pub async fn operator_kubeconfig(world: &World) -> String {
    let accounts: Api<ServiceAccount> = world.api();
    let all = accounts.list(&ListParams::default()).await.unwrap();
    let account = all
        .iter()
        .map(ResourceExt::name_any)
        .find(|name| name != "default");
    let account = account.expect("the chart has a ServiceAccount");
    let audience = "https://kubernetes.default.svc";
    let token = request_token(&accounts, &account, audience, None, TOKEN_SECONDS).await;
    let administrator = setting("KUBECONFIG");
    let text = std::fs::read_to_string(&administrator).unwrap();
    let (before, rest) = text.split_once("token: ").expect("a token");
    let (_, after) = rest.split_once("}}").expect("the form that the script writes");
    // Beside it, since it names files by relative paths.
    let path = format!("{administrator}-scale");
    std::fs::write(&path, format!("{before}token: {token}}}}}{after}")).unwrap();
    path
}

/// So many namespaces, each named by its number.
pub async fn namespaces(count: usize) -> Vec<World> {
    stream::iter(0..count)
        .map(async |index| World::new(&format!("scale-{index:03}"), false).await)
        .buffered(4)
        .collect()
        .await
}
