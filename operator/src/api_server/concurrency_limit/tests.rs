use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::response::IntoResponse;
use axum::{Json, Router};
use futures::future::join_all;
use futures::{Stream, StreamExt, TryFutureExt, stream};
use http_body_util::{BodyExt, Full};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde_json::json;
use tower::service_fn;

use super::super::tests::not_found;
use super::*;

const POD: &str = "/api/v1/namespaces/a/pods/b";

#[derive(Clone, Default)]
struct ApiServer {
    under_way: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl ApiServer {
    /// Through a limit of three.
    fn client(
        &self,
    ) -> impl Service<
        Request<()>,
        Response = Response<impl Body<Data = Bytes, Error = BoxError>>,
        Error = BoxError,
        Future: Send,
    > + Clone {
        let server = self.clone();
        let answers = service_fn(move |_: Request<()>| {
            let server = server.clone();
            async move {
                let now = server.under_way.fetch_add(1, Ordering::SeqCst) + 1;
                server.most.fetch_max(now, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_secs(1)).await;
                server.under_way.fetch_sub(1, Ordering::SeqCst);
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"{}"))))
            }
        });
        ConcurrencyLimit::new(3).layer(answers)
    }
}

fn request(uri: &str) -> Request<()> {
    Request::get(uri).body(()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn of_a_hundred_requests_that_come_together_no_more_than_the_limit_are_under_way() {
    let server = ApiServer::default();
    let mut client = server.client();
    let answers = (0..100).map(|_| {
        client
            .call(request(POD))
            .and_then(|answer| answer.into_body().collect())
    });
    let answers = answers.collect::<Vec<_>>();
    assert_eq!(join_all(answers).await.len(), 100);
    assert_eq!(server.most.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn an_answer_counts_until_it_is_read_and_watches_and_leases_never() {
    let server = ApiServer::default();
    let mut client = server.client();
    let answers = (0..3).map(|_| client.call(request(POD))).collect::<Vec<_>>();
    let mut unread = join_all(answers).await;
    let mut next = Box::pin(client.call(request(POD)));
    let wait = Duration::from_secs(60);
    assert!(tokio::time::timeout(wait, &mut next).await.is_err());
    for uncounted in [
        "/api/v1/namespaces/a/pods?&watch=true&timeoutSeconds=290",
        "/apis/coordination.k8s.io/v1/namespaces/a/leases/b",
    ] {
        client.call(request(uncounted)).await.unwrap();
    }
    let answer = unread.pop().unwrap().unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "{}");
    next.await.unwrap();
}

#[test]
fn watches_and_their_lists_are_known_by_their_queries_alone() {
    use RequestKind::{Call, NotCounted, WatchList};
    for (uri, kind) in [
        (POD, Call),
        ("/api/v1/pods?fieldSelector=metadata.name%3Dwatch", Call),
        ("/api/v1/namespaces/a/limitranges?", Call),
        ("/api/v1/pods?watch=true", NotCounted),
        (
            "/apis/coordination.k8s.io/v1/namespaces/a/leases?&limit=500",
            NotCounted,
        ),
        ("/api/v1/pods?&limit=500&continue=abc", WatchList),
    ] {
        assert_eq!(request_kind(&uri.parse().unwrap()), kind, "{uri}");
    }
}

/// Through a limit of three, of an API server that answers so.
fn client<F>(answer: impl Fn(Uri) -> F + Clone + Send + Sync + 'static) -> Client
where
    F: Future<Output = axum::response::Response> + Send + 'static,
{
    let router = Router::new().fallback(answer);
    Client::new(ConcurrencyLimit::new(3).layer(router), "default")
}

fn no_pods() -> axum::response::Response {
    let list =
        json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []});
    Json(list).into_response()
}

fn is_watch(uri: &Uri) -> bool {
    uri.query().unwrap_or_default().contains("watch=true")
}

/// Watches until its list is complete, and has the errors before that.
async fn list(events: &mut (impl Stream<Item = watcher::Result<Event<Pod>>> + Unpin)) -> Vec<watcher::Error> {
    let mut errors = Vec::new();
    loop {
        match events.next().await.unwrap() {
            Ok(Event::InitDone) => return errors,
            Ok(_) => {}
            Err(error) => errors.push(error),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn requests_that_hang_hold_up_no_list_of_a_watch_and_such_lists_no_request() {
    for lists_hang in [false, true] {
        let client = client(move |uri| async move {
            let is_of_all = uri.path().ends_with("/pods");
            if is_watch(&uri) || is_of_all == lists_hang {
                std::future::pending::<()>().await;
            }
            match is_of_all {
                true => no_pods(),
                false => not_found().into_response(),
            }
        });
        let pods = Api::<Pod>::namespaced(client, "llm");
        let request = async |pods: Api<Pod>, is_list: bool| match is_list {
            true => drop(list(&mut watcher(pods, Config::default()).boxed()).await),
            false => assert!(pods.get_opt("litellm-0").await.unwrap().is_none()),
        };
        let hanging = join_all((0..2 * MAX_WATCH_LISTS).map(|_| request(pods.clone(), lists_hang)));
        let answered = async {
            // The others have come before.
            tokio::time::sleep(Duration::from_secs(1)).await;
            request(pods.clone(), !lists_hang).await;
        };
        tokio::select! {
            _ = hanging => unreachable!("nothing is answered to these"),
            () = answered => {}
            () = tokio::time::sleep(WATCH_LIST_TIMEOUT / 2) => panic!("it waits for those that hang: {lists_hang}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_hangs_is_given_up_and_begun_again_and_a_silent_watch_stays() {
    let lists = Arc::new(AtomicUsize::new(0));
    let count = lists.clone();
    let client = client(move |uri| {
        let count = count.clone();
        async move {
            if is_watch(&uri) {
                let pod = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a", "resourceVersion": "2"}});
                let event = Bytes::from(json!({"type": "ADDED", "object": pod}).to_string() + "\n");
                let event = async {
                    tokio::time::sleep(3 * WATCH_LIST_TIMEOUT).await;
                    Ok::<_, Infallible>(event)
                };
                let events = stream::once(event).chain(stream::pending());
                return axum::body::Body::from_stream(events).into_response();
            }
            match count.fetch_add(1, Ordering::SeqCst) {
                0 => std::future::pending().await,
                1 => {
                    let part = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"{\"kind\":"))]);
                    axum::body::Body::from_stream(part.chain(stream::pending())).into_response()
                }
                _ => no_pods(),
            }
        }
    });
    let pods = Api::<Pod>::namespaced(client, "llm");
    let mut events = watcher(pods, Config::default()).default_backoff().boxed();
    let errors = tokio::time::timeout(4 * WATCH_LIST_TIMEOUT, list(&mut events)).await;
    let errors = errors.expect("it goes on");
    assert_eq!(errors.len(), 2);
    for error in errors {
        assert!(
            format!("{error:?}").contains("WatchListTimeoutError"),
            "{error:?}"
        );
    }
    assert_eq!(lists.load(Ordering::SeqCst), 3);
    let event = events.next().await.unwrap();
    assert!(matches!(&event, Ok(Event::Apply(_))), "{event:?}");
}
