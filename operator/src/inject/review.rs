//! The admission review: turns a decision into the answer to the API server.

use json_patch::Patch;
use k8s_openapi::api::core::v1::Pod;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, Operation};
use mcp_auth_protocol::sync::Route;

use super::annotations::{INJECT_LABEL, ON_REFUSAL};
use super::decision::{Decision, decide};
use super::settings::Settings;
use super::warning::SIDECAR_KEPT;

/// Key of the audit annotation with the decision's reason.
pub const AUDIT_KEY: &str = "decision";

/// Decides about the pod of a request and answers. `routes` are those of all resources of the namespace that
/// select the pod.
pub fn review(request: &AdmissionRequest<Pod>, routes: &[Route], settings: &Settings) -> AdmissionResponse {
    let is_new_pod = request.operation == Operation::Create
        && request.sub_resource.as_deref().unwrap_or_default().is_empty();
    if !is_new_pod {
        return AdmissionResponse::from(request);
    }
    let Some(pod) = &request.object else {
        return denied(
            AdmissionResponse::from(request),
            400,
            "BadRequest",
            "the request holds no pod",
        );
    };
    // In the pod itself it may still be missing.
    let namespace = request
        .namespace
        .as_deref()
        .or(pod.metadata.namespace.as_deref())
        .unwrap_or_default();
    admission_response(request, &decide(pod, namespace, routes, settings))
}

/// The answer for a decision.
fn admission_response(request: &AdmissionRequest<Pod>, decision: &Decision) -> AdmissionResponse {
    let mut response = AdmissionResponse::from(request);
    response
        .audit_annotations
        .insert(AUDIT_KEY.to_owned(), decision.reason().to_owned());
    let warnings = decision.warnings().iter().map(|warning| warning.message.as_str());
    if let Decision::Deny { error, .. } = decision {
        // The answer of a webhook that refuses is shown without its warnings.
        let also: String = warnings.map(|warning| format!(". Besides, {warning}")).collect();
        let message = format!(
            "mcp-auth cannot inject its sidecar: {error}. To start the pod without it, set its \
             annotation {ON_REFUSAL}: Allow or its label {INJECT_LABEL}: \"false\"{also}"
        );
        return denied(response, 422, "Invalid", &message);
    }
    let has_sidecar = decision
        .warnings()
        .iter()
        .any(|warning| warning.reason == SIDECAR_KEPT);
    let error = decision
        .error()
        .filter(|_| !has_sidecar)
        .map(|error| format!("mcp-auth: starts without the sidecar: {error}"));
    let told: Vec<String> = error
        .into_iter()
        .chain(warnings.map(|warning| format!("mcp-auth: {warning}")))
        .collect();
    response.warnings = (!told.is_empty()).then_some(told);
    match decision.patch() {
        Some(patch) => patched(response, patch),
        None => response,
    }
}

fn patched(response: AdmissionResponse, patch: &Patch) -> AdmissionResponse {
    if patch.is_empty() {
        return response;
    }
    response
        .with_patch(patch.clone())
        .expect("a patch is made of plain values")
}

fn denied(response: AdmissionResponse, code: u16, reason: &str, message: &str) -> AdmissionResponse {
    let mut response = response.deny(message);
    response.result.code = code;
    response.result.reason = reason.to_owned();
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn review_of(request: Value) -> Value {
        let mut whole = json!({
            "uid": "u1", "operation": "CREATE", "namespace": "ai", "userInfo": {},
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
        });
        whole
            .as_object_mut()
            .unwrap()
            .extend(request.as_object().unwrap().clone());
        let request: AdmissionRequest<Pod> = serde_json::from_value(whole).unwrap();
        let settings: Settings = serde_json::from_value(json!({"image": "sidecar"})).unwrap();
        serde_json::to_value(review(&request, &[], &settings)).unwrap()
    }

    fn pod(args: &[&str], annotations: Value) -> Value {
        json!({
            "metadata": {"labels": {"mcpauth.dev/inject": "true"}, "annotations": annotations},
            "spec": {"containers": [{"name": "litellm", "image": "berriai/litellm", "args": args}]},
        })
    }

    #[test]
    fn an_injection_is_a_json_patch_with_warnings() {
        let response = review_of(json!({"object": pod(&["proxy", "--port", "4000"], json!({}))}));
        assert_eq!(
            (&response["uid"], &response["allowed"]),
            (&json!("u1"), &json!(true))
        );
        assert_eq!(response["patchType"], "JSONPatch");
        assert!(!response["patch"].as_array().unwrap().is_empty());
        let warnings = json!(["mcp-auth: no McpServerAuth of the namespace ai selects this pod yet"]);
        assert_eq!(response["warnings"], warnings);
        assert_eq!(response["auditAnnotations"]["decision"], "Injected");
    }

    #[test]
    fn a_denial_says_what_to_change_and_how_to_start_without_the_sidecar() {
        let response = review_of(json!({"object": pod(&["proxy", "--ssl_keyfile_path=k"], json!({}))}));
        assert_eq!(
            (&response["allowed"], &response["status"]["code"]),
            (&json!(false), &json!(422))
        );
        let message = response["status"]["message"].as_str().unwrap();
        assert!(
            message.contains("--ssl_keyfile_path") && message.contains("mcpauth.dev/on-refusal: Allow"),
            "{message}"
        );
        assert!(response.get("patch").is_none());
    }

    #[test]
    fn an_injection_error_that_its_owner_allows_is_a_warning() {
        let annotations = json!({"mcpauth.dev/on-refusal": "Allow"});
        let response = review_of(json!({"object": pod(&["proxy", "--ssl_keyfile_path=k"], annotations)}));
        assert_eq!(response["allowed"], true);
        assert!(response["patch"].is_array(), "the pod is marked: {response}");
        assert!(
            response["warnings"][0]
                .as_str()
                .unwrap()
                .contains("starts without the sidecar")
        );
        assert_eq!(response["auditAnnotations"]["decision"], "LiteLlmTls");
    }

    #[test]
    fn only_new_pods_are_reviewed() {
        let not_injectable = pod(&["proxy", "--ssl_keyfile_path=k"], json!({}));
        assert_eq!(
            review_of(json!({"operation": "UPDATE", "object": not_injectable}))["allowed"],
            true
        );
        assert_eq!(
            review_of(json!({"subResource": "ephemeralcontainers", "object": not_injectable}))["allowed"],
            true
        );
        let response = review_of(json!({}));
        assert_eq!(
            (&response["allowed"], &response["status"]["code"]),
            (&json!(false), &json!(400))
        );
    }
}
