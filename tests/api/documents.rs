//! What documents and examples show, applied to a real API server.

use std::collections::BTreeSet;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{Scope, pinned_kind};
use mcp_auth_crds::McpServerAuth;
use mcp_auth_tests::documents::{examples, pages, read};
use mcp_auth_tests::resource::{merge, oauth2, resource};
use mcp_auth_tests::setting;
use mcp_auth_tests::wait::until;
use mcp_auth_tests::world::World;
use serde_json::{Value, json};
use tokio::process::Command;

/// As `kubectl apply --dry-run=server --validate=strict`: a field that there is not is an error.
fn dry_run() -> PatchParams {
    PatchParams::apply("documents").dry_run().validation_strict()
}

/// Names of the fields of `spec`, or of the object of it at this pointer.
fn fields(pointer: &str) -> BTreeSet<String> {
    let schema = McpServerAuth::crd().spec.versions[0].schema.clone();
    let schema = serde_json::to_value(schema).unwrap();
    let properties = &schema["openAPIV3Schema"]["properties"]["spec"];
    let properties = properties.pointer(&format!("{pointer}/properties")).unwrap();
    properties.as_object().unwrap().keys().cloned().collect()
}

/// What pages show of other files than ours, by its first level: LiteLLM's configuration, and Argo CD's.
const OF_OTHERS: [&str; 2] = [
    "mcp_servers",
    "resource.customizations.health.mcpauth.dev_McpServerAuth",
];

/// Whether a block is of something else than a resource: an object of another kind, values of the chart, or a file of others.
fn is_of_others(value: &Value, keys: &BTreeSet<String>) -> bool {
    let is_object = value["apiVersion"]
        .as_str()
        .is_some_and(|version| value["kind"].is_string() && !version.starts_with("mcpauth.dev/"));
    let values = read("charts/mcp-auth/values.yaml").yaml().swap_remove(0);
    let is_known = |key: &String| values.get(key).is_some() || OF_OTHERS.contains(&&**key);
    is_object || keys.iter().all(is_known)
}

/// The whole resource that a page shows, or one around the part of a resource that it shows; none where it shows
/// something else that is known. An error: nobody would notice that it is wrong.
fn shown(value: &Value) -> Result<Option<Value>, String> {
    if value["kind"] == "McpServerAuth" {
        return Ok(Some(value.clone()));
    }
    let Some(object) = value.as_object() else {
        return Err(format!("it is no object: {value}"));
    };
    let keys: BTreeSet<String> = object.keys().cloned().collect();
    let mut around = resource("part", "part", oauth2("http://auth.example.com/token"));
    if keys.is_subset(&fields("/properties/oauth2")) {
        for (key, part) in object {
            around["spec"]["oauth2"][key] = part.clone();
        }
    } else if keys.is_subset(&fields("")) {
        merge(&mut around["spec"], value.clone());
    } else if keys.iter().eq(["spec"]) {
        merge(&mut around, value.clone());
    } else if is_of_others(value, &keys) {
        return Ok(None);
    } else {
        return Err(format!(
            "{keys:?} are neither fields of spec nor of spec.oauth2, nor those of a file that is known"
        ));
    }
    if ["bearerToken", "githubApp"]
        .iter()
        .any(|source| around["spec"].get(source).is_some())
    {
        around["spec"].as_object_mut().unwrap().remove("oauth2");
    }
    Ok(Some(around))
}

#[tokio::test]
async fn every_resource_and_part_of_one_that_a_page_shows_is_taken_by_the_api_server() {
    let world = World::new("documents", false).await;
    let api: Api<McpServerAuth> = world.api();
    let mut applied = 0;
    for page in pages() {
        let shown =
            |value: &Value| shown(value).unwrap_or_else(|error| panic!("{}: {error}\n{value}", page.path));
        for mut resource in page.yaml().iter().filter_map(shown) {
            // The test's own namespace instead of the one that is shown.
            resource["metadata"].as_object_mut().unwrap().remove("namespace");
            let name = resource["metadata"]["name"].as_str().unwrap().to_owned();
            let answer = api.patch(&name, &dry_run(), &Patch::Apply(&resource)).await;
            assert!(answer.is_ok(), "{}: {answer:?}\n{resource}", page.path);
            applied += 1;
        }
    }
    assert!(applied >= 25, "{applied} resources were found");
    // This would not go unnoticed.
    let misspelt = shown(&json!({"cookiePassthrough": {"enabled": true, "cookieName": ["session"]}}));
    let misspelt = misspelt.unwrap().unwrap();
    let answer = api.patch("part", &dry_run(), &Patch::Apply(&misspelt)).await;
    assert!(answer.is_err(), "{answer:?}");
    // Nor this.
    for misspelt in [
        json!({"cookiePasthrough": {"enabled": true}}),
        json!({"issuer": "https://auth.example.com", "cookiePassthrough": {}}),
        json!({"apiVersion": "mcpauth.dev/v1alpha1", "kind": "McpServerAuht"}),
        json!(["issuer"]),
    ] {
        assert!(shown(&misspelt).is_err(), "{misspelt}");
    }
}

#[tokio::test]
async fn every_example_is_taken_by_the_api_server() {
    let world = World::new("examples", false).await;
    let definitions: Api<CustomResourceDefinition> = Api::all(world.client.clone());
    // Of other projects, whose programs are not here: the fields that the examples use, and no others.
    for definition in read("tests/api/other_kinds.yaml").yaml() {
        let name = definition["metadata"]["name"].as_str().unwrap();
        let parameters = PatchParams::apply("documents").force();
        definitions
            .patch(name, &parameters, &Patch::Apply(&definition))
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let mut applied = 0;
    for example in examples() {
        for object in example.yaml() {
            let answer = apply(&world, &object).await;
            assert!(answer.is_ok(), "{}: {answer:?}\n{object}", example.path);
            applied += 1;
        }
    }
    assert!(applied >= 25, "{applied} objects were found");
    let misspelt = json!({
        "apiVersion": "external-secrets.io/v1",
        "kind": "ExternalSecret",
        "metadata": {"name": "misspelt", "namespace": "llm"},
        "spec": {"refreshIntervall": "5m"},
    });
    let answer = apply(&world, &misspelt).await;
    assert!(answer.is_err(), "{answer:?}");
}

/// Applies an object of any kind for show, in the test's own namespace.
async fn apply(world: &World, object: &Value) -> kube::Result<DynamicObject> {
    let mut object: DynamicObject = serde_json::from_value(object.clone()).expect("an object");
    let types = object.types.clone().expect("apiVersion and kind");
    let kind = GroupVersionKind::try_from(&types).expect("apiVersion and kind");
    // A kind that was just defined is served a moment later.
    let (known, capabilities) = until(
        &format!("{} is served", types.kind),
        async || pinned_kind(&world.client, &kind).await.ok(),
        Option::is_some,
    )
    .await
    .expect("it is served");
    let api: Api<DynamicObject> = if capabilities.scope == Scope::Namespaced {
        object.metadata.namespace = Some(world.namespace.clone());
        Api::namespaced_with(world.client.clone(), &world.namespace, &known)
    } else {
        Api::all_with(world.client.clone(), &known)
    };
    let name = object.metadata.name.clone().expect("a name");
    api.patch(&name, &dry_run(), &Patch::Apply(&object)).await
}

#[tokio::test]
async fn the_litellm_of_the_example_without_a_chart_gets_the_sidecar() {
    let example = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../examples/litellm-without-chart.yaml"
    );
    let output = Command::new(setting("MCPAUTH_TEST_OPERATOR_PROGRAM"))
        .args(["inject", "--file", example, "--resources", example])
        .output()
        .await
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.contains("# decision: injected\n"), "{printed}");
}
