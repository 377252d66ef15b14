//! The pods of the namespaces that have resources: their metadata only, and of no other namespace. Watched
//! from the moment a namespace has its first resource.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use mcp_auth_credentials::Changes;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::warn;

use crate::api_server::with_deadline;
use crate::inject::annotations;
use crate::workload_events::{NoticeKind, WorkloadEvents};

/// What is known of a pod.
pub type PodMeta = PartialObjectMeta<Pod>;

/// A pod that is younger is starting: it is no news that its sidecar is not connected yet.
pub const START_GRACE: Duration = Duration::from_secs(60);

/// What injection has written, and is told of.
const RETAINED_ANNOTATIONS: [&str; 4] = [
    annotations::INJECTED,
    annotations::SKIPPED,
    annotations::NOT_INJECTED,
    annotations::WARNINGS,
];
/// What is kept of one.
const MAX_ANNOTATION_BYTES: usize = 1024;
/// A pod that is older was told of by an earlier leader.
const MAX_NEW_POD_AGE: Duration = Duration::from_secs(10 * 60);

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Pods {
    client: Client,
    watched: Arc<Mutex<HashMap<String, Watched>>>,
    /// For reconcile: each change.
    changed: mpsc::UnboundedSender<String>,
    /// For sync: what can change a pod's entitlement.
    changes: Changes,
    events: WorkloadEvents,
    /// Number of the last change in any namespace.
    last_revision: Arc<AtomicU64>,
}

struct Watched {
    store: Store<PodMeta>,
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
        events: WorkloadEvents,
    ) -> (Self, mpsc::UnboundedReceiver<String>) {
        let (changed, receiver) = mpsc::unbounded_channel();
        let pods = Self {
            client,
            watched: Arc::default(),
            changed,
            changes,
            events,
            last_revision: Arc::default(),
        };
        (pods, receiver)
    }

    /// Watches exactly these namespaces from now on.
    pub fn watch(&self, namespaces: &[String]) {
        let mut watched = self.watched.lock();
        watched.retain(|namespace, _| namespaces.contains(namespace));
        for namespace in namespaces {
            watched
                .entry(namespace.clone())
                .or_insert_with(|| self.start(namespace.clone()));
        }
    }

    /// The living pods of a namespace, once they have been listed.
    pub fn in_namespace(&self, namespace: &str) -> Option<Vec<Arc<PodMeta>>> {
        let store = self.store(namespace)?;
        store.is_ready_now().then(|| store.state())
    }

    /// Number of the last change of the namespace's pods that is read here, never the same again; once they have been listed.
    pub fn revision(&self, namespace: &str) -> Option<u64> {
        let watched = self.watched.lock();
        let watched = watched.get(namespace)?;
        let revision = watched.revision.load(Ordering::SeqCst);
        watched.store.is_ready_now().then_some(revision)
    }

    pub fn is_watched(&self, namespace: &str) -> bool {
        self.watched.lock().contains_key(namespace)
    }

    /// The pod with this name and uid. Asks the API server where the watch has not seen it yet, as right after its
    /// creation.
    pub async fn get(&self, namespace: &str, name: &str, uid: &str) -> kube::Result<Option<Arc<PodMeta>>> {
        let stored = self
            .store(namespace)
            .and_then(|store| store.get(&ObjectRef::new(name).within(namespace)));
        let is_wanted = |pod: &PodMeta| pod.metadata.uid.as_deref() == Some(uid);
        if let Some(pod) = stored.filter(|pod| is_wanted(pod)) {
            return Ok(Some(pod));
        }
        let pods = Api::<Pod>::namespaced(self.client.clone(), namespace);
        // On the heap, since it is large and seldom: every stream's task would be larger by it.
        let pod = with_deadline(pods.get_metadata_opt(name)).boxed().await?;
        Ok(pod.filter(is_wanted).map(Arc::new))
    }

    fn store(&self, namespace: &str) -> Option<Store<PodMeta>> {
        let watched = self.watched.lock();
        watched.get(namespace).map(|watched| watched.store.clone())
    }

    fn start(&self, namespace: String) -> Watched {
        let (store, mut writer) = reflector::store();
        let api = Api::<PodMeta>::namespaced(self.client.clone(), &namespace);
        // A pod that has ended needs nothing, and its metadata alone would not tell that it has.
        let config = watcher::Config::default().fields("status.phase!=Succeeded,status.phase!=Failed");
        let mut events = watcher(api, config).default_backoff().modify(prune).boxed();
        let (changed, changes, stored_pods) = (self.changed.clone(), self.changes.clone(), store.clone());
        let events_of_workloads = self.events.clone();
        let last_revision = self.last_revision.clone();
        let next_revision = move || last_revision.fetch_add(1, Ordering::SeqCst) + 1;
        let revision = Arc::new(AtomicU64::new(next_revision()));
        let known_revision = revision.clone();
        let task = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                let event = match event {
                    Ok(event) => event,
                    Err(error) => {
                        warn!(%namespace, %error, "watching pods failed; trying again");
                        continue;
                    }
                };
                let is_relevant = is_relevant(&event, &stored_pods);
                let is_new = matches!(&event, watcher::Event::Apply(pod)
                    if stored_pods.get(&ObjectRef::from_obj(pod)).is_none());
                if let watcher::Event::Apply(pod) | watcher::Event::InitApply(pod) = &event
                    && stored_pods.get(&ObjectRef::from_obj(pod)).is_none()
                {
                    tell_workload(&events_of_workloads, &namespace, pod, Timestamp::now());
                }
                writer.apply_watcher_event(&event);
                // Only now does the store say what they are to read there.
                if is_relevant {
                    known_revision.store(next_revision(), Ordering::SeqCst);
                    changes.announce(&namespace);
                    // Without a receiver the operator is stopping.
                    let _ = changed.send(namespace.clone());
                }
                if is_new {
                    // By then it is no longer starting, and of that there is no event.
                    let (changed, namespace) = (changed.clone(), namespace.clone());
                    tokio::spawn(async move {
                        tokio::time::sleep(START_GRACE + Duration::from_secs(1)).await;
                        let _ = changed.send(namespace);
                    });
                }
            }
        });
        Watched {
            store,
            revision,
            task: task.abort_handle(),
        }
    }
}

/// Tells the workload what injection has to say of its new pod. What was refused made no pod, and is told by the
/// webhook.
fn tell_workload(events: &WorkloadEvents, namespace: &str, pod: &PodMeta, now: Timestamp) {
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    if created.is_none_or(|created| now > created + MAX_NEW_POD_AGE) {
        return;
    }
    let warning = match is_injected(pod) {
        true => NoticeKind::Warning,
        false => NoticeKind::UnknownAnnotation,
    };
    let kinds = [
        (annotations::NOT_INJECTED, NoticeKind::NotInjected),
        (annotations::SKIPPED, NoticeKind::Skipped),
        (annotations::WARNINGS, warning),
    ];
    for (key, kind) in kinds {
        if let Some(text) = pod.annotations().get(key) {
            events.tell_owner(namespace, pod.owner_references(), kind, text);
        }
    }
}

/// Whether the store holds a full list.
trait ReadyNow {
    fn is_ready_now(&self) -> bool;
}

impl ReadyNow for Store<PodMeta> {
    fn is_ready_now(&self) -> bool {
        self.wait_until_ready()
            .now_or_never()
            .is_some_and(|ready| ready.is_ok())
    }
}

/// Whether an event changes anything that is read here. Most do not: a pod's status changes all the time.
fn is_relevant(event: &watcher::Event<PodMeta>, stored_pods: &Store<PodMeta>) -> bool {
    let relevant_fields = |pod: &PodMeta| {
        let metadata = &pod.metadata;
        let ending = metadata.deletion_timestamp.is_some();
        let owners = metadata.owner_references.clone();
        (
            metadata.uid.clone(),
            metadata.labels.clone(),
            metadata.annotations.clone(),
            owners,
            ending,
        )
    };
    match event {
        watcher::Event::Delete(_) | watcher::Event::InitDone => true,
        watcher::Event::Apply(pod) => {
            let stored = stored_pods.get(&ObjectRef::from_obj(pod));
            stored.is_none_or(|stored| relevant_fields(&stored) != relevant_fields(pod))
        }
        watcher::Event::Init | watcher::Event::InitApply(_) => false,
    }
}

/// Whether a selected pod ought to have a sidecar. A Job's pod never gets one, neither does one that the
/// webhook looked at and found to be no LiteLLM.
pub fn ought_to_be_injected(pod: &PodMeta) -> bool {
    let is_job_pod = is_of_job(pod);
    let opted_out = pod
        .labels()
        .get(annotations::INJECT_LABEL)
        .is_some_and(|value| value == "false");
    let terminating = is_terminating(pod);
    let skipped = pod.annotations().contains_key(annotations::SKIPPED);
    !(is_job_pod || opted_out || terminating || skipped)
}

pub fn is_of_job(pod: &PodMeta) -> bool {
    pod.owner_references().iter().any(|owner| owner.kind == "Job")
}

pub fn is_terminating(pod: &PodMeta) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether the pod is so young that its sidecar need not be connected yet.
pub fn is_starting(pod: &PodMeta, now: Timestamp) -> bool {
    starting_until(pod, now).is_some()
}

pub fn starting_until(pod: &PodMeta, now: Timestamp) -> Option<Timestamp> {
    let created = pod.metadata.creation_timestamp.as_ref()?.0;
    Some(created + START_GRACE).filter(|until| now < *until)
}

/// Whoever made the pod and looks after it.
pub fn owner(pod: &PodMeta) -> Option<&OwnerReference> {
    let mut owners = pod.owner_references().iter();
    owners.find(|owner| owner.controller == Some(true))
}

/// Whether the pod has our sidecar.
pub fn is_injected(pod: &PodMeta) -> bool {
    pod.annotations().contains_key(annotations::INJECTED)
}

/// Keeps what is read here; managed fields and other annotations are most of a pod's metadata.
fn prune(pod: &mut PodMeta) {
    // Every replica keeps this of every pod.
    pod.types = None;
    pod.metadata.managed_fields = None;
    pod.metadata.generate_name = None;
    pod.metadata.finalizers = None;
    let is_ours = |key: &String| RETAINED_ANNOTATIONS.contains(&key.as_str());
    let retained: BTreeMap<_, _> = std::mem::take(pod.annotations_mut())
        .into_iter()
        .filter(|(key, _)| is_ours(key))
        .map(|(key, mut text)| {
            text.truncate(text.floor_char_boundary(MAX_ANNOTATION_BYTES));
            (key, text)
        })
        .collect();
    *pod.annotations_mut() = retained;
}
