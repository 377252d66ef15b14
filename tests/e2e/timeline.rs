//! What became of the namespace's containers while a test ran, as the kubelet told the API server: so that a
//! test that fails can say whether the ground gave way or the product did.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use mcp_auth_tests::world::World;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

const SIDECAR: &str = "mcpauth-sidecar";

/// A watch of all pods of the namespace, from [`Timeline::watch`] until it is dropped.
pub struct Timeline {
    changes: Arc<Mutex<Vec<Change>>>,
    watching: JoinHandle<()>,
}

/// One container that turned ready or unready, or was started again; or one pod that has to end.
#[derive(Clone)]
struct Change {
    at: Timestamp,
    text: String,
    speaks_for: Option<Fault>,
}

/// Whose fault it is that calls are lost after a change.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// A server of the tests turned unready, and with that left its Service.
    Ground,
    /// A sidecar turned unready in a pod that stays, and whose LiteLLM is ready.
    Product,
}

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}  {}", self.at.strftime("%H:%M:%S"), self.text)
    }
}

/// A pod at one moment: whether it has to end, and each container's readiness and number of starts.
#[derive(Clone, Default, PartialEq)]
struct Seen {
    ending: bool,
    containers: BTreeMap<String, (bool, i32)>,
}

impl Timeline {
    pub fn watch(world: &World) -> Self {
        let changes = Arc::<Mutex<Vec<Change>>>::default();
        let pods: Api<Pod> = world.api();
        let watching = tokio::spawn(record(pods, changes.clone()));
        Self { changes, watching }
    }

    /// All changes, a line each, after whose fault they speak for and how busy the machine is.
    pub async fn account(&self) -> String {
        let changes = self.changes.lock().await;
        let speak_for = |fault| changes.iter().any(|change| change.speaks_for == Some(fault));
        let cause = if speak_for(Fault::Product) {
            "the product: a sidecar's readiness took a pod out whose LiteLLM was ready"
        } else if speak_for(Fault::Ground) {
            "the ground: a server that LiteLLM relies on turned unready"
        } else {
            "all servers stayed ready and no sidecar took a LiteLLM out; look at the sidecars' logs"
        };
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let lines: Vec<String> = changes.iter().map(Change::to_string).collect();
        format!(
            "{cause}\nload of the machine: {}\n{}",
            load.trim(),
            lines.join("\n")
        )
    }
}

impl Drop for Timeline {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

async fn record(pods: Api<Pod>, changes: Arc<Mutex<Vec<Change>>>) {
    let mut before: BTreeMap<String, Seen> = BTreeMap::new();
    let mut stream = watcher(pods, watcher::Config::default())
        .default_backoff()
        .touched_objects()
        .boxed();
    while let Some(event) = stream.next().await {
        // The watch begins anew after an error, with all pods.
        let Ok(pod) = event else { continue };
        let name = pod.metadata.name.clone().unwrap_or_default();
        let now = seen(&pod);
        if let Some(earlier) = before.insert(name.clone(), now.clone()) {
            changes.lock().await.extend(differences(&name, &earlier, &now));
        }
    }
}

fn seen(pod: &Pod) -> Seen {
    let status = pod.status.as_ref();
    let statuses = |list: Option<&Vec<ContainerStatus>>| list.cloned().unwrap_or_default();
    let containers = statuses(status.and_then(|status| status.init_container_statuses.as_ref()))
        .into_iter()
        .chain(statuses(
            status.and_then(|status| status.container_statuses.as_ref()),
        ))
        .map(|container| (container.name, (container.ready, container.restart_count)))
        .collect();
    Seen {
        ending: pod.metadata.deletion_timestamp.is_some(),
        containers,
    }
}

fn differences(name: &str, earlier: &Seen, now: &Seen) -> Vec<Change> {
    let mut texts = Vec::new();
    if now.ending && !earlier.ending {
        texts.push((format!("{name} has to end"), None));
    }
    let others_ready = now
        .containers
        .iter()
        .all(|(container, (ready, _))| container == SIDECAR || *ready);
    let of_the_ground = !now.containers.contains_key(SIDECAR);
    for (container, (ready, starts)) in &now.containers {
        let (was_ready, earlier_starts) = earlier.containers.get(container).copied().unwrap_or_default();
        if *ready != was_ready {
            let state = if *ready { "ready" } else { "unready" };
            let fault = if *ready || now.ending {
                None
            } else if container == SIDECAR && others_ready {
                Some(Fault::Product)
            } else {
                of_the_ground.then_some(Fault::Ground)
            };
            texts.push((format!("{name}: {container} turned {state}"), fault));
        }
        if *starts > earlier_starts {
            texts.push((format!("{name}: {container} was started again"), None));
        }
    }
    let at = Timestamp::now();
    let change = |(text, speaks_for)| Change { at, text, speaks_for };
    texts.into_iter().map(change).collect()
}
