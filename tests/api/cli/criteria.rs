//! The five success criteria and a real `tools/list` through a pod: of `doctor`, and of `doctor --criteria`, which
//! `helm test` runs. The node of the pod is a script, and so is what listens in it.

use std::net::SocketAddr;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use mcp_auth_crds::{conditions, reasons};
use mcp_auth_protocol::reachability::Reachability;
use mcp_auth_tests::kubelet::Kubelet;
use mcp_auth_tests::oauth;
use mcp_auth_tests::resource::{SECRET, merge, oauth2, resource};
use mcp_auth_tests::sidecar::{Sidecar, learned};
use mcp_auth_tests::world::World;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Printed, litellm, run};

const OUTBOUND: u16 = 16481;

/// An MCP server that refuses whatever has no token on `/mcp`, and answers on `/tools/mcp` as it does once the sidecar
/// has set the token. Ends with the test.
pub async fn mcp_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    address
}

/// What a sidecar answers to whoever is not LiteLLM, on its port for LiteLLM.
pub async fn port_for_litellm_alone() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Some((_, message)) = read_request(&mut stream).await else {
                    return;
                };
                let error = json!({"code": -32070, "message": "only LiteLLM may call", "data": {"reason": "caller_not_allowed"}});
                let body = json!({"jsonrpc": "2.0", "id": message["id"], "error": error}).to_string();
                let length = body.len();
                let head = "HTTP/1.1 403 Forbidden\r\ncontent-type: application/json\r\nconnection: close";
                let _ = stream
                    .write_all(format!("{head}\r\ncontent-length: {length}\r\n\r\n{body}").as_bytes())
                    .await;
            });
        }
    });
    address
}

async fn answer(mut stream: TcpStream) {
    let Some((request, message)) = read_request(&mut stream).await else {
        return;
    };
    let through_sidecar = request.starts_with(b"POST /tools/mcp ");
    let result = match (through_sidecar, message["method"].as_str().unwrap()) {
        (false, _) => None,
        (true, "initialize") => Some(json!({
            "protocolVersion": message["params"]["protocolVersion"], "capabilities": {"tools": {}},
            "serverInfo": {"name": "crm", "version": "1"},
        })),
        (true, "tools/list") => Some(json!({"tools": [{"name": "search"}, {"name": "create"}]})),
        (true, _) => Some(Value::Null),
    };
    let answer = match result {
        None => "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned(),
        Some(Value::Null) => {
            "HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned()
        }
        Some(result) => {
            let body = json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string();
            format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            )
        }
    };
    // Who asked may be gone.
    let _ = stream.write_all(answer.as_bytes()).await;
}

/// A request, and the one JSON object of its body.
async fn read_request(stream: &mut TcpStream) -> Option<(Vec<u8>, Value)> {
    let mut request = Vec::new();
    // Head and body may come apart.
    loop {
        match stream.read_buf(&mut request).await {
            Ok(read) if read > 0 => {}
            _ => return None,
        }
        let text = String::from_utf8_lossy(&request);
        let body = text
            .split_once("\r\n\r\n")
            .map(|(_, body)| serde_json::from_str(body));
        if let Some(Ok(message)) = body {
            return Some((request, message));
        }
    }
}

/// A LiteLLM pod of a Deployment on this node, injected by the webhook, whose sidecar is ready and up to date. It is
/// connected for as long as the value lives.
pub struct RunningPod {
    pub name: String,
    sidecar: Sidecar,
}

impl RunningPod {
    /// The sidecar reports that the server answers LiteLLM.
    pub fn answered(&mut self) {
        let answered = learned("tools", Reachability::Answered);
        self.sidecar.say(|report| report.reachability = vec![answered]);
    }
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
    pod_of(world, kubelet, &replica_set, "litellm-7c9d-x").await
}

/// One of the Deployment's pods.
async fn pod_of(world: &World, kubelet: &Kubelet, replica_set: &ReplicaSet, name: &str) -> RunningPod {
    let mut pod = litellm(name);
    pod["metadata"]["labels"] = json!({"app.kubernetes.io/name": "litellm", "pod-template-hash": "7c9d"});
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
    let mut sidecar = Sidecar::in_pod(world, &pod).await;
    let snapshot = sidecar
        .until(|snapshot| mcp_auth_tests::sidecar::bearer(snapshot, "tools").is_some())
        .await;
    sidecar.say(|report| report.applied = Some(snapshot.revision.clone()));
    RunningPod {
        name: name.to_owned(),
        sidecar,
    }
}

/// The resource `tools` for this server, with a token.
pub async fn tools(world: &World, server: SocketAddr) {
    world.secret(SECRET, "client-secret", &oauth::secret()).await;
    let mut tools = resource("tools", "tools", oauth2(&oauth::token_url()));
    let url = format!("http://{server}/mcp");
    merge(
        &mut tools,
        json!({"spec": {"server": {"url": url, "allowInsecureHttp": true}}}),
    );
    world.apply(&tools).await.unwrap();
    world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
}

async fn criteria(namespace: &str) -> (Printed, Vec<Value>) {
    let printed = run(&["doctor", "--criteria", "-n", namespace, "-o", "json"]).await;
    let criteria = serde_json::from_str(&printed.out).unwrap_or_else(|_| panic!("{printed:?} is JSON"));
    (printed, criteria)
}

fn outcomes(criteria: &[Value]) -> Vec<&str> {
    criteria
        .iter()
        .map(|criterion| criterion["outcome"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn the_five_criteria_are_met_by_a_pod_that_serves_and_named_where_they_are_not() {
    let world = World::new("cli-criteria", true).await;
    let kubelet = Kubelet::start(&world.client, "cli-criteria").await;
    let server = mcp_server().await;
    tools(&world, server).await;
    let pod = running_pod(&world, &kubelet, "litellm").await;
    kubelet.forward(&format!("cli-criteria/{}", pod.name), OUTBOUND, server);
    world
        .condition("tools", conditions::READY, "True", reasons::READY)
        .await;

    let (printed, met) = criteria("cli-criteria").await;
    assert_eq!(outcomes(&met), ["Passed"; 5], "{met:#?}");
    assert_eq!(printed.code, 0);
    let arrived = met[3]["findings"][0].as_str().unwrap();
    assert!(arrived.contains("without a token it answers 401"), "{arrived}");
    assert_eq!(
        met[4]["findings"][0],
        "cli-criteria/tools: crm lists 2 tools (MCP 2025-06-18)"
    );
    let text = run(&["doctor", "--criteria", "-n", "cli-criteria"]).await.out;
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("ok ")).collect();
    assert_eq!(lines.len(), 5, "{text}");

    // Nothing answers in the pod any more.
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    kubelet.forward(&format!("cli-criteria/{}", pod.name), OUTBOUND, closed);
    let (printed, broken) = criteria("cli-criteria").await;
    assert_eq!(
        outcomes(&broken),
        ["Passed", "Passed", "Passed", "Fault", "Fault"],
        "{broken:#?}"
    );
    assert_eq!(printed.code, 1);

    let skipped = run(&[
        "doctor",
        "--criteria",
        "--skip-calls",
        "-n",
        "cli-criteria",
        "-o",
        "json",
    ])
    .await;
    let skipped: Vec<Value> = serde_json::from_str(&skipped.out).unwrap();
    assert_eq!(outcomes(&skipped)[3..], ["NotChecked", "NotChecked"]);
}

#[tokio::test]
async fn a_pod_that_runs_another_image_than_its_workload_names_is_a_modified_litellm() {
    let world = World::new("cli-criteria-image", true).await;
    let kubelet = Kubelet::start(&world.client, "cli-criteria-image").await;
    tools(&world, mcp_server().await).await;
    let _pod = running_pod(&world, &kubelet, "the-original").await;
    let (printed, criteria) = criteria("cli-criteria-image").await;
    assert_eq!(printed.code, 1);
    assert_eq!(criteria[0]["outcome"], "Fault", "{criteria:#?}");
    let found = criteria[0]["findings"][0].as_str().unwrap();
    assert!(
        found.contains("runs litellm, and its workload names the-original"),
        "{found}"
    );
}

#[tokio::test]
async fn a_sidecar_that_lets_only_litellm_call_counts_by_its_reports_and_an_older_one_beside_it_is_called() {
    const NAMESPACE: &str = "cli-criteria-kinds";
    let world = World::new(NAMESPACE, true).await;
    let kubelet = Kubelet::start(&world.client, NAMESPACE).await;
    let server = mcp_server().await;
    tools(&world, server).await;
    let mut pod = running_pod(&world, &kubelet, "litellm").await;
    kubelet.forward(
        &format!("{NAMESPACE}/{}", pod.name),
        OUTBOUND,
        port_for_litellm_alone().await,
    );
    world
        .condition(
            "tools",
            conditions::SERVER_REACHABLE,
            "Unknown",
            Reachability::NotContacted.reason(),
        )
        .await;
    let (_, waiting) = criteria(NAMESPACE).await;
    assert_eq!(
        outcomes(&waiting)[3..],
        ["NotChecked", "NotChecked"],
        "{waiting:#?}"
    );

    pod.answered();
    world
        .condition(
            "tools",
            conditions::SERVER_REACHABLE,
            "True",
            Reachability::Answered.reason(),
        )
        .await;
    let (_, met) = criteria(NAMESPACE).await;
    assert_eq!(outcomes(&met)[3..], ["Passed", "Passed"], "{met:#?}");
    let found = met[4]["findings"][0].as_str().unwrap();
    assert!(
        found.starts_with(&format!("{NAMESPACE}/tools: LiteLLM's own requests: ")),
        "{found}"
    );

    let replica_sets: Api<ReplicaSet> = world.api();
    let replica_set = replica_sets.get("litellm-7c9d").await.unwrap();
    let older = pod_of(&world, &kubelet, &replica_set, "litellm-7c9d-y").await;
    kubelet.forward(&format!("{NAMESPACE}/{}", older.name), OUTBOUND, server);
    let version = json!({"metadata": {"annotations": {"mcpauth.dev/injected": "0.0.9"}}});
    let pods: Api<Pod> = world.api();
    pods.patch(&older.name, &PatchParams::default(), &Patch::Merge(version))
        .await
        .unwrap();
    let (_, both) = criteria(NAMESPACE).await;
    assert_eq!(
        both[4]["findings"][0],
        format!("{NAMESPACE}/tools: crm lists 2 tools (MCP 2025-06-18)")
    );
}
