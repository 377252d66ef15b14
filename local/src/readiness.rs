//! LiteLLM's readiness, and the version that it states there.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

const PATH: &str = "/health/readiness";
const POLL: Duration = Duration::from_millis(500);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// The oldest that is supported.
pub const OLDEST: &str = "1.80.17";

/// Waits until LiteLLM is ready. Answers the version that it states, if it does.
pub async fn until_ready(litellm: SocketAddr) -> Option<String> {
    loop {
        if let Ok(Some(answer)) = timeout(ANSWER_TIMEOUT, ask(litellm)).await {
            let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap_or_default();
            return answer.get("litellm_version")?.as_str().map(str::to_owned);
        }
        sleep(POLL).await;
    }
}

/// What to look at when it takes long.
pub async fn why_not_ready(litellm: SocketAddr) -> String {
    match timeout(ANSWER_TIMEOUT, TcpStream::connect(litellm)).await {
        Ok(Ok(_)) => format!(
            "LiteLLM listens on {litellm} and is not ready: its own output, and what http://{litellm}{PATH} answers, say why"
        ),
        _ => format!(
            "LiteLLM does not listen on {litellm}, to which it was moved, so that users get errors: it may still be starting, \
             which its own output tells; a script that sets --host or --port by itself has to leave them to HOST and PORT"
        ),
    }
}

/// The body of its answer, if that is 200.
async fn ask(litellm: SocketAddr) -> Option<Bytes> {
    let stream = TcpStream::connect(litellm).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    let request = Request::get(PATH).header(HOST, litellm.to_string());
    let request = request.body(Empty::<Bytes>::new()).ok()?;
    let answered = async {
        let answer = sender.send_request(request).await.ok()?;
        let body = (answer.status() == StatusCode::OK).then(|| answer.into_body())?;
        Some(
            Limited::new(body, MAX_ANSWER_BYTES)
                .collect()
                .await
                .ok()?
                .to_bytes(),
        )
    };
    let connection = async {
        // It may end by itself first, with the answer given.
        let _ = connection.await;
        std::future::pending().await
    };
    tokio::select! {
        body = answered => body,
        body = connection => body,
    }
}

/// Whether this version is known to be older than the oldest supported one.
pub fn is_too_old(version: &str) -> bool {
    match (numbers(version), numbers(OLDEST)) {
        (Some(version), Some(oldest)) => version < oldest,
        _ => false,
    }
}

/// The three numbers that a version begins with.
fn numbers(version: &str) -> Option<[u64; 3]> {
    let mut parts = version.splitn(3, '.');
    let mut next = || {
        let part = parts.next()?;
        let end = part
            .find(|char: char| !char.is_ascii_digit())
            .unwrap_or(part.len());
        part[..end].parse().ok()
    };
    Some([next()?, next()?, next()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_look_at_depends_on_whether_litellm_listens() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let text = runtime.block_on(why_not_ready(address));
        assert!(
            text.starts_with(&format!("LiteLLM listens on {address} and is not ready")),
            "{text}"
        );
        drop(listener);
        let text = runtime.block_on(why_not_ready(address));
        assert!(
            text.starts_with(&format!("LiteLLM does not listen on {address}")),
            "{text}"
        );
    }

    #[test]
    fn versions_are_compared_by_their_numbers() {
        for old in ["1.80.16", "1.9.100", "0.99.99", "1.80.16.rc1"] {
            assert!(is_too_old(old), "{old}");
        }
        for new in ["1.80.17", "1.80.17rc1", "1.109.1", "2.0.0", "unknown", ""] {
            assert!(!is_too_old(new), "{new}");
        }
    }
}
