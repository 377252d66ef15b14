//! Acts on what was decided.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{FutureExt, Stream, StreamExt, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::{self, Action, applier};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, Resource, ResourceExt};
use mcp_auth_crds::{McpServerAuth, McpServerAuthStatus, conditions, reasons};
use mcp_auth_oauth::Clock;
use mcp_auth_protocol::sync::ClientCertificate;
use thiserror::Error;
use tokio::sync::mpsc;
use tracing::{instrument, warn};

use super::events::events;
use super::obtained::Obtained;
use super::resolve::Blocked;
use super::sources::Sources;
use super::status::{Found, known_server, status, unavailable};
use super::want::{Known, want};
use crate::api_server::within;
use crate::credentials::{Binding, Credentials, Issued};
use crate::demands::Demand;
use crate::entitlement::{conflicts, selects};
use crate::exchanges::Exchanges;
use crate::key::Key;
use crate::metrics::Metrics;
use crate::pods::{PodMeta, Pods, ought_to_be_injected};
use crate::references::{Reference, References, needed};
use crate::resources::{ResourceEvent, ResourceWatch, Resources};
use crate::sidecars::{GRACE, Sidecar, Sidecars};
use crate::workload::Workload;

/// Field manager of the status.
const MANAGER: &str = "mcp-auth-operator";
/// Resources that are reconciled at once.
const CONCURRENCY: u16 = 16;
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// What reconciling works with. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Reconciler {
    pub client: Client,
    pub clock: Clock,
    pub resources: Resources,
    pub credentials: Credentials,
    pub exchanges: Exchanges,
    pub workload: Workload,
    pub references: References,
    pub pods: Pods,
    pub sidecars: Sidecars,
    pub metrics: Metrics,
    recorder: Recorder,
    sources: Arc<Sources>,
    failures: Arc<Mutex<HashMap<Key, u32>>>,
}

#[derive(Debug, Error)]
pub enum Error {
    #[error("the status could not be written: {0}")]
    Status(#[source] kube::Error),
}

impl Error {
    fn reason(&self) -> &'static str {
        match self {
            Self::Status(_) => "Status",
        }
    }
}

/// Changes outside the resources that ask for reconciling: of tokens and references by resource, of pods and
/// sidecars by namespace.
pub struct Triggers {
    pub references: mpsc::UnboundedReceiver<Key>,
    pub pods: mpsc::UnboundedReceiver<String>,
    pub sidecars: mpsc::UnboundedReceiver<String>,
    pub tokens: mpsc::UnboundedReceiver<Key>,
    /// Of sidecars whose token was refused.
    pub demands: mpsc::UnboundedReceiver<Demand>,
}

impl Reconciler {
    #[expect(
        clippy::too_many_arguments,
        reason = "this is where the parts come together, once"
    )]
    pub fn new(
        client: Client,
        identity: &str,
        clock: Clock,
        resources: Resources,
        credentials: Credentials,
        exchanges: Exchanges,
        workload: Workload,
        references: References,
        pods: Pods,
        sidecars: Sidecars,
        metrics: Metrics,
    ) -> (Self, mpsc::UnboundedReceiver<Key>) {
        let reporter = Reporter {
            controller: "mcp-auth-operator".into(),
            instance: Some(identity.to_owned()),
        };
        let (sources, receiver) = Sources::new(clock.clone(), metrics.clone());
        let reconciler = Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            clock,
            resources,
            credentials,
            exchanges,
            workload,
            references,
            pods,
            sidecars,
            metrics,
            sources: Arc::new(sources),
            failures: Arc::default(),
        };
        (reconciler, receiver)
    }
}

/// Reconciles for as long as it is polled: at first every resource, then each that something changed for.
pub async fn run(reconciler: Reconciler, resource_watch: ResourceWatch, triggers: Triggers) {
    let resources = reconciler.resources.clone();
    let keys_in = move |namespace: &str| -> Vec<Key> {
        resources
            .in_namespace(namespace)
            .iter()
            .map(|resource| Key::from(&**resource))
            .collect()
    };
    let all: Vec<Key> = reconciler
        .resources
        .namespaces()
        .iter()
        .flat_map(|namespace| keys_in(namespace))
        .collect();
    reconciler.watch_pods();
    let of_resources = {
        let (reconciler, keys_in) = (reconciler.clone(), keys_in.clone());
        resource_watch.into_stream().flat_map(move |event| {
            let namespace = match event {
                ResourceEvent::Changed(key) => key.namespace,
                ResourceEvent::Deleted(key) => {
                    reconciler.forget(&key);
                    key.namespace
                }
                ResourceEvent::Listed => return stream::iter(Vec::new()),
            };
            reconciler.watch_pods();
            // A new or changed resource can end or begin a conflict with any of its neighbours.
            stream::iter(keys_in(&namespace))
        })
    };
    let of_namespaces = |namespaces: mpsc::UnboundedReceiver<String>| {
        let keys_in = keys_in.clone();
        receive(namespaces).flat_map(move |namespace| stream::iter(keys_in(&namespace)))
    };
    let demands = {
        let reconciler = reconciler.clone();
        receive(triggers.demands).map(move |demand| {
            reconciler.sources.demand(&demand);
            demand.key
        })
    };
    let keys = stream::select_all([
        stream::iter(all).boxed(),
        of_resources.boxed(),
        receive(triggers.references).boxed(),
        receive(triggers.tokens).boxed(),
        demands.boxed(),
        of_namespaces(triggers.pods).boxed(),
        of_namespaces(triggers.sidecars).boxed(),
    ]);
    let store = reconciler.resources.store();
    let done = applier(
        |resource: Arc<McpServerAuth>, reconciler: Arc<Reconciler>| {
            async move { reconciler.reconcile(&resource).await }.boxed()
        },
        |resource, error, reconciler| reconciler.retry(&Key::from(&*resource), error),
        Arc::new(reconciler),
        store,
        keys.map(|key| Ok::<_, Infallible>(ObjectRef::from(&key))),
        controller::Config::default().concurrency(CONCURRENCY),
    );
    // Errors have been dealt with by `retry`; one about an object that is gone is none.
    done.for_each(|_| std::future::ready(())).await;
}

impl Reconciler {
    #[instrument(skip_all, fields(namespace = resource.namespace(), name = resource.name_any()))]
    async fn reconcile(&self, resource: &McpServerAuth) -> Result<Action, Error> {
        let key = Key::from(resource);
        let pods = self.pods.of(&key.namespace);
        let refused = self.refusal(resource, pods.as_deref());
        let obtained = match &refused {
            Some(_) => {
                self.references.set(&key, &[]);
                self.sources.forget(&key);
                Obtained::refused()
            }
            None => {
                let references = needed(&resource.spec);
                self.references.set(&key, &references);
                let look = |reference: Reference| {
                    let found = self.references.get(&key.namespace, &reference);
                    (reference, found)
                };
                let references: Vec<_> = references.into_iter().map(look).collect();
                let known = Known {
                    references: &references,
                    workload: |audience| self.workload.assertions(&key.namespace, audience),
                    known_issuer: known_server(resource).map(|server| server.issuer.clone()),
                };
                let wanted = want(&resource.spec, &known);
                self.sources.obtain(resource, &key, wanted)
            }
        };
        let Obtained {
            references,
            token,
            credential,
            extras,
            declined,
            exchanger,
        } = obtained;
        let selected = pods.map(|pods| {
            let selected = pods.into_iter().filter(|pod| ought_to_be_injected(pod));
            let selected = selected.filter(|pod| selects(&resource.spec.pod_selector, pod.labels()));
            let with_sidecar = selected.map(|pod| {
                let sidecar = pod.uid().and_then(|uid| self.sidecars.get(&uid));
                (pod, sidecar)
            });
            with_sidecar.collect()
        });
        self.metrics.circuit(&key, token.pauses);
        let is_refused = refused.is_some();
        // Whoever may yet be taking the newest snapshot over is looked at once more.
        let again = selected
            .iter()
            .flatten()
            .any(|(_, sidecar): &(_, Option<Sidecar>)| sidecar.as_ref().is_some_and(Sidecar::is_taking_over));
        let found = Found {
            resource,
            refused,
            references,
            token,
            pods: selected,
        };
        let fresh = status(&found, self.clock.now());
        let credential = credential.unwrap_or_else(|| unavailable(&fresh, is_refused));
        let issued = Issued {
            binding: Binding::of(resource),
            credential,
            ca_bundle: extras.server_ca,
            client_certificate: extras.client_certificate.map(|pair| ClientCertificate {
                chain: pair.chain,
                key: pair.key,
            }),
            declined,
        };
        self.exchanges.set(&key, issued.binding.clone(), exchanger);
        // Before anything that can fail: sidecars do not wait for a status to be written.
        self.credentials.publish(&key, issued);
        self.write(resource, &key, fresh).await?;
        self.failures
            .lock()
            .expect("nothing panics while it holds the lock")
            .remove(&key);
        Ok(if again {
            Action::requeue(GRACE)
        } else {
            Action::await_change()
        })
    }

    /// Why a resource is not served whatever its references hold.
    fn refusal(&self, resource: &McpServerAuth, pods: Option<&[Arc<PodMeta>]>) -> Option<Blocked> {
        let labels: Vec<_> = pods
            .unwrap_or_default()
            .iter()
            .filter(|pod| ought_to_be_injected(pod))
            .map(|pod| pod.labels().clone())
            .collect();
        let neighbours = self
            .resources
            .in_namespace(&resource.namespace().unwrap_or_default());
        let conflict = *conflicts(resource, &neighbours, &labels).first()?;
        let message = format!(
            "spec.server.name {:?} is already served by the older McpServerAuth {} for the same pods: give this one \
             another name or podSelector, or delete one of the two",
            resource.spec.server.name,
            conflict.name_any()
        );
        Some(Blocked::new(reasons::CONFLICT, message))
    }

    async fn write(
        &self,
        resource: &McpServerAuth,
        key: &Key,
        fresh: McpServerAuthStatus,
    ) -> Result<(), Error> {
        let is_ready =
            |condition: &Condition| condition.type_ == conditions::READY && condition.status == "True";
        let ready = fresh.conditions.iter().any(is_ready);
        let expires_at = fresh.token.as_ref().and_then(|token| token.expires_at.as_ref());
        self.metrics
            .resource(key, ready, expires_at.map(|time| time.0.as_second()));
        if resource.status.as_ref() == Some(&fresh) {
            return Ok(());
        }
        let api = Api::<McpServerAuth>::namespaced(self.client.clone(), &key.namespace);
        let patch = serde_json::json!({
            "apiVersion": McpServerAuth::api_version(&()),
            "kind": McpServerAuth::kind(&()),
            "status": fresh,
        });
        let params = PatchParams::apply(MANAGER).force();
        match within(api.patch_status(&key.name, &params, &Patch::Apply(&patch))).await {
            Ok(_) => {}
            // Deleted meanwhile.
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            Err(error) => return Err(Error::Status(error)),
        }
        for event in events(resource.status.as_ref(), &fresh) {
            if let Err(error) = within(self.recorder.publish(&event, &resource.object_ref(&()))).await {
                warn!(%error, reason = event.reason, "an event could not be written");
            }
        }
        Ok(())
    }

    fn retry(&self, key: &Key, error: &Error) -> Action {
        self.metrics.reconcile_failed(error.reason());
        let mut failures = self
            .failures
            .lock()
            .expect("nothing panics while it holds the lock");
        let count = failures
            .entry(key.clone())
            .and_modify(|count| *count += 1)
            .or_insert(0);
        let wait = FIRST_RETRY
            .saturating_mul(1_u32.checked_shl(*count).unwrap_or(u32::MAX))
            .min(LONGEST_RETRY);
        warn!(namespace = key.namespace, name = key.name, reason = error.reason(), %error, "trying again");
        Action::requeue(wait)
    }

    fn forget(&self, key: &Key) {
        self.sources.end(key);
        self.exchanges.withdraw(key);
        self.references.set(key, &[]);
        self.credentials.withdraw(key);
        self.metrics.forget(key);
    }

    fn watch_pods(&self) {
        self.pods.watch(&self.resources.namespaces());
    }
}

fn receive<T: Send + 'static>(receiver: mpsc::UnboundedReceiver<T>) -> impl Stream<Item = T> + Send {
    stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|item| (item, receiver))
    })
}
