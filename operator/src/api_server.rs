//! Requests to the API server: their deadline, and whether one was forbidden.

mod concurrency_limit;

use std::time::Duration;

use kube::client::ClientBuilder;
use kube::runtime::watcher;
use kube::{Client, Config};

use concurrency_limit::ConcurrencyLimit;
pub use concurrency_limit::MAX_CALLS;

/// Field manager of the statuses of resources.
pub const STATUS_MANAGER: &str = "mcp-auth-operator";
/// Longest wait for one answer. The client has none of its own, since watches have to last.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A client that has a bounded number of requests under way, and so of connections, besides one for each watch, be it listing or watching.
pub fn client(config: Config) -> kube::Result<Client> {
    Ok(ClientBuilder::try_from(config)?
        .with_layer(&ConcurrencyLimit::new(MAX_CALLS))
        .build())
}

/// The answer, or an error if the API server does not answer in time.
pub async fn with_deadline<T>(call: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(answer) => answer,
        Err(_) => {
            let silence = format!(
                "the API server did not answer within {} s",
                CALL_TIMEOUT.as_secs()
            );
            Err(kube::Error::Service(silence.into()))
        }
    }
}

/// Whether a watch fails because the operator has no right to it.
pub fn is_forbidden(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 403,
        watcher::Error::WatchError(status) => status.code == 403,
        _ => false,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::http::StatusCode;
    use axum::{Json, Router};
    use futures::future::join_all;
    use hyper::server::conn::http1;
    use hyper_util::rt::TokioIo;
    use hyper_util::service::TowerToHyperService;
    use k8s_openapi::api::core::v1::Pod;
    use kube::Api;
    use serde_json::{Value, json};
    use tokio::net::TcpListener;
    use tokio::sync::watch;

    use super::*;

    /// The answer of an API server that does not know the object.
    pub fn not_found() -> (StatusCode, Json<Value>) {
        let status =
            json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "message": "", "code": 404});
        (StatusCode::NOT_FOUND, Json(status))
    }

    /// Twice as many as may be under way.
    const REQUESTS: usize = 2 * MAX_CALLS;

    #[tokio::test]
    async fn requests_that_come_together_take_no_more_connections_than_may_be_under_way() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        let (answer, answers) = watch::channel(false);
        let router = Router::new().fallback(async move || {
            let _ = answers.clone().wait_for(|answer| *answer).await;
            not_found()
        });
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                let service = TowerToHyperService::new(router.clone());
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        let client = client(Config::new(url.parse().unwrap())).unwrap();
        let pods = Api::<Pod>::namespaced(client, "llm");
        let requests =
            tokio::spawn(
                async move { join_all((0..REQUESTS).map(|_| pods.get_metadata_opt("litellm-0"))).await },
            );
        while connections.load(Ordering::SeqCst) < MAX_CALLS {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Others would be there by now.
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(connections.load(Ordering::SeqCst), MAX_CALLS);
        answer.send_replace(true);
        let answered = requests.await.unwrap();
        assert!(answered.into_iter().all(|answer| answer.unwrap().is_none()));
    }
}
