//! The token sources: one for each resource, kept in step with what the resource and its Secrets say, and never at
//! the price of a token that still serves.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;
use mcp_auth_crds::McpServerAuth;
use mcp_auth_oauth::{self as oauth, Clock, IssuedToken, TokenSource};
use mcp_auth_protocol::sync::RefusedBecause;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::live::Live;
use super::obtained::Obtained;
use super::resolve::Blocked;
use super::want::{Asking, Want, Wanted};
use crate::credentials::Binding;
use crate::demands::Demand;
use crate::key::Key;
use crate::metrics::Metrics;

/// How long the refusal of a token in a Secret counts: nobody says when a server takes it again.
const REFUSAL: Duration = Duration::from_secs(10 * 60);
/// Longest time that a deleted resource's token may take to be revoked.
const REVOCATION: Duration = Duration::from_secs(30);

pub struct Sources {
    clock: Clock,
    metrics: Metrics,
    known: Mutex<HashMap<Key, Source>>,
    changed: mpsc::UnboundedSender<Key>,
}

/// Where the token of a resource comes from, as it is now.
struct Source {
    binding: Binding,
    /// What the sidecar is given besides the token, as it was last read.
    extras: Extras,
    kind: SourceKind,
}

/// What a sidecar needs to trust the MCP server, and to be trusted by it.
#[derive(Clone, Debug, Default)]
pub struct Extras {
    pub server_ca: Option<String>,
    pub client_certificate: Option<oauth::ClientCertificate>,
}

enum SourceKind {
    OAuth2(Box<Live>),
    /// Of a Secret. The relays ask for reconciling when it ends, and when a refusal is too long ago to count.
    Given {
        token: Arc<oauth::Token>,
        _expired: Option<Relay>,
        refused: Option<(Timestamp, Relay)>,
    },
    /// The Secret was taken away: nothing is asked any more, and what there is serves until it expires.
    Left {
        token: Arc<oauth::Token>,
        _expired: Option<Relay>,
        /// An MCP server does not take it any more.
        refused: bool,
        /// Revokes it, if that is wished for.
        revoker: Option<Box<oauth::Client>>,
    },
}

/// A task that asks for reconciling, until it is dropped.
pub struct Relay(tokio::task::AbortHandle);

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

    /// Ends a resource's source. Its token is not revoked: sidecars may go on using it.
    pub fn forget(&self, key: &Key) {
        self.lock().remove(key);
    }

    /// Ends the source of a resource that was deleted, and revokes its token if that was wished for.
    pub fn end(&self, key: &Key) {
        let (client, token) = match self.lock().remove(key).map(|source| source.kind) {
            Some(SourceKind::OAuth2(live)) if live.revokes() => (live.client().clone(), live.token()),
            // The Secret went first, as with `kubectl delete -f` of both.
            Some(SourceKind::Left {
                token,
                revoker: Some(client),
                ..
            }) => (*client, Some(token)),
            _ => return,
        };
        let Some(token) = token else { return };
        let key = key.clone();
        tokio::spawn(async move {
            let Key { namespace, name } = key;
            match tokio::time::timeout(REVOCATION, client.revoke(&token.access_token)).await {
                Ok(Ok(true)) => info!(namespace, name, "the token was revoked"),
                Ok(Ok(false)) => warn!(
                    namespace,
                    name,
                    "the token lives until it expires: the authorization server offers no revocation, or none for such tokens"
                ),
                Ok(Err(error)) => {
                    warn!(
                        namespace,
                        name,
                        reason = error.reason(),
                        message = error.message(),
                        "no revocation"
                    )
                }
                Err(_) => warn!(namespace, name, "the token was not revoked in time"),
            }
        });
    }

    /// Asks for a better token than the one that an MCP server refused.
    pub fn demand(&self, demand: &Demand) {
        self.metrics.token_refused(&demand.key);
        let mut sources = self.lock();
        match sources.get_mut(&demand.key).map(|source| &mut source.kind) {
            Some(SourceKind::OAuth2(live)) => live.demand(demand),
            Some(SourceKind::Given { token, refused, .. })
                if token.id == demand.token && demand.why == RefusedBecause::Unauthorized =>
            {
                let until = self.clock.now() + REFUSAL;
                *refused = Some((until, self.at(demand.key.clone(), until)));
            }
            Some(SourceKind::Left { token, refused, .. })
                if token.id == demand.token && demand.why == RefusedBecause::Unauthorized =>
            {
                *refused = true;
            }
            _ => {}
        }
    }

    /// Gets the token of a resource in the way that is wanted, or says how far it is.
    pub fn obtain(&self, resource: &McpServerAuth, key: &Key, wanted: Result<Wanted, Blocked>) -> Obtained {
        let binding = Binding::of(resource);
        let mut sources = self.lock();
        let known = sources.remove(key).filter(|known| known.binding == binding);
        let (kind, extras, problem) = match wanted {
            Err(blocked) => match known.and_then(|known| Some((self.left(key, known.kind)?, known.extras))) {
                Some((kind, extras)) => (kind, extras, Some(blocked)),
                None => return Obtained::blocked(blocked),
            },
            Ok(Wanted {
                source,
                server_ca,
                client_certificate,
            }) => {
                let extras = Extras {
                    server_ca,
                    client_certificate,
                };
                let before = known.map(|known| known.kind);
                let (kind, problem) = match source {
                    Want::Given(token) => (self.given(key, token, before), None),
                    Want::OAuth2(asking) => match before {
                        Some(SourceKind::OAuth2(mut live)) => {
                            let changed = live.change(*asking);
                            (SourceKind::OAuth2(live), changed.err())
                        }
                        before => match self.start(key, *asking, before) {
                            Ok(live) => (SourceKind::OAuth2(Box::new(live)), None),
                            Err(blocked) => return Obtained::blocked(blocked),
                        },
                    },
                };
                (kind, extras, problem)
            }
        };
        let mut source = Source {
            binding,
            extras,
            kind,
        };
        let obtained = self.describe(key, &mut source, problem);
        sources.insert(key.clone(), source);
        obtained
    }

    /// A source that has not asked yet. A token left from before serves until the Secret that came back has brought
    /// a new one.
    fn start(&self, key: &Key, asking: Asking, before: Option<SourceKind>) -> Result<Live, Blocked> {
        let left = match before {
            Some(SourceKind::Left { token, .. }) if !token.is_expired(self.clock.now()) => Some(token),
            _ => None,
        };
        Live::start(asking, left, &self.clock, |source| {
            self.relay(key.clone(), source)
        })
    }

    fn given(&self, key: &Key, token: SecretString, before: Option<SourceKind>) -> SourceKind {
        let same = |kind: &SourceKind| match kind {
            SourceKind::Given { token: known, .. } => known.access_token.secret() == token.expose_secret(),
            _ => false,
        };
        if let Some(known) = before.filter(same) {
            return known;
        }
        let claims = oauth::read_claims(token.expose_secret());
        let end = claims.and_then(|claims| claims.expires_at);
        let expires_at = end.and_then(|end| Timestamp::from_second(end).ok());
        let token = oauth::Token::handed_over(
            IssuedToken::bearer(token.expose_secret()),
            self.clock.now(),
            expires_at,
        );
        SourceKind::Given {
            _expired: expires_at.map(|at| self.at(key.clone(), at)),
            token: Arc::new(token),
            refused: None,
        }
    }

    /// The references lead nowhere any more: the token in use serves on, and no new one is asked for with a secret
    /// that somebody has taken away.
    fn left(&self, key: &Key, kind: SourceKind) -> Option<SourceKind> {
        let (token, refused, revoker) = match kind {
            SourceKind::OAuth2(live) => (
                live.token()?,
                false,
                live.revokes().then(|| Box::new(live.client().clone())),
            ),
            SourceKind::Given { token, .. } => (token, false, None),
            SourceKind::Left {
                token,
                refused,
                revoker,
                ..
            } => (token, refused, revoker),
        };
        (!token.is_expired(self.clock.now())).then(|| SourceKind::Left {
            _expired: token.expires_at.map(|at| self.at(key.clone(), at)),
            token,
            refused,
            revoker,
        })
    }

    fn describe(&self, key: &Key, source: &mut Source, problem: Option<Blocked>) -> Obtained {
        let now = self.clock.now();
        let extras = source.extras.clone();
        match &mut source.kind {
            SourceKind::OAuth2(live) => {
                self.metrics.token_requested(key, live.new_requests());
                live.describe(now, extras, problem)
            }
            SourceKind::Given { token, refused, .. } => {
                let is_refused = refused.as_ref().is_some_and(|(until, _)| now < *until);
                Obtained::given(token, is_refused, now, extras)
            }
            SourceKind::Left { token, refused, .. } => Obtained::left(token, *refused, extras, problem),
        }
    }

    fn relay(&self, key: Key, source: &TokenSource) -> Relay {
        let changed = self.changed.clone();
        let mut states: watch::Receiver<oauth::TokenSourceState> = source.subscribe();
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

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Source>> {
        self.known.lock().expect("nothing panics while it holds the lock")
    }
}
