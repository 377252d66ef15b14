//! Acts on what was decided.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{FutureExt, Stream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::{self, Action, applier};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, Resource, ResourceExt};
use mcp_auth_crds::{McpServerAuth, McpServerAuthStatus, conditions, reasons};
use mcp_auth_oauth::{self as oauth, Clock, Policy, Registration, TokenSource};
use mcp_auth_protocol::sync::Credential;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tracing::{instrument, warn};

use super::events::events;
use super::resolve::Blocked;
use super::status::{Found, Held, LastError, Token, status, unavailable};
use super::supported::unsupported;
use super::want::{Want, Wanted, same_registration, want};
use crate::credentials::{Binding, Credentials, Issued};
use crate::key::Key;
use crate::metrics::Metrics;
use crate::pods::{PodMeta, Pods, ought_to_be_injected};
use crate::references::{References, fields, needed};
use crate::resources::{Resources, Seen};
use crate::routes::{rivals, selects};
use crate::sidecars::Sidecars;

/// Field manager of the status.
const MANAGER: &str = "mcp-auth-operator";
/// Bursts, such as the pods of a rollout, are taken together.
const GATHER: Duration = Duration::from_millis(100);
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
    pub references: References,
    pub pods: Pods,
    pub sidecars: Sidecars,
    pub metrics: Metrics,
    recorder: Recorder,
    sources: Arc<Mutex<HashMap<Key, Source>>>,
    failures: Arc<Mutex<HashMap<Key, u32>>>,
    token_changed: mpsc::UnboundedSender<Key>,
}

/// Where the token of a resource comes from, as it is now.
struct Source {
    binding: Binding,
    kind: SourceKind,
}

enum SourceKind {
    OAuth2(Box<Asking>),
    /// The Secret was taken away: nothing is asked any more, and what there is serves until it expires.
    Left {
        token: Arc<oauth::Token>,
        _expired: Option<Relay>,
    },
}

/// A token source, and what it was last told.
struct Asking {
    registration: Registration,
    policy: Policy,
    source: TokenSource,
    /// Requests that the metrics know of.
    counted: u64,
    _relay: Relay,
}

/// A task that asks for reconciling, until it is dropped.
struct Relay(tokio::task::AbortHandle);

impl Drop for Relay {
    fn drop(&mut self) {
        self.0.abort();
    }
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
        references: References,
        pods: Pods,
        sidecars: Sidecars,
        metrics: Metrics,
    ) -> (Self, mpsc::UnboundedReceiver<Key>) {
        let reporter = Reporter {
            controller: "mcp-auth-operator".into(),
            instance: Some(identity.to_owned()),
        };
        let (token_changed, receiver) = mpsc::unbounded_channel();
        let reconciler = Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            clock,
            resources,
            credentials,
            references,
            pods,
            sidecars,
            metrics,
            sources: Arc::default(),
            failures: Arc::default(),
            token_changed,
        };
        (reconciler, receiver)
    }
}

/// Reconciles for as long as it is polled: at first every resource, then each that something changed for.
pub async fn run(reconciler: Reconciler, seen: BoxStream<'static, Seen>, triggers: Triggers) {
    let resources = reconciler.resources.clone();
    let keys_in = move |namespace: &str| -> Vec<Key> {
        resources
            .of(namespace)
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
        seen.flat_map(move |seen| {
            let namespace = match seen {
                Seen::Changed(key) => key.namespace,
                Seen::Gone(key) => {
                    reconciler.forget(&key);
                    key.namespace
                }
                Seen::Listed => return stream::iter(Vec::new()),
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
    let keys = stream::select_all([
        stream::iter(all).boxed(),
        of_resources.boxed(),
        receive(triggers.references).boxed(),
        receive(triggers.tokens).boxed(),
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
        controller::Config::default()
            .debounce(GATHER)
            .concurrency(CONCURRENCY),
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
        let (references, token, credential, server_ca) = match &refused {
            Some(_) => {
                self.references.set(&key, &[]);
                self.sources().remove(&key);
                (Ok(()), Token::default(), None, None)
            }
            None => self.obtain(resource, &key),
        };
        let selected = pods.map(|pods| {
            let selected = pods.into_iter().filter(|pod| ought_to_be_injected(pod));
            let selected = selected.filter(|pod| selects(&resource.spec.pod_selector, pod.labels()));
            let with_sidecar = selected.map(|pod| {
                let sidecar = pod.uid().and_then(|uid| self.sidecars.get(&uid));
                (pod, sidecar)
            });
            with_sidecar.collect()
        });
        let found = Found {
            resource,
            refused,
            references,
            token,
            pods: selected,
        };
        let fresh = status(&found, self.clock.now());
        let credential = credential.unwrap_or_else(|| unavailable(&fresh));
        let issued = Issued {
            binding: Binding::of(resource),
            credential,
            ca_bundle: server_ca,
        };
        // Before anything that can fail: sidecars do not wait for a status to be written.
        self.credentials.publish(&key, issued);
        self.write(resource, &key, fresh).await?;
        self.failures
            .lock()
            .expect("nothing panics while it holds the lock")
            .remove(&key);
        Ok(Action::await_change())
    }

    /// Why a resource is not served whatever its references hold.
    fn refusal(&self, resource: &McpServerAuth, pods: Option<&[Arc<PodMeta>]>) -> Option<Blocked> {
        if let Some(message) = unsupported(&resource.spec) {
            return Some(Blocked::new(reasons::NOT_SUPPORTED_YET, message));
        }
        let labels: Vec<_> = pods
            .unwrap_or_default()
            .iter()
            .map(|pod| pod.labels().clone())
            .collect();
        let neighbours = self.resources.of(&resource.namespace().unwrap_or_default());
        let rival = *rivals(resource, &neighbours, &labels).first()?;
        let message = format!(
            "spec.server.name {:?} is already served by the older McpServerAuth {} for the same pods: give this one \
             another name or podSelector, or delete one of the two",
            resource.spec.server.name,
            rival.name_any()
        );
        Some(Blocked::new(reasons::CONFLICT, message))
    }

    /// The token of a resource, or how far it is.
    fn obtain(
        &self,
        resource: &McpServerAuth,
        key: &Key,
    ) -> (Result<(), Blocked>, Token, Option<Credential>, Option<String>) {
        let references = needed(&resource.spec);
        self.references.set(key, &references);
        let wanted = want(&resource.spec, &references, |reference| {
            self.references.get(&key.namespace, reference)
        });
        let Wanted { source, server_ca } = match wanted {
            Ok(wanted) => wanted,
            Err(blocked) => {
                let left = self.leave(resource, key);
                let token = Token {
                    held: left.as_deref().map(held),
                    ..Token::default()
                };
                return (Err(blocked), token, left.as_deref().map(bearer), None);
            }
        };
        match source {
            Want::Given(token) => {
                self.sources().remove(key);
                let described = Token {
                    held: Some(Held::default()),
                    ..Token::default()
                };
                let credential = Credential::Bearer {
                    token,
                    expires_at: None,
                };
                (Ok(()), described, Some(credential), server_ca)
            }
            Want::OAuth2 { registration, policy } => {
                match self.source(resource, key, *registration, policy) {
                    Ok(state) => {
                        let (token, credential) = self.describe(state.as_ref());
                        (Ok(()), token, credential, server_ca)
                    }
                    Err(blocked) => (Err(blocked), Token::default(), None, server_ca),
                }
            }
        }
    }

    /// Makes the resource's source ask in this way, and answers what it has.
    fn source(
        &self,
        resource: &McpServerAuth,
        key: &Key,
        registration: Registration,
        policy: Policy,
    ) -> Result<Option<oauth::State>, Blocked> {
        let binding = Binding::of(resource);
        let mut sources = self.sources();
        if let Some(known) = sources.get_mut(key).filter(|known| known.binding == binding)
            && let SourceKind::OAuth2(asking) = &mut known.kind
        {
            if !same_registration(&asking.registration, &registration) {
                // The same client with another secret: what there is serves until the new one works.
                asking.source.replace(client(registration.clone())?);
                asking.registration = registration;
            }
            if asking.policy.refresh_before != policy.refresh_before {
                asking.source.follow(policy);
                asking.policy = policy;
            }
            let state = asking.source.subscribe().borrow().clone();
            self.metrics
                .token_requested(key, state.requests.saturating_sub(asking.counted));
            asking.counted = state.requests;
            return Ok(Some(state));
        }
        let source = TokenSource::spawn(client(registration.clone())?, policy, self.clock.clone());
        let relay = self.relay(key.clone(), source.subscribe());
        let asking = Asking {
            registration,
            policy,
            source,
            counted: 0,
            _relay: relay,
        };
        let kind = SourceKind::OAuth2(Box::new(asking));
        sources.insert(key.clone(), Source { binding, kind });
        // What it gets is told by the relay.
        Ok(None)
    }

    /// The references lead nowhere any more: the token in use serves on, if it was for this very resource, and no
    /// new one is asked for with a secret that somebody has taken away.
    fn leave(&self, resource: &McpServerAuth, key: &Key) -> Option<Arc<oauth::Token>> {
        let mut sources = self.sources();
        let source = sources
            .remove(key)
            .filter(|source| source.binding == Binding::of(resource))?;
        let token = match source.kind {
            SourceKind::OAuth2(asking) => asking.source.subscribe().borrow().token.clone(),
            SourceKind::Left { token, .. } => Some(token),
        };
        let token = token.filter(|token| !token.is_expired(self.clock.now()))?;
        let expired = token.expires_at.map(|at| self.at(key.clone(), at));
        let kind = SourceKind::Left {
            token: token.clone(),
            _expired: expired,
        };
        sources.insert(
            key.clone(),
            Source {
                binding: source.binding,
                kind,
            },
        );
        Some(token)
    }

    fn relay(&self, key: Key, mut states: watch::Receiver<oauth::State>) -> Relay {
        let changed = self.token_changed.clone();
        let relay = async move {
            while states.changed().await.is_ok() {
                // Without a receiver the operator is stopping.
                let _ = changed.send(key.clone());
            }
        };
        Relay(tokio::spawn(relay).abort_handle())
    }

    fn at(&self, key: Key, time: Timestamp) -> Relay {
        let (changed, clock) = (self.token_changed.clone(), self.clock.clone());
        let task = async move {
            clock.sleep_until(time).await;
            let _ = changed.send(key);
        };
        Relay(tokio::spawn(task).abort_handle())
    }

    /// A source's state for the status, and the credential it makes.
    fn describe(&self, state: Option<&oauth::State>) -> (Token, Option<Credential>) {
        let Some(state) = state else {
            return (Token::default(), None);
        };
        let token = Token {
            held: state.token.as_deref().map(held),
            // In the past it means that the request is under way.
            next_attempt_at: Some(state.next_attempt_at).filter(|at| *at > self.clock.now()),
            last_error: state.last_error.as_ref().map(|failure| LastError {
                at: failure.at,
                reason: failure.error.code().to_owned(),
                message: match failure.error.hint() {
                    "" => failure.error.message(),
                    hint => format!("{}: {hint}", failure.error.message()),
                },
            }),
        };
        (token, state.token.as_deref().map(bearer))
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
        match api.patch_status(&key.name, &params, &Patch::Apply(&patch)).await {
            Ok(_) => {}
            // Deleted meanwhile.
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            Err(error) => return Err(Error::Status(error)),
        }
        for event in events(resource.status.as_ref(), &fresh) {
            if let Err(error) = self.recorder.publish(&event, &resource.object_ref(&())).await {
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
        self.sources().remove(key);
        self.references.set(key, &[]);
        self.credentials.withdraw(key);
        self.metrics.forget(key);
    }

    fn watch_pods(&self) {
        self.pods.watch(&self.resources.namespaces());
    }

    fn sources(&self) -> MutexGuard<'_, HashMap<Key, Source>> {
        self.sources
            .lock()
            .expect("nothing panics while it holds the lock")
    }
}

fn client(registration: Registration) -> Result<oauth::Client, Blocked> {
    oauth::Client::new(registration).map_err(|error| {
        let field = match error {
            oauth::Error::InvalidCaBundle { .. } => fields::TOKEN_ENDPOINT_CA,
            _ => "spec.oauth2.tokenUrl",
        };
        Blocked::new(reasons::INVALID_SPEC, format!("{field}: {error}"))
    })
}

fn held(token: &oauth::Token) -> Held {
    Held {
        issued_at: Some(token.issued_at),
        expires_at: token.expires_at,
        scope: token.scope.clone(),
    }
}

fn bearer(token: &oauth::Token) -> Credential {
    let expires_at = token.expires_at.map(Timestamp::as_second);
    Credential::Bearer {
        token: token.access_token.clone(),
        expires_at,
    }
}

fn receive<T: Send + 'static>(receiver: mpsc::UnboundedReceiver<T>) -> impl Stream<Item = T> + Send {
    stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|item| (item, receiver))
    })
}
