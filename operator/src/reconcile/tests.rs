use std::time::Duration;

use axum::Router;
use futures::{StreamExt, stream};
use kube::Client;
use kube::runtime::watcher::{self, Event};
use mcp_auth_credentials::{
    AdministratorPolicy, Changes, CredentialIdentity, CredentialState, Credentials, TokenRefreshRequests,
};
use mcp_auth_oauth::Clock;

use super::*;
use crate::pods::PodNotices;

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

struct Scene {
    reconciler: Reconciler,
    resource_watch: ResourceWatch,
    triggers: Triggers,
    statuses_due: mpsc::UnboundedReceiver<ResourceRef>,
}

/// With an API server that has nothing, and what a watch of resources shows.
fn scene(
    events: impl futures::Stream<Item = watcher::Result<Event<McpServerAuth>>> + Send + 'static,
) -> Scene {
    let client = Client::new(Router::new(), "default");
    let changes = Changes::default();
    let (resources, resource_watch) =
        Resources::from_watches(vec![None], vec![events.boxed()], changes.clone());
    let (status_due, statuses_due) = mpsc::unbounded_channel();
    let (references, references_changed) =
        References::new(client.clone(), &[], None, false, Liveness::default());
    let (pods, pods_changed) = Pods::new(
        client.clone(),
        changes.clone(),
        PodNotices::none(),
        Liveness::default(),
    );
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
    let triggers = Triggers {
        references: references_changed,
        managed_keys: managed_keys_changed,
        pods: pods_changed,
        sidecars: mpsc::unbounded_channel().1,
        token_refresh_requests: TokenRefreshRequests::new().1,
    };
    Scene {
        reconciler,
        resource_watch,
        triggers,
        statuses_due,
    }
}

/// On two threads, since a reconciler that never waits would keep the test from looking at it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_events_put_no_reconciliation_off() {
    let listed = [
        Event::Init,
        Event::InitApply(resource("tools", 1)),
        Event::InitDone,
    ];
    let endless = (1..).map(|generation| Event::Apply(resource("busy", generation)));
    let events = stream::iter(listed.into_iter().chain(endless).map(Ok::<_, watcher::Error>));
    let Scene {
        reconciler,
        mut resource_watch,
        mut triggers,
        mut statuses_due,
    } = scene(events);
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

#[tokio::test(start_paused = true)]
async fn a_thousand_pods_that_change_within_a_moment_are_one_look_at_their_namespace() {
    let listed = [
        Event::Init,
        Event::InitApply(resource("tools", 1)),
        Event::InitDone,
    ];
    let events = stream::iter(listed.map(Ok::<_, watcher::Error>)).chain(stream::pending());
    let Scene {
        reconciler,
        mut resource_watch,
        mut triggers,
        mut statuses_due,
    } = scene(events);
    let (pods_changed, pods) = mpsc::unbounded_channel();
    triggers.pods = pods;
    while resource_watch.next().await != ResourceEvent::Listed {}
    let reconciling = tokio::spawn(async move { reconciler.run(&mut resource_watch, &mut triggers).await });
    tokio::time::sleep(Duration::from_secs(10)).await;
    while statuses_due.try_recv().is_ok() {}

    let mut looks = 0;
    for _ in 0..3 {
        for _ in 0..1000 {
            pods_changed.send("apps".to_owned()).unwrap();
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        while statuses_due.try_recv().is_ok() {
            looks += 1;
        }
    }
    // Tokio's timer counts whole milliseconds, so that each thousand takes a second.
    assert!((3..=9).contains(&looks), "{looks}");
    reconciling.abort();
}

/// On one thread, since what has its turn in between is what this is about.
#[tokio::test]
async fn a_crowd_of_one_tenant_leaves_other_work_its_turn_and_is_looked_at_within_its_limits() {
    let crowd = (0..500).map(|number| {
        let mut resource = resource(&format!("r{number:03}"), 1);
        resource.spec.server.name = "tools".into();
        resource.spec.pod_selector = serde_json::from_value(serde_json::json!({
            "matchExpressions": [{"key": "app", "operator": "In", "values": [format!("a{number}")]}],
        }))
        .unwrap();
        Event::InitApply(resource)
    });
    let mut broad = resource("a-broad", 1);
    broad.spec.server.name = "tools".into();
    broad.spec.pod_selector = serde_json::from_value(serde_json::json!({
        "matchExpressions": [
            {"key": "app", "operator": "In", "values": ["a1", "a2", "a3"]},
            {"key": "team", "operator": "Exists"},
        ],
    }))
    .unwrap();
    let mut same = resource("z-same", 1);
    same.spec.server.name = "tools".into();
    same.spec.pod_selector = broad.spec.pod_selector.clone();
    let mut own_name = resource("own-name", 1);
    own_name.spec.server.name = "search".into();
    own_name.spec.pod_selector = broad.spec.pod_selector.clone();
    let first = [
        Event::Init,
        Event::InitApply(broad),
        Event::InitApply(own_name),
        Event::InitApply(same),
    ];
    let events = first.into_iter().chain(crowd).chain([Event::InitDone]);
    let events = stream::iter(events.map(Ok::<_, watcher::Error>)).chain(stream::pending());
    let Scene {
        mut reconciler,
        mut resource_watch,
        mut statuses_due,
        ..
    } = scene(events);
    while resource_watch.next().await != ResourceEvent::Listed {}
    let problem = |reconciler: &Reconciler, name: &str| {
        let resources = reconciler.resources.in_namespace("apps").unwrap();
        let resource = resources
            .into_iter()
            .find(|it| it.metadata.name.as_deref() == Some(name));
        let problem = reconciler.taken_up().problem(&resource.unwrap());
        problem.map(|problem| problem.reason().to_owned())
    };
    assert_eq!(problem(&reconciler, "r499"), None);
    assert_eq!(problem(&reconciler, "z-same").as_deref(), Some("Conflict"));

    // Whoever is beyond a limit is in nobody's way.
    reconciler.limits.selector_terms = 2;
    reconciler.resources = reconciler.resources.clone().with_limits(
        reconciler.limits,
        Credentials::new(Changes::default(), mpsc::unbounded_channel().0),
    );
    assert_eq!(problem(&reconciler, "z-same").as_deref(), Some("LimitExceeded"));
    assert_eq!(reconciler.resources.within_limits("apps").unwrap().len(), 500);
    // A server's name that no other claims stays its: its sidecars may have a token that this replica has never seen.
    let labels = [("app", "a1"), ("team", "red")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let entitled = reconciler.resources.entitled("apps", &labels.into()).unwrap();
    let entitled: Vec<_> = entitled
        .iter()
        .map(|it| it.metadata.name.as_deref().unwrap())
        .collect();
    assert_eq!(entitled, ["own-name", "r001"]);

    let turns = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let other_work = tokio::spawn({
        let turns = turns.clone();
        async move {
            loop {
                turns.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                tokio::task::yield_now().await;
            }
        }
    });
    let mut queue = ReconcileQueue::default();
    queue.namespaces.insert("apps".into());
    reconciler.reconcile_all(queue).await;
    assert!(turns.load(std::sync::atomic::Ordering::SeqCst) >= 500 / MAX_RECONCILED_AT_ONCE);
    other_work.abort();
    let mut reconciled = BTreeSet::new();
    while let Ok(resource) = statuses_due.try_recv() {
        reconciled.insert(resource);
    }
    assert_eq!(reconciled.len(), 503);
}

#[tokio::test]
async fn what_was_deleted_while_no_replica_led_is_forgotten_when_one_leads() {
    let mut created_anew = resource("created-anew", 1);
    created_anew.metadata.uid = Some("2".into());
    let listed = [
        Event::Init,
        Event::InitApply(resource("there", 1)),
        Event::InitApply(created_anew.clone()),
        Event::InitDone,
    ];
    let events = stream::iter(listed.map(Ok::<_, watcher::Error>)).chain(stream::pending());
    let Scene {
        reconciler,
        mut resource_watch,
        mut triggers,
        mut statuses_due,
    } = scene(events);
    while resource_watch.next().await != ResourceEvent::Listed {}
    let credentials = reconciler.token_sources.credentials().clone();
    for name in ["there", "gone", "created-anew"] {
        let mut resource = resource(name, 1);
        resource.metadata.uid = Some("1".into());
        let identity = CredentialIdentity::for_resource(&resource);
        credentials.publish(&ResourceRef::from(&resource), CredentialState::pending(identity));
    }
    let reconciling = tokio::spawn(async move { reconciler.run(&mut resource_watch, &mut triggers).await });
    // The status step forgets it too.
    let mut due = BTreeSet::new();
    while due.len() < 3 {
        due.insert(statuses_due.recv().await.unwrap().name);
    }
    while credentials.resources().len() > 2 {
        tokio::task::yield_now().await;
    }
    let known: BTreeSet<_> = credentials.resources().into_iter().map(|it| it.name).collect();
    assert_eq!(known, BTreeSet::from(["created-anew".into(), "there".into()]));
    while credentials.is_of_former_resource(&created_anew) {
        tokio::task::yield_now().await;
    }
    reconciling.abort();
}
