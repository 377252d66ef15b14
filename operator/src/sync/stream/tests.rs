use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, body};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use k8s_openapi::api::authentication::v1::TokenReview;
use kube::Client;
use kube::runtime::watcher::Event;
use mcp_auth_credentials::{AdministratorPolicy, Changes, Credentials, TokenRefreshRequests};
use mcp_auth_protocol::pod::AUDIENCE;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::super::exchange::exchange;
use super::super::token_claims::unsigned;
use super::super::{Authenticator, DebouncedChanges, Snapshots};
use super::*;
use crate::certificates::Certificates;
use crate::connection_bounds::{ConnectionBounds, ConnectionLimits};
use crate::exchange_limits::{EXCHANGES, EXCHANGES_OF_PODS};
use crate::leader::Leader;
use crate::leader_client::LeaderClient;
use crate::liveness::Liveness;
use crate::metrics::Metrics;
use crate::pods::{PodNotices, Pods};
use crate::resources::{ResourceEvent, Resources};
use crate::shares::Shares;
use crate::sidecars::Sidecars;

/// A replica that knows the tokens, with a resource of the namespace `llm` that selects pods called `litellm`.
struct Scene {
    sync: Arc<Sync>,
    /// Shown by the watch of resources.
    events: mpsc::UnboundedSender<Event<mcp_auth_crds::McpServerAuth>>,
    _knows_tokens: watch::Sender<bool>,
}

/// With this server, for the pods that are called so.
fn resource(server: &str, pods: &str) -> mcp_auth_crds::McpServerAuth {
    serde_json::from_value(json!({
        "apiVersion": "mcpauth.dev/v1alpha1",
        "kind": "McpServerAuth",
        "metadata": {"name": server, "namespace": "llm"},
        "spec": {
            "server": {"name": server, "url": format!("https://{server}.example.com/mcp")},
            "bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}},
            "podSelector": {"matchLabels": {"app": pods}},
        },
    }))
    .unwrap()
}

/// One that takes every token, and has a pod for each, with what stands before the number in its name as a label. The tokens of pods called
/// `hanging` are never reviewed; that of `slow` is after 9 s, and nothing else is said of it.
fn api_server() -> Router {
    let review = async |Json(review): Json<TokenReview>| {
        let token = review.spec.token.unwrap();
        let claims = BASE64_URL_SAFE_NO_PAD
            .decode(token.split('.').nth(1).unwrap())
            .unwrap();
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        let pod = &claims["kubernetes.io"];
        let (namespace, name) = (
            pod["namespace"].as_str().unwrap(),
            pod["pod"]["name"].as_str().unwrap(),
        );
        match label(name) {
            "hanging" => std::future::pending().await,
            "slow" => tokio::time::sleep(Duration::from_secs(9)).await,
            _ => {}
        }
        Json(json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {},
            "status": {
                "authenticated": true,
                "audiences": [AUDIENCE],
                "user": {
                    "username": format!("system:serviceaccount:{namespace}:default"),
                    "extra": {
                        "authentication.kubernetes.io/pod-name": [name],
                        "authentication.kubernetes.io/pod-uid": [name],
                    },
                },
            },
        }))
    };
    let pod = async |Path((namespace, name)): Path<(String, String)>| {
        if label(&name) == "slow" {
            std::future::pending::<()>().await;
        }
        Json(json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
            "metadata": {"name": name, "namespace": namespace, "uid": name, "labels": {"app": label(&name)}},
        }))
    };
    Router::new()
        .route("/apis/authentication.k8s.io/v1/tokenreviews", post(review))
        .route("/api/v1/namespaces/{namespace}/pods/{name}", get(pod))
}

fn label(name: &str) -> &str {
    name.split('-').next().unwrap()
}

impl Scene {
    async fn new() -> Self {
        let changes = Changes::default();
        let (events, mut shown) = mpsc::unbounded_channel();
        for event in [
            Event::Init,
            Event::InitApply(resource("tools", "litellm")),
            Event::InitDone,
        ] {
            events.send(event).unwrap();
        }
        let shown = futures::stream::poll_fn(move |context| shown.poll_recv(context)).map(Ok);
        let (resources, mut watch) =
            Resources::from_watches(vec![None], vec![shown.boxed()], changes.clone());
        while watch.next().await != ResourceEvent::Listed {}
        tokio::spawn(async move {
            loop {
                watch.next().await;
            }
        });
        let client = Client::new(api_server(), "default");
        let credentials = Credentials::new(changes.clone(), mpsc::unbounded_channel().0);
        let certificates = Certificates::self_made();
        let knows_tokens = watch::Sender::new(true);
        let leader = watch::Sender::new(Leader::Unknown).subscribe();
        let sync = Sync {
            authenticator: Authenticator::new(client.clone()),
            leads: knows_tokens.subscribe(),
            knows_tokens: knows_tokens.subscribe(),
            leader: LeaderClient::new(certificates.clone(), &[], None, leader),
            snapshots: Snapshots::new(
                resources.clone(),
                credentials.clone(),
                certificates,
                changes.clone(),
                AdministratorPolicy::default(),
            ),
            resources,
            credentials,
            token_refresh_requests: TokenRefreshRequests::new().0,
            pods: Pods::new(client, changes.clone(), PodNotices::none(), Liveness::default()).0,
            changes: DebouncedChanges::new(changes),
            sidecars: Sidecars::new().0,
            streams: Shares::new(STREAMS),
            streams_of_unselected: Shares::new(ShareLimits { total: 5, of_one: 2 }),
            exchanges_of_pods: Shares::new(EXCHANGES_OF_PODS),
            exchanges: Shares::new(EXCHANGES),
            metrics: Metrics::default(),
            longest_stream: Duration::from_secs(1800),
            longest_silence: Duration::from_secs(300),
        };
        Self {
            sync: Arc::new(sync),
            events,
            _knows_tokens: knows_tokens,
        }
    }

    /// The stream of a pod, by a connection that has this place.
    async fn open_by(&self, place: Option<Arc<Place>>, namespace: &str, name: &str) -> Response {
        let pod = json!({"namespace": namespace, "name": name, "uid": name});
        let report = json!({"pod": pod, "version": "0.1.0"}).to_string() + "\n";
        let report = futures::stream::iter([Ok::<_, Infallible>(report)]);
        let body = Body::from_stream(report.chain(futures::stream::pending()));
        open(State(self.sync.clone()), request(place, namespace, name, body)).await
    }

    async fn open(&self, namespace: &str, name: &str) -> Response {
        self.open_by(None, namespace, name).await
    }
}

fn request(place: Option<Arc<Place>>, namespace: &str, name: &str, body: Body) -> Request {
    let token = unsigned(&json!({
        "aud": [AUDIENCE],
        "kubernetes.io": {"namespace": namespace, "pod": {"name": name, "uid": name}},
    }));
    let request = Request::post("/").header(header::AUTHORIZATION, format!("Bearer {token}"));
    let mut request = request.body(body).unwrap();
    if let Some(place) = place {
        request.extensions_mut().insert(place);
    }
    request
}

async fn problem(response: Response) -> (StatusCode, String) {
    let status = response.status();
    let text = body::to_bytes(response.into_body(), 1 << 16).await.unwrap();
    (status, String::from_utf8(text.to_vec()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_whose_turns_add_up_hears_why_before_it_gives_up() {
    let scene = Scene::new().await;
    // Two rounds of them have their turns before the sidecar has.
    let hanging = (0..100).map(async |number| scene.open("llm", &format!("hanging-{number}")).await);
    let hanging = futures::future::join_all(hanging.collect::<Vec<_>>());
    let slow = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        tokio::time::timeout(SYNC_SILENCE - Duration::from_secs(2), scene.open("llm", "slow-0")).await
    };
    let (_, answer) = tokio::join!(hanging, slow);
    let (status, problem) = problem(answer.expect("the sidecar has given up")).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        problem.contains("ApiServer") && problem.contains("40 s"),
        "{problem}"
    );
    assert_eq!(scene.open("llm", "litellm-0").await.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn pods_that_no_resource_selects_have_few_streams_and_a_selected_one_always_has_its_own() {
    let scene = Scene::new().await;
    let mut streams = Vec::new();
    // Of namespaces with and without resources: two of each, and five of all.
    for (namespace, are_served) in [("llm", 2), ("strangers", 2), ("others", 1)] {
        for number in 0..4 {
            let stream = scene.open(namespace, &format!("stranger-{number}")).await;
            if number < are_served {
                assert_eq!(stream.status(), StatusCode::OK);
                streams.push(stream);
                continue;
            }
            let (status, problem) = problem(stream).await;
            assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
            assert!(
                problem.contains("TooManyStreams") && problem.contains("McpServerAuth"),
                "{problem}"
            );
        }
    }
    for number in 0..10 {
        let stream = scene.open("llm", &format!("litellm-{number}")).await;
        assert_eq!(stream.status(), StatusCode::OK);
        streams.push(stream);
    }
    // What is given back is another pod's.
    streams.remove(4);
    let mut lines = scene
        .open("others", "stranger-5")
        .await
        .into_body()
        .into_data_stream();
    drop(streams.remove(0));
    let waiting = scene.open("llm", "soon-0").await;
    assert_eq!(waiting.status(), StatusCode::OK);
    let mut waiting = waiting.into_body().into_data_stream();
    let mut next = async |name: &str| {
        while !String::from_utf8(waiting.next().await.unwrap().unwrap().to_vec())
            .unwrap()
            .contains(name)
        {}
    };
    next("\"servers\":[]").await;
    assert_eq!(
        scene.open("llm", "stranger-6").await.status(),
        StatusCode::TOO_MANY_REQUESTS
    );
    // A resource that comes selects it.
    scene
        .events
        .send(Event::Apply(resource("files", "soon")))
        .unwrap();
    next("files").await;
    assert_eq!(scene.open("llm", "stranger-6").await.status(), StatusCode::OK);
    assert!(lines.next().await.is_some());
}

#[tokio::test(start_paused = true)]
async fn the_connection_of_a_pod_that_a_resource_selects_stays_and_that_of_another_gives_way() {
    let scene = Scene::new().await;
    let bounds = ConnectionBounds::new(ConnectionLimits {
        total: 3,
        without_request: 3,
        unauthenticated_by_address: 3,
        by_pod: 3,
        not_entitled: 0,
    });
    let enter = || Arc::new(bounds.enter([10, 0, 0, 1].into()).unwrap());
    let [of_selected, of_exchange, of_stranger] = [(); 3].map(|()| enter());
    let selected = scene.open_by(Some(of_selected.clone()), "llm", "litellm-0").await;
    let stranger = scene
        .open_by(Some(of_stranger.clone()), "strangers", "stranger-0")
        .await;
    assert_eq!(
        (selected.status(), stranger.status()),
        (StatusCode::OK, StatusCode::OK)
    );
    let wanted = json!({
        "pod": {"namespace": "llm", "name": "litellm-1", "uid": "litellm-1"},
        "server": "tools", "url": "https://tools.example.com/mcp", "subjectToken": "t",
    });
    let body = Body::from(wanted.to_string());
    exchange(
        State(scene.sync.clone()),
        request(Some(of_exchange.clone()), "llm", "litellm-1", body),
    )
    .await;
    // Each newcomer takes the place of what is not entitled.
    let newcomers = [(); 5].map(|()| enter());
    let is_closed = |place: &Arc<Place>| futures::FutureExt::now_or_never(place.closed()).is_some();
    assert!(is_closed(&of_stranger));
    assert!(!is_closed(&of_selected) && !is_closed(&of_exchange));
    assert!(!is_closed(&newcomers[4]));
}

#[test]
fn streams_that_began_together_end_apart() {
    let longest = Duration::from_secs(1800);
    assert_eq!(lifetime(longest, 0.0), longest);
    assert_eq!(lifetime(longest, 0.5), Duration::from_secs(1620));
    assert_eq!(lifetime(longest, 1.0), Duration::from_secs(1440));
}

#[test]
fn heartbeats_of_streams_that_began_apart_fall_on_the_same_ticks_and_none_is_late() {
    let origin = Instant::now();
    for milliseconds in [0, 1, 249, 250, 251, 100_003] {
        let now = origin + Duration::from_millis(milliseconds);
        let first = next_heartbeat(origin, now);
        let wait = first - now;
        assert!(wait <= HEARTBEAT && wait > HEARTBEAT - HEARTBEAT_GRID, "{wait:?}");
        let since = first - origin;
        assert_eq!(since.as_millis() % HEARTBEAT_GRID.as_millis(), 0);
        assert!(HEARTBEAT.as_millis().is_multiple_of(HEARTBEAT_GRID.as_millis()));
    }
}
