//! Discovery of an authorization server: from an issuer to its metadata (RFC 8414, OpenID Connect Discovery
//! 1.0), from an MCP server to its issuer (RFC 9728).
//!
//! [`well_known`] says where things are to be found and [`metadata`] what was found there, both without I/O;
//! [`search`] goes there in order. [`Discovery`] keeps what came of it.

pub(crate) mod endpoints;
mod error;
pub(crate) mod metadata;
mod search;
pub(crate) mod well_known;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

pub use error::{Attempt, AttemptError, DiscoveryError};
pub use metadata::{ScopeOrigin, ServerMetadata};
use search::{Search, SearchRules, SearchStart};

use crate::clock::time_after;
use crate::ssrf::AddressPolicy;
use crate::{Clock, Error, Limits, Registration, ServerLocation};

/// How long metadata are used without a new search.
pub(crate) const CACHE_TTL: Duration = Duration::from_secs(60 * 60);

/// How long metadata whose time is over serve on before they are asked for again, where they could not be
/// had.
const STALE_TTL: Duration = Duration::from_secs(60);

/// Longest search, of several requests.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(30);

/// Finds the authorization server of a registration, and keeps what it found for an hour.
#[derive(Debug)]
pub struct Discovery {
    rules: SearchRules,
    clock: Clock,
    /// Locked while a search is under way, so that there is one at a time.
    cached: Mutex<Option<CachedServer>>,
    /// The server of `cached`, for readers that do not wait for a search.
    published: watch::Sender<Option<Arc<ServerMetadata>>>,
}

#[derive(Debug)]
struct CachedServer {
    server: Arc<ServerMetadata>,
    since: Timestamp,
    until: Timestamp,
    /// A later search found something else: the issuer is remembered, but nothing is asked there any more.
    contradicted: bool,
}

impl Discovery {
    /// `None`: there is nothing to discover, the registration states the endpoints. Makes no connection.
    pub fn new(registration: &Registration, clock: Clock) -> Result<Option<Self>, Error> {
        Self::with_limits(registration, Limits::default(), clock)
    }

    /// With other bounds for each request.
    pub fn with_limits(
        registration: &Registration,
        limits: Limits,
        clock: Clock,
    ) -> Result<Option<Self>, Error> {
        let parse = |field, text: &str| {
            well_known::parse(text, registration.allow_insecure_http)
                .map_err(|problem| Error::Discovery(DiscoveryError::InvalidUrl { field, problem }))
        };
        let (start, known_issuer) = match &registration.server {
            ServerLocation::Endpoints { .. } => return Ok(None),
            ServerLocation::Issuer(issuer) => {
                let url = parse("issuer", issuer)?;
                if url.query().is_some() {
                    let problem = "has a query, which an issuer has not";
                    return Err(DiscoveryError::InvalidUrl {
                        field: "issuer",
                        problem,
                    }
                    .into());
                }
                let name = issuer.clone();
                (SearchStart::Issuer { name, url }, None)
            }
            ServerLocation::ProtectedResource {
                url,
                ca_bundle,
                known_issuer,
            } => {
                let url = parse("server.url", url)?;
                let ca_bundle = ca_bundle.clone();
                (SearchStart::Resource { url, ca_bundle }, known_issuer.clone())
            }
        };
        let rules = SearchRules {
            addresses: AddressPolicy::discovered([start.url()], registration.allow_private_addresses),
            // The MCP server is asked too, and shown nothing: whether it may be used is not for this list to say.
            destinations: match &start {
                SearchStart::Issuer { .. } => registration.destinations.clone(),
                SearchStart::Resource { url, .. } => registration.destinations.and_host_of(url),
            },
            start,
            known_issuer,
            ca_bundle: registration.ca_bundle.clone(),
            allow_insecure_http: registration.allow_insecure_http,
            egress_proxy: registration.egress_proxy.clone(),
            limits,
        };
        rules.check_trust()?;
        Ok(Some(Self::from_rules(rules, clock)))
    }

    /// The same by another clock, with nothing found yet.
    pub fn with_clock(&self, clock: Clock) -> Self {
        Self::from_rules(self.rules.clone(), clock)
    }

    /// The same with nothing found yet, but for what another one knows of the issuer of the same MCP server.
    pub(crate) fn with_known_issuer_from(&self, known: &Self) -> Self {
        let mut rules = self.rules.clone();
        if self.rules.start.is_same_resource(&known.rules.start) {
            rules.known_issuer = self.known_issuer().or_else(|| known.known_issuer());
        }
        Self::from_rules(rules, self.clock.clone())
    }

    /// What was found last, however long ago, without a search and without waiting for one.
    pub fn cached_server(&self) -> Option<Arc<ServerMetadata>> {
        self.published.borrow().clone()
    }

    /// Tells of each server that is found.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Arc<ServerMetadata>>> {
        self.published.subscribe()
    }

    /// The authorization server, searched for unless it was found within the hour. Where it cannot be had,
    /// the one that was found before serves on; where something contradicts it, it does not.
    pub async fn server(&self) -> Result<Arc<ServerMetadata>, Error> {
        let mut cached = self.cached.lock().await;
        let now = self.clock.now();
        if let Some(cached) = &*cached
            && !cached.contradicted
            // A time that has not come yet means that the clock was set back.
            && (cached.since..cached.until).contains(&now)
        {
            return Ok(Arc::clone(&cached.server));
        }
        let known_issuer = cached
            .as_ref()
            .map(|cached| &cached.server.issuer)
            .or(self.rules.known_issuer.as_ref());
        let outcome = match timeout(SEARCH_TIMEOUT, Search::new(&self.rules, known_issuer).run()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(DiscoveryError::Timeout {
                limit: SEARCH_TIMEOUT,
            }),
        };
        let now = self.clock.now();
        match (outcome, &mut *cached) {
            (Ok(server), cached) => {
                let server = Arc::new(server);
                self.published.send_replace(Some(Arc::clone(&server)));
                *cached = Some(CachedServer {
                    server: Arc::clone(&server),
                    since: now,
                    until: time_after(now, CACHE_TTL),
                    contradicted: false,
                });
                Ok(server)
            }
            (Err(error), Some(cached)) if error.is_contradiction() => {
                cached.contradicted = true;
                Err(error.into())
            }
            (Err(error), Some(cached)) if !cached.contradicted => {
                tracing::warn!(
                    %error,
                    "the authorization server's metadata cannot be had; older ones serve on"
                );
                cached.since = now;
                cached.until = time_after(now, STALE_TTL);
                Ok(Arc::clone(&cached.server))
            }
            (Err(error), _) => Err(error.into()),
        }
    }

    /// Has the next call of [`Self::server`] search again, for when the server found does not answer as it
    /// should. What was found within the last minute stays: asking again would find the same.
    pub async fn invalidate_unless_fresh(&self) {
        let now = self.clock.now();
        if let Some(cached) = &mut *self.cached.lock().await
            && time_after(cached.since, STALE_TTL) <= now
        {
            cached.until = now;
        }
    }

    /// Searches anew for the next request, however short a time ago it was found: tokens of the server that
    /// was found are refused. Whoever calls this keeps a pace of their own.
    pub async fn invalidate(&self) {
        if let Some(cached) = &mut *self.cached.lock().await {
            cached.until = self.clock.now();
        }
    }

    fn from_rules(rules: SearchRules, clock: Clock) -> Self {
        Self {
            rules,
            clock,
            cached: Mutex::new(None),
            published: watch::Sender::new(None),
        }
    }

    /// The issuer that another one would be a change from.
    fn known_issuer(&self) -> Option<String> {
        match self.cached_server() {
            Some(server) => Some(server.issuer.clone()),
            None => self.rules.known_issuer.clone(),
        }
    }

    /// Where the endpoints found may be, for the [`Transport`] to them.
    pub(crate) fn addresses(&self) -> AddressPolicy {
        self.rules.addresses.clone()
    }
}
