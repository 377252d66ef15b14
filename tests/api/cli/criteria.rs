//! The five success criteria and the call through LiteLLM: of `doctor`, and of `doctor --criteria`, which `helm test` runs.
//! The pod's node and LiteLLM are scripts; the sidecar between them is the real one.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use mcp_auth_crds::{conditions, reasons};
use mcp_auth_protocol::reachability::Reachability;
use mcp_auth_tests::kubelet::Kubelet;
use mcp_auth_tests::oauth;
use mcp_auth_tests::resource::{SECRET, merge, oauth2, resource};
use mcp_auth_tests::sidecar_process::SidecarProcess;
use mcp_auth_tests::world::World;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::stand_ins::{
    KEY, KEY_OF_OTHERS, KEY_REFUSED, KEY_THAT_BREAKS_OFF, KEY_WITHOUT_SERVERS, LiteLlm, McpServer,
};
use super::{Printed, file, litellm, path, run};

/// Ports of the pod.
pub const INBOUND: u16 = 4000;
const HEALTH: u16 = 16482;

/// A LiteLLM pod of a Deployment on this node, injected by the webhook, whose sidecar runs and is up to date.
pub struct RunningPod {
    pub name: String,
    pub litellm: LiteLlm,
    _sidecar: SidecarProcess,
    _folder: TempDir,
}

/// `image` is what the Deployment's template names; the pod runs `litellm`.
pub async fn running_pod(world: &World, kubelet: &Kubelet, image: &str) -> RunningPod {
    let template = litellm("template");
    let mut stated = json!({"metadata": template["metadata"], "spec": template["spec"]});
    stated["spec"]["containers"][0]["image"] = json!(image);
    stated["metadata"].as_object_mut().unwrap().remove("name");
    let labels = json!({"app.kubernetes.io/name": "litellm", "pod-template-hash": "7c9d"});
    stated["metadata"]["labels"] = labels.clone();
    let replica_set = json!({
        "metadata": {"name": "litellm-7c9d"},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": stated},
    });
    let replica_set: ReplicaSet = world.create(replica_set).await.unwrap();
    let name = "litellm-7c9d-x";
    let mut pod = litellm(name);
    pod["metadata"]["labels"] = labels;
    pod["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "litellm-7c9d", "uid": replica_set.uid(), "controller": true,
    }]);
    pod["spec"]["nodeName"] = json!(kubelet.node);
    let pod: Pod = world.create(pod).await.unwrap();
    let ready = json!({"status": {"initContainerStatuses": [{
        "name": "mcpauth-sidecar", "image": "sidecar", "imageID": "", "ready": true, "restartCount": 0,
    }]}});
    let pods: Api<Pod> = world.api();
    pods.patch_status(name, &PatchParams::default(), &Patch::Strategic(ready))
        .await
        .unwrap();
    let litellm = LiteLlm::start().await;
    let folder = tempfile::tempdir().unwrap();
    let sidecar = SidecarProcess::beside(world, &pod, litellm.address, folder.path()).await;
    litellm.configure(sidecar.endpoint.clone());
    let of_pod = format!("{}/{name}", pod.namespace().unwrap());
    kubelet.forward(&of_pod, INBOUND, sidecar.inbound.unwrap());
    kubelet.forward(&of_pod, HEALTH, sidecar.health);
    RunningPod {
        name: name.to_owned(),
        litellm,
        _sidecar: sidecar,
        _folder: folder,
    }
}

/// The resource `tools` for this server, with a token and one cookie of users.
pub async fn tools(world: &World, server: &McpServer) {
    tools_with(world, server, json!({}), reasons::ISSUED).await;
}

/// The same with more in `spec.oauth2`, and `TokenIssued` with another reason.
async fn tools_with(world: &World, server: &McpServer, more: Value, reason: &str) {
    world.secret(SECRET, "client-secret", &oauth::secret()).await;
    let mut tools = resource("tools", "tools", oauth2(&oauth::token_url()));
    let url = format!("http://{}/mcp", server.address);
    let cookies = json!({"enabled": true, "cookieNames": ["session_id"]});
    merge(
        &mut tools,
        json!({"spec": {"server": {"url": url, "allowInsecureHttp": true}, "cookiePassthrough": cookies}}),
    );
    merge(&mut tools["spec"]["oauth2"], more);
    world.apply(&tools).await.unwrap();
    world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reason)
        .await;
}

/// A pod that serves, of which its sidecar has told that the server answers LiteLLM.
pub async fn serving_pod(world: &World, kubelet: &Kubelet) -> RunningPod {
    let pod = running_pod(world, kubelet, "litellm").await;
    pod.litellm.discover().await;
    let answered = Reachability::Answered.reason();
    world
        .condition("tools", conditions::SERVER_REACHABLE, "True", answered)
        .await;
    world
        .condition("tools", conditions::READY, "True", reasons::READY)
        .await;
    pod
}

/// The criteria, with more arguments.
async fn criteria(namespace: &str, more: &[&str]) -> (Printed, Vec<Value>) {
    let arguments = ["doctor", "--criteria", "-n", namespace, "-o", "json"];
    let printed = run(&[&arguments[..], more].concat()).await;
    let criteria = serde_json::from_str(&printed.out).unwrap_or_else(|_| panic!("{printed:?} is JSON"));
    (printed, criteria)
}

fn outcomes(criteria: &[Value]) -> Vec<&str> {
    criteria
        .iter()
        .map(|criterion| criterion["outcome"].as_str().unwrap())
        .collect()
}

fn finding(criterion: &Value) -> &str {
    criterion["findings"][0].as_str().unwrap()
}

#[tokio::test]
async fn the_five_criteria_are_met_by_a_pod_that_serves_and_named_where_they_are_not() {
    const NAMESPACE: &str = "cli-criteria";
    let world = World::new(NAMESPACE, true).await;
    let kubelet = Kubelet::start(&world.client, NAMESPACE).await;
    let server = McpServer::start().await;
    tools(&world, &server).await;
    let pod = serving_pod(&world, &kubelet).await;
    let key = file("criteria-key", &format!("{KEY}\n"));
    let with_key = ["--litellm-key-file", path(&key)];

    let (printed, met) = criteria(NAMESPACE, &with_key).await;
    assert_eq!(outcomes(&met), ["Passed"; 5], "{met:#?}");
    assert_eq!(printed.code, 0);
    let arrived = finding(&met[3]);
    for part in [
        "with the token and the allowed cookie session_id",
        "without a token it answers 401",
    ] {
        assert!(arrived.contains(part), "{arrived}");
    }
    let cookies = server.last_cookies();
    let (name, value) = cookies.split_once('=').unwrap();
    assert_eq!(name, "session_id");
    assert!(value.starts_with("mcpauth-check-"), "{cookies}");
    assert_eq!(
        finding(&met[4]),
        format!("{NAMESPACE}/tools: LiteLLM lists 2 tools")
    );
    let text = run(&["doctor", "--criteria", "-n", NAMESPACE, with_key[0], with_key[1]])
        .await
        .out;
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("ok ")).collect();
    assert_eq!(lines.len(), 5, "{text}");

    let (printed, without_key) = criteria(NAMESPACE, &[]).await;
    assert_eq!(
        outcomes(&without_key),
        ["Passed", "Passed", "Passed", "NotChecked", "Passed"],
        "{without_key:#?}"
    );
    let halves = without_key[3]["findings"].as_array().unwrap();
    assert!(
        halves[0]
            .as_str()
            .unwrap()
            .contains("without a token it answers 401")
    );
    let other = halves[1].as_str().unwrap();
    assert!(
        other.contains("not checked: whether what users send arrives: give a key of LiteLLM"),
        "{other}"
    );
    assert_eq!(printed.code, 0);
    let (_, skipped) = criteria(NAMESPACE, &["--skip-calls"]).await;
    assert_eq!(outcomes(&skipped)[3..], ["NotChecked", "NotChecked"]);

    // An entry of LiteLLM's without the sidecar's header.
    pod.litellm.drop_context();
    let (printed, dropped) = criteria(NAMESPACE, &with_key).await;
    assert_eq!(outcomes(&dropped)[3..], ["Fault", "Passed"], "{dropped:#?}");
    assert!(
        finding(&dropped[3]).contains("none with the allowed cookie session_id came to the sidecar"),
        "{dropped:#?}"
    );
    assert_eq!(printed.code, 1);

    // Nothing answers in the pod any more.
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    kubelet.forward(&format!("{NAMESPACE}/{}", pod.name), INBOUND, closed);
    let (printed, broken) = criteria(NAMESPACE, &with_key).await;
    assert_eq!(
        outcomes(&broken),
        ["Passed", "Passed", "Passed", "Fault", "Fault"],
        "{broken:#?}"
    );
    assert_eq!(printed.code, 1);
}

#[tokio::test]
async fn litellm_s_key_is_taken_from_a_secret_beside_it_and_told_to_nobody() {
    const NAMESPACE: &str = "cli-criteria-key";
    let world = World::new(NAMESPACE, true).await;
    let kubelet = Kubelet::start(&world.client, NAMESPACE).await;
    let server = McpServer::start().await;
    tools(&world, &server).await;
    let _pod = serving_pod(&world, &kubelet).await;
    world.secret("litellm", "master-key", KEY).await;
    let by_secret = ["--litellm-key-secret", "litellm/master-key"];
    let (_, met) = criteria(NAMESPACE, &by_secret).await;
    assert_eq!(outcomes(&met), ["Passed"; 5], "{met:#?}");

    // LiteLLM repeats a key that it does not take.
    const OTHER: &str = "sk-another-key-that-it-does-not-take";
    world.secret("other", "master-key", OTHER).await;
    for (secret, problem) in [
        (
            "other/master-key",
            "LiteLLM answers initialize with 401 Unauthorized",
        ),
        ("other/key", "the Secret cli-criteria-key/other has no key key"),
        ("none/key", "the namespace cli-criteria-key has no Secret none"),
    ] {
        let (printed, refused) = criteria(NAMESPACE, &["--litellm-key-secret", secret]).await;
        assert_eq!(outcomes(&refused)[3..], ["Fault", "Fault"], "{refused:#?}");
        assert!(finding(&refused[3]).contains(problem), "{problem}: {refused:#?}");
        assert!(
            !printed.out.contains(OTHER) && !printed.err.contains(OTHER),
            "{printed:?}"
        );
        assert_eq!(printed.code, 1);
    }
}

#[tokio::test]
async fn no_user_is_made_up_for_a_server_to_which_only_users_have_tokens() {
    const NAMESPACE: &str = "cli-criteria-users";
    let world = World::new(NAMESPACE, true).await;
    let kubelet = Kubelet::start(&world.client, NAMESPACE).await;
    let server = McpServer::start().await;
    let users_only = json!({"serviceToken": "None", "tokenExchange": {"subjectCookie": "user_token"}});
    tools_with(&world, &server, users_only, reasons::USER_TOKENS_ONLY).await;
    let _pod = running_pod(&world, &kubelet, "litellm").await;
    let key = file("criteria-users-key", KEY);
    let (_, found) = criteria(NAMESPACE, &["--litellm-key-file", path(&key)]).await;
    assert_eq!(outcomes(&found)[3..], ["NotChecked"; 2], "{found:#?}");
    for criterion in &found[3..] {
        assert!(
            finding(criterion).contains("only users have tokens there"),
            "{found:#?}"
        );
    }
}

#[tokio::test]
async fn litellm_s_key_has_to_be_where_the_command_line_says() {
    let empty = file("empty-key", "\n");
    let by_file = ["doctor", "-n", "default", "--litellm-key-file"];
    for (path, problem) in [
        (path(&empty), "it is empty"),
        ("/nonexistent", "there is no such file"),
    ] {
        let printed = run(&[&by_file[..], &[path]].concat()).await;
        assert_eq!(printed.code, 6, "{printed:?}");
        assert!(printed.err.contains(problem), "{printed:?}");
    }
    // It would go to the LiteLLM of every namespace.
    let everywhere = ["doctor", "-A", "--litellm-key-file", "/nonexistent"];
    let skipped = ["doctor", "--skip-calls", "--litellm-key-secret", "litellm/key"];
    let misspelt = ["doctor", "--litellm-key-secret", "litellm"];
    for arguments in [&everywhere[..], &skipped, &misspelt] {
        let printed = run(arguments).await;
        assert_eq!(printed.code, 2, "{printed:?}");
    }
}

#[tokio::test]
async fn a_pod_that_runs_another_image_than_its_workload_names_is_a_modified_litellm() {
    let world = World::new("cli-criteria-image", true).await;
    let kubelet = Kubelet::start(&world.client, "cli-criteria-image").await;
    tools(&world, &McpServer::start().await).await;
    let _pod = running_pod(&world, &kubelet, "the-original").await;
    let (printed, criteria) = criteria("cli-criteria-image", &[]).await;
    assert_eq!(printed.code, 1);
    assert_eq!(criteria[0]["outcome"], "Fault", "{criteria:#?}");
    let found = finding(&criteria[0]);
    assert!(
        found.contains("runs litellm, and its workload names the-original"),
        "{found}"
    );
}

#[tokio::test]
async fn a_key_that_may_not_use_the_server_is_named_as_the_fault_and_not_the_headers() {
    const NAMESPACE: &str = "cli-key-without-access";
    let world = World::new(NAMESPACE, true).await;
    let kubelet = Kubelet::start(&world.client, NAMESPACE).await;
    let server = McpServer::start().await;
    tools(&world, &server).await;
    let _pod = serving_pod(&world, &kubelet).await;
    for (name, key) in [
        ("refused", KEY_REFUSED),
        ("without-servers", KEY_WITHOUT_SERVERS),
        ("of-others", KEY_OF_OTHERS),
    ] {
        let key_file = file(&format!("criteria-key-{name}"), key);
        let (printed, criteria) = criteria(NAMESPACE, &["--litellm-key-file", path(&key_file)]).await;
        assert_eq!(
            outcomes(&criteria),
            ["Passed", "Passed", "Passed", "Fault", "Fault"],
            "{name}: {criteria:#?}"
        );
        for criterion in &criteria[3..] {
            let told = finding(criterion);
            assert!(
                told.contains("does not know the server tools, or does not let this key use it"),
                "{name}: {told}"
            );
            assert!(!told.contains("came to the sidecar"), "{name}: {told}");
        }
        assert!(!format!("{printed:?}").contains(key), "{name}");
        let printed = run(&["doctor", "-n", NAMESPACE, "--litellm-key-file", path(&key_file)]).await;
        assert_ne!(printed.code, 0, "{name}");
        assert!(
            printed.out.contains("grant the server to the key"),
            "{name}: {printed:?}"
        );
    }
    // What was found is not lost where LiteLLM does not tell which servers the key may use.
    let key_file = file("criteria-key-that-breaks-off", KEY_THAT_BREAKS_OFF);
    let (_, criteria) = criteria(NAMESPACE, &["--litellm-key-file", path(&key_file)]).await;
    let told = finding(&criteria[3]);
    assert!(told.contains("came to the sidecar"), "{told}");
}
