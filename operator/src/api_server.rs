//! Requests to the API server: their deadline, and whether one was forbidden.

use std::time::Duration;

use kube::runtime::watcher;

/// Field manager of the statuses of resources.
pub const STATUS_MANAGER: &str = "mcp-auth-operator";
/// Longest wait for one answer. The client has none of its own, since watches have to last.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

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
