//! Resources as users write them.

use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::world::World;

/// Client and Secret that [`oauth2`] names.
pub const CLIENT_ID: &str = "litellm";
pub const SECRET: &str = "tools-oauth";

/// A resource with this spec besides server and selector.
pub fn resource(name: &str, server: &str, rest: Value) -> Value {
    let mut spec = json!({"server": {"name": server, "url": format!("https://{name}.example.com/mcp")}});
    merge(&mut spec, rest);
    json!({
        "apiVersion": "mcpauth.dev/v1alpha1",
        "kind": "McpServerAuth",
        "metadata": {"name": name},
        "spec": spec,
    })
}

/// The oauth2 block for a token endpoint in plain http on loopback.
pub fn oauth2(token_url: &str) -> Value {
    json!({"oauth2": {
        "tokenUrl": token_url,
        "allowInsecureHttp": true,
        "clientId": CLIENT_ID,
        "clientAuthentication": {
            "method": "ClientSecretBasic",
            "clientSecretRef": {"name": SECRET, "key": "client-secret"},
        },
    }})
}

/// Puts the fields of `with` over those of `value`, deeply.
pub fn merge(value: &mut Value, with: Value) {
    match (value, with) {
        (Value::Object(value), Value::Object(with)) => {
            for (key, with) in with {
                merge(value.entry(key).or_insert(Value::Null), with);
            }
        }
        (value, with) => *value = with,
    }
}

/// The pod as the controller of a ReplicaSet makes it. The ReplicaSet is made with it.
pub async fn owned(world: &World, mut pod: Value) -> Value {
    let labels = &pod["metadata"]["labels"];
    let replica_set = json!({
        "metadata": {"generateName": "litellm-", "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "litellm", "image": "litellm"}]},
            },
        },
    });
    let replica_set: ReplicaSet = world.create(replica_set).await.expect("a ReplicaSet");
    pod["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": replica_set.name_any(),
        "uid": replica_set.uid().expect("the API server gives one"),
        "controller": true,
    }]);
    pod
}
