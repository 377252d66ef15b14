//! `kubectl drain` of the node, and pods whose overlay lies in the memory that their containers share, under the real container
//! runtime and PodSecurity `restricted`.

use mcp_auth_tests::wait::KUBECTL_LIMIT;
use serde_json::{Value, json};

use crate::client::{url, whoami};
use crate::command::{apply, kubectl, run};
use crate::ground::{CRUMB, finally, ground, injected, manifest, pods};
use crate::litellm;

/// The configuration as a file of a ConfigMap, and in a folder that takes no further file, with what it includes: LiteLLM then
/// reads the wrapper in the mirror.
const SHAPES: [&str; 2] = ["shared-memory", "shared-mirror"];
/// Copies the configuration into a volume and has it include a file that lies beside it.
const COPY: &str = "
import pathlib
text = pathlib.Path('/from/config.yaml').read_text()
to = pathlib.Path('/git/current')
to.mkdir()
(to / 'more.yaml').write_text(text)
(to / 'config.yaml').write_text('include: [more.yaml]\\n')
";
/// What a process of LiteLLM's container, which is another user than the sidecar, sees of the memory.
const LOOK: &str = "
import json, os, sys
folder, found = sys.argv[1], {}
for path in ('/dev/shm/mcpauth', folder):
    try:
        found[path] = sorted(os.listdir(path))
    except PermissionError:
        found[path] = 'not listed'
try:
    open(folder + '/overlay.yaml', 'a')
except OSError as error:
    found['written'] = type(error).__name__
print(json.dumps(found))
";
/// Other users than the sidecar, which is 65532, and than each other.
const LITELLM_USER: u32 = 1234;
const OTHER_USER: u32 = 4321;

fn deployment(objects: &[Value], name: &str) -> Value {
    let mut deployment = litellm::instance(&litellm::shape(objects, "plain"), name);
    let template = &mut deployment["spec"]["template"];
    template["metadata"]["annotations"] = json!({"mcpauth.dev/shared-memory": "true"});
    let pod = &mut template["spec"];
    let image = pod["containers"][0]["image"].clone();
    let container = &mut pod["containers"][0];
    container["securityContext"]["runAsUser"] = json!(LITELLM_USER);
    container["env"]
        .as_array_mut()
        .expect("a list")
        .push(json!({"name": "HOME", "value": "/tmp"}));
    let restricted = json!({
        "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsUser": OTHER_USER,
    });
    if name == "shared-mirror" {
        container["command"] = json!(["litellm", "--config", "/git/current/config.yaml"]);
        container["securityContext"]["readOnlyRootFilesystem"] = json!(true);
        container["volumeMounts"] =
            json!([{"name": "git", "mountPath": "/git"}, {"name": "tmp", "mountPath": "/tmp"}]);
        let volumes = pod["volumes"].as_array_mut().expect("a list");
        volumes.extend(["git", "tmp"].map(|name| json!({"name": name, "emptyDir": {}})));
        pod["initContainers"] = json!([{
            "name": "git", "image": image, "command": ["python3", "-c", COPY], "securityContext": restricted,
            "volumeMounts": [{"name": "git", "mountPath": "/git"}, {"name": "config", "mountPath": "/from"}],
        }]);
    }
    deployment
}

/// The folder that the pod's sidecar makes.
fn folder(pod: &Value) -> String {
    let containers = pod["spec"]["initContainers"].as_array().expect("a list");
    let mut env = containers
        .iter()
        .filter(|container| container["name"] == "mcpauth-sidecar")
        .flat_map(|container| container["env"].as_array().expect("a list"));
    let folder = env.find(|entry| entry["name"] == "MCPAUTH_SHARED_FOLDER");
    folder.expect("it has one")["value"]
        .as_str()
        .expect("text")
        .to_owned()
}

async fn only_pod(name: &str) -> Value {
    let mut pods = pods(name).await;
    assert_eq!(pods.len(), 1, "one pod of {name}: {pods:?}");
    pods.remove(0)
}

async fn serves(name: &str) {
    let answer = whoami(&url(name), "tools", &format!("session_id={CRUMB}{name}")).await;
    assert_eq!(answer["service"], "litellm", "{name}");
    assert_eq!(
        answer["cookies"],
        json!({"session_id": format!("{CRUMB}{name}")}),
        "{name}"
    );
}

/// `kubectl drain` of the node for the pods of one LiteLLM.
async fn drain(node: &str, name: &str, more: &[&str]) -> crate::command::Said {
    let selector = format!("--pod-selector=app.kubernetes.io/instance={name}");
    let arguments = ["drain", node, &selector, KUBECTL_LIMIT];
    run("kubectl", &[&arguments[..], more].concat(), "").await
}

#[tokio::test]
async fn kubectl_drains_a_litellm_whose_overlay_is_in_shared_memory_and_it_serves_before_and_after() {
    ground().await;
    let objects = manifest("litellm").await;
    for name in SHAPES {
        apply(&[deployment(&objects, name), litellm::service(&objects, name)]).await;
    }
    for name in SHAPES {
        litellm::ready(name).await;
        let pod = only_pod(name).await;
        assert!(injected(&pod), "{name} has the sidecar: {pod}");
        let volumes = pod["spec"]["volumes"].as_array().expect("a list");
        let is_of_ours = |volume: &&Value| {
            volume["name"]
                .as_str()
                .is_some_and(|name| name.starts_with("mcpauth-"))
        };
        for volume in volumes.iter().filter(is_of_ours) {
            assert!(volume["emptyDir"].is_null(), "{name}: {volume}");
        }
        serves(name).await;

        let folder = folder(&pod);
        let pod = format!("pod/{}", pod["metadata"]["name"].as_str().expect("a name"));
        let look = [
            "exec",
            &pod,
            "--container=proxy",
            "--",
            "python3",
            "-c",
            LOOK,
            &folder,
        ];
        let seen: Value = serde_json::from_str(&kubectl(&look).await.ok()).expect("it prints JSON");
        assert_eq!(seen["/dev/shm/mcpauth"], "not listed", "{name}: {seen}");
        assert_eq!(seen["written"], "PermissionError", "{name}: {seen}");
        let files = seen[&folder].as_array().expect("a list");
        assert!(files.contains(&json!("overlay.yaml")), "{name}: {seen}");
    }

    let name = SHAPES[0];
    let before = only_pod(name).await;
    let node = before["spec"]["nodeName"]
        .as_str()
        .expect("it runs on a node")
        .to_owned();
    // Without this the rest would show nothing: with the volume kubectl refuses.
    let refused = drain(&node, "litellm", &["--dry-run=server"]).await;
    assert!(
        !refused.success && refused.err.contains("local storage"),
        "{refused:?}"
    );
    let uncordon = async {
        run("kubectl", &["uncordon", &node], "").await.ok();
    };
    let drained = async {
        drain(&node, name, &[]).await.ok();
    };
    finally(drained, uncordon).await;
    litellm::ready(name).await;
    let after = only_pod(name).await;
    assert_ne!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_ne!(folder(&after), folder(&before), "each pod has a name of its own");
    serves(name).await;
    for name in SHAPES {
        kubectl(&["delete", &format!("deploy/{name}"), &format!("service/{name}")])
            .await
            .ok();
    }
}
