//! Runs LiteLLM with the sidecar's proxies around it: the inbound one on the port that LiteLLM was to listen on,
//! the outbound one on loopback, between LiteLLM and its MCP servers.

use std::net::SocketAddr;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::ExitStatus;
use std::time::Duration;

use jiff::Timestamp;
use mcp_auth_crds::admission::Admission;
use mcp_auth_credentials::conditions::ConditionDraft;
use mcp_auth_oauth::EgressProxy;
use mcp_auth_sidecar::control::drain::Drain;
use mcp_auth_sidecar::log::DroppedLines;
use prometheus_client::registry::Registry;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};
use tracing::{info, warn};

use crate::args::Exec;
use crate::embedded_sidecar::{AuditDestination, Ground};
use crate::exit::{self, ExitError};
use crate::litellm_command::{LitellmCommand, find_program};
use crate::litellm_process::{LitellmOutput, LitellmProcess};
use crate::problem::{Problem, merge};
use crate::protected_server::ProtectedServer;
use crate::readiness::{OLDEST, is_too_old, until_ready, why_not_ready};
use crate::servers::{self, NO_SERVER, Servers, Sources};
use crate::settings::Variables;
use crate::supervise::FORWARDED;
use crate::token_feed::TokenFeed;

/// Between two looks at the configuration, the resources and the files of secrets.
const RELOAD_INTERVAL: Duration = Duration::from_secs(2);

/// Between two warnings that LiteLLM is not ready. It takes 10 to 20 s to start.
const READINESS_REMINDER: Duration = Duration::from_secs(30);

/// Runs to LiteLLM's end and answers the exit code.
pub fn exec(args: Exec, dropped_lines: &DroppedLines) -> u8 {
    let variables = Variables::of_process();
    run(args, variables, dropped_lines).unwrap_or_else(|error| exit::report(&error))
}

fn run(args: Exec, variables: Variables, dropped_lines: &DroppedLines) -> Result<u8, ExitError> {
    let Some(program) = args.common.command.first().cloned() else {
        return Ok(exit::USAGE);
    };
    find_program(&program, std::env::var_os("PATH").as_deref())?;
    if !variables.auto_patch()? {
        let error = std::process::Command::new(&program)
            .args(&args.common.command[1..])
            .exec();
        return Err(ExitError::from_start(&program, &error));
    }
    let command = LitellmCommand::read(args.common.command, &variables)?;
    let sources = Sources {
        config: command.config.clone(),
        resources: args.common.resources.map(|folder| (folder, Admission::new())),
        variables,
    };
    let servers = servers::read(&sources).for_start()?;
    let audit_log = AuditDestination::new(args.common.audit_log, &args.common.otlp, &sources.variables)?;
    let proxy = egress_proxy(&sources.variables)?;
    let mut registry = Registry::default();
    dropped_lines.register(&mut registry);
    in_runtime(run_litellm(
        command,
        &sources,
        servers,
        proxy,
        Options {
            start_timeout: args.common.start_timeout,
            audit_log,
            metrics: args.common.metrics,
            registry,
        },
    ))
}

/// What of the command line is not for LiteLLM.
struct Options {
    start_timeout: Duration,
    audit_log: AuditDestination,
    metrics: Option<SocketAddr>,
    /// For the metrics.
    registry: Registry,
}

/// Runs it to its end.
pub fn in_runtime<T>(task: impl Future<Output = Result<T, ExitError>>) -> Result<T, ExitError> {
    // An error means that there is one already, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| ExitError::System {
        what: "no runtime can be started",
        kind: error.kind(),
    })?;
    let result = runtime.block_on(task);
    // Looking up a name may hang in a thread of its own, which is nothing to wait for.
    runtime.shutdown_background();
    result
}

async fn run_litellm(
    command: LitellmCommand,
    sources: &Sources,
    servers: Servers,
    proxy: Option<EgressProxy>,
    options: Options,
) -> Result<u8, ExitError> {
    let Options {
        start_timeout,
        audit_log,
        metrics,
        registry,
    } = options;
    let config = command.config.as_deref();
    let ground = Ground::prepare(command.listen, config, &audit_log.lines, metrics).await?;
    let mut signals = Signals::listen()?;
    let (feed, changed) = TokenFeed::new(proxy);
    let sidecar = ground.start(&feed, start_timeout, audit_log, registry)?;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        servers = servers.protected.len(),
        listen = %command.listen,
        litellm = %sidecar.litellm,
        "starting"
    );
    if !command.takes_options() {
        warn!(
            "the command does not name litellm: it has to heed the variables HOST, PORT and CONFIG_FILE_PATH, by which \
             LiteLLM is moved to loopback"
        );
    }
    let launch = command.launch(
        sidecar.litellm.port(),
        &sidecar.wrapper,
        &sources.variables,
        &servers.secret_variables,
    );
    let mut reloading = Reloading::default();
    reloading.apply(servers, &feed);
    let litellm = async {
        // Until then a signal ends us alone: there is nothing to pass it on to.
        tokio::select! {
            () = sidecar.until_litellm_may_start() => {}
            number = signals.next() => return Ok(128 + number),
        }
        let mut litellm = LitellmProcess::start(launch, sidecar.folder.path(), &LitellmOutput::Inherit)?;
        attend(&mut litellm, &mut signals, &sidecar.drain, sidecar.litellm).await
    };
    let code = tokio::select! {
        code = litellm => code,
        never = sidecar.control.run(feed.clone()) => match never {},
        () = reloading.run(sources, &feed) => Ok(exit::OS_ERROR),
        () = feed.tell(changed) => Ok(exit::OS_ERROR),
    };
    sidecar.stop();
    code
}

/// Passes signals on until LiteLLM has ended. One that is too old is ended.
async fn attend(
    litellm: &mut LitellmProcess,
    signals: &mut Signals,
    drain: &Drain,
    address: SocketAddr,
) -> Result<u8, ExitError> {
    let mut ready = std::pin::pin!(until_ready(address));
    let mut is_ready = false;
    let mut too_old = None;
    let started = Instant::now();
    let mut reminders = interval_at(started + READINESS_REMINDER, READINESS_REMINDER);
    reminders.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            status = litellm.wait() => {
                let status = status?;
                return match too_old {
                    Some(found) => Err(ExitError::OldLitellm { found, needed: OLDEST }),
                    None => Ok(ended(status, is_ready)),
                };
            }
            number = signals.next() => {
                // Until LiteLLM has ended.
                drain.start(Duration::MAX);
                litellm.signal(number).await;
            }
            _ = reminders.tick(), if !is_ready => {
                let seconds = started.elapsed().as_secs();
                warn!("after {seconds} s {}", why_not_ready(address).await);
            }
            version = &mut ready, if !is_ready => {
                is_ready = true;
                match version {
                    Some(version) if is_too_old(&version) => {
                        too_old = Some(version);
                        litellm.end().await;
                    }
                    version => info!(version, "LiteLLM is ready"),
                }
            }
        }
    }
}

/// LiteLLM's exit code, told where LiteLLM never got ready or was killed. The supervisor tells a signal that ended LiteLLM by
/// its exit code, so that one in its own status ended the supervisor.
fn ended(status: ExitStatus, was_ready: bool) -> u8 {
    let by_signal = status.signal().map(|signal| signal + 128);
    let code = status
        .code()
        .or(by_signal)
        .and_then(|code| u8::try_from(code).ok());
    let code = code.unwrap_or(exit::OS_ERROR);
    if let Some(signal) = status.signal() {
        warn!(
            code,
            signal,
            "the process of mcp-auth that looks after LiteLLM was ended by a signal, and LiteLLM with it"
        );
        return code;
    }
    match was_ready {
        false if code != 0 => warn!(code, "LiteLLM ended before it was ready: its own output says why"),
        _ if code > 128 => info!(code, signal = code - 128, "LiteLLM was ended by a signal"),
        _ => info!(code, "LiteLLM ended"),
    }
    code
}

/// Takes changed resources, `auth` blocks and files of secrets over.
#[derive(Default)]
struct Reloading {
    /// What is served.
    servers: Vec<ProtectedServer>,
    /// What cannot be used now, each told once.
    problems: Vec<Problem>,
    ignored: Vec<String>,
    /// Nothing is authenticated to, and that was told.
    is_none: bool,
    /// Resources with a credential that ends soon, and the condition that was logged last.
    expiring: Vec<(String, ConditionDraft)>,
}

impl Reloading {
    /// For ever. What is wrong is told once, and what was serves on.
    async fn run(&mut self, sources: &Sources, feed: &TokenFeed) {
        let mut ticks = interval(RELOAD_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.apply(servers::read(sources), feed);
        }
    }

    fn apply(&mut self, read: Servers, feed: &TokenFeed) {
        feed.apply(self.take(read));
        let now = Timestamp::now();
        feed.note_expiries(now);
        self.tell_expiring(now);
    }

    /// Which credentials end soon, each time that this changes.
    fn tell_expiring(&mut self, now: Timestamp) {
        let drafts = self.servers.iter().filter_map(|server| {
            let draft = server.credential_expiring(now)?;
            Some((server.resource_name().to_owned(), draft))
        });
        let expiring: Vec<(String, ConditionDraft)> = drafts.collect();
        for (resource, draft) in expiring.iter().filter(|told| !self.expiring.contains(told)) {
            let (reason, message) = (&draft.reason, &draft.message);
            warn!(resource, reason, "{message}");
        }
        let is_over =
            |(resource, _): &&(String, ConditionDraft)| !expiring.iter().any(|(other, _)| other == resource);
        for (resource, _) in self.expiring.iter().filter(is_over) {
            info!(resource, "no credential ends soon any more");
        }
        self.expiring = expiring;
    }

    /// What is served from now on.
    fn take(&mut self, read: Servers) -> Vec<ProtectedServer> {
        let Servers {
            protected,
            ignored,
            problems,
            ..
        } = read;
        self.tell(&ignored, &problems);
        self.ignored = ignored;
        self.servers = merge(&self.servers, protected, &problems);
        self.problems = problems;
        let is_none = self.servers.is_empty();
        if is_none && !self.is_none {
            warn!("{NO_SERVER}");
        }
        self.is_none = is_none;
        self.servers.clone()
    }

    fn tell(&self, ignored: &[String], problems: &[Problem]) {
        for line in ignored.iter().filter(|line| !self.ignored.contains(line)) {
            info!("ignored: {line}");
        }
        for problem in problems.iter().filter(|problem| !self.problems.contains(problem)) {
            let message = &problem.message;
            match self.servers.iter().any(|server| problem.concerns(server)) {
                true => warn!("cannot be used, and what was read before serves on: {message}"),
                false => warn!("cannot be used, and all else is served: {message}"),
            }
        }
        if problems.is_empty() && !self.problems.is_empty() {
            info!("the configuration can be used again");
        }
    }
}

/// As programs commonly read it: both cases of each name.
pub fn egress_proxy(variables: &Variables) -> Result<Option<EgressProxy>, ExitError> {
    let get = |name: &str| variables.get(name).or(variables.get(&name.to_ascii_lowercase()));
    let proxy = EgressProxy::from_environment(get("HTTPS_PROXY"), get("HTTP_PROXY"), get("NO_PROXY"));
    Ok(proxy?)
}

/// The signals that are passed on.
struct Signals(mpsc::UnboundedReceiver<u8>);

impl Signals {
    fn listen() -> Result<Self, ExitError> {
        let (sender, receiver) = mpsc::unbounded_channel();
        for signal_of in FORWARDED {
            let number = signal_of.as_raw();
            let stream = signal(SignalKind::from_raw(number)).map_err(|error| ExitError::System {
                what: "signals cannot be listened for",
                kind: error.kind(),
            })?;
            tokio::spawn(forward(
                stream,
                u8::try_from(number).unwrap_or_default(),
                sender.clone(),
            ));
        }
        Ok(Self(receiver))
    }

    /// The number of the next one. Where none will come, it waits for ever.
    async fn next(&mut self) -> u8 {
        match self.0.recv().await {
            Some(number) => number,
            None => std::future::pending().await,
        }
    }
}

async fn forward(mut signals: Signal, number: u8, to: mpsc::UnboundedSender<u8>) {
    while signals.recv().await.is_some() {
        if to.send(number).is_err() {
            return;
        }
    }
}
