//! What the API server sends to the webhook where a pod is created.

use serde_json::{Value, json};

/// An `AdmissionReview` (`admission.k8s.io/v1`) of this pod in this namespace, with the UID `u-1`.
pub fn admission_review(namespace: &str, pod: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "u-1",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": namespace,
            "operation": "CREATE",
            "userInfo": {},
            "object": pod,
        },
    })
}
