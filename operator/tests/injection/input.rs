//! The inputs: every pod in `testdata`, with the routes that its first document asks for.

use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use mcp_auth_operator::inject::{Decision, OperatorEndpoint, Settings, decide};
use mcp_auth_operator::{PodManifest, Preview, preview_with_routes};
use mcp_auth_protocol::sync::{Route, Transport, UserContext};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api_server::admitted;

/// Name of the sidecar's container.
pub const SIDECAR: &str = "mcpauth-sidecar";
/// Stands in the inputs for whatever must not appear in a patch or a message.
pub const SECRET: &str = "s3cret";
/// Of the folder in shared memory, which is another one for each pod elsewhere.
const FOLDER_NAME: &str = "0123456789abcdef0123456789abcdef";

/// First document of an input.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Header {
    /// Names of the servers whose resources select the pod.
    routes: Vec<String>,
    times_routes: usize,
    /// Names of the Secrets that the sidecar's image is pulled with.
    image_pull_secrets: Vec<String>,
    /// More settings of the chart's for all sidecars.
    settings: serde_json::Map<String, Value>,
    /// What is true of LiteLLM without injection, of pods that are run.
    litellm: Option<LiteLlm>,
}

/// What is true of a pod's LiteLLM without injection.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LiteLlm {
    pub port: u64,
    /// Path of its configuration, if it has one.
    pub config: Option<String>,
}

impl Default for Header {
    fn default() -> Self {
        Self {
            routes: vec!["echo".to_owned()],
            times_routes: 1,
            image_pull_secrets: Vec::new(),
            settings: serde_json::Map::new(),
            litellm: None,
        }
    }
}

pub struct Input {
    pub name: String,
    pub pod: Value,
    pub routes: Vec<Route>,
    pub image_pull_secrets: Vec<String>,
    pub settings: serde_json::Map<String, Value>,
    pub litellm: Option<LiteLlm>,
}

impl Input {
    /// A pod as it is, selected by one resource.
    pub fn of_pod(name: &str, pod: Value) -> Self {
        Self {
            name: name.to_owned(),
            pod,
            routes: vec![route("echo")],
            image_pull_secrets: Vec::new(),
            settings: serde_json::Map::new(),
            litellm: None,
        }
    }

    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        let mut documents: Vec<Value> = {
            let options = serde_saphyr::options! { legacy_octal_numbers: true };
            serde_saphyr::from_multiple_with_options(&text, options).unwrap()
        };
        let pod = documents.pop().unwrap();
        let header: Header = match documents.pop() {
            Some(header) if !header.is_null() => serde_json::from_value(header).unwrap(),
            _ => Header::default(),
        };
        let routes = header
            .routes
            .iter()
            .cycle()
            .take(header.routes.len() * header.times_routes);
        Self {
            name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
            pod,
            routes: routes.map(|server| route(server)).collect(),
            image_pull_secrets: header.image_pull_secrets,
            settings: header.settings,
            litellm: header.litellm,
        }
    }

    pub fn all() -> Vec<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/injection/testdata");
        let mut paths: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
            .collect();
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }

    pub fn decide(&self, pod: &Value) -> Decision {
        let typed: Pod = serde_json::from_value(pod.clone()).unwrap();
        decide(&typed, "ai", &self.routes, &self.settings())
    }

    /// What the command makes of the pod, which has a workload.
    pub fn preview(&self) -> Preview {
        let mut value = self.pod.clone();
        value["metadata"]["namespace"] = json!("ai");
        let pod = PodManifest {
            value,
            has_workload: true,
        };
        preview_with_routes(&pod, &self.routes, &self.settings()).unwrap()
    }

    fn settings(&self) -> Settings {
        let mut settings = json!({
            "image": "registry.example.com/mcp-auth-sidecar:1.2.3",
            "imagePullPolicy": "IfNotPresent",
            "imagePullSecrets": self.image_pull_secrets,
            "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
        });
        settings.as_object_mut().unwrap().extend(self.settings.clone());
        let mut settings = Settings::from_json(&settings.to_string()).unwrap();
        settings.operator = OperatorEndpoint {
            url: "https://mcp-auth.mcp-auth.svc:8443".to_owned(),
            ca: "OPERATOR CA".to_owned(),
            version: "1.2.3".to_owned(),
        };
        settings.folder_name = FOLDER_NAME.to_owned();
        settings
    }

    /// The pod after this decision.
    pub fn injected(&self, pod: &Value) -> Option<Value> {
        let Decision::Inject { patch, .. } = self.decide(pod) else {
            return None;
        };
        let mut patched = pod.clone();
        json_patch::patch(&mut patched, &patch).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        Some(patched)
    }
}

pub fn route(server: &str) -> Route {
    Route {
        resource: format!("{server}-auth"),
        server: server.to_owned(),
        url: format!("https://{server}.example.com/mcp?$(x)"),
        transport: Transport::StreamableHttp,
        http1_only: false,
        affinity_cookies: Vec::new(),
        answer_timeout_seconds: None,
        ca_bundle: Some(SECRET.to_owned()),
        cookies: vec!["session_id".to_owned()],
        headers: vec![],
        user_context: UserContext::Optional,
        exchange: None,
        credential_identity: String::new(),
        audit: None,
        litellm: None,
    }
}

pub fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

pub fn sidecar(pod: &Value) -> &Value {
    list(&pod["spec"], "initContainers")
        .iter()
        .find(|container| container["name"] == SIDECAR)
        .unwrap()
}

/// All inputs that are injected and have not been before: as they are, and as the API server would send them.
pub fn injecting() -> impl Iterator<Item = (Input, Value, Value)> {
    let both = |input: Input| {
        let pods = [input.pod.clone(), admitted(&input.pod)];
        pods.into_iter().filter_map(move |pod| {
            let injected = input.injected(&pod)?;
            let is_first = !list(&pod["spec"], "initContainers")
                .iter()
                .any(|container| container["name"] == SIDECAR);
            if !is_first {
                return None;
            }
            let input = Input {
                name: input.name.clone(),
                pod: Value::Null,
                routes: input.routes.clone(),
                image_pull_secrets: input.image_pull_secrets.clone(),
                settings: input.settings.clone(),
                litellm: input.litellm.clone(),
            };
            Some((input, pod, injected))
        })
    };
    Input::all().into_iter().flat_map(both)
}
