//! The keys of values.yaml and of values.schema.json are the same, and no others are taken.

use mcp_auth_tests::chart::{Case, chart, helm_programs};
use serde_json::{Map, Value, json};

/// Taken, and nothing that anybody sets: for charts that depend on this one.
const ONLY_IN_THE_SCHEMA: [&str; 1] = ["/enabled"];
/// Types of Kubernetes and cert-manager, of which values.yaml has what it sets.
const KUBERNETES_TYPES: [&str; 11] = [
    "/certificates/certManager/privateKey",
    "/helmTest/resources",
    "/operator/livenessProbe",
    "/operator/readinessProbe",
    "/operator/resources",
    "/operator/startupProbe",
    "/operator/strategy",
    "/sidecar/resources",
    "/sidecar/securityContext",
    "/webhook/namespaceSelector",
    "/webhook/objectSelector",
];

#[test]
fn the_schema_knows_the_keys_of_the_values_and_no_others() {
    let mut in_schema = Vec::new();
    let schema: Value = serde_json::from_str(&file("values.schema.json")).unwrap();
    schema_keys(&schema, &schema, "", &mut in_schema);
    in_schema.retain(|key| !ONLY_IN_THE_SCHEMA.contains(&key.as_str()));
    let mut in_values = Vec::new();
    // Below what the schema leaves open, keys are the user's.
    value_keys(&values(), "", &in_schema, &mut in_values);
    in_schema.sort();
    in_values.sort();
    assert_eq!(in_schema, in_values);
}

#[test]
fn an_unknown_key_is_refused_by_name_at_every_level() {
    let mut folders = Vec::new();
    let schema: Value = serde_json::from_str(&file("values.schema.json")).unwrap();
    closed_objects(&schema, &schema, "", &mut folders);
    assert!(folders.len() > 20, "{folders:?}");
    let helm = &helm_programs()[0];
    for folder in folders {
        let mut values = json!({"misspelt": true});
        for key in folder.split('/').rev().filter(|key| !key.is_empty()) {
            values = Value::Object(Map::from_iter([(key.to_owned(), values)]));
        }
        let error = Case::with_values(values)
            .rendered(helm)
            .expect_err(&format!("{folder} takes any key"));
        assert!(
            error.contains("misspelt") && error.contains(&format!("at '{folder}'")),
            "{folder}: {error}"
        );
    }
}

fn file(name: &str) -> String {
    std::fs::read_to_string(format!("{}/{name}", chart())).unwrap()
}

fn values() -> Value {
    serde_saphyr::from_str(&file("values.yaml")).unwrap()
}

fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(reference) => root.pointer(reference.trim_start_matches('#')).unwrap(),
        None => schema,
    }
}

/// Paths of all properties that the schema names, in objects that take no others.
fn schema_keys(root: &Value, schema: &Value, path: &str, keys: &mut Vec<String>) {
    for (name, property) in resolve(root, schema)["properties"]
        .as_object()
        .into_iter()
        .flatten()
    {
        let path = format!("{path}/{name}");
        if !KUBERNETES_TYPES.contains(&path.as_str()) {
            schema_keys(root, property, &path, keys);
        }
        keys.push(path);
    }
}

/// Paths of all keys in objects whose properties the schema names.
fn value_keys(value: &Value, path: &str, in_schema: &[String], keys: &mut Vec<String>) {
    let is_closed = path.is_empty() || in_schema.iter().any(|key| key.starts_with(&format!("{path}/")));
    if !is_closed {
        return;
    }
    for (name, value) in value.as_object().into_iter().flatten() {
        let path = format!("{path}/{name}");
        value_keys(value, &path, in_schema, keys);
        keys.push(path);
    }
}

/// Paths of all objects that take no unknown keys.
fn closed_objects(root: &Value, schema: &Value, path: &str, found: &mut Vec<String>) {
    let schema = resolve(root, schema);
    if schema["additionalProperties"] == false {
        found.push(path.to_owned());
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        closed_objects(root, property, &format!("{path}/{name}"), found);
    }
}
