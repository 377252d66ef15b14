//! The resources that the documents show, applied to a real API server.

use std::path::Path;

use kube::api::{Api, Patch, PatchParams};
use mcp_auth_crds::McpServerAuth;
use mcp_auth_tests::world::World;
use serde_json::Value;

/// The resources of a document, as they are written: a field that there is not must not be lost on the way.
fn resources(document: &str) -> Vec<Value> {
    let blocks = document.split("```yaml\n").skip(1);
    let blocks = blocks.filter_map(|rest| rest.split("```").next()).map(dedent);
    let objects = blocks.flat_map(|block| block.split("\n---\n").map(str::to_owned).collect::<Vec<_>>());
    objects
        .filter(|object| object.contains("kind: McpServerAuth"))
        .map(|object| serde_saphyr::from_str(&object).unwrap_or_else(|error| panic!("{error}:\n{object}")))
        .collect()
}

/// A block in a list is indented as a whole.
fn dedent(block: &str) -> String {
    let indentation = block.len() - block.trim_start_matches(' ').len();
    let lines = block.lines();
    let lines = lines.map(|line| line.get(indentation..).unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

fn documents() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let pages = std::fs::read_dir(root.join("docs/providers")).unwrap();
    let mut paths: Vec<_> = pages.map(|page| page.unwrap().path()).collect();
    paths.push(root.join("README.md"));
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    paths
        .iter()
        .map(|path| (path.display().to_string(), read(path)))
        .collect()
}

#[tokio::test]
async fn every_resource_that_the_providers_pages_and_the_readme_show_is_taken_by_the_api_server() {
    let world = World::new("documents", false).await;
    let api: Api<McpServerAuth> = world.api();
    let dry_run = PatchParams::apply("documents").dry_run().validation_strict();
    let mut applied = 0;
    for (path, document) in documents() {
        for mut resource in resources(&document) {
            // The test's own namespace instead of the one that is shown.
            resource["metadata"].as_object_mut().unwrap().remove("namespace");
            let name = resource["metadata"]["name"].as_str().unwrap().to_owned();
            let answer = api.patch(&name, &dry_run, &Patch::Apply(&resource)).await;
            assert!(answer.is_ok(), "{path}: {answer:?}");
            applied += 1;
        }
    }
    assert!(applied >= 9, "{applied} resources were found");
}
