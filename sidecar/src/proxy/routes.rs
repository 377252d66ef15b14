//! The routing table: what is known of each MCP server, in the form that requests need it.
//!
//! [`Routes::apply`] builds a table from a snapshot of the operator ([`server`] decides what of it can be used)
//! and puts it in place of the old one in one step. Requests read whatever table is there when they begin; they
//! never wait for a writer.

mod refusals;
mod server;
pub mod token;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use http::HeaderName;
use mcp_auth_protocol::pod::CONTEXT_HEADER;
use mcp_auth_protocol::sync::{self, RefusedBecause, Report};
use tokio::sync::watch;

use crate::http::tls::TlsConfigs;
use crate::proxy::metrics::Metrics;
use crate::proxy::user_context::Allowed;

pub use refusals::Prospect;
use refusals::Refusals;
pub use server::{Credential, Server, State, Unusable, Usable, outbound_path};
use token::Token;

/// Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Routes(Arc<Inner>);

struct Inner {
    table: ArcSwap<Table>,
    workers: NonZeroUsize,
    metrics: Metrics,
    trust: TlsConfigs,
    refusals: Refusals,
    /// Says so whenever a request that waits for a token should look again.
    changes: watch::Sender<()>,
    /// Writers come one after another, so that each sees the table it replaces. Readers never take it.
    writing: Mutex<()>,
}

/// One state of all routes.
#[derive(Default)]
pub struct Table {
    servers: HashMap<Box<str>, Arc<Server>>,
    /// What any server allows or exchanges: the inbound half seals it, not knowing yet which server will be called.
    allowed: Allowed,
    /// By which LiteLLM passes the user context on to one of them: its `x-mcp-SERVER-HEADER`.
    contexts: Box<[HeaderName]>,
}

impl Routes {
    /// No server yet. `workers` is how many worker threads will send requests. Tokens that servers refuse are
    /// entered into `reports`.
    pub fn new(workers: NonZeroUsize, metrics: Metrics, reports: watch::Sender<Report>) -> Self {
        Self(Arc::new(Inner {
            table: ArcSwap::default(),
            workers,
            metrics,
            trust: TlsConfigs::default(),
            refusals: Refusals::new(reports),
            changes: watch::Sender::new(()),
            writing: Mutex::default(),
        }))
    }

    /// Puts `servers` in place of all that were there, and says which of them cannot be used: they answer with
    /// their problem, the others are not affected. Connections to servers whose origin and CA bundle are the same
    /// as before are kept.
    pub fn apply(&self, servers: &[sync::Server]) -> Vec<sync::Problem> {
        let _one_at_a_time = self.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.0.table.load();
        let build = |server: &sync::Server| {
            let before = old.server(&server.route.server).map(Arc::as_ref);
            let built = Server::build(
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
        let allowed = Allowed::union(servers.values().filter_map(|server| server.sealed()));
        let contexts = servers.values().filter(|server| server.sealed().is_some());
        let contexts = contexts
            .filter_map(|server| context_header(&server.name))
            .collect();
        self.0.table.store(Arc::new(Table {
            servers,
            allowed,
            contexts,
        }));
        self.0.refusals.keep(|server, token| self.uses(server, token));
        self.0.changes.send_replace(());
        problems
    }

    /// The table as it is now. One atomic load.
    pub fn table(&self) -> arc_swap::Guard<Arc<Table>> {
        self.0.table.load()
    }

    /// Wakes whenever there may be another token, or one may be used again. What happened before is not told.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.0.changes.subscribe()
    }

    /// Tells the operator that `server` refused a token, unless another is in use by now.
    pub(crate) fn refused(&self, server: &str, token: &Arc<Token>, why: RefusedBecause) -> Prospect {
        self.0
            .refusals
            .enter(server, token, why, || self.uses(server, token))
    }

    /// No other token has come that is good for `scopes`.
    pub(crate) fn denied(&self, server: &str, token: &Arc<Token>, scopes: &[String]) {
        self.0.refusals.deny(server, token, scopes);
    }

    /// The server takes a token again that it had refused.
    pub(crate) fn taken_again(&self, server: &str, token: &Arc<Token>) {
        self.0.refusals.forget(server, token);
        self.0.changes.send_replace(());
    }

    fn uses(&self, server: &str, token: &Arc<Token>) -> bool {
        let table = self.table();
        let usable = table.server(server).and_then(|server| server.usable());
        usable
            .and_then(Usable::token)
            .is_some_and(|used| Arc::ptr_eq(used, token))
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

impl Table {
    pub fn server(&self, name: &str) -> Option<&Arc<Server>> {
        self.servers.get(name)
    }

    /// Union of the names that the servers allow, or exchange for a token.
    pub fn allowed(&self) -> &Allowed {
        &self.allowed
    }

    /// The headers by which LiteLLM passes the user context on to one server each, of those that take any.
    pub fn contexts(&self) -> &[HeaderName] {
        &self.contexts
    }
}

/// A server's name is made of letters, digits and `_`, so none is refused here.
fn context_header(server: &str) -> Option<HeaderName> {
    HeaderName::try_from(format!("x-mcp-{server}-{CONTEXT_HEADER}")).ok()
}
