use axum::Router;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, http::StatusCode};
use mcp_auth_credentials::Changes;
use serde_json::{Value, json};

use super::*;
use crate::api_server::tests::not_found;
use crate::liveness::Liveness;
use crate::namespaces::WebhookScope;
use crate::pods::PodNotices;

/// An API server that has the workloads of one namespace, by kind as in a URL and by name, and whose Deployments are always at rest.
#[derive(Clone, Default)]
struct ApiServer(Arc<Mutex<Stored>>);

#[derive(Default)]
struct Stored {
    objects: HashMap<(String, String), Value>,
    restarts: usize,
    is_away: bool,
}

impl ApiServer {
    fn with(objects: impl IntoIterator<Item = (&'static str, Value)>) -> Self {
        let objects = objects.into_iter().map(|(kind, object)| {
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            ((kind.to_owned(), name), object)
        });
        let server = Self::default();
        server.0.lock().objects = objects.collect();
        server
    }

    fn client(&self) -> Client {
        let read = {
            let server = self.clone();
            async move |Path(key): Path<(String, String)>| server.answer(&key, None)
        };
        let restart = {
            let server = self.clone();
            async move |Path(key): Path<(String, String)>, body: axum::body::Bytes| {
                server.answer(&key, Some(&serde_json::from_slice(&body).unwrap()))
            }
        };
        let budgets = json!({"kind": "PodDisruptionBudgetList", "apiVersion": "policy/v1", "metadata": {}, "items": []});
        let router = Router::new()
            .route(
                "/apis/apps/v1/namespaces/llm/{kind}/{name}",
                get(read).patch(restart),
            )
            .route(
                "/apis/policy/v1/namespaces/llm/poddisruptionbudgets",
                get(async move || Json(budgets.clone())),
            );
        Client::new(router, "default")
    }

    fn answer(&self, key: &(String, String), patch: Option<&Value>) -> Response {
        let mut stored = self.0.lock();
        if stored.is_away {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
        let Some(object) = stored.objects.get_mut(key) else {
            return not_found().into_response();
        };
        if let Some(patch) = patch {
            json_patch::merge(object, patch);
        }
        let object = object.clone();
        stored.restarts += usize::from(patch.is_some());
        Json(object).into_response()
    }

    fn restarts(&self) -> usize {
        self.0.lock().restarts
    }
}

fn at_rest() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "litellm", "generation": 2, "resourceVersion": "1"},
        "spec": {"replicas": 2, "template": {"metadata": {"labels": {"app": "litellm"}}}},
        "status": {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2},
    })
}

fn restarts(client: &Client) -> Restarts {
    let changes = Changes::default();
    let (pods, _changed) = Pods::new(
        client.clone(),
        changes.clone(),
        PodNotices::none(),
        Liveness::default(),
    );
    Restarts::new(
        client.clone(),
        Arc::new(Namespaces::new(client.clone(), WebhookScope::default())),
        RestartMode::OnRequest,
        (
            Resources::from_watches(Vec::new(), Vec::new(), changes).0,
            pods,
            Sidecars::new().0,
        ),
        RestartOutcomes::default(),
        mpsc::unbounded_channel().0,
    )
}

#[tokio::test(start_paused = true)]
async fn for_servers_that_went_a_workload_is_restarted_once_an_hour_and_for_one_that_changed_at_once() {
    let api_server = ApiServer::with([("deployments", at_rest())]);
    let restarts = restarts(&api_server.client());
    let tools = ResourceRef {
        namespace: "llm".into(),
        name: "tools".into(),
    };
    let needed_for = async |cause: Cause| -> String {
        let name = WorkloadName {
            kind: "Deployment".into(),
            name: "litellm".into(),
        };
        let needs = Needs {
            causes: [cause].into(),
            waiting: [tools.clone()].into(),
            ..Needs::default()
        };
        let outcomes = restarts.restart_one("llm", [(name, needs)].into()).await;
        outcomes[&tools].clone()
    };
    let removed = |server: &str| Cause::ServerRemoved {
        server: server.to_owned(),
    };
    assert!(
        needed_for(removed("a"))
            .await
            .starts_with("the operator restarts Deployment litellm")
    );
    assert_eq!(api_server.restarts(), 1);
    // A sidecar says so of another one as soon as the pods are new.
    for minutes in [0, 30, 29] {
        tokio::time::advance(Duration::from_secs(minutes * 60)).await;
        let outcome = needed_for(removed("b")).await;
        assert!(outcome.ends_with("once an hour at most"), "{outcome}");
        assert_eq!(api_server.restarts(), 1);
    }
    let changed = Cause::ServerChanged {
        resource: "uid".into(),
        generation: 2,
    };
    needed_for(changed).await;
    assert_eq!(
        api_server.restarts(),
        2,
        "it is a person who changed the resource"
    );
    tokio::time::advance(Duration::from_secs(60)).await;
    needed_for(removed("b")).await;
    assert_eq!(api_server.restarts(), 3, "the hour is over");
    let outcome = needed_for(removed("b")).await;
    assert!(outcome.contains("was restarted for this once"), "{outcome}");
    assert_eq!(api_server.restarts(), 3);
}

fn pod(kind: &str, name: &str, uid: &str, app: &str) -> WatchedPod {
    let owner = json!({"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid, "controller": true});
    let metadata =
        json!({"name": "a", "uid": "a", "labels": {"app": app, "hash": "1"}, "ownerReferences": [owner]});
    serde_json::from_value(json!({"metadata": metadata})).unwrap()
}

#[tokio::test]
async fn a_pod_is_of_the_workload_that_it_names_only_where_that_selects_it() {
    let made = |kind: &str, name: &str, uid: &str, labels: Value, owners: Value| {
        json!({
            "apiVersion": "apps/v1", "kind": kind,
            "metadata": {"name": name, "namespace": "llm", "uid": uid, "ownerReferences": owners},
            "spec": {"selector": {"matchLabels": labels}},
        })
    };
    let deployment = json!([
        {"apiVersion": "apps/v1", "kind": "Deployment", "name": "litellm", "uid": "d", "controller": true},
    ]);
    let api_server = ApiServer::with([
        (
            "replicasets",
            made(
                "ReplicaSet",
                "litellm-1",
                "r",
                json!({"app": "litellm", "hash": "1"}),
                deployment,
            ),
        ),
        (
            "statefulsets",
            made(
                "StatefulSet",
                "backend",
                "s",
                json!({"app": "litellm"}),
                json!([]),
            ),
        ),
    ]);
    let restarts = restarts(&api_server.client());
    let owner = async |pod: WatchedPod| {
        let owner = restarts.workloads.owner("llm", &pod).await;
        owner.map(|owner| owner.to_string())
    };
    assert_eq!(
        owner(pod("ReplicaSet", "litellm-1", "r", "litellm"))
            .await
            .as_deref(),
        Some("Deployment litellm")
    );
    assert_eq!(
        owner(pod("StatefulSet", "backend", "s", "litellm"))
            .await
            .as_deref(),
        Some("StatefulSet backend")
    );
    // Made by hand, with another's name as its owner: by labels that are not selected, or by a UID of what is there no more.
    for by_hand in [
        pod("ReplicaSet", "litellm-1", "r", "mine"),
        pod("StatefulSet", "backend", "s", "mine"),
        pod("ReplicaSet", "litellm-1", "made up", "litellm"),
        pod("StatefulSet", "backend", "made up", "litellm"),
        pod("Deployment", "litellm", "d", "litellm"),
    ] {
        assert_eq!(owner(by_hand.clone()).await, None, "{by_hand:?}");
    }
    // What is known stays; what is not is asked for again once that can be.
    api_server.0.lock().is_away = true;
    assert!(
        owner(pod("ReplicaSet", "litellm-1", "r", "litellm"))
            .await
            .is_some()
    );
    assert_eq!(owner(pod("ReplicaSet", "litellm-2", "r2", "litellm")).await, None);
}

/// What becomes of a Deployment at rest that needs a restart, beside another workload: how often it was restarted, and what is said.
async fn beside(kind: &'static str, other: Value, its_causes: BTreeSet<Cause>) -> (usize, String) {
    let plural = match kind {
        "Deployment" => "deployments",
        "StatefulSet" => "statefulsets",
        _ => "daemonsets",
    };
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": kind,
        "metadata": {"name": "beside", "generation": 2, "resourceVersion": "1"},
        "spec": {"replicas": 2, "template": {"metadata": {}}},
    });
    json_patch::merge(&mut object, &other);
    let api_server = ApiServer::with([("deployments", at_rest()), (plural, object)]);
    let restarts = restarts(&api_server.client());
    let resource = |name: &str| ResourceRef {
        namespace: "llm".into(),
        name: name.into(),
    };
    let named = |kind: &str, name: &str| WorkloadName {
        kind: kind.into(),
        name: name.into(),
    };
    let needs = |causes, waiting| Needs {
        causes,
        waiting: [waiting].into(),
        ..Needs::default()
    };
    let changed = Cause::ServerChanged {
        resource: "uid".into(),
        generation: 2,
    };
    let both = [
        (named(kind, "beside"), needs(its_causes, resource("of-other"))),
        (
            named("Deployment", "litellm"),
            needs([changed].into(), resource("tools")),
        ),
    ];
    let outcomes = restarts.restart_one("llm", both.into()).await;
    (api_server.restarts(), outcomes[&resource("tools")].clone())
}

#[tokio::test]
async fn a_workload_that_cannot_be_restarted_or_crashes_after_its_rollout_holds_up_no_other() {
    let half_updated = json!({"observedGeneration": 2, "replicas": 2, "availableReplicas": 2, "updatedReplicas": 0,
                              "currentRevision": "1", "updateRevision": "2", "readyReplicas": 2,
                              "desiredNumberScheduled": 2, "updatedNumberScheduled": 1, "numberAvailable": 2});
    let strategy = |strategy: Value| json!({"spec": {"updateStrategy": strategy}, "status": half_updated});
    let partition = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 1}});
    let cause = || BTreeSet::from([Cause::ServerRemoved { server: "a".into() }]);
    let progressing = |reason: &str| json!([{"type": "Progressing", "status": "True", "reason": reason}]);
    let deployment = |reason: &str| {
        json!({"status": {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 1,
                          "conditions": progressing(reason)}})
    };
    let stateful_set = |current: &str| {
        json!({"status": {"observedGeneration": 2, "replicas": 2, "readyReplicas": 1,
                          "currentRevision": current, "updateRevision": "2"}})
    };
    let daemon_set = |restarted_at: Timestamp| {
        json!({"spec": {"template": {"metadata": {"annotations": {
                   "kubectl.kubernetes.io/restartedAt": restarted_at.to_string()}}}},
               "status": {"observedGeneration": 2, "desiredNumberScheduled": 2, "updatedNumberScheduled": 2,
                          "numberAvailable": 1}})
    };
    let day_ago = Timestamp::now() - Duration::from_secs(24 * 60 * 60);
    let paused = json!({"spec": {"paused": true}, "status": half_updated});
    for (kind, other, causes) in [
        ("Deployment", paused.clone(), cause()),
        ("Deployment", paused, BTreeSet::new()),
        ("StatefulSet", strategy(json!({"type": "OnDelete"})), cause()),
        ("StatefulSet", strategy(partition), cause()),
        (
            "DaemonSet",
            strategy(json!({"type": "OnDelete"})),
            BTreeSet::new(),
        ),
        (
            "Deployment",
            deployment("NewReplicaSetAvailable"),
            BTreeSet::new(),
        ),
        ("StatefulSet", stateful_set("2"), BTreeSet::new()),
        ("DaemonSet", daemon_set(day_ago), BTreeSet::new()),
    ] {
        let (restarts, outcome) = beside(kind, other.clone(), causes).await;
        assert_eq!(restarts, 1, "{kind} {other}: {outcome}");
        assert_eq!(outcome, "the operator restarts Deployment litellm (spec.restart)");
    }
    for (kind, other, causes) in [
        ("Deployment", deployment("ReplicaSetUpdated"), BTreeSet::new()),
        ("Deployment", deployment("NewReplicaSetAvailable"), cause()),
        ("StatefulSet", stateful_set("1"), BTreeSet::new()),
        ("DaemonSet", daemon_set(Timestamp::now()), BTreeSet::new()),
    ] {
        let (restarts, outcome) = beside(kind, other.clone(), causes).await;
        assert_eq!(restarts, 0, "{kind} {other}: {outcome}");
        assert!(
            outcome.contains(&format!("the pods of {kind} beside")),
            "{outcome}"
        );
    }
}
