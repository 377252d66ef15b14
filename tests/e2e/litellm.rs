//! LiteLLM in the shapes that charts and people give it, all made from the demo's one.

use futures::future::join_all;
use mcp_auth_tests::wait::KUBECTL_LIMIT;
use serde_json::{Value, json};

use crate::command::{apply, kubectl};
use crate::ground::{NAMESPACE, manifest, of_kind};

/// Every shape; `litellm` is the demo's own, that of chart 1.0.0.
pub const SHAPES: [&str; 5] = ["litellm", "helm", "folder", "plain", "gateway"];

const CALLBACK: &str = "\
from litellm.integrations.custom_logger import CustomLogger

class Told(CustomLogger):
    async def async_log_success_event(self, *_arguments, **_named):
        print('the callback of the folder was called', flush=True)

told = Told()
";

/// Secret and configuration: the demo's, with two more servers.
pub async fn configure() {
    let objects = manifest("litellm").await;
    let mut config = of_kind(&objects, "ConfigMap");
    let text = config["data"]["config.yaml"]
        .as_str()
        .expect("the configuration")
        .to_owned();
    let servers = [("legacy", "tools", "sse", "sse"), ("open", "open", "mcp", "http")];
    let servers = servers.map(|(name, host, path, transport)| {
        format!(
            "  {name}:\n    url: http://{host}.{NAMESPACE}.svc/{path}\n    transport: {transport}\n    \
             allow_all_keys: true\n"
        )
    });
    let text = text + &servers.concat();
    let with_callback = format!("{text}litellm_settings:\n  callbacks: [my_callbacks.told]\n");
    config["data"]["config.yaml"] = json!(text);
    let mut folder = config.clone();
    folder["metadata"]["name"] = json!("litellm-folder");
    folder["data"] = json!({"config.yaml": with_callback, "my_callbacks.py": CALLBACK});
    apply(&[of_kind(&objects, "Secret"), config, folder]).await;
}

/// Applies these shapes, all at once, and waits until they are ready.
pub async fn deploy(names: &[&str]) {
    let objects = manifest("litellm").await;
    for name in names {
        apply(&[shape(&objects, name), service(&objects, name)]).await;
    }
    join_all(names.iter().map(|name| ready(name))).await;
}

pub async fn ready(name: &str) {
    let deployment = format!("deploy/{name}");
    let said = kubectl(&["rollout", "status", &deployment, KUBECTL_LIMIT]).await;
    assert!(said.success, "{name} gets ready: {}{}", said.out, said.err);
}

/// The demo's Deployment in this shape.
pub fn shape(objects: &[Value], name: &str) -> Value {
    let mut deployment = instance(&of_kind(objects, "Deployment"), name);
    let pod = &mut deployment["spec"]["template"]["spec"];
    let container = &mut pod["containers"][0];
    let key = container["env"][2].clone();
    // A LiteLLM that starts takes a whole core for half a minute. The servers that it calls have a larger
    // share, and there is something left on a machine of two cores.
    container["resources"] = json!({
        "requests": {"cpu": "25m", "memory": "512Mi"}, "limits": {"cpu": "800m"},
    });
    let config_path = json!({"name": "CONFIG_FILE_PATH", "value": "/etc/litellm/config.yaml"});
    let file = json!([{"name": "config", "mountPath": "/etc/litellm/config.yaml", "subPath": "config.yaml"}]);
    match name {
        "helm" => {
            container["name"] = json!("litellm");
            container["args"] = json!(["--config", "/etc/litellm/config.yaml"]);
            container["env"] =
                json!([{"name": "HOST", "value": "0.0.0.0"}, {"name": "PORT", "value": "4000"}, key]);
            container["volumeMounts"] = file;
        }
        "folder" => {
            container["args"] = json!(["proxy", "--port", "4000", "--config", "/etc/litellm/config.yaml"]);
            container["env"] = json!([key]);
            container["securityContext"]["readOnlyRootFilesystem"] = json!(true);
            container["volumeMounts"] = json!([
                {"name": "config", "mountPath": "/etc/litellm"},
                {"name": "tmp", "mountPath": "/tmp"},
            ]);
            pod["volumes"] = json!([
                {"name": "config", "configMap": {"name": "litellm-folder"}},
                {"name": "tmp", "emptyDir": {}},
            ]);
        }
        "plain" => {
            container["command"] = json!(["litellm", "--config", "/etc/litellm/config.yaml"]);
            container.as_object_mut().expect("a container").remove("args");
            container["env"] = json!([key]);
            container["volumeMounts"] = file;
        }
        "gateway" => {
            let application = "litellm.proxy.proxy_server:app";
            container["args"] = json!([
                "python3",
                "-m",
                "uvicorn",
                application,
                "--host",
                "0.0.0.0",
                "--port",
                "4000"
            ]);
            container["env"] = json!([config_path, key]);
            container["volumeMounts"] = file;
        }
        _ => {}
    }
    deployment
}

/// Its Service.
pub fn service(objects: &[Value], name: &str) -> Value {
    let mut service = of_kind(objects, "Service");
    service["metadata"]["name"] = json!(name);
    service["spec"]["selector"]["app.kubernetes.io/instance"] = json!(name);
    service
}

/// The Deployment as another installation of the same chart.
pub fn instance(deployment: &Value, name: &str) -> Value {
    let mut deployment = deployment.clone();
    let label = "app.kubernetes.io/instance";
    deployment["metadata"]["name"] = json!(name);
    deployment["metadata"]["labels"][label] = json!(name);
    deployment["spec"]["selector"]["matchLabels"][label] = json!(name);
    deployment["spec"]["template"]["metadata"]["labels"][label] = json!(name);
    deployment
}

/// The object with its name and its label `app` changed.
pub fn renamed(object: &Value, from: &str, to: &str) -> Value {
    let text = object.to_string();
    let text = text.replace(&format!("\"name\":\"{from}\""), &format!("\"name\":\"{to}\""));
    let text = text.replace(&format!("\"app\":\"{from}\""), &format!("\"app\":\"{to}\""));
    serde_json::from_str(&text).expect("only values were changed")
}
