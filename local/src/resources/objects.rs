//! The Secrets and ConfigMaps of a folder: manifests among its YAML files, and folders as kubelet mounts them,
//! `secrets/NAME/KEY` and `configmaps/NAME/KEY`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mcp_auth_credentials::credential_expiry::EXPIRES_AT;
use mcp_auth_credentials::references::{Data, Kind, Lookup, Reference};
use serde_json::Value;

use super::{ResourceError, read_file};
use crate::problem::{Concerns, Problem};

/// What references lead to, with the file or folder that each object is from.
#[derive(Default)]
pub struct Objects(BTreeMap<(&'static str, String), Object>);

struct Object {
    data: Arc<Data>,
    /// The file or folder that it is from.
    from: PathBuf,
    /// The value of the annotation [`EXPIRES_AT`].
    stated_end: Option<String>,
}

impl Objects {
    pub fn find(&self, reference: &Reference) -> Lookup {
        let object = (reference.kind.as_str(), reference.name.clone());
        match self.0.get(&object) {
            Some(object) => Lookup::Found(object.data.clone()),
            None => Lookup::NotFound,
        }
    }

    /// When the object of a reference says that what it holds ends.
    pub fn stated_end(&self, reference: &Reference) -> Option<String> {
        let object = (reference.kind.as_str(), reference.name.clone());
        self.0.get(&object)?.stated_end.clone()
    }

    /// Takes the objects of both folders, where they are there, and says which cannot be read.
    pub fn add_folders(&mut self, folder: &Path) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (kind, name) in [(Kind::Secret, "secrets"), (Kind::ConfigMap, "configmaps")] {
            let folder = folder.join(name);
            if !folder.exists() {
                continue;
            }
            let objects = visible(&folder).unwrap_or_else(|error| {
                problems.push(Problem::new(&error, Concerns::Nothing));
                Vec::new()
            });
            // A file there is in no object: a README, for example.
            for object in objects.iter().filter(|object| object.is_dir()) {
                let name = object.file_name().unwrap_or_default().to_string_lossy();
                let data = folder_data(object);
                if let Err(error) = data.and_then(|data| self.add(kind, &name, data, object, None)) {
                    problems.push(Problem::new(&error, Concerns::Nothing));
                }
            }
        }
        problems
    }

    /// Takes the object of a manifest.
    pub fn add_manifest(&mut self, kind: Kind, object: &Value, file: &Path) -> Result<(), ResourceError> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            return Err(ResourceError::Unnamed {
                file: file.to_owned(),
                kind: kind.as_str(),
            });
        }
        let wrong = |field: String, problem: &'static str| ResourceError::Object {
            file: file.to_owned(),
            kind: kind.as_str(),
            name: name.to_owned(),
            field,
            problem,
        };
        let mut data = Data::new();
        // The later wins, as on Kubernetes. ConfigMaps hold text in `data` and bytes in `binaryData`.
        let fields: [(&str, bool); 2] = match kind {
            Kind::Secret => [("data", true), ("stringData", false)],
            Kind::ConfigMap => [("data", false), ("binaryData", true)],
        };
        for (field, is_encoded) in fields {
            let values = match &object[field] {
                Value::Null => continue,
                Value::Object(values) => values,
                _ => return Err(wrong(field.to_owned(), "must be a mapping of keys to texts")),
            };
            for (key, value) in values {
                let field = format!("{field}.{key}");
                let text = match value {
                    Value::String(text) => text.as_str(),
                    Value::Null => "",
                    _ => {
                        return Err(wrong(field, "must be a text: put it in quotes"));
                    }
                };
                let bytes = match is_encoded {
                    true => STANDARD
                        .decode(text.split_ascii_whitespace().collect::<String>())
                        .map_err(|_| wrong(field, "must be Base64; plain text belongs into stringData"))?,
                    false => text.as_bytes().to_vec(),
                };
                data.insert(key.clone(), bytes.into());
            }
        }
        let stated_end = object["metadata"]["annotations"][EXPIRES_AT].as_str();
        self.add(kind, name, data, file, stated_end.map(str::to_owned))
    }

    fn add(
        &mut self,
        kind: Kind,
        name: &str,
        data: Data,
        from: &Path,
        stated_end: Option<String>,
    ) -> Result<(), ResourceError> {
        let key = (kind.as_str(), name.to_owned());
        if let Some(first) = self.0.get(&key) {
            return Err(ResourceError::Twice {
                kind: key.0,
                name: key.1,
                first: first.from.clone(),
                second: from.to_owned(),
            });
        }
        let object = Object {
            data: Arc::new(data),
            from: from.to_owned(),
            stated_end,
        };
        self.0.insert(key, object);
        Ok(())
    }
}

/// Each file is a key. Kubelet's own folders and links begin with `..` and lead to the same files.
fn folder_data(folder: &Path) -> Result<Data, ResourceError> {
    let mut data = Data::new();
    for file in visible(folder)? {
        if file.is_file() {
            let key = file
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            data.insert(key, read_file(&file)?.into());
        }
    }
    Ok(data)
}

/// The entries of a folder in the order of their names, without hidden ones.
pub fn visible(folder: &Path) -> Result<Vec<PathBuf>, ResourceError> {
    let unreadable = |error: std::io::Error| ResourceError::Unreadable {
        path: folder.to_owned(),
        kind: error.kind(),
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}
