//! What the status says of pods that were left alone, and of what their sidecars report that is amiss.

use super::*;

/// A pod of this age, with an annotation.
pub fn annotated(name: &str, seconds: i64, annotations: serde_json::Value) -> Arc<WatchedPod> {
    let created = Time(super::seconds(now() - jiff::SignedDuration::from_secs(seconds)));
    let metadata =
        serde_json::json!({"name": name, "annotations": annotations, "creationTimestamp": created});
    Arc::new(serde_json::from_value(serde_json::json!({"metadata": metadata})).unwrap())
}

pub fn synced_condition(scenario: &Scenario<'_>) -> (String, String) {
    let (_, reason, message) = condition(&status(scenario, now()), conditions::SIDECARS_SYNCED);
    (reason, message)
}

#[test]
fn a_pod_that_was_left_alone_is_named_with_the_reason_and_no_label_is_asked_for() {
    let resource = resource("https://tools.example.com/mcp");
    let why = "LiteLlmTls: LiteLLM serves TLS itself (--ssl_keyfile_path)";
    let left = annotated(
        "litellm-1",
        600,
        serde_json::json!({"mcpauth.dev/not-injected": why}),
    );
    let mut scenario = good(&resource);
    scenario.pods.as_mut().unwrap().push((left, None));
    let (reason, message) = synced_condition(&scenario);
    assert_eq!(reason, reasons::PODS_NOT_INJECTED);
    assert!(
        message.contains("pod litellm-1") && message.contains(why) && !message.contains("label"),
        "{message}"
    );
}

#[test]
fn a_selector_that_matches_pods_is_never_said_to_match_none() {
    let resource = resource("https://tools.example.com/mcp");
    let mut scenario = good(&resource);
    scenario.pods = Some(Vec::new());
    assert_eq!(synced_condition(&scenario).0, reasons::NO_PODS_SELECTED);
    let skipped = serde_json::json!({"mcpauth.dev/skipped": "NotLiteLlm"});
    scenario.passed_over = vec![annotated("postgres-0", 600, skipped)];
    let (reason, message) = synced_condition(&scenario);
    assert_eq!(reason, reasons::PODS_SKIPPED);
    assert!(
        message.contains("pod postgres-0 serves no LiteLLM API") && message.contains("mcpauth.dev/container"),
        "{message}"
    );
}

#[test]
fn a_webhook_that_was_never_called_is_told_with_firewall_port_and_host_network() {
    let resource = resource("https://tools.example.com/mcp");
    let mut scenario = good(&resource);
    let fresh = || annotated("litellm-1", 600, serde_json::json!({}));
    scenario.pods = Some(vec![(fresh(), None)]);
    scenario.injection.webhook_called = false;
    let (reason, message) = synced_condition(&scenario);
    assert_eq!(reason, reasons::WEBHOOK_NOT_REACHED);
    for part in [
        "pod litellm-1",
        "firewall",
        "port 10250",
        "operator.hostNetwork=true",
        "2026-11-23T11:00:00Z",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }

    // Another replica was asked about a pod that is as young.
    let marked = annotated("litellm-0", 500, serde_json::json!({"mcpauth.dev/injected": "1"}));
    scenario.pods = Some(vec![(fresh(), None), (marked, Some(synced().into()))]);
    assert_eq!(synced_condition(&scenario).0, reasons::PODS_NOT_INJECTED);
    // Before the operator started nobody could have been asked.
    scenario.pods = Some(vec![(annotated("litellm-1", 3601, serde_json::json!({})), None)]);
    let (reason, message) = synced_condition(&scenario);
    assert_eq!(reason, reasons::PODS_NOT_INJECTED);
    assert!(
        message.contains("rollout restart") && !message.contains("label the namespace"),
        "{message}"
    );
    // A namespace without the label is never asked about.
    scenario.pods = Some(vec![(fresh(), None)]);
    scenario.injection.namespace = NamespaceInjection::NotOptedIn;
    let (reason, message) = synced_condition(&scenario);
    assert_eq!(reason, reasons::PODS_NOT_INJECTED);
    assert!(
        message.contains("label the namespace mcpauth.dev/injection=enabled"),
        "{message}"
    );
}

#[test]
fn in_a_namespace_that_the_chart_excludes_no_restart_and_no_firewall_is_advised() {
    let resource = resource("https://tools.example.com/mcp");
    let mut scenario = good(&resource);
    scenario.pods = Some(vec![(annotated("litellm-1", 600, serde_json::json!({})), None)]);
    scenario.injection.webhook_called = false;
    let scope = WebhookScope {
        excluded_namespaces: vec!["apps".into()],
        ..WebhookScope::default()
    };
    scenario.injection.namespace = NamespaceInjection::Excluded {
        why: scope.why_not_namespace("apps").unwrap(),
    };
    let (reason, message) = synced_condition(&scenario);
    assert_eq!(reason, reasons::PODS_NOT_INJECTED);
    assert_eq!(
        message,
        "pod litellm-1 run without the sidecar: webhook.excludedNamespaces of the chart has the namespace apps: take it out"
    );
}

#[test]
fn of_a_pod_that_the_chart_s_selector_does_not_match_the_selector_is_told_and_no_restart_is_advised() {
    let resource = resource("https://tools.example.com/mcp");
    let mut scenario = good(&resource);
    scenario.pods = Some(vec![(annotated("litellm-1", 600, serde_json::json!({})), None)]);
    // No firewall is in the way either: the API server was never to call.
    scenario.injection.webhook_called = false;
    let selector = serde_json::json!({"matchLabels": {"tier": "gateway"}});
    scenario.injection.scope = Arc::new(WebhookScope {
        object_selector: serde_json::from_value(selector).unwrap(),
        ..WebhookScope::default()
    });
    let (reason, message) = synced_condition(&scenario);
    assert_eq!(reason, reasons::PODS_NOT_INJECTED);
    assert_eq!(
        message,
        "pod litellm-1 run without the sidecar: webhook.objectSelector of the chart is {\"matchLabels\":{\"tier\":\"gateway\"}}, \
         which the pod's labels do not match: set such labels in the pod template, or have the selector changed"
    );
}

#[test]
fn a_warning_of_an_injected_pod_stands_in_the_status_and_is_no_fault() {
    let resource = resource("https://tools.example.com/mcp");
    let text = "EgressProxy: HTTPS_PROXY does not apply\nLowPort: port 80";
    let annotations = serde_json::json!({"mcpauth.dev/injected": "1", "mcpauth.dev/warnings": text});
    let mut scenario = good(&resource);
    scenario.pods = Some(vec![(
        annotated("litellm-0", 600, annotations),
        Some(synced().into()),
    )]);
    let (reason, message) = synced_condition(&scenario);
    assert_eq!(reason, reasons::SYNCED);
    assert!(
        message.ends_with(
            "pod litellm-0 injected with a warning: EgressProxy: HTTPS_PROXY does not apply; LowPort: port 80"
        ),
        "{message}"
    );
}

#[test]
fn a_rollout_whose_pods_are_refused_is_told_until_a_pod_of_the_workload_is_made() {
    let resource = resource("https://tools.example.com/mcp");
    let refused = |deployment: &str, reason: &str| {
        let owner = serde_json::json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{deployment}-7c9"), "uid": "u", "controller": true,
        });
        RefusedPod {
            namespace: "apps".into(),
            labels: [("pod-template-hash".to_owned(), "7c9".to_owned())].into(),
            owner: serde_json::from_value(owner).unwrap(),
            text: format!("{reason}: change it, or set mcpauth.dev/on-refusal"),
            at: now() - jiff::SignedDuration::from_secs(60),
        }
    };
    let mut scenario = good(&resource);
    scenario.refused = vec![refused("gateway", "LiteLlmTls"), refused("other", "HostNetwork")];
    assert_eq!(ready(&scenario), pair("False", reasons::PODS_REFUSED));
    let (_, message) = synced_condition(&scenario);
    assert!(
        message.starts_with("the pods of Deployment gateway are refused: LiteLlmTls: change it")
            && message.ends_with("; also those of Deployment other (HostNetwork)"),
        "{message}"
    );

    // Also where no pod is there yet.
    scenario.refused.pop();
    scenario.pods = Some(Vec::new());
    assert_eq!(synced_condition(&scenario).0, reasons::PODS_REFUSED);

    // The next ReplicaSet of the Deployment has made one.
    let made = |seconds: i64| {
        let created = Time(super::seconds(now() - jiff::SignedDuration::from_secs(seconds)));
        let owner = serde_json::json!([{
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "gateway-5d9", "uid": "v", "controller": true,
        }]);
        let metadata = serde_json::json!({
            "name": "gateway-5d9-1", "labels": {"pod-template-hash": "5d9"}, "creationTimestamp": created,
            "annotations": {"mcpauth.dev/injected": "1"}, "ownerReferences": owner,
        });
        let pod = serde_json::from_value(serde_json::json!({"metadata": metadata})).unwrap();
        (Arc::new(pod), Some(synced().into()))
    };
    scenario.pods = Some(vec![made(600)]);
    assert_eq!(
        synced_condition(&scenario).0,
        reasons::PODS_REFUSED,
        "that pod is older"
    );
    scenario.pods = Some(vec![made(30)]);
    assert_eq!(synced_condition(&scenario).0, reasons::SYNCED);
}

#[test]
fn refusals_of_before_all_replicas_ended_stand_in_the_condition_until_more_is_known() {
    let mut resource = resource("https://tools.example.com/mcp");
    let text = "the pods of Deployment gateway are refused: LiteLlmTls: change it";
    let refused = serde_json::json!({
        "type": conditions::SIDECARS_SYNCED, "status": "False", "reason": reasons::PODS_REFUSED, "message": text,
        "lastTransitionTime": Time(super::seconds(now() - jiff::SignedDuration::from_secs(300))),
    });
    resource.status = Some(
        serde_json::from_value(serde_json::json!({
            "observedGeneration": resource.metadata.generation, "conditions": [refused],
        }))
        .unwrap(),
    );
    let made = |seconds: i64| {
        let created = Time(super::seconds(now() - jiff::SignedDuration::from_secs(seconds)));
        let metadata = serde_json::json!({
            "name": "gateway-1", "creationTimestamp": created, "annotations": {"mcpauth.dev/injected": "1"},
        });
        let pod = serde_json::from_value(serde_json::json!({"metadata": metadata})).unwrap();
        (Arc::new(pod), Some(synced().into()))
    };
    let mut scenario = good(&resource);
    scenario.may_miss_refusals = true;
    let stands = (reasons::PODS_REFUSED.to_owned(), text.to_owned());
    for pods in [None, Some(vec![]), Some(vec![made(600)])] {
        scenario.pods = pods;
        assert_eq!(synced_condition(&scenario), stands);
    }
    scenario.pods = Some(vec![made(60)]);
    assert_eq!(synced_condition(&scenario).0, reasons::SYNCED, "a pod has come");
    scenario.pods = Some(vec![made(600)]);
    scenario.may_miss_refusals = false;
    assert_eq!(
        synced_condition(&scenario).0,
        reasons::SYNCED,
        "it would be known"
    );
}

#[test]
fn a_warning_of_injection_is_told_beside_what_is_wrong() {
    let resource = resource("https://tools.example.com/mcp");
    let warned = |sidecar: Sidecar| {
        let annotations =
            serde_json::json!({"mcpauth.dev/injected": "1", "mcpauth.dev/warnings": "LowPort: port 80"});
        (annotated("litellm-0", 600, annotations), Some(sidecar.into()))
    };
    let told = " litellm-0 injected with a warning: LowPort: port 80";
    let mut scenario = good(&resource);
    let problem = Problem::new("ListensElsewhere", "LiteLLM listens on 0.0.0.0");
    for (expected, sidecar) in [
        (
            reasons::RESTART_NEEDED,
            Sidecar {
                restart_needed_for: vec!["tools".into()],
                ..synced()
            },
        ),
        (
            reasons::SIDECARS_BEHIND,
            Sidecar {
                applied: None,
                ..synced()
            },
        ),
        (
            reasons::SIDECAR_PROBLEM,
            Sidecar {
                problems: vec![problem],
                ..synced()
            },
        ),
    ] {
        scenario.pods = Some(vec![warned(sidecar)]);
        let (reason, message) = synced_condition(&scenario);
        assert_eq!(reason, expected);
        assert!(message.ends_with(told), "{message}");
    }
    let left = serde_json::json!({"mcpauth.dev/not-injected": "HostNetwork: take it off"});
    scenario.pods = Some(vec![warned(synced()), (annotated("litellm-1", 600, left), None)]);
    let (reason, message) = synced_condition(&scenario);
    assert_eq!(reason, reasons::PODS_NOT_INJECTED);
    assert!(
        message.contains("HostNetwork") && message.ends_with(told),
        "{message}"
    );
}

#[test]
fn pods_that_were_left_alone_for_different_reasons_are_all_told() {
    let resource = resource("https://tools.example.com/mcp");
    let left = |name, why: &str| {
        let annotations = serde_json::json!({"mcpauth.dev/not-injected": why});
        (annotated(name, 600, annotations), None)
    };
    let mut scenario = good(&resource);
    scenario.pods = Some(vec![
        left("litellm-1", "LiteLlmTls: LiteLLM serves TLS itself"),
        left("litellm-2", "HostNetwork: the pod uses the node's network"),
        left("litellm-3", "LiteLlmTls: LiteLLM serves TLS itself"),
    ]);
    let (reason, message) = synced_condition(&scenario);
    assert_eq!(reason, reasons::PODS_NOT_INJECTED);
    assert!(
        message.starts_with("pod litellm-2 run")
            && message.contains("HostNetwork: the pod uses the node's network"),
        "{message}"
    );
    assert!(
        message.ends_with("; also pods litellm-1, litellm-3 (LiteLlmTls)"),
        "{message}"
    );
}

#[test]
fn a_second_litellm_that_is_not_recognised_beside_an_injected_one_is_told() {
    let resource = resource("https://tools.example.com/mcp");
    let mut scenario = good(&resource);
    scenario.passed_over = vec![
        annotated(
            "canary-0",
            600,
            serde_json::json!({"mcpauth.dev/skipped": "NotLiteLlm"}),
        ),
        annotated("opted-out-0", 600, serde_json::json!({})),
    ];
    let (reason, message) = synced_condition(&scenario);
    assert_eq!(reason, reasons::SYNCED);
    assert!(
        message.contains("pod canary-0") && message.contains("mcpauth.dev/container"),
        "{message}"
    );
    assert!(
        !message.contains("opted-out-0"),
        "that was somebody's wish: {message}"
    );
}

#[test]
fn an_annotation_that_is_not_known_is_told_of_pods_without_a_sidecar_too() {
    let resource = resource("https://tools.example.com/mcp");
    let text = "UnknownAnnotation: the annotation mcpauth.dev/configPath is not known";
    let marked = |mark: &str, reason: &str| {
        annotated(
            "litellm-0",
            600,
            serde_json::json!({mark: reason, "mcpauth.dev/warnings": text}),
        )
    };
    let mut scenario = good(&resource);
    scenario.pods = Some(vec![(
        marked("mcpauth.dev/not-injected", "HiddenConfigPath: x"),
        None,
    )]);
    let (reason, message) = synced_condition(&scenario);
    assert_eq!(reason, reasons::PODS_NOT_INJECTED);
    assert!(
        message.contains("HiddenConfigPath") && message.contains(text),
        "{message}"
    );

    scenario.pods = Some(Vec::new());
    scenario.passed_over = vec![marked("mcpauth.dev/skipped", "NotLiteLlm")];
    let (reason, message) = synced_condition(&scenario);
    assert_eq!(reason, reasons::PODS_SKIPPED);
    assert!(
        message.contains("mcpauth.dev/container") && message.contains(text),
        "{message}"
    );
}

#[test]
fn the_claims_of_a_jwt_are_told_and_an_opaque_token_is_called_that() {
    let resource = resource("https://tools.example.com/mcp");
    let mut scenario = good(&resource);
    let opaque = status(&scenario, now()).token.unwrap();
    assert_eq!((opaque.format.as_deref(), opaque.claims), (Some("Opaque"), None));

    scenario.token.in_use.as_mut().unwrap().claims = Some(Arc::new(ReportedClaims {
        issuer: Some("https://auth.example.com".to_owned()),
        audiences: vec!["https://tools.example.com/mcp".to_owned()],
        expires_at: Some("2026-11-23T13:00:00Z".parse::<Timestamp>().unwrap().as_second()),
        ..ReportedClaims::default()
    }));
    let token = status(&scenario, now()).token.unwrap();
    assert_eq!(token.format.as_deref(), Some("JWT"));
    let claims = token.claims.unwrap();
    assert_eq!(claims.issuer.as_deref(), Some("https://auth.example.com"));
    assert_eq!(claims.audience, ["https://tools.example.com/mcp"]);
    assert_eq!(claims.expires_at.unwrap().0.to_string(), "2026-11-23T13:00:00Z");

    scenario.token.in_use = None;
    assert_eq!(
        status(&scenario, now()).token,
        None,
        "without a token there is no format"
    );
}

#[test]
fn a_server_that_went_is_told_by_every_resource_of_the_pod_with_what_becomes_of_its_restart() {
    let resource = resource("https://tools.example.com/mcp");
    let mut scenario = good(&resource);
    let mut names = PodNames::default();
    names.add("litellm-0");
    scenario.stale_servers = [("gone".to_owned(), names)].into();
    let (reason, message) = synced_condition(&scenario);
    assert_eq!(reason, reasons::RESTART_NEEDED);
    for part in ["still offers gone,", "pod litellm-0", "kubectl rollout restart"] {
        assert!(message.contains(part), "{message}");
    }
    let ready = status(&scenario, now());
    let ready = ready
        .conditions
        .iter()
        .find(|condition| condition.type_ == conditions::READY);
    assert_eq!(
        ready.unwrap().status,
        "True",
        "its own server is served as it was"
    );
}
