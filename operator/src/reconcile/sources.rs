//! The token sources: one for each resource that asks an authorization server, kept in step with what the resource
//! and its Secrets say, and never at the price of a token that still serves.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use jiff::Timestamp;
use mcp_auth_crds::{McpServerAuth, reasons};
use mcp_auth_oauth::{self as oauth, Clock, Policy, Registration, TokenSource};
use mcp_auth_protocol::sync::Credential;
use tokio::sync::{mpsc, watch};

use super::resolve::Blocked;
use super::status::{Held, LastError, Token};
use super::want::{Want, Wanted, same_registration};
use crate::credentials::Binding;
use crate::key::Key;
use crate::metrics::Metrics;
use crate::references::fields;

pub struct Sources {
    clock: Clock,
    metrics: Metrics,
    known: Mutex<HashMap<Key, Source>>,
    changed: mpsc::UnboundedSender<Key>,
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
pub struct Obtained {
    pub references: Result<(), Blocked>,
    pub token: Token,
    pub credential: Option<Credential>,
    pub server_ca: Option<String>,
}

impl Obtained {
    /// Of a resource that is not served.
    pub fn refused() -> Self {
        Self {
            references: Ok(()),
            token: Token::default(),
            credential: None,
            server_ca: None,
        }
    }

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

impl Sources {
    /// The receiver gets each resource whose token changed.
    pub fn new(clock: Clock, metrics: Metrics) -> (Self, mpsc::UnboundedReceiver<Key>) {
        let (changed, receiver) = mpsc::unbounded_channel();
        let sources = Self {
            clock,
            metrics,
            known: Mutex::default(),
            changed,
        };
        (sources, receiver)
    }

    pub fn forget(&self, key: &Key) {
        self.lock().remove(key);
    }

    /// Gets the token of a resource in the way that is wanted, or says how far it is.
    pub fn obtain(&self, resource: &McpServerAuth, key: &Key, wanted: Result<Wanted, Blocked>) -> Obtained {
        match wanted {
            Ok(Wanted {
                source: Want::Given(token),
                server_ca,
            }) => {
                self.lock().remove(key);
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
        let mut sources = self.lock();
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
        let mut sources = self.lock();
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
        let changed = self.changed.clone();
        let relay = async move {
            while states.changed().await.is_ok() {
                // Without a receiver the operator is stopping.
                let _ = changed.send(key.clone());
            }
        };
        Relay(tokio::spawn(relay).abort_handle())
    }

    fn at(&self, key: Key, time: Timestamp) -> Relay {
        let (changed, clock) = (self.changed.clone(), self.clock.clone());
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

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Source>> {
        self.known.lock().expect("nothing panics while it holds the lock")
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
