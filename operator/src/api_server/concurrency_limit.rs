//! Concurrency limit of requests to the API server: the client's pool opens a connection for each request that finds none free, so that
//! what is under way at once bounds the connections. Watches are one for each namespace and kind, and not counted.

use std::sync::Arc;
use std::task::{Context, Poll};

use axum::http::{Request, Response, Uri};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http_body_util::BodyExt;
use http_body_util::combinators::MapFrame;
use hyper::body::{Body, Frame};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::{Layer, Service};

/// Requests under way at once: the 50 TokenReviews, the 16 statuses and a few others, each of which has a bound of its own.
pub const MAX_CALLS: usize = 80;
/// Of Leases, which one task asks for, one after the other: whatever the others wait for, a leader renews.
const LEASES: &str = "/apis/coordination.k8s.io/";

/// Cheap to clone; all that is made by one layer shares the limit.
#[derive(Clone)]
pub struct ConcurrencyLimit(Arc<Semaphore>);

#[derive(Clone)]
pub struct Limited<S> {
    inner: S,
    calls: Arc<Semaphore>,
}

impl ConcurrencyLimit {
    pub fn new(max_calls: usize) -> Self {
        Self(Arc::new(Semaphore::new(max_calls)))
    }
}

impl<S> Layer<S> for ConcurrencyLimit {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Limited<S> {
        Limited {
            inner,
            calls: self.0.clone(),
        }
    }
}

type WithPermit = Box<dyn FnMut(Frame<Bytes>) -> Frame<Bytes> + Send>;

impl<S, Q, B> Service<Request<Q>> for Limited<S>
where
    S: Service<Request<Q>, Response = Response<B>>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + 'static,
{
    type Response = Response<MapFrame<B, WithPermit>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let is_counted = is_counted(request.uri());
        let calls = self.calls.clone();
        // Nothing is sent before it is polled.
        let answer = self.inner.call(request);
        async move {
            let permit = match is_counted {
                true => Some(calls.acquire_owned().await.expect("it is never closed")),
                false => None,
            };
            Ok(answer.await?.map(|body| body.map_frame(keeping(permit))))
        }
        .boxed()
    }
}

/// The connection is free again when the answer has been read, or is given up.
fn keeping(permit: Option<OwnedSemaphorePermit>) -> WithPermit {
    Box::new(move |frame| {
        let _ = &permit;
        frame
    })
}

fn is_counted(uri: &Uri) -> bool {
    let is_watch = |query: &str| query.split('&').any(|pair| pair == "watch=true");
    !uri.path().starts_with(LEASES) && !uri.query().is_some_and(is_watch)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use futures::TryFutureExt;
    use futures::future::join_all;
    use http_body_util::Full;
    use tower::service_fn;

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
            Response = Response<impl Body<Data = Bytes, Error = Infallible>>,
            Error = Infallible,
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
                    Ok(Response::new(Full::new(Bytes::from_static(b"{}"))))
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
    fn what_is_a_watch_is_told_by_its_query_alone() {
        for (uri, counted) in [
            (POD, true),
            ("/api/v1/pods?fieldSelector=metadata.name%3Dwatch", true),
            ("/api/v1/pods?watch=true", false),
            ("/api/v1/pods?limit=500&resourceVersion=0", true),
        ] {
            assert_eq!(is_counted(&uri.parse().unwrap()), counted, "{uri}");
        }
    }
}
