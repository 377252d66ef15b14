//! Every pod in `testdata` through the whole decision. The snapshot shows what becomes of it; `properties`
//! are what holds for all of them.

mod api_server;
mod properties;

use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use mcp_auth_protocol::sync::{Route, Transport, UserContext};
use serde::Deserialize;
use serde_json::{Value, json};

use api_server::admitted;

use super::settings::Operator;
use super::sidecar::NAME as SIDECAR;
use super::{Decision, Settings, decide};

/// In the inputs, whatever must not get around. In the settings it would be a mistake of the test.
const SECRET: &str = "s3cret";

/// First document of an input.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Header {
    /// Names of the servers whose resources select the pod.
    routes: Vec<String>,
    times_routes: usize,
}

impl Default for Header {
    fn default() -> Self {
        Self {
            routes: vec!["echo".to_owned()],
            times_routes: 1,
        }
    }
}

struct Input {
    name: String,
    pod: Value,
    routes: Vec<Route>,
}

impl Input {
    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        let mut documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
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
        }
    }

    fn all() -> Vec<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/inject/testdata");
        let mut paths: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
            .collect();
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }

    fn decide(&self, pod: &Value) -> Decision {
        let typed: Pod = serde_json::from_value(pod.clone()).unwrap();
        decide(&typed, "ai", &self.routes, &settings())
    }

    /// The pod after this decision.
    fn injected(&self, pod: &Value) -> Option<Value> {
        let Decision::Inject { patch, .. } = self.decide(pod) else {
            return None;
        };
        let mut patched = pod.clone();
        json_patch::patch(&mut patched, &patch).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        Some(patched)
    }
}

fn route(server: &str) -> Route {
    Route {
        resource: format!("{server}-auth"),
        server: server.to_owned(),
        url: format!("https://{server}.example.com/mcp?$(x)"),
        transport: Transport::StreamableHttp,
        ca_bundle: Some(SECRET.to_owned()),
        cookies: vec!["session_id".to_owned()],
        headers: vec![],
        user_context: UserContext::Optional,
        exchange: None,
        minted_for: String::new(),
    }
}

fn settings() -> Settings {
    let mut settings: Settings = serde_json::from_value(json!({
        "image": "registry.example.com/mcp-auth-sidecar:1.2.3",
        "imagePullPolicy": "IfNotPresent",
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
    }))
    .unwrap();
    settings.operator = Operator {
        url: "https://mcp-auth.mcp-auth.svc:8443".to_owned(),
        ca: "OPERATOR CA".to_owned(),
        version: "1.2.3".to_owned(),
    };
    settings
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn sidecar(pod: &Value) -> &Value {
    list(&pod["spec"], "initContainers")
        .iter()
        .find(|container| container["name"] == SIDECAR)
        .unwrap()
}

/// All inputs that are injected: as they are, and as the API server would send them.
fn injecting() -> impl Iterator<Item = (Input, Value, Value)> {
    let both = |input: Input| {
        let pods = [input.pod.clone(), admitted(&input.pod)];
        pods.into_iter().filter_map(move |pod| {
            let injected = input.injected(&pod)?;
            let input = Input {
                name: input.name.clone(),
                pod: Value::Null,
                routes: input.routes.clone(),
            };
            Some((input, pod, injected))
        })
    };
    Input::all().into_iter().flat_map(both)
}

#[test]
fn every_pod_comes_out_as_its_snapshot() {
    insta::glob!("testdata/*.yaml", |path| {
        let input = Input::read(path);
        let decision = input.decide(&input.pod);
        let mut told = format!("decision: {}\n", decision.reason());
        let patch = match &decision {
            Decision::Leave { patch, .. } => Some(patch),
            Decision::Inject { patch, warnings } => {
                warnings
                    .iter()
                    .for_each(|warning| told += &format!("warning: {warning}\n"));
                Some(patch)
            }
            Decision::Refuse(refusal) => {
                told += &format!("refused: {refusal}\n");
                None
            }
            Decision::LeaveWithWarning(refusal) => {
                told += &format!("warning: {refusal}\n");
                None
            }
        };
        if let Some(patch) = patch.filter(|patch| !patch.is_empty()) {
            let mut pod = input.pod.clone();
            json_patch::patch(&mut pod, patch).unwrap();
            told += &format!("---\n{}", serde_saphyr::to_string(&pod).unwrap());
        }
        insta::with_settings!({omit_expression => true, prepend_module_to_snapshot => false, snapshot_path => "testdata/snapshots"}, {
            insta::assert_snapshot!("pod", told);
        });
    });
}
