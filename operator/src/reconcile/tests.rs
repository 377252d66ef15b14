use std::time::Duration;

use axum::Router;
use futures::{StreamExt, stream};
use kube::Client;
use kube::runtime::watcher::{self, Event};
use mcp_auth_credentials::{AdministratorPolicy, Changes, Credentials};
use mcp_auth_oauth::Clock;

use super::*;
use crate::workload_events::WorkloadEvents;

fn resource(name: &str, generation: u64) -> McpServerAuth {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "mcpauth.dev/v1alpha1",
        "kind": "McpServerAuth",
        "metadata": {"name": name, "namespace": "apps", "generation": generation},
        "spec": {
            "server": {"name": name, "url": "https://tools.example.com/mcp"},
            "bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}},
        },
    }))
    .unwrap()
}

/// On two threads, since a reconciler that never waits would keep the test from looking at it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_events_put_no_reconciliation_off() {
    // An API server that has nothing.
    let client = Client::new(Router::new(), "default");
    let changes = Changes::default();
    let listed = [
        Event::Init,
        Event::InitApply(resource("tools", 1)),
        Event::InitDone,
    ];
    let endless = (1..).map(|generation| Event::Apply(resource("busy", generation)));
    let events = stream::iter(listed.into_iter().chain(endless).map(Ok::<_, watcher::Error>));
    let (resources, mut resource_watch) =
        Resources::from_watches(vec![None], vec![events.boxed()], changes.clone());
    let (status_due, mut statuses_due) = mpsc::unbounded_channel();
    let (references, references_changed) = References::new(client.clone(), &[], None, false);
    let (pods, pods_changed) = Pods::new(client.clone(), changes.clone(), WorkloadEvents::unread());
    let credentials = Credentials::new(changes, status_due.clone());
    let (managed_keys, managed_keys_changed) = ManagedKeys::new(&client, None, Clock::system());
    let reconciler = Reconciler {
        resources,
        references,
        workload: Workload::new(client.clone(), Vec::new(), Vec::new()),
        managed_keys,
        pods,
        sidecars: Sidecars::new().0,
        token_sources: TokenSources::new(Clock::system(), Metrics::default(), credentials),
        metrics: Metrics::default(),
        policy: AdministratorPolicy::default(),
        limits: TenantLimits::default(),
        egress_proxy: None,
        liveness: Liveness::default(),
        status_due,
    };
    let mut triggers = Triggers {
        references: references_changed,
        managed_keys: managed_keys_changed,
        pods: pods_changed,
        sidecars: mpsc::unbounded_channel().1,
        token_refresh_requests: mpsc::unbounded_channel().1,
    };
    let reconciling = tokio::spawn(async move { reconciler.run(&mut resource_watch, &mut triggers).await });
    let reconciled = async {
        while let Some(resource) = statuses_due.recv().await {
            if resource.name == "tools" {
                return;
            }
        }
        panic!("reconciling ended");
    };
    // The bound is for a test that would hang.
    tokio::time::timeout(Duration::from_secs(300), reconciled)
        .await
        .expect("tools is reconciled though busy changes all the time");
    reconciling.abort();
}
