//! Starts everything and stops it in order.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use kube::runtime::events::{Recorder, Reporter};
use kube::{Client, Config};
use mcp_auth_credentials::{Changes, Credentials, ResourceRef, TokenRefreshRequests, TokenSources};
use mcp_auth_oauth::{Clock, EgressProxy, EgressProxyError};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tracing::{error, info, warn};

use crate::admission::{self, Admission};
use crate::args::{Args, LogFormat};
use crate::certificates::{self, Certificates, keep_webhook_ca_bundle};
use crate::http::{Health, serve_health, serve_tls};
use crate::inject::Settings;
use crate::leader;
use crate::liveness::{BEAT_INTERVAL, Liveness};
use crate::metrics::Metrics;
use crate::pods::Pods;
use crate::reconcile::{self, Reconciler, Triggers};
use crate::references::References;
use crate::resources::{ResourceEvent, ResourceWatch, Resources};
use crate::sidecars::Sidecars;
use crate::status::{self, StatusWriter};
use crate::sync::{self, Authenticator, Sync};
use crate::webhook_calls::WebhookCalls;
use crate::workload::Workload;
use crate::workload_events::WorkloadEvents;

/// Longest time the release of the lease may take.
const LEASE_RELEASE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time until the listener has closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(15);

/// Runs until SIGTERM or SIGINT, or until something that all depends on has failed.
pub async fn run(args: Args) -> anyhow::Result<()> {
    start_log(&args)?;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        identity = args.identity,
        "starting"
    );
    let settings = read_settings(&args)?;
    let egress_proxy = egress_proxy().context("reading the egress proxy from the environment")?;
    if let Some(proxy) = &egress_proxy {
        info!(?proxy, "authorization servers are reached by a proxy");
    }
    let client_config = Config::infer().await.context("finding the API server")?;
    let client = Client::try_from(client_config).context("configuring the Kubernetes client")?;
    let certificate_config = certificates::Config {
        namespace: args.namespace.clone(),
        secret: args.certificate_secret.clone(),
        names: args.serving_names.clone(),
    };
    let certificates = Certificates::load(&client, &certificate_config).await?;

    let metrics = Metrics::default();
    let liveness = Liveness::default();
    let changes = Changes::default();
    let (resources, resource_watch) = Resources::watch(&client, &args.watch_namespaces, changes.clone());
    let (status_due, statuses_due) = mpsc::unbounded_channel();
    let credentials = Credentials::new(changes.clone(), status_due.clone());
    let (references, references_changed) = References::new(client.clone());
    let reporter = Reporter {
        controller: "mcp-auth-operator".into(),
        instance: Some(args.identity.clone()),
    };
    let recorder = Recorder::new(client.clone(), reporter);
    let (workload_events, workload_event_writer) = WorkloadEvents::new(client.clone(), recorder.clone());
    let (pods, pods_changed) = Pods::new(client.clone(), changes.clone(), workload_events.clone());
    let (sidecars, sidecars_changed) = Sidecars::new();
    let (token_refresh_requests, refresh_requested) = TokenRefreshRequests::new();
    let workload = Workload::new(
        client.clone(),
        args.namespace.clone(),
        args.service_account.clone(),
        args.workload_identity_namespaces.clone(),
    );
    let clock = Clock::system();
    let webhook_calls = WebhookCalls::new(clock.now(), args.listen.port());
    let reconciler = Reconciler {
        resources: resources.clone(),
        references,
        workload,
        pods: pods.clone(),
        sidecars: sidecars.clone(),
        token_sources: TokenSources::new(clock.clone(), metrics.clone(), credentials.clone()),
        egress_proxy,
        metrics: metrics.clone(),
        liveness: liveness.clone(),
        status_due,
    };
    let status_writer = Arc::new(StatusWriter::new(
        client.clone(),
        recorder,
        clock,
        credentials.clone(),
        pods.clone(),
        sidecars.clone(),
        webhook_calls.clone(),
        metrics.clone(),
    ));
    let triggers = Triggers {
        references: references_changed,
        pods: pods_changed,
        sidecars: sidecars_changed,
        token_refresh_requests: refresh_requested,
    };

    let candidate = leader::Candidate {
        client: client.clone(),
        namespace: args.namespace.clone(),
        lease: args.lease.clone(),
        identity: args.identity.clone(),
        timing: leader::Timing::default(),
    };
    let (elected, election) = candidate.take_part();
    // The lease is released when its receiver is dropped, so all others subscribe to this channel.
    let (lead, leads) = watch::channel(false);
    let (close, closed) = watch::channel(false);
    let (set_listed, listed) = watch::channel(false);
    let (set_trusted, trusted) = watch::channel(false);

    let admission = Admission {
        settings,
        certificates: certificates.clone(),
        resources: resources.clone(),
        metrics: metrics.clone(),
        calls: webhook_calls,
        events: workload_events,
    };
    let sync = Sync {
        authenticator: Authenticator::new(client.clone()),
        leads,
        certificates: certificates.clone(),
        resources: resources.clone(),
        credentials,
        token_refresh_requests,
        changes,
        pods,
        sidecars,
        metrics: metrics.clone(),
        longest_stream: Duration::from_secs(args.longest_stream_seconds),
    };
    let router = admission::router(admission).merge(sync::router(sync));

    // Each of these runs for as long as the operator does: whichever ends first ends it.
    let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let serving = tasks.spawn(serve_tls(
        args.listen,
        certificates.clone(),
        router,
        closed.clone(),
    ));
    let health = Health {
        metrics: metrics.clone(),
        liveness: liveness.clone(),
        listed,
        trusted,
        closed,
    };
    tasks.spawn(serve_health(args.listen_health, health));
    tasks.spawn(forever(certificates.clone().keep_renewed(
        client.clone(),
        certificate_config,
        liveness.clone(),
    )));
    let trust = keep_webhook_ca_bundle(
        client,
        args.webhook_configuration,
        certificates,
        set_trusted,
        liveness.clone(),
    );
    tasks.spawn(forever(trust));
    tasks.spawn(forever(workload_event_writer.run()));
    let leader_tasks = LeaderTasks {
        reconciler,
        resource_watch,
        triggers,
        status_writer,
        resources,
        statuses_due,
        set_listed,
        metrics,
        liveness,
    };
    let leading = tasks.spawn(follow_election(elected, lead.clone(), leader_tasks));

    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let result = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
        Some(result) = tasks.join_next() => result.context("a task failed").and_then(|result| result),
    };
    info!("stopping");
    // First the lease is released, so that the next leader starts at once. Streams end, and sidecars come
    // back to it.
    leading.abort();
    lead.send_replace(false);
    if tokio::time::timeout(LEASE_RELEASE_TIMEOUT, election)
        .await
        .is_err()
    {
        error!("the lease was not released in time; it runs out by itself");
    }
    // Reviews still arrive until every node knows that this replica is not ready any more.
    close.send_replace(true);
    drop(tokio::time::timeout(CLOSE_TIMEOUT, until_finished(serving)).await);
    tasks.shutdown().await;
    result
}

/// By the variables that most programs read, in either case.
fn egress_proxy() -> Result<Option<EgressProxy>, EgressProxyError> {
    let variable = |name: &str| {
        let lower = name.to_ascii_lowercase();
        std::env::var(name).or_else(|_| std::env::var(lower)).ok()
    };
    let (https, http) = (variable("HTTPS_PROXY"), variable("HTTP_PROXY"));
    EgressProxy::from_environment(https.as_deref(), http.as_deref(), variable("NO_PROXY").as_deref())
}

async fn until_finished(task: AbortHandle) {
    while !task.is_finished() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What the leader does.
struct LeaderTasks {
    reconciler: Reconciler,
    resource_watch: ResourceWatch,
    triggers: Triggers,
    status_writer: Arc<StatusWriter>,
    resources: Resources,
    statuses_due: mpsc::UnboundedReceiver<ResourceRef>,
    set_listed: watch::Sender<bool>,
    metrics: Metrics,
    liveness: Liveness,
}

/// Keeps the resources up to date from the start on, since every replica admits pods by them, and reconciles
/// them while this replica leads. A lead that is lost ends what the leader does and not the process: pods are
/// admitted on, and where the API server was away for a while this replica may lead again.
async fn follow_election(
    mut elected: watch::Receiver<bool>,
    lead: watch::Sender<bool>,
    mut leader_tasks: LeaderTasks,
) -> anyhow::Result<()> {
    let metrics = leader_tasks.metrics.clone();
    loop {
        leader_tasks.until_elected(&mut elected).await?;
        info!("this replica leads");
        metrics.leads(true);
        lead.send_replace(true);
        tokio::select! {
            result = leader_tasks.run() => return result,
            // Dropped at once, since it holds a lock.
            lost = elected.wait_for(|leads| !leads) => drop(lost.context("the leader election ended")?),
        }
        warn!("this replica does not lead any more");
        metrics.leads(false);
        lead.send_replace(false);
        leader_tasks.reconciler.stop();
    }
}

impl LeaderTasks {
    /// Until this replica has the lead and knows every resource: a leader that does not would tell sidecars
    /// that they are entitled to nothing.
    async fn until_elected(&mut self, elected: &mut watch::Receiver<bool>) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(BEAT_INTERVAL);
        while !(*elected.borrow_and_update() && *self.set_listed.borrow()) {
            tokio::select! {
                changed = elected.changed() => changed.context("the leader election ended")?,
                event = self.resource_watch.next() => {
                    if event == ResourceEvent::Listed {
                        self.set_listed.send_replace(true);
                    }
                }
                _ = ticks.tick() => {}
            }
            self.liveness.beat(reconcile::TASK);
        }
        Ok(())
    }

    /// Leads for as long as it is polled.
    async fn run(&mut self) -> anyhow::Result<()> {
        // Each lead has a queue of its own, that ends with it.
        let (queue, due) = mpsc::unbounded_channel();
        let forwarding = async {
            while let Some(resource) = self.statuses_due.recv().await {
                // Without a receiver the writing of statuses has ended.
                let _ = queue.send(resource);
            }
        };
        tokio::select! {
            () = self.reconciler.run(&mut self.resource_watch, &mut self.triggers) => {
                anyhow::bail!("reconciling ended")
            }
            () = status::run(self.status_writer.clone(), self.resources.store(), due) => {
                anyhow::bail!("writing statuses ended")
            }
            () = forwarding => anyhow::bail!("nothing asks for statuses any more"),
        }
    }
}

async fn forever(task: impl Future<Output = ()>) -> anyhow::Result<()> {
    task.await;
    anyhow::bail!("a task that runs forever ended")
}

/// What the chart says of sidecars, and how they reach this operator.
fn read_settings(args: &Args) -> anyhow::Result<Settings> {
    let path = args.sidecar_settings.display();
    let text = std::fs::read_to_string(&args.sidecar_settings).with_context(|| format!("reading {path}"))?;
    let mut settings =
        Settings::from_json(&text).with_context(|| format!("the sidecar's settings in {path}"))?;
    settings.operator.url = args.operator_url.clone();
    settings.operator.version = env!("CARGO_PKG_VERSION").to_owned();
    Ok(settings)
}

fn start_log(args: &Args) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&args.log)
        .with_context(|| format!("--log {:?} is neither a level nor directives", args.log))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter);
    match args.log_format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Text => builder.init(),
    }
    Ok(())
}
