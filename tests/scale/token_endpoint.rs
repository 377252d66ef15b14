//! Token endpoints that issue opaque tokens, so that nothing but the operator is measured. The operator asks one
//! server at most sixteen times a second, so there are several.

use std::collections::HashMap;
use std::sync::Arc;
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
    /// By number of the resource.
    issued: Arc<Mutex<HashMap<usize, Issued>>>,
}

/// Tokens of one resource.
#[derive(Clone, Copy)]
struct Issued {
    count: usize,
    last_at: Instant,
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
        };
        for listener in listeners {
            tokio::spawn(endpoints.clone().serve(listener));
        }
        endpoints
    }

    /// Where the resource with this number requests its token.
    pub fn url(&self, resource: usize) -> String {
        format!("http://{}/token/{resource}", self.addresses[resource % SERVERS])
    }

    /// Resources that have a token.
    pub fn served(&self) -> usize {
        self.issued.lock().len()
    }

    /// How the next token of this resource begins.
    pub fn next_token(&self, resource: usize) -> String {
        let count = self.issued.lock().get(&resource).map_or(0, |issued| issued.count);
        token_prefix(resource, count)
    }

    /// When the newest token of this resource was issued.
    pub fn last_at(&self, resource: usize) -> Option<Instant> {
        self.issued.lock().get(&resource).map(|issued| issued.last_at)
    }

    fn issue(&self, resource: usize) -> String {
        let last_at = Instant::now();
        let mut all = self.issued.lock();
        let issued = all.entry(resource).or_insert(Issued { count: 0, last_at });
        let prefix = token_prefix(resource, issued.count);
        *issued = Issued {
            count: issued.count + 1,
            last_at,
        };
        // As long as a JWT is.
        format!("{prefix}{}", "x".repeat(900))
    }

    async fn serve(self, listener: TcpListener) {
        while let Ok((mut stream, _)) = listener.accept().await {
            let endpoints = self.clone();
            tokio::spawn(async move {
                let mut request = [0; 8192];
                let length = stream.read(&mut request).await.unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let number = request.strip_prefix("POST /token/");
                let number = number.and_then(|rest| rest.split(' ').next()?.parse().ok());
                let Some(resource) = number else { return };
                let token = endpoints.issue(resource);
                let body = format!(
                    r#"{{"access_token":"{token}","token_type":"Bearer","expires_in":{LIFETIME_SECONDS}}}"#
                );
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
                     connection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    }
}

fn token_prefix(resource: usize, count: usize) -> String {
    format!("scale-{resource}-{count}-")
}
