//! What `kubectl apply` answers: the schema and its rules.

mod credentials;
mod servers;
mod taken;
mod users;

use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use mcp_auth_crds::McpServerAuth;
use mcp_auth_crds::admission::{Admission, Violation};
use mcp_auth_tests::resource::{merge, oauth2, resource};
use mcp_auth_tests::sidecar::{Sidecar, bearer};
use mcp_auth_tests::world::World;
use serde_json::{Value, json};

thread_local! {
    static ADMISSION: Admission = Admission::new();
}

/// The answer to a spec that is the good one but for these changes.
async fn apply(world: &World, changes: Value) -> Result<McpServerAuth, String> {
    let mut good = resource("good", "tools", oauth2("https://auth.example.com/token"));
    good["spec"]["oauth2"]["allowInsecureHttp"] = json!(false);
    merge(&mut good, json!({"spec": changes}));
    let answer = world.apply(&good).await.map_err(|error| error.to_string());
    is_answered_the_same_without_an_api_server(&good, &answer);
    answer
}

/// By `mcp-auth exec --resources`: the same verdict, the same defaults, and nothing that the API server does not say.
fn is_answered_the_same_without_an_api_server(resource: &Value, answer: &Result<McpServerAuth, String>) {
    // Server-side apply looks at these before the schema, and has words of its own for them.
    let by_server_side_apply = ["unknown field", "must be of type"];
    match (ADMISSION.with(|admission| admission.admit(resource)), answer) {
        (Ok(local), Ok(created)) => assert_eq!(local.spec, created.spec),
        (Err(violations), Err(message)) => {
            for violation in violations {
                let Violation { field, problem } = &violation;
                assert!(message.contains(field), "{violation} and {message}");
                let has_own_words = by_server_side_apply
                    .iter()
                    .any(|words| problem.starts_with(words));
                assert!(
                    has_own_words || message.contains(problem),
                    "{violation} and {message}"
                );
            }
        }
        (local, answer) => panic!("{resource}: {local:?}, and by the API server {answer:?}"),
    }
}

/// Each change makes the good resource one that is refused with this text, and none of them is stored.
async fn are_refused(world: &World, cases: &[(Value, &str)]) {
    for (changes, expected) in cases {
        let answer = apply(world, changes.clone()).await;
        let refusal = answer
            .map(|created| created.spec)
            .expect_err(&format!("{changes} is refused"));
        assert!(
            refusal.contains(expected),
            "{changes} is refused with {expected:?}: {refusal}"
        );
    }
    let left: Api<McpServerAuth> = world.api();
    assert!(left.list(&Default::default()).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn defaults_are_what_the_documentation_says() {
    let world = World::new("admission-defaults", false).await;
    let created = apply(&world, json!({})).await.unwrap();
    let spec = serde_json::to_value(&created.spec).unwrap();
    assert_eq!(spec["server"]["transport"], "StreamableHTTP");
    assert_eq!(spec["server"]["allowInsecureHttp"], false);
    assert_eq!(spec["oauth2"]["refreshBefore"], "33%");
    assert_eq!(spec["userContext"], "Optional");
    assert_eq!(
        spec["podSelector"],
        json!({"matchLabels": {"app.kubernetes.io/name": "litellm"}})
    );
}

/// The default would merge with labels that `kubectl apply` sends later, and the two together select nothing.
#[tokio::test]
async fn the_default_selector_is_not_stored_and_labels_given_later_take_its_place() {
    let world = World::new("admission-selector", false).await;
    let given = json!({"bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}}});
    world.secret("token", "token", "t0ken").await;
    world.apply(&resource("tools", "tools", given)).await.unwrap();
    // As it is stored: the type of this crate would apply the default.
    let kind = ApiResource::erase::<McpServerAuth>(&());
    let untyped: Api<DynamicObject> = Api::namespaced_with(world.client.clone(), "admission-selector", &kind);
    let stored = async || untyped.get("tools").await.unwrap().data["spec"]["podSelector"].clone();
    assert_eq!(stored().await, Value::Null);
    // The default is applied when the operator reads it.
    let pod = world
        .pod("litellm-0", json!({"app.kubernetes.io/name": "litellm"}))
        .await;
    let mut sidecar = Sidecar::in_pod(&world, &pod).await;
    sidecar
        .until(|snapshot| bearer(snapshot, "tools").is_some())
        .await;

    let api: Api<McpServerAuth> = world.api();
    let patch = json!({"spec": {"podSelector": {"matchLabels": {"app": "gateway"}}}});
    let params = PatchParams::default();
    api.patch("tools", &params, &Patch::Merge(&patch)).await.unwrap();
    assert_eq!(stored().await, json!({"matchLabels": {"app": "gateway"}}));
    sidecar.until(|snapshot| snapshot.servers.is_empty()).await;
}
