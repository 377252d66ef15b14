//! Runs LiteLLM with the sidecar's proxies around it: the inbound one on the port that LiteLLM was to listen on,
//! the outbound one on loopback, between LiteLLM and its MCP servers.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use mcp_auth_oauth::EgressProxy;
use mcp_auth_protocol::pod::DEFAULT_FORWARDED_ALLOW_IPS;
use mcp_auth_protocol::sync::Pod;
use mcp_auth_protocol::timeouts::LITELLM_CONNECT;
use mcp_auth_sidecar::control::controller::{ControlSettings, Controller, Metrics, report};
use mcp_auth_sidecar::control::drain::Drain;
use mcp_auth_sidecar::control::litellm::Litellm;
use mcp_auth_sidecar::control::litellm_config::static_headers::StaticHeaders;
use mcp_auth_sidecar::control::outbound_secret::OutboundSecret;
use mcp_auth_sidecar::control::probes::Started;
use mcp_auth_sidecar::proxy::audit::{AuditLog, Fingerprinter, Output};
use mcp_auth_sidecar::proxy::inbound::client_address::TrustedProxies;
use mcp_auth_sidecar::proxy::metrics as data_path;
use mcp_auth_sidecar::run::{Control, Proxies, WORKERS, Wiring};
use mcp_auth_sidecar::server::{Bounds, Sockets, Workers};
use prometheus_client::registry::Registry;
use rustix::process::getpid;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{info, warn};

use crate::args::Exec;
use crate::exit::{self, ExitError};
use crate::litellm_command::{LitellmCommand, find_program, wrapper};
use crate::loopback_port::ReservedPort;
use crate::processes::{become_subreaper, descendants, end_descendants};
use crate::readiness::{OLDEST, is_too_old, until_ready};
use crate::servers::{self, Servers};
use crate::settings::Variables;
use crate::supervise::{END_GRACE, FORWARDED};
use crate::token_feed::TokenFeed;

/// Whose `X-Forwarded-` headers LiteLLM's server trusts.
const FORWARDED_ALLOW_IPS: &str = "FORWARDED_ALLOW_IPS";
/// Between two looks at the configuration and at the files of secrets.
const RELOAD_INTERVAL: Duration = Duration::from_secs(2);
/// Between two looks at whether LiteLLM may start.
const START_POLL: Duration = Duration::from_millis(20);
/// How long the last audit lines may take to be written.
const AUDIT_FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// How long answers that have begun may take when LiteLLM has ended.
const STOP_GRACE: Duration = Duration::from_millis(200);

/// Runs to LiteLLM's end and answers the exit code.
pub fn exec(args: Exec) -> u8 {
    let variables = Variables::of_process();
    run(args, &variables).unwrap_or_else(|error| exit::report(&error))
}

fn run(args: Exec, variables: &Variables) -> Result<u8, ExitError> {
    let Some(program) = args.command.first().cloned() else {
        return Ok(exit::USAGE);
    };
    find_program(&program, std::env::var_os("PATH").as_deref())?;
    if !variables.auto_patch()? {
        let error = std::process::Command::new(&program)
            .args(&args.command[1..])
            .exec();
        return Err(ExitError::from_start(&program, &error));
    }
    let command = LitellmCommand::read(args.command, variables)?;
    let servers = servers::read(command.config.as_deref(), variables)?;
    let system = |what: &'static str| {
        move |error: io::Error| ExitError::System {
            what,
            kind: error.kind(),
        }
    };
    // An error means that there is one already, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(system("no runtime can be started"))?;
    let code = runtime.block_on(async {
        let ground = Ground::prepare(&command)?;
        ground.run(command, servers, variables, args.start_timeout).await
    });
    // Looking up a name may hang in a thread of its own, which is nothing to wait for.
    runtime.shutdown_background();
    code
}

/// What is to be had before anything starts.
struct Ground {
    sockets: Sockets,
    litellm: ReservedPort,
    folder: TempDir,
    overlay: PathBuf,
    wrapper: PathBuf,
}

impl Ground {
    fn prepare(command: &LitellmCommand) -> Result<Self, ExitError> {
        let listen = command.listen;
        let sockets = Sockets::bind(Some(listen), (Ipv4Addr::LOCALHOST, 0).into(), WORKERS);
        let sockets = sockets.map_err(|error| ExitError::Listen {
            address: listen,
            kind: error.kind(),
        })?;
        let litellm = ReservedPort::choose()?;
        let no_folder = |error: io::Error| ExitError::Folder {
            folder: std::env::temp_dir(),
            kind: error.kind(),
        };
        let folder = tempfile::Builder::new()
            .prefix("mcp-auth-")
            .tempdir()
            .map_err(no_folder)?;
        let overlay = folder.path().join("overlay.yaml");
        let wrapper_path = folder.path().join("config.yaml");
        std::fs::write(&wrapper_path, wrapper(command.config.as_deref(), &overlay)).map_err(no_folder)?;
        Ok(Self {
            sockets,
            litellm,
            folder,
            overlay,
            wrapper: wrapper_path,
        })
    }

    async fn run(
        self,
        command: LitellmCommand,
        servers: Servers,
        variables: &Variables,
        start_timeout: Duration,
    ) -> Result<u8, ExitError> {
        let mut signals = Signals::listen()?;
        let (feed, changed) = TokenFeed::new(egress_proxy(variables));
        let outbound = self.sockets.outbound();
        let drain = Drain::default();
        let started = Started::default();
        let (control, proxies, audit_log) =
            self.wire(&command, &feed, &drain, &started, outbound, start_timeout);
        let workers = proxies
            .start(self.sockets, Bounds::default())
            .map_err(|error| ExitError::System {
                what: "the proxies cannot be started",
                kind: error.kind(),
            })?;
        info!(
            version = env!("CARGO_PKG_VERSION"),
            servers = servers.protected.len(),
            listen = %command.listen,
            litellm = %self.litellm.address,
            "starting"
        );
        if !command.takes_options() {
            warn!(
                "the command does not name litellm: it has to heed the variables HOST, PORT and CONFIG_FILE_PATH, by which \
                 LiteLLM is moved to loopback"
            );
        }
        let hidden = variables
            .own_names()
            .chain(servers.secret_variables.iter().map(String::as_str));
        let launch = command.launch(self.litellm.address.port(), &self.wrapper, variables, hidden);
        feed.apply(servers.protected);
        let before = descendants(getpid());
        let litellm = async {
            // Until then a signal ends us alone: there is nothing to pass it on to.
            tokio::select! {
                () = until_started(&started) => {}
                number = signals.next() => return Ok(128 + number),
            }
            let mut supervisor = start(launch, self.folder.path())?;
            let code = attend(&mut supervisor, &mut signals, &drain, self.litellm.address).await;
            if supervisor.killed {
                end_descendants(END_GRACE, &before);
            }
            code
        };
        let code = tokio::select! {
            code = litellm => code,
            never = control.run(feed.clone()) => match never {},
            () = reload(&command, &feed, variables) => Ok(exit::OS_ERROR),
            () = feed.tell(changed) => Ok(exit::OS_ERROR),
        };
        stop(workers);
        if !audit_log.flush(AUDIT_FLUSH_TIMEOUT) {
            warn!("audit lines of the last calls may be missing: the output takes no more");
        }
        code
    }

    fn wire(
        &self,
        command: &LitellmCommand,
        feed: &TokenFeed,
        drain: &Drain,
        started: &Started,
        outbound: SocketAddr,
        start_timeout: Duration,
    ) -> (
        Control<mcp_auth_sidecar::proxy::routes::Routes>,
        Proxies,
        AuditLog,
    ) {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        let data_path_metrics = data_path::Metrics::new(&mut registry);
        let reports = watch::Sender::new(report(Pod::default()));
        let audit_log = AuditLog::start(
            &Pod::default(),
            Output::Stdout,
            Fingerprinter::new(),
            data_path_metrics.clone(),
        );
        let static_headers = StaticHeaders::resume(self.folder.path());
        let outbound_secret = OutboundSecret::generate();
        let proxies = Proxies::new(Wiring {
            litellm: Some(self.litellm.address.into()),
            trusted_proxies: trusted_proxies(),
            drain: drain.clone(),
            outbound_secret: outbound_secret.clone(),
            reports: reports.clone(),
            exchange: Arc::new(feed.clone()),
            metrics: data_path_metrics,
            audit_log: audit_log.clone(),
            static_headers: static_headers.clone(),
        });
        let settings = ControlSettings {
            original: command.config.clone(),
            overlay: self.overlay.clone(),
            outbound,
            outbound_secret,
            inbound: true,
            auth_blocks: true,
            static_headers,
        };
        let controller = Controller::new(
            settings,
            Vec::new(),
            proxies.routes.clone(),
            reports.clone(),
            metrics,
        );
        let litellm = Litellm {
            address: self.litellm.address,
            ours: Vec::new(),
            timeout: LITELLM_CONNECT,
            // Other programs of the machine listen too, which is none of our business.
            proc_net: None,
        };
        let control = Control::new(controller, reports, Some(litellm), started.clone(), start_timeout);
        (control, proxies, audit_log)
    }
}

/// As LiteLLM's server reads its `FORWARDED_ALLOW_IPS`, which it has from the same environment.
fn trusted_proxies() -> TrustedProxies {
    let list = std::env::var(FORWARDED_ALLOW_IPS);
    let list = list.as_deref().unwrap_or(DEFAULT_FORWARDED_ALLOW_IPS);
    match list.parse() {
        Ok(trusted) => trusted,
        Err(never) => match never {},
    }
}

/// Polls, since it is once: there is nothing else to wake up for then.
async fn until_started(started: &Started) {
    while !started.is_set() {
        sleep(START_POLL).await;
    }
}

/// The supervisor of LiteLLM, and the pipe by which it gets signals.
struct Supervisor {
    child: Child,
    signals: Option<ChildStdin>,
    /// It did not end by itself, so that what it looked after may be left.
    killed: bool,
}

fn start(launch: crate::litellm_command::Launch, folder: &std::path::Path) -> Result<Supervisor, ExitError> {
    let system = |error: io::Error| ExitError::System {
        what: "the supervisor of LiteLLM cannot be started",
        kind: error.kind(),
    };
    // Where the kernel refuses, a supervisor that is killed may leave LiteLLM behind, and nothing else.
    let _ = become_subreaper();
    let mut command = Command::new(std::env::current_exe().map_err(system)?);
    command
        .args(["supervise", "--cleanup"])
        .arg(folder)
        .arg("--")
        .args(launch.words);
    for name in &launch.remove {
        command.env_remove(name);
    }
    let child = command
        .envs(launch.set)
        .stdin(Stdio::piped())
        // The terminal's signals reach us alone; we pass each on once.
        .process_group(0)
        .spawn();
    let mut child = child.map_err(system)?;
    let signals = child.stdin.take();
    Ok(Supervisor {
        child,
        signals,
        killed: false,
    })
}

/// Passes signals on until LiteLLM has ended. One that is too old is ended.
async fn attend(
    supervisor: &mut Supervisor,
    signals: &mut Signals,
    drain: &Drain,
    litellm: SocketAddr,
) -> Result<u8, ExitError> {
    let mut ready = std::pin::pin!(until_ready(litellm));
    let mut is_ready = false;
    let mut too_old = None;
    loop {
        tokio::select! {
            status = supervisor.child.wait() => {
                let status = status.map_err(|error| ExitError::System {
                    what: "the supervisor of LiteLLM cannot be waited for",
                    kind: error.kind(),
                })?;
                supervisor.killed = status.signal().is_some();
                return match too_old {
                    Some(found) => Err(ExitError::OldLitellm { found, needed: OLDEST }),
                    None => Ok(ended(status, is_ready)),
                };
            }
            number = signals.next() => {
                // Until LiteLLM has ended.
                drain.start(Duration::MAX);
                pass_on(supervisor, number).await;
            }
            version = &mut ready, if !is_ready => {
                is_ready = true;
                match version {
                    Some(version) if is_too_old(&version) => {
                        too_old = Some(version);
                        pass_on(supervisor, u8::try_from(rustix::process::Signal::TERM.as_raw()).unwrap_or(15)).await;
                    }
                    version => info!(version, "LiteLLM is ready"),
                }
            }
        }
    }
}

async fn pass_on(supervisor: &mut Supervisor, number: u8) {
    if let Some(pipe) = &mut supervisor.signals {
        // A supervisor that is gone is seen by its status.
        let _ = pipe.write_all(&[number]).await;
    }
}

/// LiteLLM's exit code, told where LiteLLM never got ready or was killed.
fn ended(status: ExitStatus, was_ready: bool) -> u8 {
    let by_signal = status.signal().map(|signal| signal + 128);
    let code = status
        .code()
        .or(by_signal)
        .and_then(|code| u8::try_from(code).ok());
    let code = code.unwrap_or(exit::OS_ERROR);
    match was_ready {
        false if code != 0 => warn!(code, "LiteLLM ended before it was ready: its own output says why"),
        _ if code > 128 => info!(code, signal = code - 128, "LiteLLM was ended by a signal"),
        _ => info!(code, "LiteLLM ended"),
    }
    code
}

/// Lets answers that have begun come to their end.
fn stop(workers: Workers) {
    workers.stop(STOP_GRACE);
    workers.join();
}

/// Takes changed `auth` blocks and files of secrets over. What is wrong is told once, and what was serves on.
async fn reload(command: &LitellmCommand, feed: &TokenFeed, variables: &Variables) {
    let mut ticks = interval(RELOAD_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = None;
    loop {
        ticks.tick().await;
        match servers::read(command.config.as_deref(), variables) {
            Ok(servers) => {
                if told.take().is_some() {
                    info!("the configuration can be used again");
                }
                feed.apply(servers.protected);
            }
            Err(error) => {
                let message = error.to_string();
                if told.as_ref() != Some(&message) {
                    warn!(
                        "the changed configuration cannot be used, and what was read before serves on: {message}"
                    );
                    told = Some(message);
                }
            }
        }
    }
}

/// As programs commonly read it: both cases of each name.
fn egress_proxy(variables: &Variables) -> Option<EgressProxy> {
    let get = |name: &str| variables.get(name).or(variables.get(&name.to_ascii_lowercase()));
    let proxy = EgressProxy::from_environment(get("HTTPS_PROXY"), get("HTTP_PROXY"), get("NO_PROXY"));
    proxy.unwrap_or_else(|error| {
        warn!(%error, "tokens are requested without a proxy");
        None
    })
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
