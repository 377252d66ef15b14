//! The resources of a folder: the `McpServerAuth` YAML of Kubernetes, with the Secrets and ConfigMaps that it
//! refers to ([`objects`]). Each is admitted by the schema and the CEL rules by which the API server admits it.
//! What only a cluster has is refused by name. A file or an object that cannot be used holds back no others.

mod objects;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use mcp_auth_crds::admission::{Admission, Violation};
use mcp_auth_crds::{ClientAuthenticationMethod, McpServerAuth, reasons};
use mcp_auth_credentials::NotServedError;
use mcp_auth_credentials::references::{Kind, Reference};
use serde_json::Value;
use thiserror::Error;

use crate::problem::{Concerns, Problem};
use crate::protected_server::{ProtectedServer, entry_resource_name};
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
        "{file}: {kind} {name} is in namespace {namespace}, and what was read before it in {first}: one LiteLLM is in one \
         namespace. Give each a folder of its own"
    )]
    OtherNamespace {
        file: PathBuf,
        kind: &'static str,
        name: String,
        namespace: String,
        first: String,
    },
    #[error(
        "McpServerAuth {second} is for server {server:?}, for which {first} is there already: leave one out"
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
    /// With those whose Secrets are missing, for which the reason is told.
    pub servers: Vec<ProtectedServer>,
    /// What is ignored here, each to be told once.
    pub ignored: Vec<String>,
    pub problems: Vec<Problem>,
    /// Servers of resources that are refused: they get no token of another client.
    pub refused: BTreeSet<String>,
}

/// Reads all of the folder that can be used, and says what is wrong with the rest.
pub fn read(folder: &Path, admission: &Admission) -> Resources {
    let mut reading = Reading::default();
    reading.problems = reading.objects.add_folders(folder);
    match visible(folder) {
        Ok(paths) => paths.iter().for_each(|file| reading.path(file)),
        // Most likely the option is wrong; when LiteLLM runs, the folder may come again.
        Err(error) => reading
            .problems
            .push(Problem::new(&error, Concerns::Folder).fatal()),
    }
    reading.finish(folder, admission)
}

#[derive(Default)]
struct Reading {
    objects: Objects,
    resources: Vec<(PathBuf, Value)>,
    /// That of the first object that names one.
    namespace: Option<String>,
    ignored: Vec<String>,
    problems: Vec<Problem>,
}

impl Reading {
    fn path(&mut self, file: &Path) {
        let is_manifest = file
            .extension()
            .is_some_and(|extension| EXTENSIONS.iter().any(|known| extension == *known));
        if !is_manifest || !file.is_file() {
            return;
        }
        match documents(file) {
            Ok(documents) => {
                for document in documents {
                    self.document(document, file);
                }
            }
            Err(error) => {
                let concerns = Concerns::File(file.to_owned());
                self.problems.push(Problem::new(&error, concerns));
            }
        }
    }

    /// One object, or a list of them.
    fn document(&mut self, mut document: Value, file: &Path) {
        let is_list = document["kind"]
            .as_str()
            .is_some_and(|kind| kind.ends_with("List"));
        let objects = match document.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) if is_list => items,
            _ => vec![document],
        };
        for object in objects {
            let name = name(&object);
            let is_referred_to = matches!(object["kind"].as_str(), Some("Secret" | "ConfigMap"));
            if let Err(error) = self.object(object, file) {
                self.problems.push(match is_referred_to {
                    // Resources that refer to it have a problem of their own.
                    true => Problem::new(&error, Concerns::Nothing),
                    false => Problem::of_resource(&error, &name),
                });
            }
        }
    }

    fn object(&mut self, object: Value, file: &Path) -> Result<(), ResourceError> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
        if object.is_null() {
            return Ok(());
        }
        match (version.as_str(), kind.as_str()) {
            (VERSION, KIND) => {
                self.check_namespace(&object, file, KIND)?;
                self.resources.push((file.to_owned(), object));
            }
            ("v1", "Secret") => {
                self.check_namespace(&object, file, Kind::Secret.as_str())?;
                self.objects.add_manifest(Kind::Secret, &object, file)?;
            }
            ("v1", "ConfigMap") => {
                self.check_namespace(&object, file, Kind::ConfigMap.as_str())?;
                self.objects.add_manifest(Kind::ConfigMap, &object, file)?;
            }
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
            }
        }
        Ok(())
    }

    fn check_namespace(
        &mut self,
        object: &Value,
        file: &Path,
        kind: &'static str,
    ) -> Result<(), ResourceError> {
        let Some(namespace) = object["metadata"]["namespace"].as_str() else {
            return Ok(());
        };
        match &self.namespace {
            None => self.namespace = Some(namespace.to_owned()),
            Some(first) if first == namespace => {}
            Some(first) => {
                return Err(ResourceError::OtherNamespace {
                    file: file.to_owned(),
                    kind,
                    name: name(object),
                    namespace: namespace.to_owned(),
                    first: first.clone(),
                });
            }
        }
        Ok(())
    }

    fn finish(self, folder: &Path, admission: &Admission) -> Resources {
        let mut read = Resources {
            ignored: self.ignored,
            problems: self.problems,
            ..Resources::default()
        };
        if self.resources.is_empty() && read.problems.is_empty() {
            let empty = ResourceError::Empty(folder.to_owned());
            read.problems
                .push(Problem::new(&empty, Concerns::Nothing).fatal());
        }
        for (file, object) in self.resources {
            let name = name(&object);
            if let Err(error) = read.add(&file, folder, &object, admission, &self.objects) {
                let mut names: BTreeSet<String> = [name].into();
                if let Some(server) = object["spec"]["server"]["name"].as_str() {
                    names.insert(entry_resource_name(server));
                    read.refused.insert(server.to_owned());
                }
                read.problems
                    .push(Problem::new(&error, Concerns::Resources(names)));
                continue;
            }
            let without_effect = IGNORED_FIELDS
                .into_iter()
                .filter(|(field, _)| !object["spec"][field].is_null());
            read.ignored.extend(
                without_effect.map(|(field, why)| {
                    format!("{}: McpServerAuth {name}: spec.{field} {why}", file.display())
                }),
            );
        }
        read
    }
}

/// Fields of a spec that say nothing on one machine, and why.
const IGNORED_FIELDS: [(&str, &str); 2] = [
    ("podSelector", "chooses pods, and there is one LiteLLM here"),
    (
        "restart",
        "restarts workloads, and nothing is restarted here: start LiteLLM again yourself",
    ),
];

impl Resources {
    fn add(
        &mut self,
        file: &Path,
        folder: &Path,
        object: &Value,
        admission: &Admission,
        objects: &Objects,
    ) -> Result<(), ResourceError> {
        let mut server = protected(file, object, admission, objects)?;
        server.file = Some(file.to_owned());
        let name = server.resource_name();
        if let Some(other) = self.servers.iter().find(|other| other.is_same_resource(&server)) {
            return Err(ResourceError::Twice {
                kind: KIND,
                name: name.to_owned(),
                first: other.file.clone().unwrap_or_default(),
                second: file.to_owned(),
            });
        }
        if let Some(other) = self.servers.iter().find(|other| other.name() == server.name()) {
            return Err(ResourceError::SameServer {
                server: server.name().to_owned(),
                first: other.resource_name().to_owned(),
                second: name.to_owned(),
            });
        }
        let problem = server.desired(None).err().map(|problem| {
            let is_missing =
                [reasons::SECRET_NOT_FOUND, reasons::CONFIG_MAP_NOT_FOUND].contains(&problem.reason());
            let missing = server.missing().filter(|_| is_missing);
            ResourceError::NotServed {
                hint: missing.map_or_else(String::new, |reference| hint(reference, folder)),
                file: file.to_owned(),
                name: name.to_owned(),
                problem,
            }
        });
        self.servers.push(server);
        problem.map_or(Ok(()), Err)
    }
}

/// Where a Secret or ConfigMap that is missing belongs.
fn hint(missing: &Reference, folder: &Path) -> String {
    let objects = match missing.kind {
        Kind::Secret => "secrets",
        Kind::ConfigMap => "configmaps",
    };
    let Reference { name, key, .. } = missing;
    let folder = folder.display();
    format!(" as a manifest in {folder}, or as the file {folder}/{objects}/{name}/{key}")
}

/// The YAML documents of a file.
fn documents(file: &Path) -> Result<Vec<Value>, ResourceError> {
    let not_yaml = |place: String| ResourceError::NotYaml {
        file: file.to_owned(),
        place,
    };
    let text = String::from_utf8(read_file(file)?).map_err(|_| not_yaml(": it is not UTF-8".to_owned()))?;
    // Its message shows the text around the place, which may be a secret.
    serde_saphyr::from_multiple(&text).map_err(|error| {
        not_yaml(error.location().map_or_else(String::new, |location| {
            format!(": see line {}, column {}", location.line(), location.column())
        }))
    })
}

fn protected(
    file: &Path,
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
    if let Some(field) = field_of_clusters(&resource) {
        return Err(ResourceError::NeedsCluster {
            file: file.to_owned(),
            name,
            field,
        });
    }
    // There is one namespace here, which nothing has to name.
    resource.metadata.namespace = None;
    let server = ProtectedServer::new(resource, |reference| objects.find(reference));
    Ok(server.with_stated_ends(|reference| objects.stated_end(reference)))
}

/// What the resource wants of the operator: that it asks the API server, or publishes something.
fn field_of_clusters(resource: &McpServerAuth) -> Option<&'static str> {
    let authentication = &resource.spec.oauth2.as_ref()?.client_authentication;
    if authentication.method == ClientAuthenticationMethod::WorkloadIdentity {
        return Some("spec.oauth2.clientAuthentication.method WorkloadIdentity");
    }
    let managed = authentication.managed_key();
    managed.map(|_| "spec.oauth2.clientAuthentication.privateKeyJwt.managed")
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
