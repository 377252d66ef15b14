//! What a registry of charts reads: Chart.yaml, and the annotations of Artifact Hub in it.

use mcp_auth_crds::admission::Admission;
use mcp_auth_tests::chart::chart;
use serde_json::Value;

/// The words that Artifact Hub knows.
const CAPABILITIES: [&str; 5] = [
    "Basic Install",
    "Seamless Upgrades",
    "Full Lifecycle",
    "Deep Insights",
    "Auto Pilot",
];

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

fn file(name: &str) -> Value {
    yaml(&std::fs::read_to_string(format!("{}/{name}", chart())).unwrap())
}

fn annotation(metadata: &Value, name: &str) -> String {
    let value = metadata["annotations"][format!("artifacthub.io/{name}")].as_str();
    value.unwrap_or_else(|| panic!("there is no {name}")).to_owned()
}

#[test]
fn the_annotations_of_artifact_hub_tell_the_definition_that_is_installed() {
    let (metadata, definition) = (file("Chart.yaml"), file("files/mcpserverauths.yaml"));
    let told = yaml(&annotation(&metadata, "crds"));
    assert_eq!(told.as_array().unwrap().len(), 1);
    assert_eq!(told[0]["name"], definition["metadata"]["name"]);
    assert_eq!(told[0]["kind"], definition["spec"]["names"]["kind"]);
    assert_eq!(told[0]["version"], definition["spec"]["versions"][0]["name"]);
    let capabilities = annotation(&metadata, "operatorCapabilities");
    assert!(CAPABILITIES.contains(&capabilities.as_str()), "{capabilities}");
    for flag in ["operator", "prerelease"] {
        assert!(["true", "false"].contains(&annotation(&metadata, flag).as_str()));
    }
}

#[test]
fn the_example_of_artifact_hub_is_taken_by_the_definitions_schema_and_rules() {
    let examples = yaml(&annotation(&file("Chart.yaml"), "crdsExamples"));
    let examples = examples.as_array().unwrap();
    assert!(!examples.is_empty());
    let admission = Admission::new();
    for example in examples {
        let answer = admission.admit(example);
        assert!(answer.is_ok(), "{answer:?}");
    }
}

#[test]
fn the_version_of_the_application_is_that_of_the_programs() {
    assert_eq!(file("Chart.yaml")["appVersion"], env!("CARGO_PKG_VERSION"));
}
