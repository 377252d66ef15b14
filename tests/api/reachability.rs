//! What sidecars learn of MCP servers, in the status.

use kube::ResourceExt;
use mcp_auth_crds::{McpServerAuth, conditions, reasons};
use mcp_auth_protocol::reachability::{Reachability, ServerReachability};
use mcp_auth_tests::resource::resource;
use mcp_auth_tests::sidecar::{Sidecar, bearer, learned};
use mcp_auth_tests::wait::until;
use mcp_auth_tests::world::{World, message};
use serde_json::{Value, json};

fn given(name: &str) -> Value {
    let spec = json!({"bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}}});
    resource(name, name, spec)
}

/// A pod with a sidecar that uses the newest state of both resources.
async fn synced(world: &World) -> Sidecar {
    world.secret("token", "token", "t0ken").await;
    for name in ["tools", "mail"] {
        world.apply(&given(name)).await.unwrap();
    }
    let labels = json!({"app.kubernetes.io/name": "litellm"});
    let pod = world.pod("litellm-0", labels).await;
    let mut sidecar = Sidecar::in_pod(world, &pod).await;
    let has_both = |snapshot: &_| {
        ["tools", "mail"]
            .iter()
            .all(|name| bearer(snapshot, name).is_some())
    };
    let snapshot = sidecar.until(has_both).await;
    sidecar.say(|report| report.applied = Some(snapshot.revision));
    sidecar
}

#[tokio::test]
async fn ready_is_false_while_a_sidecar_cannot_reach_the_server_and_the_status_says_why() {
    let world = World::new("reachability-told", false).await;
    let mut sidecar = synced(&world).await;
    let status = world
        .condition("tools", conditions::READY, "True", reasons::READY)
        .await;
    assert!(
        message(&status, conditions::READY).contains("none has spoken to the server yet"),
        "{status:#?}"
    );

    let untrusted = Reachability::CertificateNotTrusted;
    sidecar.say(|report| {
        let detail = "invalid peer certificate: UnknownIssuer".into();
        report.reachability = vec![
            learned("mail", Reachability::Answered),
            ServerReachability {
                detail,
                ..learned("tools", untrusted)
            },
        ];
    });
    let status = world
        .condition("tools", conditions::READY, "False", untrusted.reason())
        .await;
    let said = message(&status, conditions::SERVER_REACHABLE);
    for part in ["pod litellm-0", "UnknownIssuer", "spec.server.tls.caBundle"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let events = until(
        "an event about the certificate",
        async || world.events("tools").await,
        |events| events.iter().any(|(reason, _)| reason == untrusted.reason()),
    );
    events.await;
    let mail = world
        .condition("mail", conditions::READY, "True", reasons::READY)
        .await;
    assert!(
        message(&mail, conditions::READY).contains("LiteLLM reaches mail"),
        "one server's fault is not another's: {mail:#?}"
    );

    sidecar.say(|report| {
        report.reachability = vec![
            learned("mail", Reachability::Answered),
            learned("tools", Reachability::Answered),
        ];
    });
    let answered = Reachability::Answered.reason();
    world
        .condition("tools", conditions::SERVER_REACHABLE, "True", answered)
        .await;
}

#[tokio::test]
async fn a_report_that_says_nothing_new_of_a_server_writes_no_status() {
    let world = World::new("reachability-at-rest", false).await;
    let mut sidecar = synced(&world).await;
    let answered = Reachability::Answered;
    sidecar.say(|report| report.reachability = vec![learned("tools", answered)]);
    world
        .condition("tools", conditions::SERVER_REACHABLE, "True", answered.reason())
        .await;
    world
        .condition("tools", conditions::READY, "True", reasons::READY)
        .await;
    let version = async || {
        let tools = world.api::<McpServerAuth>().get("tools").await.unwrap();
        tools.resource_version().unwrap()
    };
    let before = version().await;
    for state in [
        Reachability::NameNotResolved,
        Reachability::Connected,
        Reachability::Unavailable,
    ] {
        let holds = if state.is_reachable() == Some(true) {
            "True"
        } else {
            "False"
        };
        sidecar.say(|report| {
            report.reachability = vec![learned("mail", state), learned("tools", answered)];
        });
        world
            .condition("mail", conditions::SERVER_REACHABLE, holds, state.reason())
            .await;
    }
    assert_eq!(version().await, before);
}
