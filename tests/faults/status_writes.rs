//! The writes of a resource's status as a watch shows them, and what each of them changed.

use std::sync::Arc;

use futures::StreamExt;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use mcp_auth_crds::{McpServerAuth, McpServerAuthStatus};
use mcp_auth_tests::world::World;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::task::JoinHandle;

pub struct StatusWrites {
    written: Arc<Mutex<Vec<Write>>>,
    watching: JoinHandle<()>,
}

struct Write {
    status: McpServerAuthStatus,
    changes: String,
}

impl StatusWrites {
    /// Of the one resource of a namespace: each change of it after its creation is a write of its status.
    pub fn watch(world: &World) -> Self {
        let api: Api<McpServerAuth> = world.api();
        let written = Arc::new(Mutex::new(Vec::new()));
        let found = Arc::clone(&written);
        let watching = tokio::spawn(async move {
            let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
            let (mut version, mut previous) = (None, Value::Null);
            while let Some(event) = events.next().await {
                if let Ok(watcher::Event::Apply(resource) | watcher::Event::InitApply(resource)) = event
                    && version != resource.metadata.resource_version
                {
                    version = resource.metadata.resource_version;
                    let status = serde_json::to_value(&resource.status).unwrap();
                    let mut changes = Vec::new();
                    differences("", &previous, &status, &mut changes);
                    found.lock().push(Write {
                        status: resource.status.unwrap_or_default(),
                        changes: changes.join("; "),
                    });
                    previous = status;
                }
            }
        });
        Self { written, watching }
    }

    pub fn count(&self) -> usize {
        self.written.lock().len()
    }

    /// What each write after the first so many has changed.
    pub fn since(&self, count: usize) -> Vec<String> {
        let written = self.written.lock();
        written[count..]
            .iter()
            .map(|write| write.changes.clone())
            .collect()
    }

    /// What the last of them wrote.
    pub fn last(&self) -> McpServerAuthStatus {
        let written = self.written.lock();
        written
            .last()
            .map(|write| write.status.clone())
            .unwrap_or_default()
    }
}

impl Drop for StatusWrites {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

fn differences(path: &str, before: &Value, after: &Value, found: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            let keys: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
            for key in keys {
                let of =
                    |object: &serde_json::Map<String, Value>| object.get(key).cloned().unwrap_or_default();
                differences(&format!("{path}.{key}"), &of(before), &of(after), found);
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (index, (before, after)) in before.iter().zip(after).enumerate() {
                // Conditions are told apart by their type.
                let name = after["type"].as_str().map_or(index.to_string(), str::to_owned);
                differences(&format!("{path}.{name}"), before, after, found);
            }
        }
        (before, after) if before != after => found.push(format!("{path}: {before} -> {after}")),
        _ => {}
    }
}
