//! Against an API server on loopback that knows one ReplicaSet and takes events.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use mcp_auth_protocol::sync::notices;
use serde_json::{Value, json};

use super::*;

/// Longest wait for what has to come.
const DEADLINE: Duration = Duration::from_secs(60);

struct World {
    events: WorkloadEvents,
    written: mpsc::UnboundedReceiver<Value>,
}

async fn replica_set(Path(name): Path<String>) -> Response {
    if name != "litellm-abc" {
        return StatusCode::NOT_FOUND.into_response();
    }
    let owner = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "name": "litellm", "uid": "d-1", "controller": true,
    });
    Json(json!({
        "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
        "metadata": {"name": name, "namespace": "llm", "ownerReferences": [owner]},
    }))
    .into_response()
}

async fn create(State(written): State<mpsc::UnboundedSender<Value>>, body: String) -> Response {
    written.send(serde_json::from_str(&body).unwrap()).unwrap();
    (StatusCode::CREATED, body).into_response()
}

impl World {
    async fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (sender, written) = mpsc::unbounded_channel();
        let router = Router::new()
            .route(
                "/apis/apps/v1/namespaces/llm/replicasets/{name}",
                get(replica_set),
            )
            .route("/apis/events.k8s.io/v1/namespaces/llm/events", post(create))
            .with_state(sender);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let client = Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap();
        let recorder = EventRecorder::new(client.clone(), "replica".into(), usize::MAX);
        let (events, writer) = WorkloadEvents::new(client, recorder, Liveness::default());
        tokio::spawn(writer.run());
        Self { events, written }
    }

    fn tell(&self, owner: &OwnerReference, text: &str) {
        self.events
            .tell_owner("llm", Some(owner), NoticeKind::Refused, text);
    }

    async fn next(&mut self) -> Value {
        let event = tokio::time::timeout(DEADLINE, self.written.recv()).await;
        event
            .expect("an event in time")
            .expect("the server outlives the test")
    }
}

fn owner(kind: &str, name: &str) -> OwnerReference {
    OwnerReference {
        api_version: "apps/v1".into(),
        kind: kind.into(),
        name: name.into(),
        uid: format!("uid-of-{name}"),
        controller: Some(true),
        block_owner_deletion: None,
    }
}

#[tokio::test]
async fn a_deployment_is_told_of_the_pods_that_its_replica_set_cannot_make() {
    let mut world = World::new().await;
    let replica_set = owner("ReplicaSet", "litellm-abc");
    // A ReplicaSet tries again and again.
    for _ in 0..50 {
        world.tell(&replica_set, "LiteLlmTls: LiteLLM serves TLS itself");
    }
    world.tell(&owner("StatefulSet", "gateway"), "HostNetwork: take it off");
    world.tell(&owner("ReplicaSet", "gone"), "HostNetwork: take it off");

    let first = world.next().await;
    let regarding = |event: &Value| {
        let about = &event["regarding"];
        (about["kind"].clone(), about["name"].clone(), about["uid"].clone())
    };
    assert_eq!(
        regarding(&first),
        (json!("Deployment"), json!("litellm"), json!("d-1"))
    );
    assert_eq!(
        (&first["reason"], &first["type"]),
        (&json!("PodRefused"), &json!("Warning"))
    );
    assert!(
        first["note"]
            .as_str()
            .unwrap()
            .contains("LiteLLM serves TLS itself"),
        "{first}"
    );
    // What was told once is not told again.
    assert_eq!(regarding(&world.next().await).1, "gateway");
    assert_eq!(
        regarding(&world.next().await).1,
        "gone",
        "a ReplicaSet that cannot be looked up is told itself"
    );
}

#[test]
fn the_same_is_told_again_after_half_an_hour_and_never_more_than_there_is_room_for() {
    let mut recent = RecentNotices::default();
    let start = Instant::now();
    let notice = |text: &str| Notice {
        about: ObjectId::from(&owner("Deployment", "litellm")),
        namespace: "llm".into(),
        kind: NoticeKind::NotInjected,
        text: text.into(),
    };
    assert!(recent.is_news(&notice("a"), start));
    assert!(!recent.is_news(&notice("a"), start + REPEAT_AFTER / 2));
    assert!(recent.is_news(&notice("a"), start + REPEAT_AFTER));
    let now = start + REPEAT_AFTER;
    let told = (0..5000).filter(|number| recent.is_news(&notice(&number.to_string()), now));
    assert_eq!(told.count(), MAX_REMEMBERED_OF_NAMESPACE - 1);
    let elsewhere = Notice {
        namespace: "elsewhere".into(),
        ..notice("a")
    };
    assert!(
        recent.is_news(&elsewhere, now),
        "another namespace has room of its own"
    );
    assert!(
        recent.is_news(&notice("b"), now + REPEAT_AFTER),
        "there is room again"
    );
}

#[test]
fn what_a_sidecar_goes_on_reporting_is_written_again_before_the_api_server_forgets_it() {
    let mut recent = RecentNotices::default();
    let start = Instant::now();
    let notice = Notice {
        about: ObjectId::from(&owner("ReplicaSet", "litellm-abc")),
        namespace: "llm".into(),
        kind: NoticeKind::Sidecar,
        text: "ClientsCountAsExternal: set mcp_trusted_proxy_ranges".into(),
    };
    // With every status: at least every ten minutes, here for a day.
    let resync = Duration::from_secs(10 * 60);
    let times = (0..=24 * 6).map(|round| start + round * resync);
    let written: Vec<Instant> = times.filter(|at| recent.is_news(&notice, *at)).collect();
    let longest = written.windows(2).map(|pair| pair[1] - pair[0]).max();
    let event_lifetime = Duration::from_secs(60 * 60);
    assert!(
        longest.is_some_and(|longest| longest < event_lifetime),
        "{longest:?}"
    );
    assert!(written.len() <= 49, "and no flood: {}", written.len());
}

#[tokio::test]
async fn a_pod_without_an_owner_and_a_full_queue_hold_nobody_up() {
    let (sender, _receiver) = mpsc::channel(1);
    let events = WorkloadEvents {
        sender,
        queued: QueuedNotices::default(),
    };
    events.tell_owner("llm", None, NoticeKind::Skipped, "NotLiteLlm");
    for _ in 0..3 {
        let owner = owner("StatefulSet", "gateway");
        events.tell_owner("llm", Some(&owner), NoticeKind::Skipped, "NotLiteLlm");
    }
}

#[tokio::test]
async fn a_namespace_with_a_thousand_notices_leaves_room_for_those_of_others() {
    let (sender, mut receiver) = mpsc::channel(MAX_QUEUED);
    let events = WorkloadEvents {
        sender,
        queued: QueuedNotices::default(),
    };
    let owner = owner("StatefulSet", "gateway");
    for _ in 0..1000 {
        events.tell_owner("crowd", Some(&owner), NoticeKind::Refused, "the same");
    }
    for number in 0..1000 {
        events.tell_owner("crowd", Some(&owner), NoticeKind::Refused, &number.to_string());
    }
    events.tell_owner("quiet", Some(&owner), NoticeKind::Refused, "one");
    let mut queued = Vec::new();
    while let Ok(notice) = receiver.try_recv() {
        events.queued.remove(&notice);
        queued.push(notice.namespace);
    }
    assert_eq!(queued.len(), MAX_QUEUED_OF_NAMESPACE + 1);
    assert_eq!(queued.last().map(String::as_str), Some("quiet"));
    assert!(
        events.queued.0.lock().is_empty(),
        "what was taken out counts no more"
    );
}

#[tokio::test]
async fn liveness_notices_a_writer_of_events_that_moves_no_more() {
    let client = Client::new(Router::new(), "default");
    let recorder = EventRecorder::new(client.clone(), "replica".into(), usize::MAX);
    let liveness = Liveness::default();
    let (events, writer) = WorkloadEvents::new(client, recorder, liveness.clone());
    let writing = tokio::spawn(writer.run());
    while liveness.watched() != ["the writer of events"] {
        tokio::task::yield_now().await;
    }
    drop(events);
    writing.await.unwrap();
    assert!(liveness.watched().is_empty());
}

/// Every kind of notice with its event, the condition, the annotation of the pod and the metric, each of which there is.
#[test]
fn the_documentation_says_of_every_notice_where_else_it_is_told() {
    let (_, text) = include_str!("../../../docs/injection.md")
        .split_once("### Where it is told")
        .unwrap();
    let (table, _) = text.split_once("\n### ").unwrap();
    let rows = table
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains('`'));
    let rows: Vec<Vec<Vec<&str>>> = rows
        .skip(1)
        .map(|row| {
            row.split(" | ")
                .map(|cell| cell.split('`').skip(1).step_by(2).collect())
                .collect()
        })
        .collect();
    let events: std::collections::BTreeSet<&str> = rows.iter().map(|cells| cells[1][0]).collect();
    let known: std::collections::BTreeSet<&str> = NoticeKind::ALL.iter().map(|kind| kind.reason()).collect();
    assert_eq!(events, known);
    let conditions = include_str!("../../../docs/status.md");
    let metrics = include_str!("../../../docs/metrics.md");
    for cells in &rows {
        for reason in &cells[2] {
            assert!(conditions.contains(&format!("| | `{reason}` |")), "{reason}");
        }
        for key in &cells[3] {
            assert!(crate::inject::annotations::WRITTEN.contains(key), "{key}");
        }
        let metric = cells[4].first().expect("a metric");
        assert!(
            metrics.contains(&format!("| `mcpauth_operator_{metric}` |")),
            "{metric}"
        );
    }
    // What a sidecar may tell of, but for what has a reason of its own there.
    let mut lines = conditions.lines();
    let row = lines
        .find(|line| line.starts_with("| | `SidecarNotice` |"))
        .unwrap();
    for reason in notices::WARNINGS {
        assert!(
            row.contains(&format!("`{reason}`")) || reason == notices::CONFIGURATION_DIFFERS,
            "{reason}"
        );
    }
}
