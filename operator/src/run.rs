//! Starts everything and stops it in order.

use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt;
use kube::Client;
use mcp_auth_oauth::Clock;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{error, info};

use crate::admission::{self, Admission};
use crate::args::{Args, LogFormat};
use crate::certificates::{self, Certificates, keep_webhook_trust};
use crate::changes::Changes;
use crate::credentials::Credentials;
use crate::http::{Health, serve_health, serve_tls};
use crate::inject::Settings;
use crate::leader;
use crate::metrics::Metrics;
use crate::pods::Pods;
use crate::reconcile::{self, Reconciler, Triggers};
use crate::references::References;
use crate::resources::{Resources, Seen};
use crate::sidecars::Sidecars;
use crate::sync::{self, Sync};

/// Runs until SIGTERM or SIGINT, or until something that all depends on has failed.
pub async fn run(args: Args) -> anyhow::Result<()> {
    start_log(&args)?;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        identity = args.identity,
        "starting"
    );
    let settings = read_settings(&args)?;
    let client = Client::try_default()
        .await
        .context("configuring the Kubernetes client")?;
    let certificate_config = certificates::Config {
        namespace: args.namespace.clone(),
        secret: args.certificate_secret.clone(),
        names: args.serving_names.clone(),
    };
    let certificates = Certificates::load(&client, &certificate_config).await?;

    let metrics = Metrics::default();
    let changes = Changes::default();
    let (resources, seen) = Resources::watch(&client, &args.watch_namespaces, changes.clone());
    let credentials = Credentials::new(changes.clone());
    let (references, references_changed) = References::new(client.clone());
    let (pods, pods_changed) = Pods::new(client.clone(), changes.clone());
    let (sidecars, sidecars_changed) = Sidecars::new();
    let (reconciler, tokens_changed) = Reconciler::new(
        client.clone(),
        &args.identity,
        Clock::system(),
        resources.clone(),
        credentials.clone(),
        references,
        pods.clone(),
        sidecars.clone(),
        metrics.clone(),
    );
    let triggers = Triggers {
        references: references_changed,
        pods: pods_changed,
        sidecars: sidecars_changed,
        tokens: tokens_changed,
    };

    let (leads, election) =
        leader::take_part(client.clone(), &args.namespace, &args.lease, &args.identity).await?;
    let (stop, stopped) = watch::channel(false);
    let (set_ready, ready) = watch::channel(false);

    let admission = Admission {
        settings,
        certificates: certificates.clone(),
        resources: resources.clone(),
        metrics: metrics.clone(),
    };
    let sync = Sync {
        client: client.clone(),
        leads: leads.clone(),
        certificates: certificates.clone(),
        resources,
        credentials,
        changes,
        pods,
        sidecars,
        metrics: metrics.clone(),
        longest_stream: Duration::from_secs(args.longest_stream_seconds),
    };
    let router = admission::router(admission).merge(sync::router(sync));

    // Each of these runs for as long as the operator does: whichever ends first ends it.
    let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
    tasks.spawn(serve_tls(args.listen, certificates.clone(), router, stopped));
    tasks.spawn(serve_health(
        args.listen_health,
        Health {
            metrics: metrics.clone(),
            ready,
        },
    ));
    tasks.spawn(forever(
        certificates.clone().keep(client.clone(), certificate_config),
    ));
    tasks.spawn(forever(keep_webhook_trust(
        client,
        args.webhook_configuration,
        certificates,
    )));
    tasks.spawn(follow_election(
        leads.clone(),
        reconciler,
        seen.boxed(),
        triggers,
        set_ready,
        metrics,
    ));

    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let ended = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
        Some(ended) = tasks.join_next() => ended.context("a task failed").and_then(|ended| ended),
    };
    info!("stopping");
    // First whoever is served is let go, then the lease is released: the next leader finds no one here.
    stop.send_replace(true);
    tokio::time::sleep(Duration::from_millis(100)).await;
    tasks.shutdown().await;
    drop(leads);
    if tokio::time::timeout(Duration::from_secs(5), election)
        .await
        .is_err()
    {
        error!("the lease was not released in time; it runs out by itself");
    }
    ended
}

/// Keeps the resources up to date from the start on, since every replica admits pods by them, and reconciles them
/// while this replica leads. A lead that is lost ends the process: it has no state worth keeping.
async fn follow_election(
    mut leads: watch::Receiver<bool>,
    reconciler: Reconciler,
    seen: futures::stream::BoxStream<'static, Seen>,
    triggers: Triggers,
    ready: watch::Sender<bool>,
    metrics: Metrics,
) -> anyhow::Result<()> {
    let mut seen = seen.inspect(move |seen| {
        if *seen == Seen::Listed {
            ready.send_replace(true);
        }
    });
    loop {
        tokio::select! {
            led = leads.wait_for(|leads| *leads) => { led.context("the leader election ended")?; break }
            _ = seen.next() => {}
        }
    }
    info!("this replica leads");
    metrics.leads(true);
    tokio::select! {
        () = reconcile::run(reconciler, seen.boxed(), triggers) => anyhow::bail!("reconciling ended"),
        _ = leads.wait_for(|leads| !leads) => anyhow::bail!("this replica no longer leads"),
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
    let mut settings: Settings =
        serde_json::from_str(&text).with_context(|| format!("{path} is not as it should be"))?;
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
