//! Namespaces with pods and resources.

use futures::{StreamExt, TryStreamExt, stream};
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

/// A namespace with so many resources, each with a Secret of its own. `first` is the number of its first resource.
pub async fn namespace(name: &str, resources: usize, first: usize, endpoints: &TokenEndpoints) -> World {
    let world = World::new(name, false).await;
    let world_ref = &world;
    let create = |index: usize| async move {
        let (name, secret) = (format!("tools-{index:03}"), format!("oauth-{index:03}"));
        world_ref
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
        world_ref
            .apply(&resource(&name, &server_name(index), spec))
            .await
            .unwrap();
    };
    stream::iter(0..resources)
        .map(create)
        .buffer_unordered(CONCURRENCY)
        .for_each(async |()| {})
        .await;
    world
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

/// Namespaces of this name and a number, a few at a time.
pub async fn namespaces(count: usize, resources: usize, endpoints: &TokenEndpoints) -> Vec<World> {
    let make = |index: usize| async move {
        let name = format!("scale-{index:03}");
        Ok::<_, std::convert::Infallible>(namespace(&name, resources, index * resources, endpoints).await)
    };
    let worlds = stream::iter(0..count).map(make).buffered(4).try_collect().await;
    worlds.unwrap_or_default()
}
