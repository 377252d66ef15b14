//! LiteLLM behind a proxy that takes TLS only for every port of the pod, as a service mesh with strict mutual TLS does. The
//! proxy is a stand-in, the rules that lead to it are those of `istio-init`; kubelet, LiteLLM and sidecar are real.

use mcp_auth_tests::wait::until;
use serde_json::{Value, json};

use crate::command::{apply, get, kubectl};
use crate::ground::{finally, ground, injected, manifest, pods};
use crate::litellm;

const PROXY: &str = include_str!("mesh_proxy.py");
/// The user that the rules know the proxy by.
const PROXY_USER: u32 = 1337;
const SHAPES: [&str; 2] = ["mesh-native", "mesh-classic"];

/// By the node's own programs: the images of the tests have none.
const RULES: &str = "\
set -e
iptables -t nat -N MESH_IN
iptables -t nat -A MESH_IN -p tcp --dport 15020 -j RETURN
iptables -t nat -A MESH_IN -p tcp -j REDIRECT --to-ports 15006
iptables -t nat -A PREROUTING -p tcp -j MESH_IN
iptables -t nat -N MESH_OUT
iptables -t nat -A MESH_OUT -o lo -j RETURN
iptables -t nat -A MESH_OUT -m owner --uid-owner 1337 -j RETURN
iptables -t nat -A MESH_OUT -p tcp -j REDIRECT --to-ports 15001
iptables -t nat -A OUTPUT -p tcp -j MESH_OUT
";

/// Requests by TLS, or by plain HTTP, as another pod sends them: status, whether the connection is closed, and body of the
/// only one, or of the first whose connection is closed or that fails.
const ASK: &str = "
import http.client, json, os, ssl, sys, time
scheme, address, port, path, how = sys.argv[1:]
context = ssl._create_unverified_context()
headers = {'Authorization': 'Bearer ' + os.environ['LITELLM_API_KEY']}
end = time.monotonic() + 300
while True:
    try:
        if scheme == 'https':
            connection = http.client.HTTPSConnection(address, int(port), timeout=60, context=context)
        else:
            connection = http.client.HTTPConnection(address, int(port), timeout=60)
        connection.request('GET', path, headers=headers)
        answer = connection.getresponse()
        closes = (answer.getheader('connection') or '').lower() == 'close'
        said = {'status': answer.status, 'closes': closes, 'body': answer.read().decode()}
        connection.close()
    except (OSError, http.client.HTTPException) as error:
        said = {'failure': type(error).__name__}
    if how == 'once' or said.get('status') != 200 or said['closes'] or time.monotonic() > end:
        break
    time.sleep(0.1)
print(json.dumps(said))
";

async fn ask(scheme: &str, address: &str, port: u16, path: &str) -> Value {
    ask_as(&[scheme, address, &port.to_string(), path, "once"]).await
}

async fn ask_as(arguments: &[&str]) -> Value {
    let program = ["exec", "deploy/client", "--", "python3", "-c", ASK];
    let said = kubectl(&[&program[..], arguments].concat()).await;
    serde_json::from_str(&said.out).unwrap_or_else(|_| panic!("no JSON: {}{}", said.out, said.err))
}

/// The demo's LiteLLM as Istio's webhook leaves it.
fn deployment(objects: &[Value], name: &str) -> Value {
    let mut deployment = litellm::shape(objects, "litellm");
    deployment = litellm::instance(&deployment, name);
    let pod = &mut deployment["spec"]["template"]["spec"];
    let image = pod["containers"][0]["image"].clone();
    let restricted = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    let mut proxy = json!({
        "name": "istio-proxy", "image": image, "command": ["python3", "-c", PROXY],
        "startupProbe": {"tcpSocket": {"port": 15020}, "periodSeconds": 1, "failureThreshold": 120},
        "securityContext": restricted, "resources": {"requests": {"cpu": "50m"}},
    });
    proxy["securityContext"]["runAsUser"] = json!(PROXY_USER);
    let init = json!({
        "name": "istio-init", "image": image, "command": ["chroot", "/node", "sh", "-c", RULES],
        "securityContext": {"privileged": true, "runAsUser": 0, "runAsNonRoot": false},
        "volumeMounts": [{"name": "node", "mountPath": "/node"}],
    });
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        pod["containers"][0][probe]["httpGet"]["port"] = json!(15020);
    }
    let containers = pod["containers"].as_array_mut().expect("a list");
    if name == "mesh-native" {
        proxy["restartPolicy"] = json!("Always");
        pod["initContainers"] = json!([init, proxy]);
    } else {
        containers.push(proxy);
        pod["initContainers"] = json!([init]);
    }
    let node = json!({"name": "node", "hostPath": {"path": "/"}});
    pod["volumes"].as_array_mut().expect("a list").push(node);
    deployment
}

async fn pod_security(level: &str) {
    let label = format!("pod-security.kubernetes.io/enforce={level}");
    let command = [
        "label",
        "namespace",
        crate::ground::NAMESPACE,
        "--overwrite",
        &label,
    ];
    kubectl(&command).await.ok();
}

#[tokio::test]
async fn behind_a_proxy_that_takes_tls_only_litellm_gets_ready_serves_and_drains() {
    ground().await;
    let objects = manifest("litellm").await;
    // Rules of a network are for the privileged. What runs is left alone when the label comes back.
    pod_security("privileged").await;
    let deploy = async {
        for name in SHAPES {
            apply(&[deployment(&objects, name)]).await;
        }
        for name in SHAPES {
            litellm::ready(name).await;
        }
    };
    finally(deploy, pod_security("restricted")).await;
    for name in SHAPES {
        let pods = pods(name).await;
        let [pod] = &pods[..] else {
            panic!("one pod of {name}: {pods:?}");
        };
        serves_by_tls_only(name, pod).await;
        drains(name, pod).await;
    }
    for name in SHAPES {
        let deployment = format!("deploy/{name}");
        kubectl(&["delete", &deployment, "--cascade=foreground"])
            .await
            .ok();
    }
}

async fn serves_by_tls_only(name: &str, pod: &Value) {
    assert!(injected(pod), "{name} has the sidecar: {pod}");
    let order: Vec<&str> = pod["spec"]["initContainers"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|container| container["name"].as_str())
        .collect();
    let expected: &[&str] = match name {
        "mesh-native" => &["istio-init", "istio-proxy", "mcpauth-sidecar"],
        _ => &["mcpauth-sidecar", "istio-init"],
    };
    assert_eq!(order, expected, "{name}");
    let address = pod["status"]["podIP"].as_str().expect("an address");
    // Without this the rest would show nothing: what the kubelet would ask by HTTP fails.
    for (port, path) in [(16482, "/startup"), (4000, "/health/liveliness")] {
        let plain = ask("http", address, port, path).await;
        assert!(plain["failure"].is_string(), "{name}: {plain}");
    }
    let models = ask("https", address, 4000, "/v1/models").await;
    assert_eq!(models["status"], 200, "{name}: {models}");
    // By way of the sidecar and its token, through the mesh.
    until(
        "the tools are listed",
        async || ask("https", address, 4000, "/mcp-rest/tools/list").await,
        |answer| {
            answer["body"]
                .as_str()
                .is_some_and(|body| body.contains("whoami"))
        },
    )
    .await;
}

async fn drains(name: &str, pod: &Value) {
    let address = pod["status"]["podIP"].as_str().expect("an address");
    let pod_name = pod["metadata"]["name"].as_str().expect("a name");
    // LiteLLM serves while its own hook sleeps and the sidecar's drains, which closes connections.
    let end = async {
        kubectl(&["delete", "pod", pod_name, "--wait=false"]).await.ok();
    };
    let until_closed = ["https", address, "4000", "/v1/models", "until-closed"];
    let (answer, ()) = tokio::join!(ask_as(&until_closed), end);
    assert_eq!(answer["status"], 200, "{name}: {answer}");
    assert_eq!(answer["closes"], true, "{name}: {answer}");
    let gone = [
        "wait",
        "--for=delete",
        &format!("pod/{pod_name}"),
        "--timeout=300s",
    ];
    kubectl(&gone).await.ok();
    let field = format!("--field-selector=involvedObject.name={pod_name},reason=FailedPreStopHook");
    let events = get(&["events", &field]).await;
    assert_eq!(events["items"], json!([]), "{name}: a hook failed");
}
