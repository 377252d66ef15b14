//! Against an API server that knows one ReplicaSet.

/// As the other tests have it: their crate has the whole operator built, and cannot be used here.
#[path = "../../../tests/src/admission_review.rs"]
mod admission_review;

use std::sync::atomic::{AtomicUsize, Ordering};

use admission_review::admission_review;
use axum::body::Body;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use kube::Client;
use kube::runtime::watcher::Event;
use mcp_auth_credentials::Changes;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::review_bounds::tests::request_from;
use super::*;
use crate::resources::ResourceEvent;

/// An API server, and how often it was asked.
#[derive(Clone, Default)]
struct ApiServer {
    owners: Arc<AtomicUsize>,
    limits: Arc<AtomicUsize>,
    /// Before each of its answers.
    delay: Duration,
}

impl ApiServer {
    fn client(&self) -> Client {
        let asked = self.clone();
        let replica_set = async move |Path((namespace, name)): Path<(String, String)>| -> Response {
            asked.owners.fetch_add(1, Ordering::SeqCst);
            sleep(asked.delay).await;
            if name != "litellm-7c9" || namespace != "llm" {
                let status = json!({
                    "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "reason": "NotFound",
                    "message": "not found", "code": 404,
                });
                return (StatusCode::NOT_FOUND, Json(status)).into_response();
            }
            Json(json!({
                "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                "metadata": {"name": name, "namespace": namespace, "uid": "the-uid"},
            }))
            .into_response()
        };
        let asked = self.clone();
        let limits = async move || -> Response {
            asked.limits.fetch_add(1, Ordering::SeqCst);
            sleep(asked.delay).await;
            Json(json!({"metadata": {}, "items": []})).into_response()
        };
        let router = Router::new()
            .route(
                "/apis/apps/v1/namespaces/{namespace}/replicasets/{name}",
                get(replica_set),
            )
            .route(
                "/api/v1/namespaces/{namespace}/resourcequotas",
                get(limits.clone()),
            )
            .route("/api/v1/namespaces/{namespace}/limitranges", get(limits));
        Client::new(router, "default")
    }

    fn owners_asked(&self) -> usize {
        self.owners.load(Ordering::SeqCst)
    }

    /// Each time there are two lists.
    fn limits_asked(&self) -> usize {
        self.limits.load(Ordering::SeqCst) / 2
    }
}

/// A resource in each of the namespaces `llm` and `other`.
async fn admission(api_server: &ApiServer) -> Admission {
    let resource = |namespace: &str| -> McpServerAuth {
        serde_json::from_value(json!({
            "apiVersion": "mcpauth.dev/v1alpha1",
            "kind": "McpServerAuth",
            "metadata": {"name": "tools", "namespace": namespace, "generation": 1},
            "spec": {
                "server": {"name": "tools", "url": "https://tools.example.com/mcp"},
                "bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}},
            },
        }))
        .unwrap()
    };
    let [one, other] = ["llm", "other"].map(|namespace| Event::InitApply(resource(namespace)));
    let events = stream::iter([Event::Init, one, other, Event::InitDone].map(Ok));
    let events = events.chain(stream::pending());
    let (resources, mut resource_watch) =
        Resources::from_watches(vec![None], vec![events.boxed()], Changes::default());
    while resource_watch.next().await != ResourceEvent::Listed {}
    let client = api_server.client();
    Admission {
        settings: serde_json::from_value(json!({"image": "sidecar"})).unwrap(),
        certificates: Certificates::self_made(),
        resources,
        metrics: Metrics::default(),
        calls: WebhookCalls::new(Timestamp::now(), 10250),
        refused: RefusedPods::new(mpsc::unbounded_channel().0),
        owners: PodOwners::new(client.clone()),
        namespace_limits: NamespaceLimitsLookup::new(client.clone()),
        bounds: ReviewBounds::default(),
        events: WorkloadEvents::unread(),
    }
}

/// Of the ReplicaSet with this name and UID.
fn owner(name: &str, uid: &str) -> Value {
    json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": uid, "controller": true}])
}

/// A review of a pod that cannot be injected and asks for it.
fn review_of(namespace: &str, owners: &Value, dry_run: bool) -> Value {
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "litellm-7c9-",
            "labels": {
                "app.kubernetes.io/name": "litellm", "pod-template-hash": "7c9", "mcpauth.dev/inject": "true",
            },
            "ownerReferences": owners,
        },
        "spec": {
            "containers": [{"name": "litellm", "image": "litellm", "args": ["--ssl_keyfile_path", "/tls/key"]}],
        },
    });
    let mut review = admission_review(namespace, &pod);
    review["request"]["dryRun"] = dry_run.into();
    review
}

async fn answer(admission: &Admission, review: &Value) -> Result<Value, StatusCode> {
    let request = Request::post(PATH).body(Body::from(review.to_string())).unwrap();
    let answer = super::review(State(admission.clone()), request).await;
    let Json(answer) = answer.map_err(|(status, _)| status)?;
    Ok(serde_json::to_value(answer).unwrap())
}

async fn review_of_owned_pod(admission: &Admission, uid: &str, dry_run: bool) -> Value {
    let review = review_of("llm", &owner("litellm-7c9", uid), dry_run);
    answer(admission, &review).await.unwrap()
}

#[tokio::test]
async fn a_stranger_that_makes_up_a_thousand_owners_has_the_api_server_asked_thirty_times_in_a_minute() {
    let api_server = ApiServer::default();
    let admission = admission(&api_server).await;
    for number in 0..1_000 {
        let answer = review_of_owned_pod(&admission, &format!("made-up-{number}"), false).await;
        assert_eq!(
            answer["response"]["allowed"], false,
            "it is answered all the same"
        );
    }
    assert_eq!(api_server.owners_asked(), 30);
    // Another namespace with resources has its own.
    let review = review_of("other", &owner("litellm-7c9", "made-up"), false);
    answer(&admission, &review).await.unwrap();
    assert_eq!(api_server.owners_asked(), 31);
}

#[tokio::test]
async fn a_stranger_that_makes_up_a_thousand_namespaces_has_the_api_server_asked_thirty_times_in_a_minute() {
    let api_server = ApiServer::default();
    let admission = admission(&api_server).await;
    for number in 0..1_000 {
        let review = review_of(
            &format!("made-up-{number}"),
            &owner("litellm-7c9", "made-up"),
            false,
        );
        let answer = answer(&admission, &review).await.unwrap();
        assert_eq!(answer["response"]["allowed"], false, "{answer}");
    }
    assert_eq!(api_server.owners_asked(), 30);
    // A namespace with resources suffers nothing by it.
    review_of_owned_pod(&admission, "the-uid", false).await;
    assert_eq!(api_server.owners_asked(), 31);
    assert!(admission.calls.is_called());
}

#[tokio::test]
async fn for_a_thousand_pods_without_an_owner_limits_are_asked_for_thirty_times_in_a_minute_and_namespace() {
    let api_server = ApiServer::default();
    let admission = admission(&api_server).await;
    let of_custom_kind = json!([
        {"apiVersion": "apps.kruise.io/v1alpha1", "kind": "CloneSet", "name": "litellm", "uid": "1", "controller": true},
    ]);
    for owners in [json!([]), of_custom_kind] {
        for _ in 0..500 {
            answer(&admission, &review_of("llm", &owners, false))
                .await
                .unwrap();
        }
    }
    assert_eq!(api_server.limits_asked(), 30);
    answer(&admission, &review_of("other", &json!([]), false))
        .await
        .unwrap();
    assert_eq!(api_server.limits_asked(), 31);
    review_of_owned_pod(&admission, "the-uid", false).await;
    assert_eq!(
        api_server.limits_asked(),
        32,
        "nor do pods of workloads suffer by it"
    );
    for number in 0..1_000 {
        let review = review_of(&format!("made-up-{number}"), &json!([]), false);
        answer(&admission, &review).await.unwrap();
    }
    assert_eq!(
        api_server.limits_asked(),
        32,
        "where no resource is there is nothing to fit"
    );
    assert_eq!(api_server.owners_asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_api_server_is_waited_for_once_and_for_three_seconds_in_all() {
    let slow = ApiServer {
        delay: Duration::from_secs(2),
        ..ApiServer::default()
    };
    let slow_admission = admission(&slow).await;
    let begun = Instant::now();
    review_of_owned_pod(&slow_admission, "the-uid", false).await;
    assert!(
        slow_admission.calls.is_called(),
        "owner and limits are asked for together"
    );
    assert_eq!((slow.owners_asked(), slow.limits_asked()), (1, 1));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());

    let silent = ApiServer {
        delay: Duration::from_secs(3600),
        ..ApiServer::default()
    };
    let silent = admission(&silent).await;
    let answered_after = async |path: &str, namespace: &str| {
        let review = review_of(namespace, &owner("litellm-7c9", "the-uid"), false);
        let begun = Instant::now();
        let request = Request::post(path).body(Body::from(review.to_string())).unwrap();
        drop(super::review(State(silent.clone()), request).await.unwrap());
        begun.elapsed().as_millis()
    };
    for namespace in ["llm", "without-resources"] {
        let [default, given, short] =
            ["", "?timeout=30s", "?timeout=1s"].map(|query| format!("{PATH}{query}"));
        assert!((3000..3100).contains(&answered_after(&default, namespace).await));
        assert!((3000..3100).contains(&answered_after(&given, namespace).await));
        assert!((600..700).contains(&answered_after(&short, namespace).await));
    }
    // Those that wait for their turn wait no longer.
    let crowd = (0..40).map(|_| answered_after(PATH, "llm"));
    let waited = futures::future::join_all(crowd).await;
    assert!(waited.iter().all(|waited| *waited < 3100), "{waited:?}");
}

#[tokio::test]
async fn what_no_object_can_be_called_does_not_get_into_a_request_to_the_api_server() {
    let api_server = ApiServer::default();
    let admission = admission(&api_server).await;
    let long = "a".repeat(64);
    for namespace in ["llm/replicasets?", "llm/../kube-system", "LLM", "a.b", "", &long] {
        let review = review_of(namespace, &owner("litellm-7c9", "the-uid"), false);
        let status = answer(&admission, &review).await.unwrap_err();
        assert_eq!(status, StatusCode::BAD_REQUEST, "{namespace}");
    }
    for name in [
        "litellm-7c9/scale",
        "litellm-7c9?watch=true",
        "",
        "../litellm-7c9",
    ] {
        let review = review_of("llm", &owner(name, "the-uid"), false);
        let answer = answer(&admission, &review).await.unwrap();
        assert_eq!(answer["response"]["allowed"], false, "{answer}");
    }
    assert!(!admission.calls.is_called());
    assert_eq!((api_server.owners_asked(), api_server.limits_asked()), (0, 0));
}

#[tokio::test]
async fn a_review_that_anybody_may_have_made_up_says_nothing_of_the_api_server_and_of_no_refusal() {
    let admission = admission(&ApiServer::default()).await;
    let refused = |admission: &Admission| admission.refused.in_namespace("llm", Timestamp::now());
    let answer = review_of_owned_pod(&admission, "made up", false).await;
    assert_eq!(answer["response"]["allowed"], false, "{answer}");
    assert!(
        !admission.calls.is_called(),
        "the webhook may be out of reach all the same"
    );
    assert!(refused(&admission).is_empty());

    review_of_owned_pod(&admission, "the-uid", true).await;
    assert!(admission.calls.is_called());
    assert!(refused(&admission).is_empty(), "of a dry run there is no pod");

    review_of_owned_pod(&admission, "the-uid", false).await;
    let refused = refused(&admission);
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].maker().to_string(), "Deployment litellm");
    assert!(refused[0].text.starts_with("LiteLlmTls: "), "{}", refused[0].text);
}

#[tokio::test(start_paused = true)]
async fn ten_addresses_whose_bodies_stall_or_drip_keep_no_api_server_waiting_whose_pods_have_owners() {
    let admission = admission(&ApiServer::default()).await;
    let review = review_of("llm", &owner("litellm-7c9", "the-uid"), false).to_string();
    let is_answered = async || {
        let request = request_from([10, 0, 1, 1], review.clone());
        super::review(State(admission.clone()), request).await.is_ok()
    };
    assert!(is_answered().await);

    // Each more than an address may have under way, again and again: bodies that stall, and others of which a byte comes in time.
    let mut crowd = JoinSet::new();
    for number in 0..80 {
        let admission = admission.clone();
        crowd.spawn(async move {
            sleep(Duration::from_millis(37) * number).await;
            loop {
                let begun = stream::iter([Ok::<_, std::io::Error>(vec![b' '; 1024 * 1024 - 100])]);
                let more = stream::repeat(number % 2 == 0).then(async |drips| match drips {
                    true => {
                        sleep(Duration::from_millis(900)).await;
                        Ok(vec![b' '])
                    }
                    false => std::future::pending().await,
                });
                let last = u8::try_from(number % 10).unwrap();
                let request = request_from([10, 0, 0, last], Body::from_stream(begun.chain(more)));
                let answer = super::review(State(admission.clone()), request).await;
                assert!(answer.is_err());
            }
        });
    }
    for _ in 0..20 {
        sleep(Duration::from_millis(500)).await;
        assert!(is_answered().await);
    }
}
