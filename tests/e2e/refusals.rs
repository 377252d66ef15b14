//! Pods that are not to be injected, and pods that cannot be.

use mcp_auth_tests::wait::{KUBECTL_LIMIT, until};
use serde_json::{Value, json};

use crate::command::{apply, get, kubectl, run};
use crate::ground::{finally, ground, injected, manifest, of_kind, pods, without_operator};
use crate::litellm::instance;

/// LiteLLM with a configuration that nobody but its image knows.
async fn baked(name: &str) -> Value {
    let mut deployment = instance(&of_kind(&manifest("litellm").await, "Deployment"), name);
    let pod = &mut deployment["spec"]["template"]["spec"];
    pod["containers"][0]["volumeMounts"] = json!([]);
    pod["volumes"] = json!([]);
    deployment
}

/// Messages of the events about the ReplicaSets of a Deployment.
async fn failures(name: &str) -> Vec<String> {
    let events = get(&["events", "--field-selector=reason=FailedCreate"]).await;
    let events = events["items"].as_array().expect("a list").clone();
    let of_deployment = |event: &Value| {
        event["involvedObject"]["name"]
            .as_str()
            .is_some_and(|found| found.starts_with(name))
    };
    let message = |event: &Value| event["message"].as_str().unwrap_or_default().to_owned();
    events
        .iter()
        .filter(|event| of_deployment(event))
        .map(message)
        .collect()
}

async fn delete(name: &str) {
    let deployment = format!("deploy/{name}");
    kubectl(&[
        "delete",
        &deployment,
        "--cascade=foreground",
        "--ignore-not-found",
    ])
    .await
    .ok();
}

#[tokio::test]
async fn a_configuration_baked_into_the_image_is_told_where_people_look() {
    ground().await;
    delete("baked").await;
    let deployment = baked("baked").await;
    let mut asking = deployment.clone();
    asking["spec"]["template"]["metadata"]["labels"]["mcpauth.dev/inject"] = json!("true");
    apply(&[asking]).await;
    let seen = until(
        "an event tells of the refusal",
        async || failures("baked").await,
        |messages| !messages.is_empty(),
    )
    .await;
    let message = &seen[0];
    assert!(
        message.contains("/app/config/config.yaml"),
        "it names the file: {message}"
    );
    assert!(message.contains("ConfigMap"), "it names the way out: {message}");
    assert!(
        message.contains("mcpauth.dev/on-refusal"),
        "and the other one: {message}"
    );
    assert!(pods("baked").await.is_empty());

    // The namespace's label alone keeps no LiteLLM from starting.
    delete("baked").await;
    apply(&[deployment]).await;
    let pods = until(
        "the pod is there",
        async || pods("baked").await,
        |pods| !pods.is_empty(),
    )
    .await;
    assert!(!pods.iter().any(injected));
    let told = &pods[0]["metadata"]["annotations"]["mcpauth.dev/not-injected"];
    assert!(
        told.as_str()
            .is_some_and(|told| told.contains("/app/config/config.yaml")),
        "{told}"
    );
    delete("baked").await;
}

/// Sets the policy of both webhooks.
async fn failure_policy(policy: &str) {
    let change = |index: u8| {
        let path = format!("/webhooks/{index}/failurePolicy");
        json!({"op": "replace", "path": path, "value": policy})
    };
    let patch = json!([change(0), change(1)]).to_string();
    let arguments = [
        "patch",
        "mutatingwebhookconfiguration/e2e-mcp-auth",
        "--type=json",
        "--patch",
        &patch,
    ];
    run("kubectl", &arguments, "").await.ok();
}

#[tokio::test]
async fn a_job_with_the_labels_of_litellm_never_waits_for_the_operator_and_never_gets_the_sidecar() {
    ground().await;
    let deployment = instance(&of_kind(&manifest("litellm").await, "Deployment"), "guarded");
    let job = |name: &str| {
        let mut template = deployment["spec"]["template"].clone();
        template["metadata"]["labels"]["app.kubernetes.io/instance"] = json!(name);
        template["spec"]["restartPolicy"] = json!("Never");
        // As the charts' migrations: LiteLLM's image and configuration, and an end.
        template["spec"]["containers"][0]["args"] = json!(["python3", "-c", "pass"]);
        json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "namespace": "e2e"},
            "spec": {"template": template},
        })
    };
    let complete = async |name: &str| {
        let place = format!("job/{name}");
        kubectl(&["delete", &place, "--ignore-not-found"]).await.ok();
        apply(&[job(name)]).await;
        kubectl(&["wait", &place, "--for=condition=Complete", KUBECTL_LIMIT])
            .await
            .ok();
        let pods = pods(name).await;
        assert!(!pods.is_empty() && !pods.iter().any(injected), "{name}");
        kubectl(&["delete", &place]).await.ok();
    };
    complete("migrations").await;

    delete("guarded").await;
    failure_policy("Fail").await;
    let outage = without_operator(async {
        complete("migrations-in-the-outage").await;
        apply(std::slice::from_ref(&deployment)).await;
        // Shows that the webhook would have kept the Job's pod away, had it been asked.
        until(
            "LiteLLM's own pod is kept away",
            async || failures("guarded").await,
            |messages| {
                messages
                    .iter()
                    .any(|message| message.contains("failed calling webhook"))
            },
        )
        .await;
        delete("guarded").await;
    });
    finally(outage, failure_policy("Ignore")).await;
}
