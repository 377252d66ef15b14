//! The ground of all tests: the demo's OAuth2 server, MCP server, LLM and client in a namespace of our own,
//! the chart installed, and one LiteLLM. It is made by the first test that asks for it; the script
//! `tests/e2e/with` clears it.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use mcp_auth_tests::setting;
use mcp_auth_tests::wait::{KUBECTL_LIMIT, until};
use mcp_auth_tests::world::World;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::command::{apply, get, helm, kubectl, parse, run};
use crate::litellm;

pub const NAMESPACE: &str = "e2e";
pub const OPERATOR_NAMESPACE: &str = "mcp-auth-system";
pub const RELEASE: &str = "e2e";
pub const OPERATOR: &str = "deploy/e2e-mcp-auth-operator";
pub const CLIENT_SECRET: &str = "the-first-secret-of-litellm-b3f1c0";
/// In every value of a cookie that a test sends, so that it can be found where it does not belong.
pub const CRUMB: &str = "crumb-";

/// An MCP server that mcp-auth knows nothing of.
const OPEN_SERVER: &str = "
import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
server = MCPServer('open')
@server.tool()
def hello() -> str:
    return 'hello'
security = TransportSecuritySettings(allowed_hosts=['open.e2e.svc'])
uvicorn.run(server.streamable_http_app(transport_security=security), host='0.0.0.0', port=8000)
";

static MADE: OnceCell<()> = OnceCell::const_new();
static ATTEMPTED: AtomicBool = AtomicBool::new(false);

/// The ground, made at the first call, and its API.
pub async fn ground() -> World {
    let world = World::in_namespace(NAMESPACE).await;
    MADE.get_or_init(make).await;
    world
}

/// A manifest of the demo, as it is in our namespace.
pub async fn manifest(name: &str) -> Vec<Value> {
    let path = repository().join(format!("tests/demo/manifests/{name}.yaml"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let text = text
        .replace("PYTHON_IMAGE", &setting("MCPAUTH_TEST_PYTHON_IMAGE"))
        .replace("OAUTH_IMAGE", &setting("MCPAUTH_TEST_OAUTH_IMAGE"))
        .replace("demo.svc", &format!("{NAMESPACE}.svc"))
        .replace("namespace: demo", &format!("namespace: {NAMESPACE}"))
        .replace("name: demo\n", &format!("name: {NAMESPACE}\n"))
        // Tokens outlive an operator that is away for one test, on a slow machine too.
        .replace("\"lifetime\": 30", "\"lifetime\": 600");
    parse(&text).await
}

/// The object of this kind among several.
pub fn of_kind(objects: &[Value], kind: &str) -> Value {
    let found = objects.iter().find(|object| object["kind"] == kind);
    found.unwrap_or_else(|| panic!("there is a {kind}")).clone()
}

async fn scale_operator(replicas: u8) {
    let replicas_flag = format!("--replicas={replicas}");
    let place = ["--namespace", OPERATOR_NAMESPACE];
    let scale = ["scale", OPERATOR, &replicas_flag];
    run("kubectl", &[&place[..], &scale].concat(), "").await.ok();
    if replicas == 0 {
        let operators = "--selector=app.kubernetes.io/component=operator";
        let pods = ["get", "pods", operators, "--output", "name"];
        let pods = [&place[..], &pods].concat();
        until(
            "no operator runs",
            async || run("kubectl", &pods, "").await.ok(),
            |names: &String| names.is_empty(),
        )
        .await;
    } else {
        let status = ["rollout", "status", OPERATOR, KUBECTL_LIMIT];
        run("kubectl", &[&place[..], &status].concat(), "").await.ok();
        webhook_answers().await;
    }
}

/// Does the work while no operator runs, and brings the operator back whatever becomes of the work.
pub async fn without_operator(work: impl Future<Output = ()>) {
    scale_operator(0).await;
    finally(work, scale_operator(1)).await;
}

/// Does `after` even if `work` fails.
pub async fn finally(work: impl Future<Output = ()>, after: impl Future<Output = ()>) {
    let result = AssertUnwindSafe(work).catch_unwind().await;
    after.await;
    if let Err(failure) = result {
        resume_unwind(failure);
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

async fn make() {
    let again = ATTEMPTED.swap(true, Ordering::Relaxed);
    assert!(
        !again,
        "the ground could not be made: see the first test that failed"
    );
    for object in manifest("namespace").await {
        let mut object = object;
        object["metadata"]["labels"]["mcpauth.dev/injection"] = json!("enabled");
        apply(&[object]).await;
    }
    // The client has LiteLLM's key.
    litellm::configure().await;
    for name in ["oauth", "tools", "llm", "client"] {
        apply(&manifest(name).await).await;
    }
    apply(&open_server().await).await;
    install().await;
    resources().await;
    for name in ["oauth", "tools", "llm", "client", "open"] {
        let deployment = format!("deploy/{name}");
        kubectl(&["rollout", "status", &deployment, KUBECTL_LIMIT])
            .await
            .ok();
    }
    for name in ["tools", "legacy"] {
        let resource = format!("msa/{name}");
        kubectl(&["wait", &resource, "--for=condition=TokenIssued", KUBECTL_LIMIT])
            .await
            .ok();
    }
    webhook_answers().await;
    litellm::deploy(&["litellm"]).await;
}

/// The chart of this commit.
pub async fn install() {
    install_with(&[]).await;
}

/// The same with more arguments for Helm.
pub async fn install_with(more: &[&str]) {
    install_chart(&repository().join("charts/mcp-auth"), more).await;
}

/// Installs this chart, or upgrades the release to it.
pub async fn install_chart(chart: &Path, more: &[&str]) {
    let image = |name: &str| {
        let image = setting(&format!("MCPAUTH_TEST_{}_IMAGE", name.to_uppercase()));
        let (repository, tag) = image.rsplit_once(':').expect("the image has a tag");
        format!("{name}.image.repository={repository},{name}.image.tag={tag}")
    };
    let arguments = [
        "upgrade",
        "--install",
        RELEASE,
        chart.to_str().expect("the path is text"),
        "--namespace",
        OPERATOR_NAMESPACE,
        "--create-namespace",
        "--wait",
        KUBECTL_LIMIT,
        // A share as large as that of the servers that the tests rely on.
        "--set",
        "operator.resources.requests.cpu=100m",
        "--set",
        "restart.mode=OnRequest",
        "--set",
        &image("operator"),
        "--set",
        &image("sidecar"),
    ];
    helm(&[&arguments[..], more].concat()).await.ok();
}

/// `tools` as in the demo, and `legacy`: the same server by the older transport.
async fn resources() {
    let objects = manifest("mcp-auth").await;
    let mut legacy = of_kind(&objects, "McpServerAuth");
    legacy["metadata"]["name"] = json!("legacy");
    legacy["spec"]["server"] = json!({
        "name": "legacy", "url": format!("http://tools.{NAMESPACE}.svc/sse"), "transport": "SSE",
        "allowInsecureHttp": true,
    });
    apply(&[objects, vec![legacy]].concat()).await;
}

async fn open_server() -> Vec<Value> {
    let mut objects = manifest("tools").await;
    for object in &mut objects {
        *object = litellm::renamed(object, "tools", "open");
        if object["kind"] == "Deployment" {
            let container = &mut object["spec"]["template"]["spec"]["containers"][0];
            container["args"] = json!(["python3", "-c", OPEN_SERVER]);
            container["readinessProbe"] = json!({"tcpSocket": {"port": "http"}, "periodSeconds": 1});
        }
    }
    objects
}

/// The API server reaches a new webhook about a second after its pod is ready.
pub async fn webhook_answers() {
    let template = of_kind(&manifest("litellm").await, "Deployment")["spec"]["template"].clone();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "spec": template["spec"],
        "metadata": {"name": "trial", "namespace": NAMESPACE, "labels": template["metadata"]["labels"]},
    })
    .to_string();
    let create = ["create", "--dry-run=server", "--output=json", "--filename=-"];
    until(
        "the webhook answers",
        async || run("kubectl", &create, &pod).await,
        |said| said.out.contains("mcpauth-sidecar"),
    )
    .await;
}

/// Pods of a LiteLLM that run and are not on their way out.
pub async fn pods(instance: &str) -> Vec<Value> {
    let selector = format!("--selector=app.kubernetes.io/instance={instance}");
    let found = get(&["pods", &selector]).await;
    let pods = found["items"].as_array().expect("a list").clone();
    pods.into_iter()
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .collect()
}

/// Whether the pod has the sidecar.
pub fn injected(pod: &Value) -> bool {
    let containers = pod["spec"]["initContainers"].as_array();
    containers.is_some_and(|all| all.iter().any(|container| container["name"] == "mcpauth-sidecar"))
}
