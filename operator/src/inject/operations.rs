//! JSON patch operations (RFC 6902) that add only what is missing.

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, MoveOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation};
use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;
use serde_json::Value;

use super::annotations::annotation;

/// Operations in the order they apply. Paths are given as unescaped tokens (RFC 6901).
#[derive(Default)]
pub(super) struct Operations(Vec<PatchOperation>);

impl Operations {
    pub fn into_patch(self) -> Patch {
        Patch(self.0)
    }

    pub fn add(&mut self, path: &[&str], value: impl Serialize) {
        self.0.push(PatchOperation::Add(AddOperation {
            path: pointer(path),
            value: json(value),
        }));
    }

    pub fn replace(&mut self, path: &[&str], value: impl Serialize) {
        self.0.push(PatchOperation::Replace(ReplaceOperation {
            path: pointer(path),
            value: json(value),
        }));
    }

    pub fn remove(&mut self, path: &[&str]) {
        self.0
            .push(PatchOperation::Remove(RemoveOperation { path: pointer(path) }));
    }

    /// Moves an item of a list. What comes later has to reckon with the new order.
    pub fn relocate(&mut self, from: &[&str], to: &[&str]) {
        self.0.push(PatchOperation::Move(MoveOperation {
            from: pointer(from),
            path: pointer(to),
        }));
    }

    /// Appends to the list, or makes it if it is not there.
    pub fn append<T: Serialize>(
        &mut self,
        path: &[&str],
        is_there: bool,
        items: impl IntoIterator<Item = T>,
    ) {
        let items: Vec<T> = items.into_iter().collect();
        if is_there {
            for item in items {
                self.add(&[path, &["-"]].concat(), item);
            }
        } else if !items.is_empty() {
            self.add(path, items);
        }
    }

    /// Sets a label, unless it is set so already.
    pub fn label(&mut self, pod: &Pod, key: &str, value: &str) {
        match &pod.metadata.labels {
            Some(labels) if labels.get(key).is_some_and(|known| known == value) => {}
            Some(_) => self.add(&["metadata", "labels", key], value),
            None => self.add(&["metadata", "labels"], serde_json::json!({key: value})),
        }
    }

    /// Sets the annotations that are not set so yet.
    pub fn annotate(&mut self, pod: &Pod, annotations: &[(&str, String)]) {
        let missing: Vec<_> = annotations
            .iter()
            .filter(|(key, value)| annotation(pod, key) != Some(value))
            .collect();
        if pod.metadata.annotations.is_some() {
            for (key, value) in missing {
                self.add(&["metadata", "annotations", key], value);
            }
        } else if !missing.is_empty() {
            let annotations: serde_json::Map<String, Value> = missing
                .into_iter()
                .map(|(key, value)| ((*key).to_owned(), Value::from(value.as_str())))
                .collect();
            self.add(&["metadata", "annotations"], annotations);
        }
    }
}

fn pointer(tokens: &[&str]) -> PointerBuf {
    PointerBuf::from_tokens(tokens.iter().copied())
}

fn json(value: impl Serialize) -> Value {
    serde_json::to_value(value).expect("parts of pods are made of plain values")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_and_tildes_in_keys_are_escaped() {
        assert_eq!(
            pointer(&["metadata", "annotations", "a~b/c"]).as_str(),
            "/metadata/annotations/a~0b~1c"
        );
    }
}
