//! Starts everything and stops it in order. What a replica does by whether it leads is in [`replica_tasks`].

mod replica_tasks;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mcp_auth_credentials::{Changes, Credentials, TokenRefreshRequests, TokenSources};
use mcp_auth_oauth::{Clock, EgressProxy, EgressProxyError};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::admission::{self, Admission, ReviewBounds};
use crate::api_server;
use crate::args::Args;
use crate::certificates::{
    self, Certificates, SecretName, Source, await_webhook_ca_bundle, keep_webhook_ca_bundle,
};
use crate::event_recorder::EventRecorder;
use crate::exchange_limits::{EXCHANGES, EXCHANGES_OF_PODS};
use crate::http::{Health, serve_health, serve_plain, serve_tls};
use crate::inject::{Settings, lenient_settings};
use crate::kubeconfig;
use crate::leader::{self, Participation};
use crate::leader_client::LeaderClient;
use crate::liveness::Liveness;
use crate::log;
use crate::managed_keys::{self, ManagedKeys};
use crate::metrics::Metrics;
use crate::namespace_limits::NamespaceLimitsLookup;
use crate::namespaces::{Namespaces, WebhookScope};
use crate::not_watched::NotWatched;
use crate::pod_owners::PodOwners;
use crate::pods::{PodNotices, Pods};
use crate::reconcile::{Reconciler, Triggers};
use crate::references::{References, SecretsGrant};
use crate::refused_pods::RefusedPods;
use crate::replicas::{self, Follower, FollowerCount, Replicas};
use crate::resources::Resources;
use crate::restarts::{RestartOutcomes, Restarts};
use crate::shares::Shares;
use crate::sidecars::Sidecars;
use crate::status::{EventSinks, KeptSecrets, ObservedPods, StatusWriter};
use crate::sync::{
    self, Authenticator, DebouncedChanges, OperatorAccount, STREAMS, STREAMS_OF_UNSELECTED, Snapshots, Sync,
};
use crate::webhook_calls::WebhookCalls;
use crate::workload::Workload;
use crate::workload_events::WorkloadEvents;
use replica_tasks::ReplicaTasks;

/// How long a replica that neither leads nor follows is not ready.
const KNOWING_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest time the release of the lease may take.
const LEASE_RELEASE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time until the listener has closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(15);

/// Runs until SIGTERM or SIGINT, or until something that all depends on has failed.
pub async fn run(args: Args) -> anyhow::Result<()> {
    log::start(&args.log, args.log_format)?;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        identity = args.identity,
        "starting"
    );
    let metrics = Metrics::default();
    let settings = read_settings(&args, &metrics)?;
    let egress_proxy = egress_proxy().context("reading the egress proxy from the environment")?;
    if let Some(proxy) = &egress_proxy {
        info!(?proxy, "authorization servers are reached by a proxy");
    }
    let client_config = kubeconfig::find().context("finding the API server")?;
    if client_config.proxy_url.is_some() {
        info!("the API server is reached by the proxy of the kubeconfig or of the environment");
    }
    let client = api_server::client(client_config).context("configuring the Kubernetes client")?;
    let certificate_config = certificates::Config {
        source: certificate_source(&args),
        names: args.serving_names.clone(),
    };
    let liveness = Liveness::default();
    // Probes are answered from the start on, whatever else has to be waited for.
    let (set_answered, api_server_answers) = watch::channel(false);
    let (set_listed, listed) = watch::channel(false);
    let (set_trusted, trusted) = watch::channel(false);
    let (knows_tokens, tokens_known) = watch::channel(false);
    let (set_knowing_until, knowing_until) = watch::channel(Instant::now() + KNOWING_TIMEOUT);
    let (close, closed) = watch::channel(false);
    // Each of these runs for as long as the operator does: whichever ends first ends it.
    let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let health = Health {
        metrics: metrics.clone(),
        liveness: liveness.clone(),
        api_server_answers,
        listed,
        trusted,
        knows_tokens: tokens_known.clone(),
        knowing_until,
        closed: closed.clone(),
    };
    tasks.spawn(serve_health(args.listen_health, health, args.node_ip));
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let certificates = tokio::select! {
        loaded = Certificates::load_when_possible(&client, &certificate_config) => loaded?,
        _ = terminate.recv() => return Ok(()),
        _ = tokio::signal::ctrl_c() => return Ok(()),
        Some(result) = tasks.join_next() => return result.context("a task failed").and_then(|result| result),
    };
    set_answered.send_replace(true);
    set_knowing_until.send_replace(Instant::now() + KNOWING_TIMEOUT);

    let changes = Changes::default();
    let (resources, resource_watch) = Resources::watch(&client, &args.watch_namespaces, changes.clone());
    let (status_due, statuses_due) = mpsc::unbounded_channel();
    let credentials = Credentials::new(changes.clone(), status_due.clone());
    let resources = resources.with_limits(args.limits.tenant_limits(), credentials.clone());
    let limits = &args.limits;
    credentials
        .user_tokens()
        .set_limits(limits.max_user_tokens_per_namespace, limits.max_user_tokens);
    let secrets_grant = args
        .secrets_cluster_role
        .clone()
        .map(|cluster_role| SecretsGrant {
            cluster_role,
            account: (args.namespace.clone(), args.service_account.clone()),
        });
    let (references, references_changed) = References::new(
        client.clone(),
        &args.watch_namespaces,
        secrets_grant,
        args.policy.require_secret_consent,
        liveness.clone(),
    );
    let max_events = args.limits.max_events_per_namespace;
    let events = EventRecorder::new(client.clone(), args.identity.clone(), max_events);
    let (workload_events, workload_event_writer) =
        WorkloadEvents::new(client.clone(), events.clone(), liveness.clone());
    // The lease is released when its receiver is dropped, so all others subscribe to this channel.
    let (lead, leads) = watch::channel(false);
    let pod_notices = PodNotices::new(workload_events.clone(), leads.clone());
    let (pods, pods_changed) = Pods::new(client.clone(), changes.clone(), pod_notices, liveness.clone());
    let refused = RefusedPods::new(pods.changed());
    let (sidecars, sidecars_changed) = Sidecars::new();
    let (token_refresh_requests, refresh_requested) = TokenRefreshRequests::new();
    let workload = Workload::new(
        client.clone(),
        args.workload_identity_namespaces.clone(),
        args.workload_identity_audiences.clone(),
    );
    let clock = Clock::system();
    let managed_keys_config = args
        .managed_keys_secret
        .clone()
        .map(|secret| managed_keys::Config {
            namespace: args.namespace.clone(),
            secret,
            url: args.managed_keys_url.clone(),
        });
    let (managed_keys, managed_keys_changed) = ManagedKeys::new(&client, managed_keys_config, clock.clone());
    let webhook_calls = WebhookCalls::new(clock.now(), args.listen.port());
    let not_watched = NotWatched::new(
        client.clone(),
        &args.not_watched_namespaces,
        &args.watch_namespaces,
    );
    let restart_outcomes = RestartOutcomes::default();
    let scope = WebhookScope {
        excluded_namespaces: args.excluded_namespaces.clone(),
        namespace_selector: args.webhook_namespace_selector.clone().unwrap_or_default(),
        object_selector: args.webhook_object_selector.clone().unwrap_or_default(),
    };
    let namespaces = Arc::new(Namespaces::new(client.clone(), scope));
    let restarts = Restarts::new(
        client.clone(),
        namespaces.clone(),
        args.restart_mode,
        (resources.clone(), pods.clone(), sidecars.clone()),
        restart_outcomes.clone(),
        status_due.clone(),
    );
    let reconciler = Reconciler {
        resources: resources.clone(),
        references: references.clone(),
        workload,
        managed_keys: managed_keys.clone(),
        pods: pods.clone(),
        sidecars: sidecars.clone(),
        token_sources: TokenSources::new(clock.clone(), metrics.clone(), credentials.clone())
            .with_user_token_quotas(args.limits.user_token_quotas()),
        policy: args.policy.to_policy(),
        limits: args.limits.tenant_limits(),
        egress_proxy,
        metrics: metrics.clone(),
        liveness: liveness.clone(),
        status_due,
    };
    let status_writer = Arc::new(StatusWriter::new(
        client.clone(),
        EventSinks {
            resources: events,
            workloads: workload_events.clone(),
        },
        clock,
        (credentials.clone(), args.policy.to_policy()),
        KeptSecrets {
            references,
            managed_keys: managed_keys.clone(),
        },
        ObservedPods {
            pods: pods.clone(),
            refused: refused.clone(),
            owners: PodOwners::new(client.clone()),
            sidecars: sidecars.clone(),
            namespaces,
            webhook: webhook_calls.clone(),
            restarts: restart_outcomes.clone(),
            resources: resources.clone(),
        },
        (metrics.clone(), liveness.clone()),
    ));
    let triggers = Triggers {
        references: references_changed,
        managed_keys: managed_keys_changed,
        pods: pods_changed,
        sidecars: sidecars_changed,
        token_refresh_requests: refresh_requested,
    };

    let (followers, follower_count) = FollowerCount::new();
    let candidate = leader::Candidate {
        client: client.clone(),
        namespace: args.namespace.clone(),
        lease: args.lease.clone(),
        identity: args.identity.clone(),
        address: args.pod_ip.map(|ip| SocketAddr::new(ip, args.listen.port())),
        followers: follower_count,
        knows_tokens: tokens_known.clone(),
        is_first: certificates.are_first(),
        timing: leader::Timing::default(),
    };
    let Participation {
        leads: elected,
        leader,
        task: election,
    } = candidate.take_part();
    let leader_client = LeaderClient::new(
        certificates.clone(),
        &args.serving_names,
        args.replica_token_file.clone(),
        leader,
    );

    let admission = Admission {
        settings,
        certificates: certificates.clone(),
        resources: resources.clone(),
        metrics: metrics.clone(),
        calls: webhook_calls,
        refused: refused.clone(),
        owners: PodOwners::new(client.clone()),
        namespace_limits: NamespaceLimitsLookup::new(client.clone()),
        bounds: ReviewBounds::default(),
        events: workload_events.clone(),
    };
    let authenticator = Authenticator::new(client.clone());
    let replicas = Replicas {
        authenticator: authenticator.clone(),
        account: OperatorAccount {
            namespace: args.namespace.clone(),
            name: args.service_account.clone(),
        },
        leads: leads.clone(),
        followers,
        resources: resources.clone(),
        credentials: credentials.clone(),
        sidecars: sidecars.clone(),
        token_refresh_requests: token_refresh_requests.clone(),
        refused: refused.clone(),
    };
    let follower = Follower {
        client: leader_client.clone(),
        identity: args.identity.clone(),
        credentials: credentials.clone(),
        resources: resources.clone(),
        sidecars: sidecars.clone(),
        refused,
        knows_tokens: knows_tokens.clone(),
    };
    let sync = Sync {
        authenticator,
        leads,
        knows_tokens: tokens_known.clone(),
        leader: leader_client,
        snapshots: Snapshots::new(
            resources.clone(),
            credentials.clone(),
            certificates.clone(),
            changes.clone(),
            args.policy.to_policy(),
        ),
        resources: resources.clone(),
        credentials,
        token_refresh_requests,
        changes: DebouncedChanges::new(changes),
        pods: pods.clone(),
        sidecars,
        streams: Shares::new(STREAMS),
        streams_of_unselected: Shares::new(STREAMS_OF_UNSELECTED),
        exchanges_of_pods: Shares::new(EXCHANGES_OF_PODS),
        exchanges: Shares::new(EXCHANGES),
        metrics: metrics.clone(),
        longest_stream: Duration::from_secs(args.longest_stream_seconds),
        longest_silence: Duration::from_secs(args.longest_silence_seconds),
    };
    let router = admission::router(admission)
        .merge(sync::router(sync))
        .merge(replicas::router(replicas));

    let serving = tasks.spawn(serve_tls(args.listen, certificates.clone(), router, closed));
    tasks.spawn(forever(certificates.clone().keep_renewed(
        client.clone(),
        certificate_config,
        liveness.clone(),
        metrics.clone(),
    )));
    let (configuration, liveness_of_trust) = (args.webhook_configuration, liveness.clone());
    match args.certificate_folder {
        None => tasks.spawn(forever(keep_webhook_ca_bundle(
            client,
            configuration,
            certificates,
            set_trusted,
            liveness_of_trust,
        ))),
        Some(_) => tasks.spawn(forever(await_webhook_ca_bundle(
            client,
            configuration,
            (certificates, args.serving_names),
            set_trusted,
            liveness_of_trust,
        ))),
    };
    tasks.spawn(forever(workload_event_writer.run()));
    if let Some(address) = args.listen_managed_keys {
        let published = managed_keys::router(managed_keys.clone(), resources.clone());
        tasks.spawn(serve_plain(address, published));
        let watch = managed_keys.clone().watch();
        tasks.spawn(async { match watch.await {} });
    }
    let replica_tasks = ReplicaTasks {
        reconciler,
        managed_keys,
        follower,
        resource_watch,
        triggers,
        status_writer,
        restarts,
        not_watched,
        pods,
        resources,
        statuses_due,
        set_listed,
        knows_tokens,
        metrics,
        liveness,
    };
    let leading = tasks.spawn(replica_tasks.run(elected, lead.clone()));

    let result = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
        Some(result) = tasks.join_next() => result.context("a task failed").and_then(|result| result),
    };
    info!("stopping");
    // First the lease is released, so that the next leader starts at once, with the tokens that it has followed.
    // Sidecars are served from memory until their streams end, and come back to another replica.
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

fn certificate_source(args: &Args) -> Source {
    match &args.certificate_folder {
        Some(folder) => Source::Folder(folder.clone()),
        None => Source::Secret(SecretName {
            namespace: args.namespace.clone(),
            name: args.certificate_secret.clone(),
        }),
    }
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

async fn forever(task: impl Future<Output = ()>) -> anyhow::Result<()> {
    task.await;
    anyhow::bail!("a task that runs forever ended")
}

/// What the chart says of sidecars, and how they reach this operator.
fn read_settings(args: &Args, metrics: &Metrics) -> anyhow::Result<Settings> {
    let path = args.sidecar_settings.display();
    let text = std::fs::read_to_string(&args.sidecar_settings).with_context(|| format!("reading {path}"))?;
    let read = lenient_settings::read(&text).with_context(|| format!("the sidecar's settings in {path}"));
    let (mut settings, unknown) = read?;
    for setting in &unknown {
        warn!(%path, %setting, "a setting of sidecars is left out");
    }
    metrics.set_unknown_settings(unknown.len());
    settings.operator.url = args.operator_url.clone();
    settings.operator.version = env!("CARGO_PKG_VERSION").to_owned();
    Ok(settings)
}
