//! Against an API server of two answers, on loopback: it takes statuses and events, or refuses them.

use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{patch, post};
use jiff::Timestamp;
use kube::runtime::{reflector, watcher};
use mcp_auth_crds::reasons;
use mcp_auth_credentials::{
    AdministratorPolicy, Changes, CredentialIdentity, CredentialState, Issuance, TokenInUse, TokenSnapshot,
};
use serde_json::{Value, json};

use super::*;
use crate::namespaces::WebhookScope;
use crate::pods::PodNotices;
use crate::refused_pods::RefusedPods;
use crate::workload_events::WorkloadEvents;

mod renewals;

/// Longest wait for what has to come. Nothing here takes long; this ends a test that would hang.
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Clone)]
struct ApiServer {
    statuses: mpsc::UnboundedSender<McpServerAuthStatus>,
    events: mpsc::UnboundedSender<String>,
    refuses: Arc<AtomicBool>,
    /// It answers nothing while a test holds this.
    silence: Arc<tokio::sync::Mutex<()>>,
}

struct World {
    writer: Arc<StatusWriter>,
    credentials: Credentials,
    statuses: mpsc::UnboundedReceiver<McpServerAuthStatus>,
    /// Their reasons.
    events: mpsc::UnboundedReceiver<String>,
    refuses: Arc<AtomicBool>,
    silence: Arc<tokio::sync::Mutex<()>>,
    liveness: Liveness,
}

async fn put_status(
    State(server): State<ApiServer>,
    Path((namespace, name)): Path<(String, String)>,
    body: String,
) -> Response {
    drop(server.silence.lock().await);
    if server.refuses.load(Ordering::SeqCst) {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let applied: Value = serde_json::from_str(&body).unwrap();
    let status = serde_json::from_value(applied["status"].clone()).unwrap();
    server.statuses.send(status).unwrap();
    let mut stored = serde_json::to_value(resource("1")).unwrap();
    stored["metadata"] = json!({"name": name, "namespace": namespace, "uid": "1"});
    stored["status"] = applied["status"].clone();
    stored.to_string().into_response()
}

async fn create_event(State(server): State<ApiServer>, body: String) -> Response {
    let event: Value = serde_json::from_str(&body).unwrap();
    let reason = event["reason"].as_str().unwrap();
    server.events.send(reason.to_owned()).unwrap();
    (StatusCode::CREATED, body).into_response()
}

fn issued() -> TokenSnapshot {
    TokenSnapshot {
        in_use: Some(TokenInUse::default()),
        ..TokenSnapshot::default()
    }
}

fn resource(uid: &str) -> McpServerAuth {
    serde_json::from_value(json!({
        "apiVersion": "mcpauth.dev/v1alpha1",
        "kind": "McpServerAuth",
        "metadata": {"name": "tools", "namespace": "apps", "uid": uid, "generation": 1},
        "spec": {
            "server": {"name": "tools", "url": "https://tools.example.com/mcp"},
            "bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}},
        },
    }))
    .unwrap()
}

fn watched(resource: &McpServerAuth, status: &McpServerAuthStatus) -> McpServerAuth {
    McpServerAuth {
        status: Some(status.clone()),
        ..resource.clone()
    }
}

fn token_reason(status: &McpServerAuthStatus) -> &str {
    let is_token = |condition: &&Condition| condition.type_ == conditions::TOKEN_ISSUED;
    &status.conditions.iter().find(is_token).unwrap().reason
}

async fn next<T>(receiver: &mut mpsc::UnboundedReceiver<T>, what: &str) -> T {
    let received = tokio::time::timeout(DEADLINE, receiver.recv()).await;
    let received = received.unwrap_or_else(|_| panic!("no {what} within {DEADLINE:?}"));
    received.expect("the server outlives the test")
}

impl World {
    async fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (statuses, written) = mpsc::unbounded_channel();
        let (events, published) = mpsc::unbounded_channel();
        let refuses = Arc::new(AtomicBool::new(false));
        let silence = Arc::new(tokio::sync::Mutex::default());
        let server = ApiServer {
            statuses,
            events,
            refuses: Arc::clone(&refuses),
            silence: Arc::clone(&silence),
        };
        let statuses_path = "/apis/mcpauth.dev/v1alpha1/namespaces/{namespace}/mcpserverauths/{name}/status";
        let events_path = "/apis/events.k8s.io/v1/namespaces/apps/events";
        let router = Router::new()
            .route(statuses_path, patch(put_status))
            .route(events_path, post(create_event))
            .with_state(server);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });

        let client = Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap();
        let (changes, liveness) = (Changes::default(), Liveness::default());
        let credentials = Credentials::new(changes.clone(), mpsc::unbounded_channel().0);
        let (pods, _) = Pods::new(client.clone(), changes, PodNotices::none(), liveness.clone());
        let writer = StatusWriter::new(
            client.clone(),
            EventSinks {
                resources: EventRecorder::new(client.clone(), "replica".into(), usize::MAX),
                workloads: WorkloadEvents::unread(),
            },
            Clock::system(),
            (credentials.clone(), AdministratorPolicy::default()),
            KeptSecrets {
                references: References::new(client.clone(), &[], None, false, liveness.clone()).0,
                managed_keys: ManagedKeys::new(&client, None, Clock::system()).0,
            },
            ObservedPods {
                refused: RefusedPods::new(pods.changed()),
                owners: PodOwners::new(client.clone()),
                pods,
                sidecars: Sidecars::new().0,
                restarts: RestartOutcomes::default(),
                resources: Resources::from_watches(Vec::new(), Vec::new(), Changes::default()).0,
                namespaces: Arc::new(Namespaces::new(client, WebhookScope::default())),
                webhook: WebhookCalls::new(Timestamp::now(), 10250),
            },
            (Metrics::default(), liveness.clone()),
        );
        Self {
            writer: Arc::new(writer),
            credentials,
            statuses: written,
            events: published,
            refuses,
            silence,
            liveness,
        }
    }

    fn publish(&self, token: TokenSnapshot) {
        self.publish_of(&resource("1"), token);
    }

    fn publish_of(&self, resource: &McpServerAuth, token: TokenSnapshot) {
        let pending = CredentialState::pending(CredentialIdentity::for_resource(resource));
        let state = CredentialState {
            generation: Some(1),
            issuance: Issuance {
                token,
                ..Issuance::default()
            },
            ..pending
        };
        self.credentials.publish(&ResourceRef::from(resource), state);
    }

    fn publish_pending(&self) {
        self.publish(TokenSnapshot::default());
    }

    fn publish_issued(&self) {
        self.publish(issued());
    }

    async fn forgotten(&self) {
        let forgotten = async {
            while self.writer.records.len() > 0 {
                tokio::task::yield_now().await;
            }
        };
        let forgotten = tokio::time::timeout(DEADLINE, forgotten).await;
        assert!(forgotten.is_ok(), "a record is still there after {DEADLINE:?}");
    }

    /// Reasons of the events since the last call.
    fn events(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }

    /// What is written for the resource as the watch shows it, and when it is looked at again.
    async fn write(&mut self, watched: &McpServerAuth) -> (Option<McpServerAuthStatus>, Action) {
        let action = self.writer.write_status(watched).await.unwrap();
        (self.statuses.try_recv().ok(), action)
    }
}

#[tokio::test]
async fn a_status_is_written_although_the_watch_still_shows_the_same_from_before() {
    let mut world = World::new().await;
    let resource = resource("1");
    world.publish_pending();
    let first = world.write(&resource).await.0.expect("nothing was written yet");
    assert_eq!(token_reason(&first), reasons::PENDING);

    let watched = watched(&resource, &first);
    world.publish_issued();
    let second = world.write(&watched).await.0.expect("it has changed");
    assert_eq!(token_reason(&second), reasons::ISSUED);

    // The watch has not shown the second one yet.
    world.publish_pending();
    let third = world.write(&watched).await.0.expect("it has changed again");
    assert_eq!(token_reason(&third), reasons::PENDING);
}

#[tokio::test]
async fn a_new_leader_that_knows_no_token_yet_lets_stand_what_its_predecessor_said() {
    let mut world = World::new().await;
    let resource = resource("1");
    world.publish_issued();
    let issued = world.write(&resource).await.0.expect("nothing was written yet");

    let mut next = World::new().await;
    next.publish_pending();
    let watched = watched(&resource, &issued);
    let (written, action) = next.write(&watched).await;
    assert_eq!((written, action), (None, Action::await_change()));
    let unseen = McpServerAuth {
        status: None,
        ..watched.clone()
    };
    let first = next.write(&unseen).await.0.expect("nothing was said of it yet");
    assert_eq!(token_reason(&first), reasons::PENDING);
}

#[tokio::test]
async fn events_tell_of_changes_since_the_last_status_and_not_since_the_one_that_the_watch_shows() {
    let mut world = World::new().await;
    let resource = resource("1");
    world.publish_pending();
    let watched = watched(
        &resource,
        &world.write(&resource).await.0.expect("nothing was written yet"),
    );
    assert_eq!(world.events(), [reasons::RESOLVED]);
    world.publish_issued();
    world.write(&watched).await.0.expect("it has changed");
    assert_eq!(world.events(), [reasons::ISSUED]);
    let renewed = TokenInUse {
        scope: Some("tools:read".into()),
        ..TokenInUse::default()
    };
    world.publish(TokenSnapshot {
        in_use: Some(renewed),
        ..TokenSnapshot::default()
    });
    world.write(&watched).await.0.expect("its scope has changed");
    assert_eq!(world.events(), [""; 0]);
}

#[tokio::test]
async fn a_status_that_is_as_it_should_be_is_not_written_and_looked_at_again_after_ten_minutes() {
    let mut world = World::new().await;
    let resource = resource("1");
    world.publish_issued();
    let written = world.write(&resource).await.0.expect("nothing was written yet");
    let (again, action) = world.write(&watched(&resource, &written)).await;
    assert_eq!(again, None);
    assert_eq!(action, Action::requeue(Duration::from_secs(600)));
}

#[tokio::test]
async fn a_status_is_written_once_though_it_is_looked_at_again_before_the_watch_shows_it() {
    let mut world = World::new().await;
    let mut resource = resource("1");
    resource.metadata.resource_version = Some("7".into());
    world.publish_issued();
    let written = world.write(&resource).await.0.expect("nothing was written yet");
    assert_eq!(
        world.write(&resource).await.0,
        None,
        "the watch shows version 7 still"
    );

    let mut others = watched(&resource, &written);
    others.metadata.resource_version = Some("9".into());
    others.status.as_mut().unwrap().conditions.clear();
    let corrected = world.write(&others).await.0;
    assert_eq!(corrected, Some(written), "somebody else has written version 9");
    world.publish_pending();
    world.write(&others).await.0.expect("it has changed");
}

#[tokio::test]
async fn a_status_that_somebody_else_has_written_is_corrected() {
    let mut world = World::new().await;
    let resource = resource("1");
    world.publish_issued();
    let right = world.write(&resource).await.0.expect("nothing was written yet");
    let mut wrong = right.clone();
    wrong.conditions.clear();
    let corrected = world.write(&watched(&resource, &wrong)).await.0;
    assert_eq!(corrected, Some(right), "since when it holds stays too");
}

#[tokio::test]
async fn a_resource_that_was_created_again_gets_its_status() {
    let mut world = World::new().await;
    world.publish_issued();
    let first = world
        .write(&resource("1"))
        .await
        .0
        .expect("nothing was written yet");
    let second = resource("2");
    let early = world.write(&second).await.0;
    assert_eq!(early, None, "what is published is of the former resource");
    world.publish_of(&second, issued());
    let second = world.write(&second).await.0.expect("it has none yet");
    assert_eq!(token_reason(&second), token_reason(&first));
}

#[tokio::test]
async fn a_status_that_cannot_be_written_is_tried_later_each_time_until_one_was() {
    let mut world = World::new().await;
    let resource = resource("1");
    world.publish_issued();
    world.refuses.store(true, Ordering::SeqCst);
    for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
        let error = world.writer.write_status(&resource).await.unwrap_err();
        let action = world.writer.retry(&resource, &error);
        assert_eq!(action, Action::requeue(Duration::from_secs(seconds)));
    }
    world.refuses.store(false, Ordering::SeqCst);
    world.write(&resource).await.0.expect("it is written at last");
    world.refuses.store(true, Ordering::SeqCst);
    let error = world.writer.write_status(&resource).await.unwrap_err();
    let action = world.writer.retry(&resource, &error);
    assert_eq!(action, Action::requeue(Duration::from_secs(1)));
}

#[tokio::test]
async fn nothing_is_remembered_of_a_deleted_resource() {
    let mut world = World::new().await;
    let (resources, mut watch) = reflector::store();
    watch.apply_watcher_event(&watcher::Event::Init);
    watch.apply_watcher_event(&watcher::Event::InitApply(resource("1")));
    watch.apply_watcher_event(&watcher::Event::InitDone);
    world.publish_issued();
    let (due, statuses_due) = mpsc::unbounded_channel();
    let running = tokio::spawn(run(Arc::clone(&world.writer), resources, statuses_due));
    due.send(ResourceRef::from(&resource("1"))).unwrap();
    next(&mut world.statuses, "status").await;
    assert_eq!(world.writer.records.len(), 1);

    watch.apply_watcher_event(&watcher::Event::Delete(resource("1")));
    due.send(ResourceRef::from(&resource("1"))).unwrap();
    world.forgotten().await;
    running.abort();
}

#[tokio::test]
async fn with_a_new_lead_nothing_is_remembered_of_the_one_before() {
    let mut world = World::new().await;
    world.publish_issued();
    world
        .write(&resource("1"))
        .await
        .0
        .expect("nothing was written yet");
    assert_eq!(world.writer.records.len(), 1);
    let (resources, _watch) = reflector::store();
    let (_due, statuses_due) = mpsc::unbounded_channel();
    let running = tokio::spawn(run(Arc::clone(&world.writer), resources, statuses_due));
    world.forgotten().await;
    running.abort();
}

#[tokio::test]
async fn a_status_that_does_not_get_written_is_named_by_liveness_for_as_long_as_that_lasts() {
    let mut world = World::new().await;
    world.publish_issued();
    let (silence, liveness) = (world.silence.clone(), world.liveness.clone());
    let silent = silence.lock().await;
    let resource = resource("1");
    let writing = world.write(&resource);
    let looking = async {
        while !liveness
            .watched()
            .contains(&"the status of apps/tools".to_owned())
        {
            tokio::task::yield_now().await;
        }
        drop(silent);
    };
    let ((written, _), ()) = tokio::join!(writing, looking);
    assert!(written.is_some());
    assert!(liveness.watched().is_empty(), "{:?}", liveness.watched());
}
