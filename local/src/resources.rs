//! The resources of a folder: the `McpServerAuth` YAML of Kubernetes, with the Secrets and ConfigMaps that it
//! refers to ([`objects`]). Each is admitted by the schema and the CEL rules by which the API server admits it.
//! What only a cluster has is refused by name.

mod objects;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use mcp_auth_crds::admission::{Admission, Violation};
use mcp_auth_crds::{ClientAuthenticationMethod, McpServerAuth};
use mcp_auth_credentials::NotServedError;
use mcp_auth_credentials::references::Kind;
use serde_json::Value;
use thiserror::Error;

use crate::protected_server::ProtectedServer;
use objects::{Objects, visible};

const GROUP: &str = "mcpauth.dev";
const VERSION: &str = "mcpauth.dev/v1alpha1";
const KIND: &str = "McpServerAuth";
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];
/// More than the API server takes.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

#[derive(Debug, Error)]
pub enum ResourceError {
    #[error("{path} cannot be read: {kind}. Check --resources and the rights of the file")]
    Unreadable { path: PathBuf, kind: io::ErrorKind },
    #[error("{0} is larger than 4 MiB, which no object of Kubernetes is")]
    TooLarge(PathBuf),
    #[error("{file} is not YAML{place}")]
    NotYaml { file: PathBuf, place: String },
    #[error(
        "{0} holds no McpServerAuth: --resources takes a folder with files that end in .yaml, .yml or .json"
    )]
    Empty(PathBuf),
    #[error("{file}: {found:?} is not served: write apiVersion: {VERSION} and kind: {KIND}")]
    Version { file: PathBuf, found: String },
    #[error("{file}: a {kind} has no metadata.name")]
    Unnamed { file: PathBuf, kind: &'static str },
    #[error("{file}: {kind} {name}: {field} {problem}")]
    Object {
        file: PathBuf,
        kind: &'static str,
        name: String,
        field: String,
        problem: &'static str,
    },
    #[error("{kind} {name} is there twice, in {first} and in {second}: leave one out")]
    Twice {
        kind: &'static str,
        name: String,
        first: PathBuf,
        second: PathBuf,
    },
    #[error("{file}: McpServerAuth {name} is invalid: {}", list(.violations))]
    Invalid {
        file: PathBuf,
        name: String,
        violations: Vec<Violation>,
    },
    #[error(
        "{file}: McpServerAuth {name}: {field} needs a cluster: the token of a ServiceAccount is what it sends. Use \
         another method here, such as PrivateKeyJwt"
    )]
    NeedsCluster {
        file: PathBuf,
        name: String,
        field: &'static str,
    },
    #[error(
        "the namespaces {first} and {second} are both in {folder}: one LiteLLM is in one namespace. Give each a folder of \
         its own"
    )]
    TwoNamespaces {
        folder: PathBuf,
        first: String,
        second: String,
    },
    #[error(
        "McpServerAuth {first} and {second} are both for server {server:?}: on Kubernetes the older one would be served. \
         Leave one out"
    )]
    SameServer {
        server: String,
        first: String,
        second: String,
    },
    #[error("{file}: McpServerAuth {name}: {problem}{hint}")]
    NotServed {
        file: PathBuf,
        name: String,
        problem: NotServedError,
        hint: String,
    },
}

/// What a folder holds.
#[derive(Debug, Default)]
pub struct Resources {
    pub servers: Vec<ProtectedServer>,
    /// What is ignored here, each to be told once.
    pub ignored: Vec<String>,
}

/// Reads all of the folder, or says what is wrong with it.
pub fn read(folder: &Path, admission: &Admission) -> Result<Resources, ResourceError> {
    let mut reading = Reading::default();
    reading.objects.add_folders(folder)?;
    for file in visible(folder)? {
        let is_manifest = file
            .extension()
            .is_some_and(|extension| EXTENSIONS.iter().any(|known| extension == *known));
        if is_manifest && file.is_file() {
            reading.file(&file)?;
        }
    }
    reading.finish(folder, admission)
}

#[derive(Default)]
struct Reading {
    objects: Objects,
    resources: Vec<(PathBuf, Value)>,
    namespaces: Vec<String>,
    ignored: Vec<String>,
}

impl Reading {
    fn file(&mut self, file: &Path) -> Result<(), ResourceError> {
        let not_yaml = |place: String| ResourceError::NotYaml {
            file: file.to_owned(),
            place,
        };
        let text =
            String::from_utf8(read_file(file)?).map_err(|_| not_yaml(": it is not UTF-8".to_owned()))?;
        // Its message shows the text around the place, which may be a secret.
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).map_err(|error| {
            not_yaml(error.location().map_or_else(String::new, |location| {
                format!(": see line {}, column {}", location.line(), location.column())
            }))
        })?;
        for mut document in documents {
            let is_list = document["kind"]
                .as_str()
                .is_some_and(|kind| kind.ends_with("List"));
            match document.get_mut("items").map(Value::take) {
                Some(Value::Array(items)) if is_list => {
                    for item in items {
                        self.object(item, file)?;
                    }
                }
                _ => self.object(document, file)?,
            }
        }
        Ok(())
    }

    fn object(&mut self, object: Value, file: &Path) -> Result<(), ResourceError> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
        if object.is_null() {
            return Ok(());
        }
        match (version.as_str(), kind.as_str()) {
            (VERSION, KIND) => self.resources.push((file.to_owned(), object.clone())),
            ("v1", "Secret") => self.objects.add_manifest(Kind::Secret, &object, file)?,
            ("v1", "ConfigMap") => self.objects.add_manifest(Kind::ConfigMap, &object, file)?,
            (version, kind) if kind == KIND || version.split('/').next() == Some(GROUP) => {
                return Err(ResourceError::Version {
                    file: file.to_owned(),
                    found: format!("{version} {kind}"),
                });
            }
            ("", _) | (_, "") => {
                return Err(ResourceError::NotYaml {
                    file: file.to_owned(),
                    place: " of Kubernetes: a document has no apiVersion or no kind".to_owned(),
                });
            }
            (_, kind) => {
                let what = format!("{}: a {kind} says nothing to mcp-auth exec", file.display());
                self.ignored.push(what);
                return Ok(());
            }
        }
        self.namespaces
            .extend(object["metadata"]["namespace"].as_str().map(str::to_owned));
        Ok(())
    }

    fn finish(self, folder: &Path, admission: &Admission) -> Result<Resources, ResourceError> {
        if let Some(first) = self.namespaces.first()
            && let Some(second) = self.namespaces.iter().find(|namespace| *namespace != first)
        {
            return Err(ResourceError::TwoNamespaces {
                folder: folder.to_owned(),
                first: first.clone(),
                second: second.clone(),
            });
        }
        if self.resources.is_empty() {
            return Err(ResourceError::Empty(folder.to_owned()));
        }
        let mut read = Resources {
            ignored: self.ignored,
            ..Resources::default()
        };
        let mut places: Vec<(String, PathBuf)> = Vec::new();
        for (file, object) in self.resources {
            let server = protected(&file, folder, &object, admission, &self.objects)?;
            let name = name(&object);
            if let Some((_, first)) = places.iter().find(|(other, _)| *other == name) {
                return Err(ResourceError::Twice {
                    kind: KIND,
                    name,
                    first: first.clone(),
                    second: file,
                });
            }
            if let Some(other) = read.servers.iter().find(|other| other.name() == server.name()) {
                return Err(ResourceError::SameServer {
                    server: server.name().to_owned(),
                    first: other.resource.metadata.name.clone().unwrap_or_default(),
                    second: name,
                });
            }
            if !object["spec"]["podSelector"].is_null() {
                read.ignored.push(format!(
                    "{}: McpServerAuth {name}: spec.podSelector chooses pods, and there is one LiteLLM here",
                    file.display()
                ));
            }
            places.push((name, file));
            read.servers.push(server);
        }
        Ok(read)
    }
}

fn protected(
    file: &Path,
    folder: &Path,
    object: &Value,
    admission: &Admission,
    objects: &Objects,
) -> Result<ProtectedServer, ResourceError> {
    let name = name(object);
    let mut resource = admission
        .admit(object)
        .map_err(|violations| ResourceError::Invalid {
            file: file.to_owned(),
            name: name.clone(),
            violations,
        })?;
    if is_workload_identity(&resource) {
        return Err(ResourceError::NeedsCluster {
            file: file.to_owned(),
            name,
            field: "spec.oauth2.clientAuthentication.method WorkloadIdentity",
        });
    }
    // There is one namespace here, which nothing has to name.
    resource.metadata.namespace = None;
    let server = ProtectedServer::new(resource, |reference| objects.find(reference));
    match server.desired(None) {
        Ok(_) => Ok(server),
        Err(problem) => {
            let is_missing = problem.reason().ends_with("NotFound");
            let hint = match is_missing {
                true => format!(
                    " as a manifest in {0}, or as files {0}/secrets/NAME/KEY or {0}/configmaps/NAME/KEY",
                    folder.display()
                ),
                false => String::new(),
            };
            Err(ResourceError::NotServed {
                file: file.to_owned(),
                name,
                problem,
                hint,
            })
        }
    }
}

fn is_workload_identity(resource: &McpServerAuth) -> bool {
    let oauth2 = resource.spec.oauth2.as_ref();
    oauth2.is_some_and(|oauth2| {
        oauth2.client_authentication.method == ClientAuthenticationMethod::WorkloadIdentity
    })
}

fn name(object: &Value) -> String {
    object["metadata"]["name"]
        .as_str()
        .unwrap_or("without a name")
        .to_owned()
}

fn list(violations: &[Violation]) -> String {
    let lines: Vec<String> = violations.iter().map(Violation::to_string).collect();
    lines.join("; ")
}

fn read_file(path: &Path) -> Result<Vec<u8>, ResourceError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
    match read {
        Err(error) => Err(ResourceError::Unreadable {
            path: path.to_owned(),
            kind: error.kind(),
        }),
        Ok(read) if read as u64 > MAX_FILE_BYTES => Err(ResourceError::TooLarge(path.to_owned())),
        Ok(_) => Ok(bytes),
    }
}
