//! The Helm chart with a set of values: what comes out of it, and what is to. Each file in `tests/chart/cases` is one such set
//! with what it is to come out as; `tests/chart/README.md` has their form.

mod consistency;
mod lookup;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_json::{Value, json};

pub use consistency::inconsistencies;
pub use lookup::lookup;

use crate::resource::merge;

/// A set of values, and what it is to come out as.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Case {
    /// The file's name without its ending.
    #[serde(skip)]
    pub name: String,
    #[serde(default = "default_release")]
    pub release: String,
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// Besides the two images, which every installation names.
    #[serde(default)]
    pub values: Value,
    /// By `KIND/NAME` and a path in the object, the value there; null: there is none.
    #[serde(default)]
    pub expect: BTreeMap<String, BTreeMap<String, Value>>,
    /// `KIND/NAME` of objects that are not to be there.
    #[serde(default)]
    pub absent: Vec<String>,
    /// Sentences that the values are refused with.
    #[serde(default)]
    pub refused: Vec<String>,
}

fn default_release() -> String {
    "mcp-auth".to_owned()
}

fn default_namespace() -> String {
    "mcp-auth-system".to_owned()
}

impl Case {
    /// All cases, in the order of their names.
    pub fn all() -> Vec<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("chart/cases");
        let files = std::fs::read_dir(&folder).expect("the cases are there");
        let mut paths: Vec<PathBuf> = files.map(|file| file.expect("it can be read").path()).collect();
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }

    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).expect("the case can be read");
        let mut case: Self =
            serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        case.name = path
            .file_stem()
            .expect("it has a name")
            .to_string_lossy()
            .into_owned();
        case
    }

    /// A case of these values alone.
    pub fn with_values(values: Value) -> Self {
        Self {
            name: "values of a test".to_owned(),
            release: default_release(),
            namespace: default_namespace(),
            values,
            expect: BTreeMap::new(),
            absent: Vec::new(),
            refused: Vec::new(),
        }
    }

    pub fn is_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    /// The values as Helm gets them.
    pub fn all_values(&self) -> Value {
        let mut values = json!({
            "operator": {"image": {"repository": "registry.example.com/mcp-auth-operator"}},
            "sidecar": {"image": {"repository": "registry.example.com/mcp-auth-sidecar"}},
        });
        if !self.values.is_null() {
            merge(&mut values, self.values.clone());
        }
        values
    }

    /// What `helm template` prints: the manifests, or the error.
    pub fn rendered_text(&self, helm: &Path) -> Result<String, String> {
        let chart = chart();
        let arguments = ["template", &self.release, &chart, "--namespace", &self.namespace];
        run(helm, &arguments, &self.all_values().to_string())
    }

    /// The objects that the chart makes of the values.
    pub fn rendered(&self, helm: &Path) -> Result<Vec<Value>, String> {
        let text = self.rendered_text(helm)?;
        // A key that is there twice is an error here, as it is for the API server.
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text)
            .unwrap_or_else(|error| panic!("{}: it renders what is no YAML: {error}", self.name));
        Ok(objects.into_iter().filter(|object| !object.is_null()).collect())
    }

    /// What differs between the objects and what they are to be.
    pub fn differences(&self, objects: &[Value]) -> Vec<String> {
        let mut differences = Vec::new();
        for (id, paths) in &self.expect {
            let Some(object) = objects.iter().find(|object| object_id(object) == *id) else {
                differences.push(format!("there is no {id}"));
                continue;
            };
            for (path, expected) in paths {
                let found = lookup(object, path);
                if found != *expected {
                    differences.push(format!("{id} {path}: expected {expected}, found {found}"));
                }
            }
        }
        let present = self
            .absent
            .iter()
            .filter(|id| objects.iter().any(|object| object_id(object) == **id));
        differences.extend(present.map(|id| format!("there is a {id}")));
        differences
    }
}

/// `KIND/NAME`; in a namespace other than the release's, a Role or RoleBinding is `KIND/NAMESPACE/NAME`.
pub fn object_id(object: &Value) -> String {
    let text = |pointer| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (kind, name) = (text("/kind"), text("/metadata/name"));
    match kind {
        "Role" | "RoleBinding" => format!("{kind}/{}/{name}", text("/metadata/namespace")),
        _ => format!("{kind}/{name}"),
    }
}

/// The Helm programs to test with: those that MCPAUTH_TEST_HELM names, separated by `:`, or the one on the PATH.
pub fn helm_programs() -> Vec<PathBuf> {
    match std::env::var_os("MCPAUTH_TEST_HELM") {
        Some(programs) => std::env::split_paths(&programs).collect(),
        None => vec![PathBuf::from("helm")],
    }
}

pub fn chart() -> String {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/mcp-auth");
    chart.to_str().expect("the path is text").to_owned()
}

/// Runs Helm with these values.
fn run(helm: &Path, arguments: &[&str], values: &str) -> Result<String, String> {
    let mut process = Command::new(helm)
        .args(arguments)
        .args(["--values", "-"])
        // No cluster is asked.
        .env("KUBECONFIG", "/dev/null")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!(
                "{} does not start: {error}; run this by `make test-chart`",
                helm.display()
            )
        });
    let mut input = process.stdin.take().expect("it is piped");
    input.write_all(values.as_bytes()).expect("Helm reads the values");
    drop(input);
    let output = process.wait_with_output().expect("Helm ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("Helm prints text");
    if output.status.success() {
        Ok(text(output.stdout))
    } else {
        Err(text(output.stderr))
    }
}
