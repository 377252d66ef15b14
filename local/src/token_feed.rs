//! Feeds the data path from token sources of this process, in place of the operator: routes and tokens as
//! snapshots, and users' own tokens on request.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use mcp_auth_crds::McpServerAuth;
use mcp_auth_credentials::conditions::{ConditionDraft, token_issued};
use mcp_auth_credentials::routes::server;
use mcp_auth_credentials::{Changes, Credentials, ResourceRef, TokenRefreshRequest, TokenSources};
use mcp_auth_oauth::{Clock, EgressProxy};
use mcp_auth_protocol::reasons;
use mcp_auth_protocol::sync::{Problem, Report, Snapshot};
use mcp_auth_sidecar::control::exchange_client::{TokenExchanger, UserTokenRequest, UserTokenResponse};
use mcp_auth_sidecar::run::SnapshotSource;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::metrics::TokenFamilies;
use crate::protected_server::ProtectedServer;

/// Everything is in one namespace here.
const NAMESPACE: &str = "";
/// Changes within this time become one snapshot.
const DEBOUNCE: Duration = Duration::from_millis(20);

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct TokenFeed(Arc<Feed>);

struct Feed {
    servers: Mutex<Vec<ProtectedServer>>,
    sources: TokenSources,
    credentials: Credentials,
    changes: Changes,
    egress_proxy: Option<EgressProxy>,
    metrics: TokenFamilies,
}

impl TokenFeed {
    /// The receiver gets each resource whose state changed, for [`tell`](Self::tell).
    pub fn new(egress_proxy: Option<EgressProxy>) -> (Self, mpsc::UnboundedReceiver<ResourceRef>) {
        let changes = Changes::default();
        let (changed, receiver) = mpsc::unbounded_channel();
        let credentials = Credentials::new(changes.clone(), changed);
        let metrics = TokenFamilies::default();
        let feed = Feed {
            servers: Mutex::default(),
            sources: TokenSources::new(Clock::system(), metrics.clone(), credentials.clone()),
            credentials,
            changes,
            egress_proxy,
            metrics,
        };
        (Self(Arc::new(feed)), receiver)
    }

    pub fn register_metrics(&self, registry: &mut Registry) {
        self.0.metrics.register(registry);
    }

    /// Serves these and no others from now on. What has not changed keeps its token.
    pub fn apply(&self, servers: Vec<ProtectedServer>) {
        let mut current = self.0.servers.lock();
        if *current == servers {
            return;
        }
        for gone in current
            .iter()
            .filter(|server| !servers.iter().any(|other| other.is_same_resource(server)))
        {
            let resource = ResourceRef::from(&gone.resource);
            self.0.sources.remove(&resource);
            self.0.metrics.remove(&resource);
        }
        for server in &servers {
            self.0
                .sources
                .apply(&server.resource, server.desired(self.0.egress_proxy.clone()));
        }
        *current = servers;
        drop(current);
        self.0.changes.announce(NAMESPACE);
    }

    /// Sets the metrics of what the servers' resources refer to that ends.
    pub fn note_expiries(&self, now: Timestamp) {
        for server in self.0.servers.lock().iter() {
            let resource = ResourceRef::from(&server.resource);
            self.0.metrics.set_credentials(&resource, server.expiries(), now);
        }
    }

    /// How far the token of a resource is.
    pub fn token_issued(&self, resource: &McpServerAuth) -> ConditionDraft {
        token_issued(&self.0.credentials.get(resource).issuance)
    }

    /// Logs how far each token is, once for each change.
    pub async fn tell(&self, mut changed: mpsc::UnboundedReceiver<ResourceRef>) {
        let mut told: Vec<(ResourceRef, ConditionDraft)> = Vec::new();
        while let Some(resource_ref) = changed.recv().await {
            let Some(resource) = self.find(|resource| ResourceRef::from(resource) == resource_ref) else {
                continue;
            };
            let issuance = self.0.credentials.get(&resource).issuance;
            let in_use = issuance.token.in_use.as_ref();
            let issued = in_use.and_then(|token| token.issued_at);
            let expiry = in_use.and_then(|token| token.expires_at);
            let [issued, expiry] = [issued, expiry].map(|time| time.map(|time| time.as_second()));
            self.0.metrics.set_life(&resource_ref, issued, expiry);
            let condition = token_issued(&issuance);
            if told.contains(&(resource_ref.clone(), condition.clone())) {
                continue;
            }
            let (server, reason, message) =
                (&resource.spec.server.name, &condition.reason, &condition.message);
            match condition.holds {
                Some(false) => warn!(server, reason, "{message}"),
                _ => info!(server, reason, "{message}"),
            }
            told.retain(|(other, _)| *other != resource_ref);
            told.push((resource_ref, condition));
        }
    }

    fn find(&self, is_wanted: impl Fn(&McpServerAuth) -> bool) -> Option<McpServerAuth> {
        let servers = self.0.servers.lock();
        let mut resources = servers.iter().map(|server| &server.resource);
        resources.find(|resource| is_wanted(resource)).cloned()
    }

    fn snapshot(&self, revision: u64) -> Snapshot {
        let servers = self.0.servers.lock();
        let mut servers: Vec<_> = servers
            .iter()
            .map(|protected| {
                let state = self.0.credentials.get(&protected.resource);
                // Resources and LiteLLM are of the same user.
                server(&protected.resource, state, None)
            })
            .collect();
        servers.sort_by(|a, b| a.route.server.cmp(&b.route.server));
        Snapshot {
            revision: revision.to_string(),
            operator_ca: String::new(),
            // There is one process, whose own key does.
            fingerprint_key: None,
            servers,
            // The same clock.
            sent_at: None,
            capabilities: Vec::new(),
            unreadable: Vec::new(),
        }
    }

    /// Asks for better tokens than those that MCP servers rejected.
    fn request_refreshes(&self, report: &Report) {
        for refused in &report.refused {
            if let Some(resource) = self.find(|resource| resource.spec.server.name == refused.server) {
                self.0.sources.request_refresh(&TokenRefreshRequest {
                    resource: ResourceRef::from(&resource),
                    token: refused.token.clone(),
                    why: refused.why.clone(),
                });
            }
        }
    }
}

impl SnapshotSource for TokenFeed {
    async fn run(self, reports: &watch::Sender<Report>, mut apply: impl FnMut(Snapshot)) -> Infallible {
        let mut changes = self.0.changes.subscribe(NAMESPACE);
        let mut reported = reports.subscribe();
        let mut revision = 0;
        let mut refused = Vec::new();
        changes.mark_changed();
        loop {
            tokio::select! {
                // Neither ends: the senders are here, and with the caller.
                Ok(()) = changes.changed() => {
                    tokio::time::sleep(DEBOUNCE).await;
                    changes.mark_unchanged();
                    revision += 1;
                    apply(self.snapshot(revision));
                }
                Ok(()) = reported.changed() => {
                    let report = reported.borrow_and_update().clone();
                    if report.refused != refused {
                        self.request_refreshes(&report);
                        refused = report.refused;
                    }
                }
            }
        }
    }
}

impl TokenExchanger for TokenFeed {
    fn exchange(&self, request: UserTokenRequest) -> UserTokenResponse {
        let feed = self.clone();
        Box::pin(async move {
            let UserTokenRequest {
                server,
                url,
                subject,
                refused,
            } = request;
            let is_wanted = |resource: &McpServerAuth| {
                resource.spec.server.name == *server && resource.spec.server.url == *url
            };
            let resource = feed.find(is_wanted);
            let exchanger = resource.and_then(|resource| feed.0.credentials.exchanger(&resource));
            let exchanger = exchanger.ok_or_else(|| {
                Problem::new(
                    reasons::NO_EXCHANGE,
                    format!("no token exchange is set up for server {server}"),
                )
            })?;
            let credential = exchanger.credential(&subject, refused.as_deref()).await;
            credential.map_err(|error| Problem::new(error.reason(), error.to_string()))
        })
    }
}
