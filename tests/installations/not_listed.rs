//! A namespace whose resources the operator may not list, as after its Role was deleted: of what it has nobody knows anything, and
//! nobody is told that it has nothing.

use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use mcp_auth_protocol::pod::AUDIENCE;
use mcp_auth_tests::admission_review::admission_review;
use mcp_auth_tests::resource::resource;
use mcp_auth_tests::sidecar::{Refused, Sidecar, bearer, report, token};
use mcp_auth_tests::wait::until;
use mcp_auth_tests::world::World;
use reqwest::{Client, StatusCode};
use serde_json::json;

use crate::installation::{Installation, litellm};

/// A namespace with a server.
async fn namespace(name: &str) -> World {
    let world = World::new(name, false).await;
    world.secret("token", "token", "t0ken").await;
    let given = json!({"bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}}});
    world.apply(&resource("tools", "tools", given)).await.unwrap();
    world
}

/// The operator's certificate is not what this test is about.
fn client() -> Client {
    Client::builder()
        .tls_danger_accept_invalid_certs(true)
        .local_address(IpAddr::V4(Ipv4Addr::LOCALHOST))
        .build()
        .unwrap()
}

/// Connects as a sidecar of the namespace.
async fn connect(installation: &Installation, world: &World) -> Result<Sidecar, Refused> {
    let pod = world
        .pod("litellm-0", json!({"app.kubernetes.io/name": "litellm"}))
        .await;
    let token = token(world, AUDIENCE, Some(&pod)).await;
    let sidecar = Sidecar::connect_to(&installation.url(), &client(), Some(&token), report(&pod)).await;
    world.delete::<k8s_openapi::api::core::v1::Pod>("litellm-0").await;
    sidecar
}

/// How the webhook answers for a pod of the namespace.
async fn reviewed(installation: &Installation, world: &World) -> StatusCode {
    let review = admission_review(&world.namespace, &litellm("litellm"));
    let url = format!("{}/v1/inject", installation.url());
    let answer = client().post(url).body(review.to_string()).send().await;
    answer.unwrap().status()
}

#[tokio::test]
async fn a_namespace_that_may_not_be_listed_is_answered_by_503_and_the_other_is_served() {
    let (known, unknown) = (namespace("listed").await, namespace("not-listed").await);
    let values = json!({"watchNamespaces": ["listed", "not-listed"]});
    let installation = Installation::new("not-listed-operator", values).await;
    let bindings = unknown.api::<RoleBinding>();
    let taken = bindings.list(&ListParams::default()).await.unwrap().items;
    assert!(
        !taken.is_empty(),
        "the chart binds a Role in each watched namespace"
    );
    for binding in &taken {
        bindings
            .delete(&binding.name_any(), &DeleteParams::default())
            .await
            .unwrap();
    }
    let replica = installation.start(&[]).await;
    replica.until_ready().await;

    let mut sidecar = connect(&installation, &known).await.unwrap();
    sidecar
        .until(|snapshot| bearer(snapshot, "tools").as_deref() == Some("t0ken"))
        .await;
    assert_eq!(reviewed(&installation, &known).await, StatusCode::OK);
    let refused = connect(&installation, &unknown).await.err().unwrap();
    assert_eq!((refused.status, &*refused.problem.reason), (503, "NotListed"));
    assert_eq!(
        reviewed(&installation, &unknown).await,
        StatusCode::SERVICE_UNAVAILABLE
    );

    for name in taken.iter().map(ResourceExt::name_any) {
        installation.apply_again("RoleBinding", &name, "not-listed").await;
    }
    let status = async || reviewed(&installation, &unknown).await;
    until("the namespace to be listed", status, |status| {
        *status == StatusCode::OK
    })
    .await;
    let mut sidecar = connect(&installation, &unknown).await.unwrap();
    sidecar
        .until(|snapshot| bearer(snapshot, "tools").as_deref() == Some("t0ken"))
        .await;
}
