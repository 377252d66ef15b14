//! What runs beside a LiteLLM wherever that is: both proxies, the controller and its watch over LiteLLM. A
//! [`SnapshotSource`] feeds it: in a pod the operator's stream ([`serve`](crate::serve)), on one machine
//! the token sources of the same process (`mcp-auth exec`).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use mcp_auth_protocol::reachability::ServerReachability;
use mcp_auth_protocol::sync::{Problem, Report, Server, Snapshot};
use secrecy::SecretString;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use crate::control::context_checks::ContextChecks;
use crate::control::controller::{Controller, DataPath};
use crate::control::drain::Drain;
use crate::control::exchange_client::TokenExchanger;
use crate::control::litellm::{Litellm, ProbeResult};
use crate::control::litellm_config::static_headers::StaticHeaders;
use crate::control::outbound_secret::OutboundSecret;
use crate::control::probes::Started;
use crate::control::start_problems::StartProblems;
use crate::control::sync_client::{Connector, SyncClient};
use crate::proxy::audit::AuditLog;
use crate::proxy::fingerprint::Fingerprinter;
use crate::proxy::inbound::client_address::TrustedProxies;
use crate::proxy::inbound::{Inbound, LitellmServer};
use crate::proxy::metrics as data_path;
use crate::proxy::outbound::{Limits, Outbound};
use crate::proxy::routes::{Routes, connection_checks};
use crate::proxy::user_context::seal::Sealer;
use crate::server::{Bounds, Sockets, Workers};

/// A sidecar is given a fraction of a processor, and one worker fills a whole one.
pub const WORKERS: NonZeroUsize = NonZeroUsize::MIN;
/// Between two probes of LiteLLM: while it listens, and while users wait for that.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
const START_PROBE_INTERVAL: Duration = Duration::from_millis(200);
/// Between two readings of the user's configuration, which may change while LiteLLM restarts.
const CONFIG_READ_INTERVAL: Duration = Duration::from_secs(5);

/// Where routes and credentials come from: whoever holds the token sources.
pub trait SnapshotSource {
    /// Hands every snapshot to `apply`, for ever. What is to be told to the source stands in `reports`, such
    /// as the tokens that MCP servers rejected.
    fn run(
        self,
        reports: &watch::Sender<Report>,
        apply: impl FnMut(Snapshot),
    ) -> impl Future<Output = Infallible>;
}

impl<D: Connector> SnapshotSource for SyncClient<D> {
    async fn run(self, reports: &watch::Sender<Report>, apply: impl FnMut(Snapshot)) -> Infallible {
        Self::run(self, reports, apply).await
    }
}

/// What the proxies are made with.
pub struct Wiring {
    /// LiteLLM's own address; absent where only the outbound half is wanted.
    pub litellm: Option<LitellmServer>,
    /// Whose `X-Forwarded-` headers LiteLLM trusts.
    pub trusted_proxies: TrustedProxies,
    pub drain: Drain,
    /// Shown by whom the outbound half serves.
    pub outbound_secret: OutboundSecret,
    pub reports: watch::Sender<Report>,
    pub exchange: Arc<dyn TokenExchanger>,
    pub metrics: data_path::Metrics,
    pub audit_log: AuditLog,
    /// What the keys of gateways in LiteLLM's configuration are called on their way through LiteLLM.
    pub static_headers: StaticHeaders,
    /// Bytes that looking into compressed requests of users may take.
    pub decoding_memory: usize,
    /// Bytes that WebSockets of users may hold.
    pub tunnel_memory: usize,
    /// Asked on the health port; never asked where there is none.
    pub context_checks: ContextChecks,
}

/// Both halves of the data path, and the routes that they share. The only place where control and data path
/// meet.
pub struct Proxies {
    routes: Routes,
    fingerprinter: Fingerprinter,
    inbound: Option<Arc<Inbound>>,
    outbound: Arc<Outbound>,
}

impl Proxies {
    pub fn new(wiring: Wiring) -> Self {
        let Wiring {
            litellm,
            trusted_proxies,
            drain,
            outbound_secret,
            reports,
            exchange,
            metrics,
            audit_log,
            static_headers,
            decoding_memory,
            tunnel_memory,
            context_checks,
        } = wiring;
        let routes = Routes::new(WORKERS, metrics.clone(), reports);
        let sealer = Arc::new(Sealer::new());
        let limits = Limits::default();
        let fingerprinter = audit_log.fingerprinter();
        let outbound = Outbound::new(
            routes.clone(),
            sealer.clone(),
            outbound_secret,
            exchange,
            limits,
            audit_log,
            metrics.clone(),
        )
        .with_static_headers(static_headers)
        .with_context_checks(context_checks);
        let inbound = litellm.map(|litellm| {
            Inbound::new(
                litellm,
                trusted_proxies,
                routes.clone(),
                sealer,
                fingerprinter.clone(),
                metrics,
                drain,
            )
            .with_decoding_memory(decoding_memory)
            .with_tunnel_memory(tunnel_memory)
        });
        Self {
            routes,
            fingerprinter,
            inbound: inbound.map(Arc::new),
            outbound: Arc::new(outbound),
        }
    }

    /// For the controller.
    pub fn state(&self) -> DataPathState {
        DataPathState {
            routes: self.routes.clone(),
            fingerprinter: self.fingerprinter.clone(),
        }
    }

    /// Serves on these sockets, which were bound for [`WORKERS`], and checks connections to MCP servers on the
    /// runtime that this is called on.
    pub fn start(&self, sockets: Sockets, bounds: Bounds) -> io::Result<Workers> {
        tokio::spawn(connection_checks::run(self.routes.clone()));
        Workers::start_within(bounds, sockets, self.inbound.clone(), self.outbound.clone())
    }
}

/// What of the data path the controller keeps up to date.
pub struct DataPathState {
    routes: Routes,
    fingerprinter: Fingerprinter,
}

impl DataPath for DataPathState {
    fn apply(&self, servers: &[Server]) -> Vec<Problem> {
        self.routes.apply(servers)
    }

    fn set_fingerprint_key(&self, key: &SecretString) {
        self.fingerprinter.set_key(key);
    }

    fn reachability(&self) -> Vec<ServerReachability> {
        self.routes.reachability()
    }

    fn notices(&self) -> Vec<Problem> {
        self.routes.notices()
    }

    fn set_aliases(&self, aliases: BTreeMap<String, String>) {
        self.routes.set_aliases(aliases);
    }

    fn set_access_groups(&self, access_groups: BTreeSet<String>) {
        self.routes.set_access_groups(access_groups);
    }
}

/// The controller with what it listens to.
pub struct Control<P> {
    controller: RefCell<Controller<P>>,
    reports: watch::Sender<Report>,
    litellm: Option<Litellm>,
    litellm_listens: watch::Sender<bool>,
    started: Started,
    tokens_settled: Notify,
    start_problems: StartProblems,
    /// Longest time that LiteLLM's start waits for routes and first tokens.
    start_timeout: Duration,
}

impl<P: DataPath> Control<P> {
    pub fn new(
        controller: Controller<P>,
        reports: watch::Sender<Report>,
        litellm: Option<Litellm>,
        started: Started,
        start_timeout: Duration,
    ) -> Self {
        Self {
            controller: RefCell::new(controller),
            reports,
            litellm,
            litellm_listens: watch::Sender::new(false),
            started,
            tokens_settled: Notify::new(),
            start_problems: StartProblems::default(),
            start_timeout,
        }
    }

    /// With what parts of the sidecar wait for, which goes into the report.
    pub fn with_start_problems(mut self, start_problems: StartProblems) -> Self {
        self.start_problems = start_problems;
        self
    }

    /// Whether users may connect: while LiteLLM listens, as without the sidecar. Whoever asks the port by a
    /// connection alone, as a `tcpSocket` probe does, is answered the same.
    pub fn users_may_connect(&self) -> watch::Receiver<bool> {
        self.litellm_listens.subscribe()
    }

    /// Takes snapshots over, releases LiteLLM's start by [`Started`], and watches LiteLLM from then on.
    pub async fn run(&self, source: impl SnapshotSource) -> Infallible {
        let syncing = source.run(&self.reports, |snapshot| {
            let mut controller = self.controller.borrow_mut();
            controller.take_over(snapshot);
            if controller.are_tokens_settled() {
                self.tokens_settled.notify_one();
            }
        });
        let watching_litellm = async {
            self.release_start().await;
            self.started.set();
            self.watch_litellm().await
        };
        tokio::join!(syncing, watching_litellm, self.report_start_problems()).0
    }

    async fn report_start_problems(&self) -> Infallible {
        let mut start_problems = self.start_problems.subscribe();
        start_problems.mark_changed();
        loop {
            // The sender is `self`'s.
            if start_problems.changed().await.is_err() {
                std::future::pending().await
            }
            let problems = start_problems.borrow_and_update().values().cloned().collect();
            self.controller.borrow_mut().set_start_problems(problems);
        }
    }

    /// Waits for tokens that are under way, but not for longer than LiteLLM's start may be held up, and puts the overlay in
    /// place.
    async fn release_start(&self) {
        let settled = timeout(self.start_timeout, self.tokens_settled.notified());
        if settled.await.is_err() {
            warn!(
                seconds = self.start_timeout.as_secs(),
                "not every server has a token yet; LiteLLM starts all the same and finds their tools later"
            );
        }
        loop {
            let in_place = self.controller.borrow_mut().render();
            if in_place {
                return;
            }
            sleep(PROBE_INTERVAL).await;
        }
    }

    /// Keeps an eye on LiteLLM and on the user's configuration.
    async fn watch_litellm(&self) -> Infallible {
        let mut next_read = Instant::now() + CONFIG_READ_INTERVAL;
        loop {
            let mut wait = PROBE_INTERVAL;
            if let Some(litellm) = &self.litellm {
                let result = litellm.probe().await;
                let listens = matches!(result, ProbeResult::Listening { .. });
                if !listens {
                    wait = START_PROBE_INTERVAL;
                }
                self.controller.borrow_mut().observe(&result);
                self.litellm_listens
                    .send_if_modified(|before| std::mem::replace(before, listens) != listens);
            }
            self.controller.borrow_mut().observe_servers(Instant::now());
            sleep(wait).await;
            if Instant::now() >= next_read {
                next_read = Instant::now() + CONFIG_READ_INTERVAL;
                self.controller.borrow_mut().render();
            }
        }
    }
}
