//! The controller: what the sidecar knows and what follows from it: a snapshot becomes the data path's
//! routes, LiteLLM's overlay and the next report. It does no waiting; [`serve`](crate::serve) calls it when
//! something has happened.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use mcp_auth_protocol::reachability::ServerReachability;
use mcp_auth_protocol::sync::notices::CALLS_PAST_SIDECAR;
use mcp_auth_protocol::sync::{
    Credential, Pod, Problem, Report, Route, Server, Snapshot, UnreadablePart, UnreadableServer,
};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use secrecy::SecretString;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::control::litellm::ProbeResult;
use crate::control::litellm_config::mirror::{Mirror, MirrorError};
use crate::control::litellm_config::restart::{Loaded, Restart};
use crate::control::litellm_config::static_headers::StaticHeaders;
use crate::control::litellm_config::write::write;
use crate::control::litellm_config::{Input, Overlay, render};
use crate::control::outbound_secret::OutboundSecret;
use crate::control::reachability_reports::ReachabilityReports;

/// [`Credential::Unavailable::reason`] of a token that is being requested.
const PENDING: &str = "Pending";

/// Takes over routes and credentials. Called with the complete list each time; answers what is wrong with it.
pub trait DataPath {
    fn apply(&self, servers: &[Server]) -> Vec<Problem>;

    /// Takes over the key of fingerprints in the audit log.
    fn set_fingerprint_key(&self, key: &SecretString);

    /// What is known of each server, sorted by name.
    fn reachability(&self) -> Vec<ServerReachability>;

    /// What should be known of the servers although they are served.
    fn notices(&self) -> Vec<Problem>;
    /// What LiteLLM calls these servers beside their names, and their names.
    fn set_aliases(&self, aliases: BTreeMap<String, String>);
    /// The access groups of LiteLLM that any of them is in.
    fn set_access_groups(&self, access_groups: BTreeSet<String>);
}

/// Paths and addresses that the controller works with.
#[derive(Clone, Debug)]
pub struct ControlSettings {
    /// LiteLLM's own configuration, if it has a file.
    pub original: Option<PathBuf>,
    pub overlay: PathBuf,
    /// Where the wrapper does not lie beside the original: what makes up for that.
    pub mirror: Option<Mirror>,
    pub outbound: SocketAddr,
    /// What LiteLLM is to show that listener.
    pub outbound_secret: OutboundSecret,
    /// Whether users' requests pass through the sidecar.
    pub inbound: bool,
    /// As in [`Input::auth_blocks`].
    pub auth_blocks: bool,
    pub static_headers: StaticHeaders,
    /// As in [`Input::tool_prefix_separator`].
    pub tool_prefix_separator: Box<str>,
}

pub struct Controller<P> {
    settings: ControlSettings,
    data_path: P,
    routes: Vec<Route>,
    /// Whether a snapshot has come and gives every route a credential, or says why there is none.
    tokens_settled: bool,
    overlay: Option<Overlay>,
    overlay_problems: Vec<Problem>,
    overlay_notices: Vec<Problem>,
    route_notices: Vec<Problem>,
    route_problems: Vec<Problem>,
    litellm_problem: Option<Problem>,
    restart: Restart,
    reachability: ReachabilityReports,
    start_problems: Vec<Problem>,
    reports: watch::Sender<Report>,
    metrics: Metrics,
}

/// `docs/metrics.md` lists them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    snapshots: Counter,
    litellm_ready: Gauge,
    restart_needed: Gauge,
    problems: Gauge,
}

impl Metrics {
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("mcpauth_sidecar");
        registry.register(
            "snapshots",
            "Snapshots taken over from the operator",
            metrics.snapshots.clone(),
        );
        registry.register(
            "litellm_ready",
            "Whether LiteLLM listens on its own port",
            metrics.litellm_ready.clone(),
        );
        registry.register(
            "restart_needed_servers",
            "Servers that LiteLLM learns of only by a restart",
            metrics.restart_needed.clone(),
        );
        registry.register(
            "problems",
            "Problems reported to the operator",
            metrics.problems.clone(),
        );
        metrics
    }
}

impl<P: DataPath> Controller<P> {
    /// Begins with the routes known at admission, for which there is no credential yet.
    pub fn new(
        settings: ControlSettings,
        routes: Vec<Route>,
        data_path: P,
        reports: watch::Sender<Report>,
        metrics: Metrics,
    ) -> Self {
        let pending = |route: &Route| Server {
            route: route.clone(),
            resource_uid: None,
            client_certificate: None,
            egress_proxy: None,
            addresses: None,
            declined: None,
            credential: Credential::Unavailable {
                reason: PENDING.into(),
                message: "no credential has arrived from the operator yet".into(),
                keep: false,
            },
        };
        let route_problems = data_path.apply(&routes.iter().map(pending).collect::<Vec<_>>());
        log_changes(&[], &route_problems);
        let loaded = read_loaded(&settings);
        Self {
            settings,
            data_path,
            tokens_settled: false,
            routes,
            overlay: None,
            overlay_problems: Vec::new(),
            overlay_notices: Vec::new(),
            route_notices: Vec::new(),
            route_problems,
            litellm_problem: None,
            restart: Restart::resume(loaded),
            reachability: ReachabilityReports::default(),
            start_problems: Vec::new(),
            reports,
            metrics,
        }
    }

    /// Takes a snapshot over. The overlay is rendered anew only after LiteLLM's start was released.
    pub fn take_over(&mut self, snapshot: Snapshot) {
        self.metrics.snapshots.inc();
        if let Some(key) = &snapshot.fingerprint_key {
            self.data_path.set_fingerprint_key(key);
        }
        let mut problems = self.data_path.apply(&snapshot.servers);
        problems.extend(snapshot.unreadable.iter().map(too_old_for));
        log_changes(&self.route_problems, &problems);
        self.route_problems = problems;
        self.tokens_settled = !snapshot.servers.iter().any(is_awaited);
        self.routes = snapshot.servers.into_iter().map(|server| server.route).collect();
        if self.overlay.is_some() {
            self.render();
        }
        self.publish();
    }

    /// Whether discovery would succeed if LiteLLM started now, as far as tokens go that are to be had: a resource that
    /// is wrong holds up no start.
    pub fn are_tokens_settled(&self) -> bool {
        self.tokens_settled
    }

    /// Renders the overlay from the user's configuration as it is now and writes it. True if LiteLLM can read
    /// it.
    pub fn render(&mut self) -> bool {
        let mut overlay = render(&Input {
            original: self.settings.original.as_deref(),
            overlay: &self.settings.overlay,
            routes: &self.routes,
            outbound: self.settings.outbound,
            outbound_secret: &self.settings.outbound_secret,
            inbound: self.settings.inbound,
            auth_blocks: self.settings.auth_blocks,
            static_headers: &self.settings.static_headers,
            tool_prefix_separator: &self.settings.tool_prefix_separator,
        });
        let mirrored = self.mirror(&mut overlay);
        let mut problems = overlay.problems.clone();
        log_changes(&self.overlay_notices, &overlay.notices);
        self.overlay_notices = overlay.notices.clone();
        self.data_path.set_aliases(overlay.aliases.clone());
        self.data_path.set_access_groups(overlay.access_groups.clone());
        let in_place =
            match mirrored.and_then(|()| self.write_overlay(overlay)) {
                Ok(()) => true,
                Err(error) => {
                    problems.push(Problem {
                    reason: "OverlayNotWritable".into(),
                    message: format!(
                        "{} cannot be written ({}); LiteLLM goes on with what stands there. Check the volume \
                         mounted at its folder",
                        self.settings.overlay.display(),
                        error.kind()
                    ), server: None });
                    false
                }
            };
        log_changes(&self.overlay_problems, &problems);
        self.overlay_problems = problems;
        self.publish();
        in_place
    }

    /// Takes over the result of a probe of LiteLLM. Whether it can be reached past the
    /// sidecar matters only where users are to pass through it.
    pub fn observe(&mut self, result: &ProbeResult) {
        self.metrics
            .litellm_ready
            .set(i64::from(matches!(result, ProbeResult::Listening { .. })));
        let loaded = self.restart.observe(result.into()).cloned();
        if let Some(loaded) = loaded {
            info!("LiteLLM listens");
            write_loaded(&self.settings, &loaded);
        }
        let problem = match result {
            ProbeResult::Down(why) if why.reason == "UndeclaredListener" => Some(Problem {
                reason: why.reason.into(),
                message: why.message.clone(),
                server: None,
            }),
            ProbeResult::Listening {
                exposed: Some(port), ..
            } if self.settings.inbound => Some(Problem {
                reason: "LiteLlmExposed".into(),
                message: format!(
                    "LiteLLM's port {port} listens on all addresses, so that LiteLLM can be reached past the \
                     sidecar and without user context. Check that nothing overrides its --host, and that no \
                     other container of the pod listens there without declaring the port"
                ),
                server: None,
            }),
            _ => None,
        };
        log_changes(self.litellm_problem.as_slice(), problem.as_slice());
        self.litellm_problem = problem;
        self.publish();
    }

    /// Takes over what calls and connection checks have shown of the servers.
    pub fn observe_servers(&mut self, now: Instant) {
        let is_news = self.reachability.update(self.data_path.reachability(), now);
        let notices = self.data_path.notices();
        if is_news || notices != self.route_notices {
            log_changes(&self.route_notices, &notices);
            self.route_notices = notices;
            self.publish();
        }
    }

    /// Takes over what parts of the sidecar wait for. They have logged it.
    pub fn set_start_problems(&mut self, problems: Vec<Problem>) {
        self.start_problems = problems;
        self.publish();
    }

    /// Brings the mirror up to date. Where it cannot be, LiteLLM reads its own configuration, and the overlay is empty.
    fn mirror(&self, overlay: &mut Overlay) -> io::Result<()> {
        let Some(mirror) = &self.settings.mirror else {
            return Ok(());
        };
        if let Some(include_candidates) = &overlay.include_candidates {
            match mirror.update(include_candidates, &self.settings.overlay) {
                Ok(()) => return Ok(()),
                Err(MirrorError::NotWritten(error)) => return Err(error),
                Err(error) => *overlay = Overlay::unusable(&self.settings.overlay, error.reason(), &error),
            }
        }
        mirror.bypass()
    }

    fn write_overlay(&mut self, overlay: Overlay) -> io::Result<()> {
        if overlay.write()? {
            let servers = overlay.servers.len();
            info!(overlay = %self.settings.overlay.display(), servers, "wrote LiteLLM's overlay");
        }
        if self
            .overlay
            .as_ref()
            .is_none_or(|current| current.servers != overlay.servers)
        {
            self.restart.overlay_written(overlay.servers.clone());
        }
        self.overlay = Some(overlay);
        Ok(())
    }

    fn publish(&self) {
        let restart_needed_for = self.restart.needed_for();
        let from_routes = self.overlay_problems.iter().chain(&self.route_problems);
        let of_parts = self.litellm_problem.iter().chain(&self.start_problems);
        let mut problems: Vec<_> = from_routes.chain(of_parts).cloned().collect();
        problems.sort();
        problems.dedup();
        let mut notices = [&self.overlay_notices[..], &self.route_notices].concat();
        // LiteLLM's own entry is called until it is restarted, which is said already.
        notices.retain(|notice| {
            let server = notice.server.as_ref();
            let awaits_restart = server.is_some_and(|server| restart_needed_for.contains(server));
            notice.reason != CALLS_PAST_SIDECAR || !awaits_restart
        });
        notices.sort();
        self.metrics
            .restart_needed
            .set(i64::try_from(restart_needed_for.len()).unwrap_or(i64::MAX));
        self.metrics
            .problems
            .set(i64::try_from(problems.len()).unwrap_or(i64::MAX));
        self.reports.send_if_modified(|report| {
            let reachability = self.reachability.reported();
            let is_changed = report.restart_needed_for != restart_needed_for
                || report.problems != problems
                || report.notices != notices
                || report.reachability != reachability;
            report.restart_needed_for = restart_needed_for;
            report.problems = problems;
            report.notices = notices;
            report.reachability = reachability;
            is_changed
        });
    }
}

/// Whether the token is under way. What the operator gives another reason for has failed: it comes when somebody
/// mends it, and LiteLLM finds the tools then.
fn is_awaited(server: &Server) -> bool {
    match &server.credential {
        Credential::Bearer { .. } => false,
        Credential::Unavailable { reason, .. } => reason == PENDING,
    }
}

/// The first report.
pub fn report(pod: Pod) -> Report {
    Report {
        pod,
        version: env!("CARGO_PKG_VERSION").into(),
        ..Report::default()
    }
}

/// What a newer operator says of a server, and this sidecar does not understand.
fn too_old_for(entry: &UnreadableServer) -> Problem {
    let (part, effect) = match entry.part {
        UnreadablePart::Route => ("how it is reached", "it is not served"),
        UnreadablePart::Credential => ("its credential", "the last good token serves until it expires"),
    };
    let server = entry.server.as_deref().unwrap_or("a server without a name");
    let message = format!(
        "the sidecar is of another version than the operator and does not understand {part} for {server}, so \
         {effect}: restart the pod, so that it gets the newer sidecar"
    );
    let problem = Problem::new("SidecarTooOld", message);
    match &entry.server {
        Some(server) => problem.for_server(server.clone()),
        None => problem,
    }
}

/// Logs what has come and what has gone.
fn log_changes(before: &[Problem], now: &[Problem]) {
    for problem in now.iter().filter(|problem| !before.contains(problem)) {
        warn!(reason = problem.reason, "{}", problem.message);
    }
    for problem in before.iter().filter(|problem| !now.contains(problem)) {
        info!(reason = problem.reason, "solved: {}", problem.message);
    }
}

fn loaded_file(settings: &ControlSettings) -> PathBuf {
    settings.overlay.with_file_name("loaded.json")
}

/// What an earlier process of the sidecar knew; whatever is wrong with the file, the next start of LiteLLM is
/// seen.
fn read_loaded(settings: &ControlSettings) -> Option<Loaded> {
    serde_json::from_slice(&std::fs::read(loaded_file(settings)).ok()?).ok()
}

fn write_loaded(settings: &ControlSettings, loaded: &Loaded) {
    let text = serde_json::to_string(loaded).expect("numbers and strings are JSON");
    if let Err(error) = write(&loaded_file(settings), &text) {
        warn!(%error, "a restart of the sidecar will forget what LiteLLM has read");
    }
}

#[cfg(test)]
mod tests;
