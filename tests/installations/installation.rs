//! One release of the chart, with the operator as a process of this machine in place of its pods.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::{ApiResource, Scope, pinned_kind};
use mcp_auth_tests::chart::{Case, helm_programs};
use mcp_auth_tests::replica::{Replica, free_address};
use mcp_auth_tests::resource::merge;
use mcp_auth_tests::setting;
use mcp_auth_tests::world::World;
use serde_json::{Value, json};
use tokio::process::Command;

/// What stands in for the pods and what only a cluster has.
const LEFT_OUT: [&str; 4] = ["Deployment", "Service", "Certificate", "Issuer"];
/// Arguments that say where in the pod something is, which is elsewhere here.
const OF_THE_POD: [&str; 6] = [
    "--listen=",
    "--listen-health=",
    "--operator-url=",
    "--sidecar-settings=",
    "--replica-token-file=",
    "--certificate-folder=",
];

pub struct Installation {
    /// Namespace of the release.
    pub world: World,
    /// What was rendered.
    pub objects: Vec<Value>,
    /// Of this test alone.
    pub folder: PathBuf,
    address: String,
}

impl Installation {
    /// Renders the chart with these values as release and namespace `name`, and applies it, but for what stands for pods.
    pub async fn new(name: &str, values: Value) -> Self {
        let world = World::new(name, false).await;
        let mut all = json!({
            "crds": {"install": false},
            "helmTest": {"enabled": false},
            // The authorization server of the tests is at loopback.
            "policy": {"addresses": "Any"},
        });
        merge(&mut all, values);
        let mut case = Case::with_values(all);
        name.clone_into(&mut case.release);
        name.clone_into(&mut case.namespace);
        let mut objects = case.rendered(&helm_programs()[0]).expect("the values are taken");
        let address = free_address().await;
        // The API server is outside of any cluster.
        let webhooks = objects
            .iter_mut()
            .filter_map(|object| object.get_mut("webhooks").and_then(Value::as_array_mut));
        for webhook in webhooks.flatten() {
            webhook["clientConfig"] = json!({"url": format!("https://{address}/v1/inject")});
        }
        let applied = objects
            .iter()
            .filter(|object| !LEFT_OUT.contains(&object["kind"].as_str().unwrap_or_default()));
        for object in applied {
            apply(&world.client, object).await;
        }
        let folder = PathBuf::from(setting("MCPAUTH_TEST_WORK")).join(name);
        std::fs::create_dir_all(&folder).expect("the folder of the test can be made");
        Self {
            world,
            objects,
            folder,
            address,
        }
    }

    /// The rendered object of this kind and name.
    pub fn object(&self, kind: &str, name: &str) -> &Value {
        let is_it = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
        self.objects
            .iter()
            .find(is_it)
            .unwrap_or_else(|| panic!("there is no {kind} {name}"))
    }

    /// Starts the operator as its ServiceAccount, with what the Deployment says and these arguments.
    pub async fn start(&self, arguments: &[&str]) -> Replica {
        let deployment = &self.object("Deployment", &self.operator_name())["spec"]["template"]["spec"];
        let account = deployment["serviceAccountName"].as_str().expect("it has one");
        let stated = deployment["containers"][0]["args"]
            .as_array()
            .expect("it has some");
        let stated = stated
            .iter()
            .filter_map(Value::as_str)
            .filter(|argument| !OF_THE_POD.iter().any(|prefix| argument.starts_with(prefix)));
        let settings = self.folder.join("sidecar.json");
        let data = &self.object("ConfigMap", &format!("{}-sidecar", self.full_name()))["data"];
        std::fs::write(&settings, data["sidecar.json"].as_str().expect("text")).expect("it can be written");
        let health = free_address().await;
        let trust = self.trust_variables(deployment).await;
        let mut command = Command::new(setting("MCPAUTH_TEST_OPERATOR_PROGRAM"));
        command
            .env("KUBECONFIG", self.kubeconfig_of(account).await)
            .env("POD_NAMESPACE", &self.world.namespace)
            .env("POD_NAME", "operator-0")
            .env("POD_SERVICE_ACCOUNT", account)
            .envs(trust)
            .args(stated)
            .args(["--listen", &self.address, "--listen-health", &health])
            .args(["--operator-url", &format!("https://{}", self.address)])
            .args(["--serving-name", "127.0.0.1"])
            .arg("--sidecar-settings")
            .arg(settings)
            .args(arguments);
        let addresses = (self.address.clone(), health);
        Replica::spawn("operator-0", &mut command, addresses, Some(&self.log()))
    }

    /// The variables by which the operator finds certificates of authorities, with the folder of the pod as the kubelet would mount it
    /// into this test's own.
    async fn trust_variables(&self, pod: &Value) -> Vec<(String, String)> {
        let container = &pod["containers"][0];
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let mut variables = Vec::new();
        for variable in list(&container["env"]) {
            let text = |field: &str| variable[field].as_str().unwrap_or_default().to_owned();
            if !text("name").starts_with("SSL_CERT_") {
                continue;
            }
            let mounts = list(&container["volumeMounts"]);
            let mount = mounts.iter().find(|mount| mount["mountPath"] == *text("value"));
            let value = match mount {
                None => text("value"),
                Some(mount) => {
                    let volumes = list(&pod["volumes"]);
                    let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]);
                    let folder = self.mount(volume.expect("what is mounted is a volume")).await;
                    folder.to_str().expect("text").to_owned()
                }
            };
            variables.push((text("name"), value));
        }
        variables
    }

    /// A folder with the files of a volume, each a link through `..data`, as the kubelet makes them.
    async fn mount(&self, volume: &Value) -> PathBuf {
        let named = |pointer: &str| volume.pointer(pointer).and_then(Value::as_str);
        let files: Vec<(String, Vec<u8>)> = match (named("/configMap/name"), named("/secret/secretName")) {
            (Some(name), _) => {
                let config_map: ConfigMap = self.world.api().get(name).await.expect("it is there");
                let data = config_map.data.unwrap_or_default();
                data.into_iter()
                    .map(|(key, text)| (key, text.into_bytes()))
                    .collect()
            }
            (None, Some(name)) => {
                let secret: Secret = self.world.api().get(name).await.expect("it is there");
                let data = secret.data.unwrap_or_default();
                data.into_iter().map(|(key, bytes)| (key, bytes.0)).collect()
            }
            (None, None) => panic!("no test mounts this: {volume}"),
        };
        let folder = self.folder.join("mounted");
        let version = folder.join("..2026_01_01");
        std::fs::create_dir_all(&version).expect("it can be made");
        symlink("..2026_01_01", folder.join("..data")).expect("it is new");
        for (name, content) in files {
            std::fs::write(version.join(&name), content).expect("it can be written");
            symlink(format!("..data/{name}"), folder.join(&name)).expect("it is new");
        }
        folder
    }

    /// Applies once more what was rendered as this object of this namespace.
    pub async fn apply_again(&self, kind: &str, name: &str, namespace: &str) {
        let is_it = |object: &&Value| {
            let metadata = &object["metadata"];
            object["kind"] == kind && metadata["name"] == name && metadata["namespace"] == namespace
        };
        let object = self.objects.iter().find(is_it).expect("it was rendered");
        apply(&self.world.client, object).await;
    }

    /// Where webhook and sidecars reach the operator.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Where the operator logs to.
    pub fn log(&self) -> PathBuf {
        self.folder.join("operator.log")
    }

    pub fn full_name(&self) -> String {
        format!("{}-mcp-auth", self.world.namespace)
    }

    pub fn operator_name(&self) -> String {
        format!("{}-operator", self.full_name())
    }

    /// That of the tests, with the rights of this ServiceAccount alone.
    async fn kubeconfig_of(&self, account: &str) -> PathBuf {
        let request: TokenRequest = serde_json::from_value(
            json!({"metadata": {}, "spec": {"audiences": [], "expirationSeconds": 3600}}),
        )
        .expect("a token request");
        let accounts: Api<ServiceAccount> = self.world.api();
        let answer = accounts
            .create_token_request(account, &PostParams::default(), &request)
            .await;
        let token = answer
            .expect("a token is issued")
            .status
            .expect("it is in the status")
            .token;
        let source = PathBuf::from(setting("KUBECONFIG"));
        let text = std::fs::read_to_string(&source).expect("it can be read");
        let mut config: Value = serde_saphyr::from_str(&text).expect("it is YAML");
        config["users"][0]["user"] = json!({"token": token});
        let authority = &mut config["clusters"][0]["cluster"]["certificate-authority"];
        *authority = json!(beside(&source, authority.as_str().expect("it names a file")));
        let path = self.folder.join("kubeconfig");
        std::fs::write(&path, config.to_string()).expect("it can be written");
        path
    }
}

/// A pod of LiteLLM, with its configuration in a ConfigMap.
pub fn litellm(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "litellm"}},
        "spec": {
            "serviceAccountName": "default",
            "containers": [{
                "name": "litellm", "image": "litellm", "args": ["--config", "/etc/litellm/config.yaml"],
                "ports": [{"name": "http", "containerPort": 4000}],
                "volumeMounts": [{"name": "config", "mountPath": "/etc/litellm"}],
            }],
            "volumes": [{"name": "config", "configMap": {"name": "litellm"}}],
        },
    })
}

/// The sidecar of a pod, if it has one.
pub fn sidecar_of(pod: &Pod) -> Option<String> {
    let containers = pod.spec.as_ref()?.init_containers.as_ref()?;
    let sidecar = containers
        .iter()
        .find(|container| container.name == "mcpauth-sidecar")?;
    Some(serde_json::to_string(sidecar).expect("it came as JSON"))
}

fn beside(file: &Path, name: &str) -> PathBuf {
    file.parent().expect("it lies in a folder").join(name)
}

/// As `kubectl apply --server-side` does it.
async fn apply(client: &Client, object: &Value) {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
    let api_version = text("/apiVersion").expect("an API version");
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let kind = GroupVersionKind::gvk(group, version, text("/kind").expect("a kind"));
    let (resource, capabilities): (ApiResource, _) = pinned_kind(client, &kind).await.expect("it is served");
    let api: Api<DynamicObject> = match capabilities.scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => {
            let namespace = text("/metadata/namespace").expect("a namespace");
            Api::namespaced_with(client.clone(), namespace, &resource)
        }
    };
    let name = text("/metadata/name").expect("a name");
    let params = PatchParams::apply("helm").force();
    let applied = api.patch(name, &params, &Patch::Apply(object)).await;
    applied.unwrap_or_else(|error| panic!("{api_version} {name}: {error}"));
}
