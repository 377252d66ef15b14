//! The routing table: the operator's snapshot of MCP servers in the form that requests need.
//!
//! [`Routes::apply`] builds a table from a snapshot of the operator ([`mcp_server`] decides what of it can be
//! used) and puts it in place of the old one in one step. Requests read whatever table is there when they
//! begin; they never wait for a writer.

pub mod access_token;
mod announced_endpoints;
pub mod connection_checks;
mod cookie_arrivals;
mod mcp_server;
mod reachability;
mod refusal_streams;
mod rejection_reports;
mod route_error;
mod sessions;
mod target;
mod tool_calls;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::HeaderName;
use mcp_auth_http_auth::authority_key::{USABLE_KEYS, UnusableAuthority};
use mcp_auth_protocol::pod::CONTEXT_HEADER;
use mcp_auth_protocol::reachability::ServerReachability;
use mcp_auth_protocol::sync::{self, RejectionCause, Report};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::http::json_key_filter::ServerNames;
use crate::http::tls::TlsConfigs;
use crate::proxy::header_denylist::is_not_for_servers;
use crate::proxy::metrics::Metrics;
use crate::proxy::user_context::{Allowlist, Context};

use access_token::AccessToken;
pub use announced_endpoints::{AnnouncedEndpoints, Announcement};
use cookie_arrivals::CookieArrivals;
pub use mcp_server::{
    AuditSettings, AuditUserSource, McpServer, ServerState, ServiceCredential, UsableServer, outbound_path,
};
pub use refusal_streams::RefusalStream;
use rejection_reports::RejectionReports;
pub use rejection_reports::RenewalProspect;
pub use sessions::{OpeningStream, SESSION_HEADER, SessionId};

/// Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Routes(Arc<RoutesInner>);

struct RoutesInner {
    table: ArcSwap<RouteTable>,
    workers: NonZeroUsize,
    metrics: Metrics,
    trust: TlsConfigs,
    rejections: RejectionReports,
    cookie_arrivals: CookieArrivals,
    /// Notifies the requests that wait for a token whenever they should look again.
    changes: watch::Sender<()>,
    /// What LiteLLM calls the servers beside their names. Serializes writers, so that each sees the table it replaces;
    /// readers never lock it.
    called: Mutex<Called>,
}

/// What LiteLLM's configuration says of the servers.
#[derive(Clone, Default, PartialEq)]
struct Called {
    /// What LiteLLM calls them beside their names, and their names. Spaces are `_`, as LiteLLM writes them.
    aliases: Arc<BTreeMap<String, String>>,
    /// The access groups that any of them is in.
    access_groups: BTreeSet<String>,
}

/// All routes at one point in time.
#[derive(Clone, Default)]
pub struct RouteTable {
    servers: HashMap<Box<str>, Arc<McpServer>>,
    /// Cookies and headers that any server is allowed or exchanges. The inbound half seals them all, since it
    /// does not know yet which server LiteLLM will call.
    allowed: Allowlist,
    /// The headers `x-mcp-SERVER-HEADER` by which LiteLLM passes the user context on to one server each, and what
    /// belongs into it: of the servers that take anything of users, in the order of their names.
    context_headers: Box<[(HeaderName, Allowlist)]>,
    /// Whether calls to any server are recorded, and with them the key of the client.
    is_audited: bool,
    /// How the headers begin that LiteLLM sends to one of these servers: `x-mcp-SERVER-`, by the server's name or alias.
    server_prefixes: Box<[Box<str>]>,
    /// The same of access groups: LiteLLM 1.110.2 sends such headers to all servers of the group for which there are none.
    group_prefixes: Box<[Box<str>]>,
    /// The names of both, for which no body may set headers.
    names_in_bodies: ServerNames,
    aliases: Arc<BTreeMap<String, String>>,
}

impl Routes {
    /// A table without servers. `workers` is how many worker threads will send requests. Tokens that servers
    /// reject are entered into `reports`.
    pub fn new(workers: NonZeroUsize, metrics: Metrics, reports: watch::Sender<Report>) -> Self {
        Self(Arc::new(RoutesInner {
            table: ArcSwap::default(),
            workers,
            metrics,
            trust: TlsConfigs::default(),
            rejections: RejectionReports::new(reports),
            cookie_arrivals: CookieArrivals::default(),
            changes: watch::Sender::new(()),
            called: Mutex::default(),
        }))
    }

    /// Replaces all servers by `servers`. Returns the problems of those that cannot be used: requests for
    /// them are answered with their problem, the others are not affected. Connections to servers whose origin
    /// and CA bundle are the same as before are kept.
    pub fn apply(&self, servers: &[sync::Server]) -> Vec<sync::Problem> {
        let called = self.0.called.lock();
        let previous = self.0.table.load();
        let build = |server: &sync::Server| {
            let previous_server = previous.server(&server.route.server).map(Arc::as_ref);
            let built = McpServer::build(
                server,
                previous_server,
                &self.0.trust,
                &self.0.metrics,
                self.0.workers.get(),
            );
            (built.name.clone(), Arc::new(built))
        };
        let servers: HashMap<_, _> = servers.iter().map(build).collect();
        let mut problems: Vec<_> = servers.values().filter_map(|server| server.problem()).collect();
        problems.sort_unstable();
        let is_audited = servers.values().any(|server| server.audit.is_some());
        let allowed = Allowlist::union(servers.values().filter_map(|server| server.sealed()));
        let usable = || servers.values().filter_map(|server| server.usable());
        let cookies = usable().flat_map(|usable| usable.allowed.cookies());
        self.0.cookie_arrivals.set(cookies, &self.0.metrics);
        let mut context_headers: Vec<_> = servers
            .values()
            .filter_map(|server| {
                let sealed = server.sealed().filter(|sealed| !sealed.is_empty())?;
                Some((context_header(&server.name)?, sealed.clone()))
            })
            .collect();
        context_headers.sort_unstable_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
        let mut table = RouteTable {
            servers,
            allowed,
            context_headers: context_headers.into(),
            is_audited,
            ..RouteTable::default()
        };
        table.set_called(&called);
        self.0.table.store(Arc::new(table));
        self.0
            .rejections
            .retain(|server, token| self.is_in_use(server, token));
        self.0.changes.send_replace(());
        problems
    }

    /// What is known of each server that can be used, sorted by name.
    pub fn reachability(&self) -> Vec<ServerReachability> {
        let table = self.table();
        let servers = table.servers.values();
        let mut all: Vec<_> = servers
            .filter_map(|server| Some(server.usable()?.reachability.report(&server.name)))
            .collect();
        all.sort_unstable_by(|a, b| a.server.cmp(&b.server));
        all
    }

    /// Counts the cookies of a user's request.
    pub fn count_cookies(&self, context: Option<&Context>) {
        self.0.cookie_arrivals.record(context);
    }

    /// The allow-listed cookies that never come, and servers whose calls do not.
    pub fn notices(&self) -> Vec<sync::Problem> {
        let table = self.table();
        let usable = table
            .servers
            .values()
            .filter_map(|server| Some((server, server.usable()?)));
        let mut notices: Vec<_> = usable
            .flat_map(|(server, usable)| {
                let missing = |name| self.0.cookie_arrivals.missing_in(name).is_some();
                let missing = usable.allowed.cookies().filter(move |name| missing(name));
                missing.map(|name| missing_cookie(server, name))
            })
            .collect();
        let usable = table.servers.values();
        let usable = usable.filter_map(|server| Some((server, server.usable()?)));
        notices.extend(usable.flat_map(|(server, usable)| {
            let unusable = usable.unusable_authorities.iter();
            let unusable = unusable.map(|authority| unusable_authority(server, authority));
            let malformed = usable.target.http2_was_malformed();
            unusable.chain(malformed.then(|| malformed_http2(server)))
        }));
        let servers = table.servers.values();
        notices.extend(servers.filter_map(|server| server.tool_calls.notice(server)));
        notices.sort_unstable();
        notices
    }

    /// Takes over what LiteLLM calls the servers beside their names: the server of each alias.
    pub fn set_aliases(&self, aliases: BTreeMap<String, String>) {
        let as_litellm_writes = |(alias, server): (String, String)| (alias.replace(' ', "_"), server);
        let aliases = Arc::new(aliases.into_iter().map(as_litellm_writes).collect());
        self.change_called(|called| called.aliases = aliases);
    }

    /// Takes over the access groups that any of the servers is in.
    pub fn set_access_groups(&self, access_groups: BTreeSet<String>) {
        self.change_called(|called| called.access_groups = access_groups);
    }

    fn change_called(&self, change: impl FnOnce(&mut Called)) {
        let mut current = self.0.called.lock();
        let mut called = current.clone();
        change(&mut called);
        if *current != called {
            let mut table = RouteTable::clone(&self.0.table.load());
            table.set_called(&called);
            *current = called;
            self.0.table.store(Arc::new(table));
        }
    }

    /// The current table. One atomic load.
    pub fn table(&self) -> arc_swap::Guard<Arc<RouteTable>> {
        self.0.table.load()
    }

    /// Wakes whenever there may be another token, or one may be used again; not for what happened before this
    /// call.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.0.changes.subscribe()
    }

    /// Reports to the operator that `server` rejected a token, unless another is in use by now.
    pub(crate) fn report_rejection(
        &self,
        server: &str,
        token: &Arc<AccessToken>,
        why: RejectionCause,
    ) -> RenewalProspect {
        self.0
            .rejections
            .record(server, token, why, || self.is_in_use(server, token))
    }

    /// Records that no other token has come with `scopes`.
    pub(crate) fn record_denied_scopes(&self, server: &str, token: &Arc<AccessToken>, scopes: &[String]) {
        self.0.rejections.record_denied_scopes(server, token, scopes);
    }

    /// Takes back the report of a token that the server accepts again.
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

    /// Closes the connections of a worker that have been idle for too long.
    pub(crate) fn sweep(&self, worker: usize) {
        for server in self.table().servers.values() {
            server.sweep(worker);
        }
    }
}

impl RouteTable {
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    pub fn server(&self, name: &str) -> Option<&Arc<McpServer>> {
        self.servers.get(name)
    }

    /// The server that LiteLLM means by this name, its alias first.
    pub fn server_or_alias(&self, name: &str) -> Option<&Arc<McpServer>> {
        let aliased = self.aliases.get(name).map_or(name, String::as_str);
        self.server(aliased)
    }

    /// Whether LiteLLM sends this header of a client to one of these servers, under the name behind the prefix. Servers that
    /// are not in the table are none of our business.
    pub fn is_for_server(&self, name: &str) -> bool {
        let mut prefixes = self.server_prefixes.iter();
        prefixes.any(|prefix| name.starts_with(&**prefix)) && !LITELLM_HEADERS.contains(&name)
    }

    /// Whether LiteLLM sends it to all servers of an access group, of which one of these is a member. A credential for the
    /// others does not count: it does not get to these, since the outbound half lets none pass.
    pub fn is_for_group(&self, name: &str) -> bool {
        let is_for_group = |prefix: &str| {
            let header = name.strip_prefix(prefix);
            header.is_some_and(|header| !is_not_for_servers(header))
        };
        self.group_prefixes.iter().any(|prefix| is_for_group(prefix)) && !LITELLM_HEADERS.contains(&name)
    }

    /// What LiteLLM calls these servers, and their access groups, in the names of headers.
    pub fn names_in_bodies(&self) -> &ServerNames {
        &self.names_in_bodies
    }

    fn set_called(&mut self, called: &Called) {
        let names = self.servers.keys().map(|name| &**name);
        let names: Vec<String> = names
            .chain(called.aliases.keys().map(String::as_str))
            .flat_map(header_names)
            .collect();
        let groups = called.access_groups.iter();
        let groups: Vec<String> = groups.flat_map(|group| header_names(group)).collect();
        self.server_prefixes = prefixes(&names);
        self.group_prefixes = prefixes(&groups);
        let all = names.iter().chain(&groups);
        self.names_in_bodies = ServerNames::new(all.map(String::as_str));
        self.aliases = called.aliases.clone();
    }

    /// Union of the names that the servers allow, or exchange for a token.
    pub fn allowed(&self) -> &Allowlist {
        &self.allowed
    }

    /// Whether calls to any server are recorded.
    pub fn is_audited(&self) -> bool {
        self.is_audited
    }

    /// The headers by which LiteLLM passes the user context on to one server each, of those that take any, and what they
    /// take.
    pub fn context_headers(&self) -> &[(HeaderName, Allowlist)] {
        &self.context_headers
    }
}

/// Without a number, so that the same is not reported again with each request.
fn missing_cookie(server: &McpServer, name: &[u8]) -> sync::Problem {
    let name = String::from_utf8_lossy(name);
    let message = format!(
        "no request of a user has carried the cookie {name} of spec.cookiePassthrough of McpServerAuth {} so far: \
         compare its name, upper and lower case too, and see that the front end passes it on to LiteLLM",
        server.resource
    );
    sync::Problem::new(sync::notices::COOKIE_NEVER_ARRIVED, message).for_server(&*server.name)
}

fn unusable_authority(server: &McpServer, authority: &UnusableAuthority) -> sync::Problem {
    let message = format!(
        "{authority} in spec.server.tls.caBundle of McpServerAuth {}, by which nothing can be verified: it is left out, and a \
         server under it is not reached; {USABLE_KEYS}",
        server.resource
    );
    sync::Problem::new(sync::notices::AUTHORITY_UNUSABLE, message).for_server(&*server.name)
}

fn malformed_http2(server: &McpServer) -> sync::Problem {
    let message = format!(
        "an answer of the MCP server over HTTP/2 was malformed, and the call that brought it may have failed: it is asked over \
         HTTP/1.1 for ten minutes, if it speaks that; set spec.server.http2: Disabled in McpServerAuth {}, or mend the server",
        server.resource
    );
    sync::Problem::new(sync::notices::HTTP2_MALFORMED, message).for_server(&*server.name)
}

/// Names that LiteLLM reads itself, whatever a server is called.
const LITELLM_HEADERS: [&str; 2] = ["x-mcp-servers", "x-mcp-access-groups"];

/// What LiteLLM calls the server of this name, or alias, or the access group, in the names of headers: as it is, and as
/// LiteLLM writes it for headers (`sanitize_mcp_alias_for_header` of 1.110.2).
fn header_names(name: &str) -> [String; 2] {
    let lower = name.trim().to_lowercase();
    let words = lower.split(|character: char| !character.is_ascii_alphanumeric());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    let sanitized = words.join("_");
    [lower, sanitized]
}

/// How headers for these begin.
fn prefixes(names: &[String]) -> Box<[Box<str>]> {
    let names = names.iter().filter(|name| !name.is_empty());
    let prefixes = names.map(|name| format!("x-mcp-{name}-").into_boxed_str());
    prefixes.collect()
}

/// Never `None`: a server's name is made of letters, digits and `_`.
fn context_header(server: &str) -> Option<HeaderName> {
    HeaderName::try_from(format!("x-mcp-{server}-{CONTEXT_HEADER}")).ok()
}
