use serde_json::{Value, json};

use super::*;

fn resource(name: &str, created: Option<&str>, url: &str) -> Arc<McpServerAuth> {
    let mut value = json!({
        "apiVersion": "mcpauth.dev/v1alpha1", "kind": "McpServerAuth",
        "metadata": {"name": name, "namespace": "llm"},
        "spec": {"server": {"name": "tools", "url": url},
            "bearerToken": {"secretKeyRef": {"name": "tools", "key": "token"}}},
    });
    if let Some(created) = created {
        value["metadata"]["creationTimestamp"] = json!(created);
    }
    Arc::new(serde_json::from_value(value).unwrap())
}

fn webhook(config: Value) -> MutatingWebhookConfiguration {
    let value = json!({
        "metadata": {"name": "mcp-auth", "labels": {"app.kubernetes.io/version": "9.9.9"}},
        "webhooks": [{"name": "namespace.inject.mcpauth.dev", "clientConfig": config,
            "admissionReviewVersions": ["v1"], "sideEffects": "None"}],
    });
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_file_stands_for_the_next_version_of_a_resource_and_one_that_is_new_is_the_youngest() {
    let mut of_files = vec![
        resource("changed", None, "https://new.example.com/mcp"),
        resource("added", None, "https://added.example.com/mcp"),
    ];
    let of_cluster = vec![
        resource(
            "changed",
            Some("2026-01-01T00:00:00Z"),
            "https://old.example.com/mcp",
        ),
        resource(
            "other",
            Some("2026-02-01T00:00:00Z"),
            "https://other.example.com/mcp",
        ),
    ];
    add(&mut of_files, of_cluster);
    let names: Vec<String> = of_files.iter().map(|resource| resource.name_any()).collect();
    assert_eq!(names, ["changed", "added", "other"]);
    assert_eq!(of_files[0].spec.server.url, "https://new.example.com/mcp");
    let created = |index: usize| {
        of_files[index]
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|time| time.0)
    };
    assert!(created(0) < created(2) && created(2) < created(1), "{of_files:?}");
}

#[test]
fn the_operator_is_where_the_webhook_configuration_leads_to() {
    let otherwise = OperatorEndpoint {
        url: "https://elsewhere".to_owned(),
        ca: "unknown".to_owned(),
        version: "0.0.0".to_owned(),
    };
    let service = json!({"service": {"name": "o", "namespace": "ops", "port": 443}, "caBundle": "Q0E="});
    let found = endpoint(Some(&webhook(service)), otherwise.clone());
    let (url, ca, version) = (found.url.as_str(), found.ca.as_str(), found.version.as_str());
    assert_eq!((url, ca, version), ("https://o.ops.svc:443", "CA", "9.9.9"));
    let url = json!({"url": "https://operator.example.com:8443/v1/inject"});
    let found = endpoint(Some(&webhook(url)), otherwise.clone());
    assert_eq!(found.url, "https://operator.example.com:8443");
    assert_eq!(found.ca, "unknown", "what is not known stays");
    assert_eq!(endpoint(None, otherwise.clone()), otherwise);
}
