//! The sidecar and those around it.

// Named, because other tests have this file from another folder.
#[path = "scene/clients.rs"]
mod clients;
#[path = "scene/servers.rs"]
mod servers;
#[path = "threads.rs"]
mod threads;

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mcp_auth_protocol::sync::{
    Credential, Pod, Problem, RejectedToken, Report, Route, Server, Transport, UserContext,
};
use mcp_auth_sidecar::control::context_checks::ContextChecks;
use mcp_auth_sidecar::control::drain::Drain;
use mcp_auth_sidecar::control::exchange_client::{TokenExchanger, UserTokenRequest, UserTokenResponse};
use mcp_auth_sidecar::control::litellm_config::static_headers::StaticHeaders;
use mcp_auth_sidecar::control::outbound_secret::OutboundSecret;
use mcp_auth_sidecar::proxy::audit::{AuditLog, Destinations, Output};
use mcp_auth_sidecar::proxy::fingerprint::Fingerprinter;
use mcp_auth_sidecar::proxy::inbound::client_address::TrustedProxies;
use mcp_auth_sidecar::proxy::inbound::{Inbound, LitellmServer};
use mcp_auth_sidecar::proxy::metrics::Metrics;
use mcp_auth_sidecar::proxy::outbound::{Limits, Outbound};
use mcp_auth_sidecar::proxy::routes::Routes;
use mcp_auth_sidecar::proxy::user_context::seal::Sealer;
use mcp_auth_sidecar::server::{Sockets, Workers};
use prometheus_client::registry::Registry;
use secrecy::ExposeSecret;
use tokio::net::TcpSocket;
use tokio::sync::{mpsc, watch};

pub use clients::*;
pub use servers::*;

/// Nothing in these tests takes nearly as long; it only keeps a failing test from hanging.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// What LiteLLM shows the outbound half. The inbound half removes it.
pub const SECRET: &str = "dGhlIHNlY3JldCBvZiB0ZXN0cywgbm90IGZvciBwb2Q";
pub const SECRET_HEADER: &str = "mcpauth-outbound-secret";

pub struct Sidecar {
    pub inbound: SocketAddr,
    pub outbound: SocketAddr,
    pub routes: Routes,
    pub drain: Drain,
    pub registry: Registry,
    pub reports: watch::Receiver<Report>,
    pub sealer: Arc<Sealer>,
    pub audit_log: AuditLog,
    pub static_headers: StaticHeaders,
    pub context_checks: ContextChecks,
    workers: Option<Workers>,
}

/// The operator, as far as it exchanges tokens for users: by the rule of the test.
#[derive(Clone)]
pub struct Operator {
    asked: Arc<Mutex<Vec<Asked>>>,
    rule: Rule,
}

type Rule = Arc<dyn Fn(Asked) -> UserTokenResponse + Send + Sync>;

/// What the operator was asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Asked {
    pub server: String,
    pub url: String,
    pub subject: String,
    pub refused: Option<String>,
}

impl Sidecar {
    pub fn start(litellm: impl Into<LitellmServer>, servers: &[Server]) -> Self {
        Self::with_workers(litellm, servers, NonZeroUsize::MIN)
    }

    pub fn with_workers(
        litellm: impl Into<LitellmServer>,
        servers: &[Server],
        workers: NonZeroUsize,
    ) -> Self {
        Self::with(litellm, servers, workers, Operator::default(), Limits::default())
    }

    /// With bounds of the test's own.
    pub async fn limited(servers: &[Server], limits: Limits) -> Self {
        let one = NonZeroUsize::MIN;
        Self::with(unused_address().await, servers, one, Operator::default(), limits)
    }

    pub fn with(
        litellm: impl Into<LitellmServer>,
        servers: &[Server],
        workers: NonZeroUsize,
        operator: Operator,
        limits: Limits,
    ) -> Self {
        Self::with_audit_log(litellm, servers, workers, operator, limits, |_| {
            Output::File("/dev/null".into()).into()
        })
    }

    pub fn with_audit_log(
        litellm: impl Into<LitellmServer>,
        servers: &[Server],
        workers: NonZeroUsize,
        operator: Operator,
        limits: Limits,
        destinations: impl FnOnce(&Metrics) -> Destinations,
    ) -> Self {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        let sender = watch::Sender::new(Report::default());
        let reports = sender.subscribe();
        let routes = Routes::new(workers, metrics.clone(), sender);
        assert_eq!(routes.apply(servers), []);
        let pod = Pod {
            namespace: "llm".into(),
            name: "litellm-0".into(),
            uid: "u".into(),
        };
        let audit_log = AuditLog::start(
            &pod,
            destinations(&metrics),
            Fingerprinter::new(),
            metrics.clone(),
        );
        let (sealer, drain) = (Arc::new(Sealer::new()), Drain::default());
        // Nothing is kept for a next process.
        let static_headers = StaticHeaders::resume(Path::new("/nonexistent"));
        let context_checks = ContextChecks::default();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let sockets = Sockets::bind(Some(any), any, workers).unwrap();
        let (inbound, outbound) = (sockets.inbound().unwrap(), sockets.outbound());
        let in_half = Inbound::new(
            litellm,
            TrustedProxies::default(),
            routes.clone(),
            sealer.clone(),
            audit_log.fingerprinter(),
            metrics.clone(),
            drain.clone(),
        );
        let out_half = Outbound::new(
            routes.clone(),
            sealer.clone(),
            OutboundSecret::parse(SECRET).unwrap(),
            Arc::new(operator),
            limits,
            audit_log.clone(),
            metrics,
        )
        .with_static_headers(static_headers.clone())
        .with_context_checks(context_checks.clone());
        let workers = Workers::start(sockets, Some(Arc::new(in_half)), Arc::new(out_half)).unwrap();
        Self {
            inbound,
            outbound,
            routes,
            drain,
            registry,
            reports,
            sealer,
            audit_log,
            static_headers,
            context_checks,
            workers: Some(workers),
        }
    }

    /// The tokens that are reported as refused, once there are any.
    pub async fn refused(&self) -> Vec<RejectedToken> {
        let mut reports = self.reports.clone();
        let seen = reports.wait_for(|report| !report.refused.is_empty());
        let seen = tokio::time::timeout(TEST_TIMEOUT, seen)
            .await
            .expect("a report in time");
        seen.unwrap().refused.clone()
    }

    /// Until so many requests wait for a token.
    pub async fn waiting(&self, number: u64) {
        until(|| self.metric("mcpauth_sidecar_waiting") == number).await;
    }

    pub fn stop(&self, grace: Duration) {
        self.workers.as_ref().unwrap().stop(grace);
    }

    pub fn join(mut self) {
        self.workers.take().unwrap().join();
    }

    /// Value of one line of the metrics.
    pub fn metric(&self, line: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let found = text
            .lines()
            .find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
        found.map_or(0, |value| value.parse().unwrap())
    }
}

impl Operator {
    pub fn by<A>(rule: impl Fn(Asked) -> A + Send + Sync + 'static) -> Self
    where
        A: Future<Output = Result<Credential, Problem>> + Send + 'static,
    {
        Self {
            asked: Arc::default(),
            rule: Arc::new(move |asked| Box::pin(rule(asked))),
        }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Default for Operator {
    fn default() -> Self {
        Self::by(async |asked: Asked| panic!("no token exchange is expected here: {asked:?}"))
    }
}

impl TokenExchanger for Operator {
    fn exchange(&self, ask: UserTokenRequest) -> UserTokenResponse {
        let asked = Asked {
            server: ask.server.into(),
            url: ask.url.into(),
            subject: ask.subject.expose_secret().to_owned(),
            refused: ask.refused.map(Into::into),
        };
        self.asked.lock().unwrap().push(asked.clone());
        (self.rule)(asked)
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        if let Some(workers) = self.workers.take() {
            workers.stop(Duration::ZERO);
            threads::join(workers);
        }
    }
}

/// What the test's server hands over next.
pub async fn received<T>(receiver: &mut mpsc::UnboundedReceiver<T>) -> T {
    tokio::time::timeout(TEST_TIMEOUT, receiver.recv())
        .await
        .unwrap_or_else(|_| panic!("no request has reached the server within {TEST_TIMEOUT:?}"))
        .expect("the server is there")
}

/// Looks again and again, but not for ever.
pub async fn until(holds: impl Fn() -> bool) {
    let looking = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, looking)
        .await
        .expect("it holds in time");
}

/// An address on which nothing listens. The socket stays bound while the process lives, so that no other test gets
/// the port.
pub async fn unused_address() -> SocketAddr {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    std::mem::forget(socket);
    address
}

/// The server `tools` at `url`, with the cookie `session_id` and the header `x-forwarded-user`.
pub fn server(url: &str) -> Server {
    Server {
        route: Route {
            resource: "tools-auth".into(),
            server: "tools".into(),
            url: url.into(),
            transport: Transport::StreamableHttp,
            http1_only: false,
            affinity_cookies: Vec::new(),
            answer_timeout_seconds: None,
            ca_bundle: None,
            cookies: vec!["session_id".into()],
            headers: vec!["x-forwarded-user".into()],
            user_context: UserContext::Optional,
            exchange: None,
            credential_identity: String::new(),
            audit: None,
            litellm: None,
        },
        resource_uid: None,
        client_certificate: None,
        egress_proxy: None,
        addresses: None,
        declined: None,
        credential: Credential::Bearer {
            id: "1".into(),
            token: "service-token".into(),
            proof_key: None,
            expires_at: None,
        },
    }
}

/// A token that is named like its text.
pub fn bearer(token: &str) -> Credential {
    Credential::Bearer {
        id: token.into(),
        token: token.into(),
        proof_key: None,
        expires_at: None,
    }
}
