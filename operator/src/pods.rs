//! The pods of the namespaces that have resources: their metadata only, and of no other namespace. Watched
//! from the moment a namespace has its first resource.

mod notices;
mod store;
mod watched_pod;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use mcp_auth_credentials::Changes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tracing::warn;

use crate::api_server::with_deadline;
use crate::inject::annotations;
use crate::liveness::{BEAT_INTERVAL, Liveness};
pub use notices::PodNotices;
use store::{PodChange, PodEvents, PodStore};
pub use watched_pod::WatchedPod;

/// A pod's metadata as the API server has them.
pub type PodMeta = PartialObjectMeta<Pod>;

/// A pod that is younger is starting: it is no news that its sidecar is not connected yet.
pub const START_GRACE: Duration = Duration::from_secs(60);

/// Field selector of the pods that may serve LiteLLM's API. One that has ended needs nothing, and one that is meant to end, such
/// as a Job's, a workflow's or the test of LiteLLM's own chart, is kept from the webhook by its `matchConditions`. Metadata alone
/// would tell neither.
pub const SERVING_PODS: &str = "status.phase!=Succeeded,status.phase!=Failed,spec.restartPolicy=Always";

/// Pods that the API server is asked for at once: a pod of any namespace may have it asked for its own.
const MAX_LOOKUPS: usize = 16;

/// How often workloads are told of what lasts. Of the same they are not told as often.
const TELL_AGAIN: Duration = Duration::from_secs(10 * 60);

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Pods {
    client: Client,
    /// Of pods that are in no watch.
    lookups: Arc<Semaphore>,
    watched: Arc<Mutex<HashMap<String, Watched>>>,
    /// For reconcile: each change.
    changed: mpsc::UnboundedSender<String>,
    /// For sync: what can change a pod's entitlement.
    changes: Changes,
    notices: PodNotices,
    liveness: Liveness,
    /// Number of the last change in any namespace.
    last_revision: Arc<AtomicU64>,
}

struct Watched {
    store: Arc<RwLock<PodStore>>,
    /// Number of the last change that is read here.
    revision: Arc<AtomicU64>,
    task: AbortHandle,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Pods {
    /// The receiver gets the namespace of each pod that changed.
    pub fn new(
        client: Client,
        changes: Changes,
        notices: PodNotices,
        liveness: Liveness,
    ) -> (Self, mpsc::UnboundedReceiver<String>) {
        let (changed, receiver) = mpsc::unbounded_channel();
        let pods = Self {
            client,
            lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)),
            watched: Arc::default(),
            changed,
            changes,
            notices,
            liveness,
            last_revision: Arc::default(),
        };
        (pods, receiver)
    }

    /// Watches the pods of this namespace from now on, or no longer.
    pub fn watch(&self, namespace: &str, is_watched: bool) {
        let mut watched = self.watched.lock();
        if !is_watched {
            watched.remove(namespace);
        } else if !watched.contains_key(namespace) {
            watched.insert(namespace.to_owned(), self.start(namespace.to_owned()));
        }
    }

    /// For others that learn of something that statuses tell of pods.
    pub fn changed(&self) -> mpsc::UnboundedSender<String> {
        self.changed.clone()
    }

    /// The living pods of a namespace, once they have been listed.
    pub fn in_namespace(&self, namespace: &str) -> Option<Vec<Arc<WatchedPod>>> {
        self.store(namespace)?.read().listed()
    }

    /// Number of the last change of the namespace's pods, never the same again; once they have been listed.
    pub fn revision(&self, namespace: &str) -> Option<u64> {
        let watched = self.watched.lock();
        let watched = watched.get(namespace)?;
        let revision = watched.revision.load(Ordering::SeqCst);
        watched.store.read().is_listed().then_some(revision)
    }

    /// Tells workloads of the pods that are there, at once and for as long as it is polled: what was made before this replica
    /// began to lead, and what lasts.
    pub async fn keep_telling(&self) {
        let mut ticks = tokio::time::interval(TELL_AGAIN);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let namespaces: Vec<String> = self.watched.lock().keys().cloned().collect();
            for namespace in namespaces {
                for pod in self.in_namespace(&namespace).unwrap_or_default() {
                    self.notices.tell_if_leading(&namespace, &pod);
                }
                tokio::task::yield_now().await;
            }
        }
    }

    pub fn is_watched(&self, namespace: &str) -> bool {
        self.watched.lock().contains_key(namespace)
    }

    /// The pod with this name and uid. Asks the API server where the watch has not seen it yet, as right after its
    /// creation.
    pub async fn get(&self, namespace: &str, name: &str, uid: &str) -> kube::Result<Option<Arc<WatchedPod>>> {
        let store = self.store(namespace);
        let stored = store.and_then(|store| store.read().get(name).cloned());
        if let Some(pod) = stored.filter(|pod| *pod.uid == *uid) {
            return Ok(Some(pod));
        }
        let pods = Api::<Pod>::namespaced(self.client.clone(), namespace);
        // On the heap, since it is large and seldom: every stream's task would be larger by it.
        let lookup = async {
            let _turn = self.lookups.acquire().await;
            pods.get_metadata_opt(name).await
        };
        let pod = with_deadline(lookup).boxed().await?;
        let pod = pod.map(|pod| Arc::new(WatchedPod::from(pod)));
        Ok(pod.filter(|pod| *pod.uid == *uid))
    }

    fn store(&self, namespace: &str) -> Option<Arc<RwLock<PodStore>>> {
        let watched = self.watched.lock();
        watched.get(namespace).map(|watched| watched.store.clone())
    }

    fn start(&self, namespace: String) -> Watched {
        let store = Arc::new(RwLock::new(PodStore::default()));
        let revision = Arc::new(AtomicU64::new(next(&self.last_revision)));
        let watch = Watch {
            namespace,
            store: store.clone(),
            revision: revision.clone(),
            pods: self.clone(),
        };
        Watched {
            store,
            revision,
            task: tokio::spawn(watch.run()).abort_handle(),
        }
    }
}

fn next(revision: &AtomicU64) -> u64 {
    revision.fetch_add(1, Ordering::SeqCst) + 1
}

/// The watch of one namespace.
struct Watch {
    namespace: String,
    store: Arc<RwLock<PodStore>>,
    revision: Arc<AtomicU64>,
    pods: Pods,
}

impl Watch {
    async fn run(self) {
        let api = Api::<PodMeta>::namespaced(self.pods.client.clone(), &self.namespace);
        let config = watcher::Config::default().fields(SERVING_PODS);
        let mut watched = watcher(api, config).default_backoff().boxed();
        let mut events = PodEvents::default();
        let namespace = &self.namespace;
        let pulse = self
            .pods
            .liveness
            .pulse(format!("the watch of pods in {namespace}"));
        let mut ticks = tokio::time::interval(BEAT_INTERVAL);
        loop {
            tokio::select! {
                event = watched.next() => match event {
                    Some(Ok(event)) => {
                        if let Some(change) = events.change(event) {
                            self.apply(change);
                        }
                    }
                    Some(Err(error)) => warn!(%namespace, %error, "watching pods failed; trying again"),
                    // It never does; were it to, nothing would be known of these pods any more, and a restart helps.
                    None => std::future::pending::<()>().await,
                },
                _ = ticks.tick() => {}
            }
            pulse.beat();
        }
    }

    fn apply(&self, change: PodChange) {
        let namespace = &self.namespace;
        let is_pod = matches!(change, PodChange::Applied(_));
        let new = self.store.read().new_pods(&change);
        if self.store.write().apply(change) {
            self.revision
                .store(next(&self.pods.last_revision), Ordering::SeqCst);
            self.pods.changes.announce(namespace);
            // Without a receiver the operator is stopping.
            let _ = self.pods.changed.send(namespace.clone());
        }
        // Only afterwards: a replica that begins to lead meanwhile finds them in the store.
        for pod in &new {
            self.pods.notices.tell_if_leading(namespace, pod);
        }
        if is_pod && !new.is_empty() {
            // By then it is no longer starting, and of that there is no event.
            let (changed, namespace) = (self.pods.changed.clone(), namespace.clone());
            tokio::spawn(async move {
                tokio::time::sleep(START_GRACE + Duration::from_secs(1)).await;
                let _ = changed.send(namespace);
            });
        }
    }
}

/// What is decided by of a pod, whether it is watched or was read by others.
pub trait PodFacts {
    fn label(&self, key: &str) -> Option<&str>;
    fn annotation(&self, key: &str) -> Option<&str>;
    /// It has been deleted, and may still run.
    fn is_ending(&self) -> bool;
}

impl<P: PodFacts> PodFacts for &P {
    fn label(&self, key: &str) -> Option<&str> {
        (**self).label(key)
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        (**self).annotation(key)
    }

    fn is_ending(&self) -> bool {
        (**self).is_ending()
    }
}

impl PodFacts for PodMeta {
    fn label(&self, key: &str) -> Option<&str> {
        self.labels().get(key).map(String::as_str)
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations().get(key).map(String::as_str)
    }

    fn is_ending(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }
}

/// Whether a selected pod of [`SERVING_PODS`] ought to have a sidecar. One that the webhook looked at and found to be no
/// LiteLLM never gets one.
pub fn ought_to_be_injected(pod: &impl PodFacts) -> bool {
    let opted_out = pod.label(annotations::INJECT_LABEL) == Some("false");
    let skipped = pod
        .annotation(annotations::SKIPPED)
        .or(pod.label(annotations::SKIPPED));
    !(opted_out || pod.is_ending() || skipped.is_some())
}

/// Whether the pod is so young that its sidecar need not be connected yet.
pub fn is_starting(pod: &WatchedPod, now: Timestamp) -> bool {
    starting_until(pod, now).is_some()
}

pub fn starting_until(pod: &WatchedPod, now: Timestamp) -> Option<Timestamp> {
    let until = pod.created? + START_GRACE;
    Some(until).filter(|until| now < *until)
}

/// Whether the pod has our sidecar.
pub fn is_injected(pod: &impl PodFacts) -> bool {
    pod.annotation(annotations::INJECTED).is_some()
}

#[cfg(test)]
mod tests;
