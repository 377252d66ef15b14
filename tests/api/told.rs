//! What became of pods, told where people look: events on their workload, and the status of what selects them.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use mcp_auth_crds::{conditions, reasons};
use mcp_auth_protocol::sync::{Problem, notices};
use mcp_auth_tests::resource::resource;
use mcp_auth_tests::setting;
use mcp_auth_tests::sidecar::Sidecar;
use mcp_auth_tests::sidecar_process::LaunchedSidecar;
use mcp_auth_tests::wait::until;
use mcp_auth_tests::world::{World, message};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// A namespace with a resource that the operator has seen.
async fn world(namespace: &str) -> World {
    let world = World::new(namespace, true).await;
    let given = json!({"bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}}});
    world.apply(&resource("tools", "tools", given)).await.unwrap();
    until(
        "the resource is seen",
        async || world.status("tools").await,
        |status| status.observed_generation.is_some(),
    )
    .await;
    world
}

/// A Deployment and its ReplicaSet, as their controllers would make them; the reference to the ReplicaSet.
async fn deployment(world: &World, name: &str) -> Value {
    let labels = json!({"app": name});
    let spec = json!({
        "selector": {"matchLabels": labels},
        "template": {
            "metadata": {"labels": labels},
            "spec": {"containers": [{"name": "litellm", "image": "litellm"}]},
        },
    });
    let deployment: Deployment = world
        .create(json!({"metadata": {"name": name}, "spec": spec}))
        .await
        .unwrap();
    let owned_by = |kind: &str, name: &str, uid: Option<String>| {
        json!([{
            "apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid.unwrap(), "controller": true,
        }])
    };
    let owner = owned_by("Deployment", name, deployment.uid());
    let replica_set = format!("{name}-5d9f");
    let made: ReplicaSet = world
        .create(json!({
            "metadata": {"name": replica_set, "ownerReferences": owner},
            "spec": spec,
        }))
        .await
        .unwrap();
    owned_by("ReplicaSet", &replica_set, made.uid())
}

fn pod(name: &str, owner: &Value, args: &[&str]) -> Value {
    json!({
        "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/name": "litellm", "pod-template-hash": "5d9f"},
            "ownerReferences": owner,
        },
        "spec": {
            "serviceAccountName": "default",
            "containers": [{
                "name": "litellm",
                "image": "ghcr.io/berriai/litellm",
                "args": args,
                "ports": [{"containerPort": 4000}],
            }],
        },
    })
}

async fn event(world: &World, about: &str, reason: &str) -> String {
    let events = until(
        &format!("event {reason} about {about}"),
        async || world.events(about).await,
        |events| events.iter().any(|(found, _)| found == reason),
    )
    .await;
    let event = events.into_iter().find(|(found, _)| found == reason);
    event.unwrap().1
}

/// What the status says of pods that run without the sidecar, once it does.
async fn without_sidecar(world: &World) -> String {
    let (type_, reason) = (conditions::SIDECARS_SYNCED, reasons::PODS_NOT_INJECTED);
    let status = world.condition("tools", type_, "False", reason).await;
    message(&status, type_)
}

#[tokio::test]
async fn a_deployment_and_the_status_are_told_of_a_pod_that_was_left_alone() {
    let world = world("told-left-alone").await;
    let owner = deployment(&world, "gateway").await;
    let tls = [
        "--config",
        "/etc/litellm/config.yaml",
        "--ssl_keyfile_path",
        "/tls/key",
    ];
    let made: Pod = world.create(pod("gateway-1", &owner, &tls)).await.unwrap();
    assert!(made.annotations().contains_key("mcpauth.dev/not-injected"));

    let note = event(&world, "gateway", "PodNotInjected").await;
    assert!(
        note.contains("LiteLlmTls") && note.contains("--ssl_keyfile_path"),
        "{note}"
    );
    let said = without_sidecar(&world).await;
    assert!(
        said.contains("pod gateway-1") && said.contains("--ssl_keyfile_path") && !said.contains("label"),
        "{said}"
    );
    is_counted_by("pods_not_injected", "told-left-alone", "LiteLlmTls").await;
}

#[tokio::test]
async fn a_pod_whose_annotations_are_full_is_told_by_event_condition_label_and_metric() {
    let world = world("told-full").await;
    let owner = deployment(&world, "gateway").await;
    let mut full = pod("gateway-1", &owner, &[]);
    // As many bytes as Kubernetes takes.
    let key = "example.com/x";
    full["metadata"]["annotations"] = json!({key: "x".repeat(256 * 1024 - key.len())});
    let made: Pod = world.create(full).await.unwrap();
    assert_eq!(made.annotations().len(), 1);
    assert_eq!(made.labels()["mcpauth.dev/not-injected"], "AnnotationsTooLarge");

    let note = event(&world, "gateway", "PodNotInjected").await;
    assert!(
        note.contains("AnnotationsTooLarge") && note.contains("256 KiB"),
        "{note}"
    );
    let said = without_sidecar(&world).await;
    assert!(
        said.contains("pod gateway-1")
            && said.contains("AnnotationsTooLarge")
            && said.contains("take some out"),
        "{said}"
    );
    is_counted_by("pods_not_injected", "told-full", "AnnotationsTooLarge").await;
}

#[tokio::test]
async fn the_workload_of_a_pod_that_no_resource_selects_is_told_what_became_of_it() {
    let world = World::new("told-unselected", true).await;
    let owner = deployment(&world, "gateway").await;
    let asking = |name: &str, args: &[&str]| {
        let mut pod = pod(name, &owner, args);
        pod["metadata"]["labels"]["mcpauth.dev/inject"] = json!("true");
        pod
    };
    world
        .create::<Pod>(asking("gateway-1", &["--ssl_keyfile_path", "/tls/key"]))
        .await
        .unwrap_err();
    let note = event(&world, "gateway", "PodRefused").await;
    assert!(
        note.contains("LiteLlmTls: ") && note.contains("--ssl_keyfile_path"),
        "{note}"
    );

    let mut allowed = asking("gateway-2", &["--ssl_keyfile_path", "/tls/key"]);
    allowed["metadata"]["annotations"] = json!({"mcpauth.dev/on-refusal": "Allow"});
    world.create::<Pod>(allowed).await.unwrap();
    let note = event(&world, "gateway", "PodNotInjected").await;
    assert!(note.contains("LiteLlmTls: "), "{note}");

    world.create::<Pod>(asking("gateway-3", &[])).await.unwrap();
    let note = event(&world, "gateway", "InjectedWithWarnings").await;
    assert!(
        note.contains("no McpServerAuth of the namespace told-unselected selects this pod yet"),
        "{note}"
    );
}

#[tokio::test]
async fn two_reasons_of_one_deployment_are_two_events_and_a_reason_that_comes_again_is_counted() {
    let world = world("told-twice").await;
    let owner = deployment(&world, "gateway").await;
    let mut tls = pod("gateway-1", &owner, &["--ssl_keyfile_path", "/tls/key"]);
    world.create::<Pod>(tls.clone()).await.unwrap();
    let note = event(&world, "gateway", "PodNotInjected").await;
    assert!(note.contains("LiteLlmTls"), "{note}");

    // What is told next is not what was told first.
    let mut on_host = pod("gateway-2", &owner, &[]);
    on_host["spec"]["hostNetwork"] = json!(true);
    world.create::<Pod>(on_host).await.unwrap();
    let notes = until(
        "both notes on the Deployment",
        async || world.events("gateway").await,
        |events| events.len() == 2,
    )
    .await;
    for reason in ["LiteLlmTls", "HostNetwork"] {
        let of_reason = notes.iter().filter(|(_, note)| note.contains(reason));
        assert_eq!(of_reason.count(), 1, "{reason}: {notes:?}");
    }

    // Two notices of a sidecar are two events as well.
    tls["metadata"]["name"] = json!("gateway-3");
    tls["spec"]["containers"][0]["args"] = json!([]);
    let made: Pod = world.create(tls).await.unwrap();
    let mut sidecar = Sidecar::in_pod(&world, &made).await;
    let snapshot = sidecar.next().await.expect("the sidecar is served");
    sidecar.say(|report| {
        report.applied = Some(snapshot.revision);
        report.notices = vec![
            Problem::new(notices::CLIENTS_COUNT_AS_EXTERNAL, "set the ranges"),
            Problem::new(notices::STATIC_HEADER_DROPPED, "of tools").for_server("tools"),
        ];
    });
    let is_notice = |(reason, _): &&(String, String)| reason == "SidecarNotice";
    until(
        "both notices of the sidecar",
        async || world.events("gateway").await,
        |events| events.iter().filter(is_notice).count() == 2,
    )
    .await;
}

/// LiteLLM's own chart has a test with the labels of its pods, which `helm test` runs.
#[tokio::test]
async fn a_pod_that_is_meant_to_end_is_no_pod_without_a_sidecar() {
    let world = world("told-helm-test").await;
    let mut test = pod("litellm-test-connection", &json!([]), &[]);
    test["spec"]["restartPolicy"] = json!("Never");
    let made: Pod = world.create(test).await.unwrap();
    assert!(
        made.annotations().is_empty(),
        "the webhook is not asked: {:?}",
        made.annotations()
    );
    // What comes after it has been seen when the status tells of it.
    let owner = deployment(&world, "gateway").await;
    let tls = pod("gateway-1", &owner, &["--ssl_keyfile_path", "/tls/key"]);
    world.create::<Pod>(tls).await.unwrap();
    let said = without_sidecar(&world).await;
    assert!(said.starts_with("pod gateway-1 run without"), "{said}");
    world.delete::<Pod>("gateway-1").await;
    let none = reasons::NO_PODS_SELECTED;
    world
        .condition("tools", conditions::SIDECARS_SYNCED, "False", none)
        .await;
}

#[tokio::test]
async fn a_deployment_and_the_resource_are_told_of_a_pod_that_was_refused() {
    let world = world("told-refused").await;
    let owner = deployment(&world, "gateway").await;
    let mut asking = pod("gateway-1", &owner, &["--ssl_keyfile_path", "/tls/key"]);
    asking["metadata"]["labels"]["mcpauth.dev/inject"] = json!("true");
    // A ReplicaSet tries again and again.
    for _ in 0..5 {
        world.create::<Pod>(asking.clone()).await.unwrap_err();
    }
    let note = event(&world, "gateway", "PodRefused").await;
    assert!(note.contains("--ssl_keyfile_path"), "{note}");
    let note = event(&world, "tools", "PodRefused").await;
    assert!(note.contains("--ssl_keyfile_path"), "{note}");
    let events = world.events("gateway").await;
    assert_eq!(events.len(), 1, "once, however often it was tried: {events:?}");
    let (type_, refused) = (conditions::SIDECARS_SYNCED, reasons::PODS_REFUSED);
    let status = world.condition("tools", type_, "False", refused).await;
    let said = message(&status, type_);
    assert!(
        said.contains("Deployment gateway") && said.contains("--ssl_keyfile_path"),
        "{said}"
    );

    is_counted_by("workloads_refused", "told-refused", "LiteLlmTls").await;

    // Until one is accepted.
    let mended = pod("gateway-2", &owner, &[]);
    world.create::<Pod>(mended).await.unwrap();
    until(
        "no pod to be refused any more",
        async || message(&world.status("tools").await, type_),
        |said| !said.contains("refused"),
    )
    .await;
}

#[tokio::test]
async fn a_selected_pod_that_runs_no_litellm_is_told_and_a_selector_that_matches_it_matches_something() {
    let world = world("told-skipped").await;
    let owner = deployment(&world, "database").await;
    let mut other = pod("database-1", &owner, &[]);
    other["spec"]["containers"][0] = json!({"name": "postgres", "image": "postgres"});
    world.create::<Pod>(other).await.unwrap();
    let note = event(&world, "database", "PodSkipped").await;
    assert!(note.contains("NotLiteLlm"), "{note}");
    let status = world
        .condition(
            "tools",
            conditions::SIDECARS_SYNCED,
            "False",
            reasons::PODS_SKIPPED,
        )
        .await;
    let said = message(&status, conditions::SIDECARS_SYNCED);
    assert!(said.contains("pod database-1 serves no LiteLLM API"), "{said}");
    is_counted_by("pods_skipped", "told-skipped", "NotLiteLlm").await;
}

#[tokio::test]
async fn a_misspelt_annotation_is_told_by_event_condition_annotation_and_metric() {
    let world = world("told-misspelt").await;
    let owner = deployment(&world, "gateway").await;
    let mut misspelt = pod("gateway-1", &owner, &["--ssl_keyfile_path", "/tls/key"]);
    misspelt["metadata"]["annotations"] = json!({"mcpauth.dev/inbund": "disabled"});
    let made: Pod = world.create(misspelt).await.unwrap();
    let expected = "the annotation mcpauth.dev/inbund is not known and has no effect: perhaps the annotation \
                    mcpauth.dev/inbound is meant";
    let warning = &made.annotations()["mcpauth.dev/warnings"];
    assert_eq!(*warning, format!("UnknownAnnotation: {expected}"));

    let note = event(&world, "gateway", "UnknownAnnotation").await;
    assert!(note.contains(expected), "{note}");
    let said = without_sidecar(&world).await;
    assert!(said.contains("LiteLlmTls") && said.contains(expected), "{said}");
    is_counted("told-misspelt", "UnknownAnnotation").await;
}

#[tokio::test]
async fn what_a_sidecar_warns_of_is_told_by_event_condition_and_metric() {
    let world = world("told-sidecar").await;
    let owner = deployment(&world, "gateway").await;
    let made: Pod = world.create(pod("gateway-1", &owner, &[])).await.unwrap();
    let mut sidecar = Sidecar::in_pod(&world, &made).await;
    let snapshot = sidecar.next().await.expect("the sidecar is served");
    let text = "set general_settings.mcp_trusted_proxy_ranges to the addresses of the proxies";
    sidecar.say(|report| {
        report.applied = Some(snapshot.revision);
        report.notices = vec![Problem::new(notices::CLIENTS_COUNT_AS_EXTERNAL, text)];
    });

    let note = event(&world, "gateway", "SidecarNotice").await;
    let expected = format!("ClientsCountAsExternal: {text}");
    assert!(note.contains(&expected), "{note}");
    let status = world
        .condition(
            "tools",
            conditions::SIDECARS_SYNCED,
            "True",
            reasons::SIDECAR_NOTICE,
        )
        .await;
    let said = message(&status, conditions::SIDECARS_SYNCED);
    assert!(said.contains("gateway-1") && said.contains(&expected), "{said}");
    is_counted("told-sidecar", notices::CLIENTS_COUNT_AS_EXTERNAL).await;

    let text = "LiteLLM listens on 0.0.0.0:4000 too";
    sidecar.say(|report| report.problems = vec![Problem::new("ListensElsewhere", text)]);
    let note = event(&world, "gateway", "SidecarProblem").await;
    assert!(note.contains(&format!("ListensElsewhere: {text}")), "{note}");
    let (type_, problem) = (conditions::SIDECARS_SYNCED, reasons::SIDECAR_PROBLEM);
    let status = world.condition("tools", type_, "False", problem).await;
    let said = message(&status, type_);
    assert!(said.contains("gateway-1") && said.contains(text), "{said}");
    is_counted("told-sidecar", problem).await;
}

#[tokio::test]
async fn a_sidecar_that_cannot_make_its_folder_in_shared_memory_is_told_while_litellm_waits_for_it() {
    let world = world("told-folder").await;
    let owner = deployment(&world, "gateway").await;
    let made: Pod = world.create(pod("gateway-1", &owner, &[])).await.unwrap();
    let memory = tempfile::tempdir().unwrap();
    let in_the_way = memory.path().join("mcpauth");
    std::fs::write(&in_the_way, "of another container").unwrap();
    let folder = in_the_way.join("0123").display().to_string();
    let variables = [
        ("MCPAUTH_SHARED_FOLDER", &*folder),
        ("MCPAUTH_OVERLAY", &format!("{folder}/overlay.yaml")),
    ];
    let files = tempfile::tempdir().unwrap();
    let sidecar = LaunchedSidecar::in_pod(&world, &made, files.path(), &variables).await;

    let expected = format!(
        "SharedFolderNotMade: LiteLLM's start waits: {} is no folder",
        in_the_way.display()
    );
    let way_out = r#"annotation mcpauth.dev/shared-memory to "false""#;
    let note = event(&world, "gateway", "SidecarProblem").await;
    assert!(note.contains(&expected) && note.contains(way_out), "{note}");
    let (type_, problem) = (conditions::SIDECARS_SYNCED, reasons::SIDECAR_PROBLEM);
    let status = world.condition("tools", type_, "False", problem).await;
    let said = message(&status, type_);
    assert!(
        said.contains("gateway-1") && said.contains(&expected) && said.contains(way_out),
        "{said}"
    );

    std::fs::remove_file(&in_the_way).unwrap();
    sidecar.is_started().await;
    let synced = world.condition("tools", type_, "True", reasons::SYNCED).await;
    assert!(!message(&synced, type_).contains("SharedFolderNotMade"));
}

#[tokio::test]
async fn a_port_that_a_sidecar_waits_for_is_told() {
    let world = world("told-port").await;
    let owner = deployment(&world, "gateway").await;
    let made: Pod = world.create(pod("gateway-1", &owner, &[])).await.unwrap();
    let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = holder.local_addr().unwrap().to_string();
    let files = tempfile::tempdir().unwrap();
    let variables = [("MCPAUTH_OUTBOUND", &*address)];
    let _sidecar = LaunchedSidecar::in_pod(&world, &made, files.path(), &variables).await;

    let expected = format!("CannotListen: the data path cannot listen on {address} (address in use)");
    let note = event(&world, "gateway", "SidecarProblem").await;
    assert!(note.contains(&expected), "{note}");
    let (type_, problem) = (conditions::SIDECARS_SYNCED, reasons::SIDECAR_PROBLEM);
    let status = world.condition("tools", type_, "False", problem).await;
    assert!(message(&status, type_).contains(&expected));
    drop(holder);
    world.condition("tools", type_, "True", reasons::SYNCED).await;
}

/// Waits until `pods_with_warnings` counts one pod of the namespace's resource for this reason.
async fn is_counted(namespace: &str, reason: &str) {
    is_counted_by("pods_with_warnings", namespace, reason).await;
}

/// The same of another metric.
async fn is_counted_by(metric: &str, namespace: &str, reason: &str) {
    let series =
        format!(r#"mcpauth_operator_{metric}{{namespace="{namespace}",name="tools",reason="{reason}"}} 1"#);
    let scraped = async || {
        let url = format!("{}/metrics", setting("MCPAUTH_TEST_OPERATOR_HEALTH"));
        reqwest::get(url).await.unwrap().text().await.unwrap()
    };
    until("the metric counts the pod", scraped, |text: &String| {
        text.contains(&series)
    })
    .await;
}

#[tokio::test]
async fn advice_fits_a_namespace_that_has_not_opted_in() {
    let world = World::new("told-no-label", false).await;
    let given = json!({"bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}}});
    world.apply(&resource("tools", "tools", given)).await.unwrap();
    let owner = deployment(&world, "gateway").await;
    world.create::<Pod>(pod("gateway-1", &owner, &[])).await.unwrap();
    let said = without_sidecar(&world).await;
    assert!(
        said.contains("label the namespace mcpauth.dev/injection=enabled"),
        "{said}"
    );
}

#[tokio::test]
async fn a_namespace_that_the_chart_excludes_is_named_as_the_reason_whatever_its_label_says() {
    let world = world("told-excluded").await;
    let owner = deployment(&world, "gateway").await;
    let made: Pod = world.create(pod("gateway-1", &owner, &[])).await.unwrap();
    assert!(made.annotations().is_empty(), "{:?}", made.annotations());
    let said = without_sidecar(&world).await;
    assert!(
        said.contains("webhook.excludedNamespaces of the chart has the namespace told-excluded")
            && !said.contains("restart"),
        "{said}"
    );
}
