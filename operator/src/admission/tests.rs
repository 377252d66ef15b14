//! Against an API server that knows one ReplicaSet.

use std::sync::atomic::{AtomicUsize, Ordering};

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

use super::*;
use crate::resources::ResourceEvent;

/// How often the API server was asked.
static LOOKUPS: AtomicUsize = AtomicUsize::new(0);

async fn replica_set(Path(name): Path<String>) -> Response {
    LOOKUPS.fetch_add(1, Ordering::SeqCst);
    if name != "litellm-7c9" {
        return StatusCode::NOT_FOUND.into_response();
    }
    Json(json!({
        "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
        "metadata": {"name": name, "namespace": "llm", "uid": "the-uid"},
    }))
    .into_response()
}

async fn admission() -> Admission {
    let resource: McpServerAuth = serde_json::from_value(json!({
        "apiVersion": "mcpauth.dev/v1alpha1",
        "kind": "McpServerAuth",
        "metadata": {"name": "tools", "namespace": "llm", "generation": 1},
        "spec": {
            "server": {"name": "tools", "url": "https://tools.example.com/mcp"},
            "bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}},
        },
    }))
    .unwrap();
    let events = stream::iter([Event::Init, Event::InitApply(resource), Event::InitDone].map(Ok));
    let events = events.chain(stream::pending());
    let (resources, mut resource_watch) =
        Resources::from_watches(vec![None], vec![events.boxed()], Changes::default());
    while resource_watch.next().await != ResourceEvent::Listed {}
    let path = "/apis/apps/v1/namespaces/llm/replicasets/{name}";
    let client = Client::new(Router::new().route(path, get(replica_set)), "default");
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

/// Has a pod reviewed that cannot be injected and asks for it, of the ReplicaSet with this UID.
async fn review_of_owned_pod(admission: &Admission, uid: &str, dry_run: bool) -> Value {
    let owner = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "litellm-7c9", "uid": uid, "controller": true,
    });
    let review = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "u-1",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "llm",
            "operation": "CREATE",
            "dryRun": dry_run,
            "userInfo": {},
            "object": {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "generateName": "litellm-7c9-",
                    "labels": {
                        "app.kubernetes.io/name": "litellm", "pod-template-hash": "7c9", "mcpauth.dev/inject": "true",
                    },
                    "ownerReferences": [owner],
                },
                "spec": {
                    "containers": [{"name": "litellm", "image": "litellm", "args": ["--ssl_keyfile_path", "/tls/key"]}],
                },
            },
        },
    });
    let request = Request::post(PATH).body(Body::from(review.to_string())).unwrap();
    let Json(answer) = super::review(State(admission.clone()), request).await.unwrap();
    serde_json::to_value(answer).unwrap()
}

#[tokio::test]
async fn a_stranger_that_makes_up_a_thousand_owners_has_the_api_server_asked_thirty_times_in_a_minute() {
    let admission = admission().await;
    let before = LOOKUPS.load(Ordering::SeqCst);
    for number in 0..1_000 {
        let answer = review_of_owned_pod(&admission, &format!("made-up-{number}"), false).await;
        assert_eq!(
            answer["response"]["allowed"], false,
            "it is answered all the same"
        );
    }
    let asked = LOOKUPS.load(Ordering::SeqCst) - before;
    // The other test of this file asks a few times.
    assert!((30..=33).contains(&asked), "{asked}");
}

#[tokio::test]
async fn a_review_that_anybody_may_have_made_up_says_nothing_of_the_api_server_and_of_no_refusal() {
    let admission = admission().await;
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
