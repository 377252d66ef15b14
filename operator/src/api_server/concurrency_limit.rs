//! Concurrency limit of requests to the API server: the client's pool opens a connection for each request that finds none free, so that
//! what is under way at once bounds the connections. A watch is one for each namespace and kind, and is not counted. Neither is the list
//! that it begins with, since it watches only afterwards: lists have turns of their own, and a deadline, so that sidecars that come all
//! together hold up no list, and lists no sidecar.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::http::{Request, Response, Uri};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use hyper::body::{Body, Frame, SizeHint};
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tower::{BoxError, Layer, Service};

/// Requests under way at once: TokenReviews, statuses and a few others, each of which has a bound of its own. A connection that the pool
/// begins for a request which then finds a free one stays too: with this many and those of lists there are fewer than 100, watches aside.
pub const MAX_CALLS: usize = 48;
/// Pages of watches' lists under way at once.
const MAX_WATCH_LISTS: usize = 16;
/// Longest wait for one page of such a list, as long as an API server works on a request (`--request-timeout`). The watcher then lists
/// again, later each time.
const WATCH_LIST_TIMEOUT: Duration = Duration::from_secs(60);
/// Of Leases, which one task asks for, one after the other: whatever the others wait for, a leader renews.
const LEASES: &str = "/apis/coordination.k8s.io/";

/// A page of a watch's list did not come, or not to its end.
#[derive(Clone, Copy, Debug, Error)]
#[error("the API server did not list within {} s", WATCH_LIST_TIMEOUT.as_secs())]
struct WatchListTimeoutError;

/// Cheap to clone; all that is made by one layer shares the limit.
#[derive(Clone)]
pub struct ConcurrencyLimit {
    calls: Arc<Semaphore>,
    watch_lists: Arc<Semaphore>,
}

#[derive(Clone)]
pub struct Limited<S> {
    inner: S,
    limit: ConcurrencyLimit,
}

/// What a request counts as.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum RequestKind {
    Call,
    WatchList,
    NotCounted,
}

impl ConcurrencyLimit {
    pub fn new(max_calls: usize) -> Self {
        Self {
            calls: Arc::new(Semaphore::new(max_calls)),
            watch_lists: Arc::new(Semaphore::new(MAX_WATCH_LISTS)),
        }
    }
}

impl<S> Layer<S> for ConcurrencyLimit {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Limited<S> {
        Limited {
            inner,
            limit: self.clone(),
        }
    }
}

impl<S, Q, B> Service<Request<Q>> for Limited<S>
where
    S: Service<Request<Q>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<LimitedBody<B>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let kind = request_kind(request.uri());
        let turns = match kind {
            RequestKind::Call => Some(self.limit.calls.clone()),
            RequestKind::WatchList => Some(self.limit.watch_lists.clone()),
            RequestKind::NotCounted => None,
        };
        // Nothing is sent before it is polled.
        let answer = self.inner.call(request);
        async move {
            let permit = match turns {
                Some(turns) => Some(turns.acquire_owned().await.expect("it is never closed")),
                None => None,
            };
            let mut deadline = (kind == RequestKind::WatchList).then(|| Box::pin(sleep(WATCH_LIST_TIMEOUT)));
            let answer = match &mut deadline {
                Some(deadline) => tokio::select! {
                    answer = answer => answer,
                    () = deadline => return Err(WatchListTimeoutError.into()),
                },
                None => answer.await,
            };
            Ok(answer.map_err(Into::into)?.map(|body| LimitedBody {
                body,
                deadline,
                _permit: permit,
            }))
        }
        .boxed()
    }
}

/// The connection is free again when the answer has been read, or is given up.
pub struct LimitedBody<B> {
    body: B,
    /// Until when the whole body has to be there.
    deadline: Option<Pin<Box<Sleep>>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl<B> Body for LimitedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let Some(deadline) = &mut self.deadline else {
            return Poll::Pending;
        };
        ready!(deadline.as_mut().poll(context));
        Poll::Ready(Some(Err(WatchListTimeoutError.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A watcher lists page by page, with a limit; what is listed once for a decision is listed whole, and is a call as any other.
fn request_kind(uri: &Uri) -> RequestKind {
    let has = |parameter: fn(&str) -> bool| uri.query().is_some_and(|query| query.split('&').any(parameter));
    if uri.path().starts_with(LEASES) || has(|pair| pair == "watch=true") {
        RequestKind::NotCounted
    } else if has(|pair| pair.starts_with("limit=")) {
        RequestKind::WatchList
    } else {
        RequestKind::Call
    }
}

#[cfg(test)]
mod tests;
