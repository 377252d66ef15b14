//! The routing table: what is known of each MCP server, in the form that requests need it.
//!
//! [`Routes::apply`] builds a table from a snapshot of the operator ([`mcp_server`] decides what of it can be used)
//! and puts it in place of the old one in one step. Requests read whatever table is there when they begin; they
//! never wait for a writer.

pub mod access_token;
mod mcp_server;
mod rejection_reports;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use http::HeaderName;
use mcp_auth_protocol::pod::CONTEXT_HEADER;
use mcp_auth_protocol::sync::{self, RefusedBecause, Report};
use tokio::sync::watch;

use crate::http::tls::Trust;
use crate::proxy::metrics::Metrics;
use crate::proxy::user_context::Allowlist;

use access_token::AccessToken;
pub use mcp_server::{McpServer, RouteError, ServerState, ServiceCredential, UsableServer, outbound_path};
use rejection_reports::RejectionReports;
pub use rejection_reports::RenewalProspect;

/// Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Routes(Arc<RoutesInner>);

struct RoutesInner {
    table: ArcSwap<RouteTable>,
    workers: NonZeroUsize,
    metrics: Metrics,
    trust: Trust,
    rejections: RejectionReports,
    /// Says so whenever a request that waits for a token should look again.
    changes: watch::Sender<()>,
    /// Writers come one after another, so that each sees the table it replaces. Readers never take it.
    writer: Mutex<()>,
}

/// One state of all routes.
#[derive(Default)]
pub struct RouteTable {
    servers: HashMap<Box<str>, Arc<McpServer>>,
    /// What any server allows or exchanges: the inbound half seals it, not knowing yet which server will be called.
    allowed: Allowlist,
    /// By which LiteLLM passes the user context on to one of them: its `x-mcp-SERVER-HEADER`.
    context_headers: Box<[HeaderName]>,
}

impl Routes {
    /// No server yet. `workers` is how many worker threads will send requests. Tokens that servers refuse are
    /// entered into `reports`.
    pub fn new(workers: NonZeroUsize, metrics: Metrics, reports: watch::Sender<Report>) -> Self {
        Self(Arc::new(RoutesInner {
            table: ArcSwap::default(),
            workers,
            metrics,
            trust: Trust::default(),
            rejections: RejectionReports::new(reports),
            changes: watch::Sender::new(()),
            writer: Mutex::default(),
        }))
    }

    /// Puts `servers` in place of all that were there, and says which of them cannot be used: they answer with
    /// their problem, the others are not affected. Connections to servers whose origin and CA bundle are the same
    /// as before are kept.
    pub fn apply(&self, servers: &[sync::Server]) -> Vec<sync::Problem> {
        let _writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let previous = self.0.table.load();
        let build = |server: &sync::Server| {
            let before = previous.server(&server.route.server).map(Arc::as_ref);
            let built = McpServer::build(
                server,
                before,
                &self.0.trust,
                &self.0.metrics,
                self.0.workers.get(),
            );
            (built.name.clone(), Arc::new(built))
        };
        let servers: HashMap<_, _> = servers.iter().map(build).collect();
        let mut problems: Vec<_> = servers.values().filter_map(|server| server.problem()).collect();
        problems.sort_unstable();
        let allowed = Allowlist::union(servers.values().filter_map(|server| server.sealed()));
        let context_headers = servers.values().filter(|server| server.sealed().is_some());
        let context_headers = context_headers
            .filter_map(|server| context_header(&server.name))
            .collect();
        self.0.table.store(Arc::new(RouteTable {
            servers,
            allowed,
            context_headers,
        }));
        self.0
            .rejections
            .retain(|server, token| self.is_in_use(server, token));
        self.0.changes.send_replace(());
        problems
    }

    /// The table as it is now. One atomic load.
    pub fn table(&self) -> arc_swap::Guard<Arc<RouteTable>> {
        self.0.table.load()
    }

    /// Wakes whenever there may be another token, or one may be used again. What happened before is not told.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.0.changes.subscribe()
    }

    /// Tells the operator that `server` refused a token, unless another is in use by now.
    pub(crate) fn report_rejection(
        &self,
        server: &str,
        token: &Arc<AccessToken>,
        why: RefusedBecause,
    ) -> RenewalProspect {
        self.0
            .rejections
            .record(server, token, why, || self.is_in_use(server, token))
    }

    /// No other token has come that is good for `scopes`.
    pub(crate) fn record_denied_scopes(&self, server: &str, token: &Arc<AccessToken>, scopes: &[String]) {
        self.0.rejections.record_denied_scopes(server, token, scopes);
    }

    /// The server takes a token again that it had refused.
    pub(crate) fn report_accepted_again(&self, server: &str, token: &Arc<AccessToken>) {
        self.0.rejections.remove(server, token);
        self.0.changes.send_replace(());
    }

    fn is_in_use(&self, server: &str, token: &Arc<AccessToken>) -> bool {
        let table = self.table();
        let usable = table.server(server).and_then(|server| server.usable());
        usable
            .and_then(UsableServer::token)
            .is_some_and(|current| Arc::ptr_eq(current, token))
    }

    pub fn workers(&self) -> NonZeroUsize {
        self.0.workers
    }

    /// Closes connections of a worker that nobody needs any more.
    pub(crate) fn sweep(&self, worker: usize) {
        for server in self.table().servers.values() {
            server.sweep(worker);
        }
    }
}

impl RouteTable {
    pub fn server(&self, name: &str) -> Option<&Arc<McpServer>> {
        self.servers.get(name)
    }

    /// Union of the names that the servers allow, or exchange for a token.
    pub fn allowed(&self) -> &Allowlist {
        &self.allowed
    }

    /// The headers by which LiteLLM passes the user context on to one server each, of those that take any.
    pub fn context_headers(&self) -> &[HeaderName] {
        &self.context_headers
    }
}

/// A server's name is made of letters, digits and `_`, so none is refused here.
fn context_header(server: &str) -> Option<HeaderName> {
    HeaderName::try_from(format!("x-mcp-{server}-{CONTEXT_HEADER}")).ok()
}
