//! Token endpoints that issue opaque tokens, so that nothing but the operator is measured. The operator asks one
//! server at most sixteen times a second, so there are several.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const SERVERS: usize = 8;
/// Longer than any run.
const LIFETIME_SECONDS: u32 = 24 * 3600;

#[derive(Clone)]
pub struct TokenEndpoints {
    addresses: Arc<Vec<String>>,
    issued: Arc<AtomicUsize>,
    newest_at: Arc<Mutex<Option<Instant>>>,
}

impl TokenEndpoints {
    pub async fn start() -> Self {
        let mut listeners = Vec::new();
        for _ in 0..SERVERS {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let addresses = listeners
            .iter()
            .map(|listener| listener.local_addr().unwrap().to_string());
        let endpoints = Self {
            addresses: Arc::new(addresses.collect()),
            issued: Arc::default(),
            newest_at: Arc::default(),
        };
        for listener in listeners {
            tokio::spawn(endpoints.clone().serve(listener));
        }
        endpoints
    }

    /// Where a resource requests its token, by its number.
    pub fn url(&self, resource: usize) -> String {
        format!("http://{}/token", self.addresses[resource % SERVERS])
    }

    pub fn issued(&self) -> usize {
        self.issued.load(Ordering::SeqCst)
    }

    /// When the newest token was issued.
    pub fn newest_at(&self) -> Option<Instant> {
        *self.newest_at.lock()
    }

    async fn serve(self, listener: TcpListener) {
        while let Ok((mut stream, _)) = listener.accept().await {
            let endpoints = self.clone();
            tokio::spawn(async move {
                let mut request = [0; 8192];
                let _ = stream.read(&mut request).await;
                let number = endpoints.issued.fetch_add(1, Ordering::SeqCst);
                // As long as a JWT is.
                let token = format!("scale-{number}-{}", "x".repeat(900));
                let body = format!(
                    r#"{{"access_token":"{token}","token_type":"Bearer","expires_in":{LIFETIME_SECONDS}}}"#
                );
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
                     connection: close\r\n\r\n{body}",
                    body.len()
                );
                *endpoints.newest_at.lock() = Some(Instant::now());
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    }
}
