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
use crate::api_server::within;
use crate::credentials::{Binding, Credentials, Issued};
use crate::key::Key;
use crate::metrics::Metrics;
use crate::pods::{PodMeta, Pods, ought_to_be_injected};
use crate::references::{References, fields, needed};
use crate::resources::{Resources, Seen};
use crate::routes::{rivals, selects};
use crate::sidecars::{GRACE, Sidecar, Sidecars};

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
    /// CA bundle of the MCP server, as it was last read.
    server_ca: Option<String>,
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

/// What there is for a resource now.
struct Obtained {
    references: Result<(), Blocked>,
    token: Token,
    credential: Option<Credential>,
    server_ca: Option<String>,
}

impl Obtained {
    fn nothing(blocked: Blocked) -> Self {
        Self {
            references: Err(blocked),
            token: Token::default(),
            credential: None,
            server_ca: None,
        }
    }
}

impl Asking {
    /// Asks in a changed way from now on. What cannot be asked in that way goes on as before.
    fn change(&mut self, registration: Registration, policy: Policy) -> Result<(), Blocked> {
        if self.policy.refresh_before != policy.refresh_before {
            self.source.follow(policy);
            self.policy = policy;
        }
        if !same_registration(&self.registration, &registration) {
            // The same client with another secret: what there is serves until the new one works.
            self.source.replace(client(registration.clone())?);
            self.registration = registration;
        }
        Ok(())
    }
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
                self.sources().remove(&key);
                Obtained {
                    references: Ok(()),
                    token: Token::default(),
                    credential: None,
                    server_ca: None,
                }
            }
            None => self.obtain(resource, &key),
        };
        let Obtained {
            references,
            token,
            credential,
            server_ca,
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
            ca_bundle: server_ca,
        };
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
        if let Some(message) = unsupported(&resource.spec) {
            return Some(Blocked::new(reasons::NOT_SUPPORTED_YET, message));
        }
        let labels: Vec<_> = pods
            .unwrap_or_default()
            .iter()
            .filter(|pod| ought_to_be_injected(pod))
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
    fn obtain(&self, resource: &McpServerAuth, key: &Key) -> Obtained {
        let references = needed(&resource.spec);
        self.references.set(key, &references);
        let wanted = want(&resource.spec, &references, |reference| {
            self.references.get(&key.namespace, reference)
        });
        match wanted {
            Ok(Wanted {
                source: Want::Given(token),
                server_ca,
            }) => {
                self.sources().remove(key);
                let credential = Credential::Bearer {
                    token,
                    expires_at: None,
                };
                Obtained {
                    references: Ok(()),
                    token: Token {
                        held: Some(Held::default()),
                        ..Token::default()
                    },
                    credential: Some(credential),
                    server_ca,
                }
            }
            Ok(Wanted {
                source: Want::OAuth2 { registration, policy },
                server_ca,
            }) => self.ask(resource, key, *registration, policy, server_ca),
            Err(blocked) => self.leave(resource, key, blocked),
        }
    }

    /// Makes the resource's source ask in this way, and answers what it has.
    fn ask(
        &self,
        resource: &McpServerAuth,
        key: &Key,
        registration: Registration,
        policy: Policy,
        server_ca: Option<String>,
    ) -> Obtained {
        let binding = Binding::of(resource);
        let mut sources = self.sources();
        let known = sources.remove(key).filter(|known| known.binding == binding);
        let (asking, references) = match known.map(|known| known.kind) {
            Some(SourceKind::OAuth2(mut asking)) => {
                let changed = asking.change(registration, policy);
                (asking, changed)
            }
            left => {
                let token = match left {
                    Some(SourceKind::Left { token, .. }) if !token.is_expired(self.clock.now()) => {
                        Some(token)
                    }
                    _ => None,
                };
                let client = match client(registration.clone()) {
                    Ok(client) => client,
                    Err(blocked) => return Obtained::nothing(blocked),
                };
                // A token left from before serves until the Secret that came back has brought a new one.
                let source = match token {
                    Some(token) => {
                        let source = TokenSource::resume(client.clone(), policy, self.clock.clone(), token);
                        source.replace(client);
                        source
                    }
                    None => TokenSource::spawn(client, policy, self.clock.clone()),
                };
                let relay = self.relay(key.clone(), source.subscribe());
                let asking = Asking {
                    registration,
                    policy,
                    source,
                    counted: 0,
                    _relay: relay,
                };
                (Box::new(asking), Ok(()))
            }
        };
        let mut asking = asking;
        let state = asking.source.subscribe().borrow().clone();
        let requests = state.requests.saturating_sub(asking.counted);
        self.metrics.token_requested(key, requests);
        asking.counted = state.requests;
        let kind = SourceKind::OAuth2(asking);
        let source = Source {
            binding,
            server_ca: server_ca.clone(),
            kind,
        };
        sources.insert(key.clone(), source);
        let (token, credential) = self.describe(&state);
        Obtained {
            references,
            token,
            credential,
            server_ca,
        }
    }

    /// The references lead nowhere any more: the token in use serves on, if it was for this very resource, and no
    /// new one is asked for with a secret that somebody has taken away.
    fn leave(&self, resource: &McpServerAuth, key: &Key, blocked: Blocked) -> Obtained {
        let mut sources = self.sources();
        let known = sources.remove(key);
        let Some(source) = known.filter(|source| source.binding == Binding::of(resource)) else {
            return Obtained::nothing(blocked);
        };
        let token = match source.kind {
            SourceKind::OAuth2(asking) => asking.source.subscribe().borrow().token.clone(),
            SourceKind::Left { token, .. } => Some(token),
        };
        let Some(token) = token.filter(|token| !token.is_expired(self.clock.now())) else {
            return Obtained::nothing(blocked);
        };
        let kind = SourceKind::Left {
            token: token.clone(),
            _expired: token.expires_at.map(|at| self.at(key.clone(), at)),
        };
        let server_ca = source.server_ca;
        let left = Source {
            binding: source.binding,
            server_ca: server_ca.clone(),
            kind,
        };
        sources.insert(key.clone(), left);
        Obtained {
            references: Err(blocked),
            token: Token {
                held: Some(held(&token)),
                ..Token::default()
            },
            credential: Some(bearer(&token)),
            server_ca,
        }
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
    fn describe(&self, state: &oauth::State) -> (Token, Option<Credential>) {
        let token = Token {
            held: state.token.as_deref().map(held),
            // In the past it means that the request is under way.
            next_attempt_at: Some(state.next_attempt_at).filter(|at| *at > self.clock.now()),
            last_error: state.last_error.as_ref().map(|failure| LastError {
                at: failure.at,
                reason: failure.error.code().to_owned(),
                message: failure.error.message(),
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
        Blocked::new(reasons::INVALID_SPEC, format!("{field}: {}", error.message()))
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
