//! The operator's Service: one address that leads to each replica in turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mcp_auth_tests::setting;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

/// Ends when it is dropped, and with it all connections.
pub struct Service {
    backends: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Service {
    /// At the operator's URL.
    pub async fn start() -> Self {
        let url = setting("MCPAUTH_TEST_OPERATOR");
        let address = url.strip_prefix("https://").expect("it is served by https");
        let listener = TcpListener::bind(address).await.expect("nothing else is there");
        let backends: Arc<Mutex<Vec<String>>> = Arc::default();
        let known = backends.clone();
        let task = tokio::spawn(async move {
            let turn = AtomicUsize::new(0);
            while let Ok((client, _)) = listener.accept().await {
                let backends = known.lock().await.clone();
                let first = turn.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(forward(client, backends, first));
            }
        });
        Self { backends, task }
    }

    /// Leads to exactly these from now on.
    pub async fn lead_to(&self, backends: impl IntoIterator<Item = String>) {
        *self.backends.lock().await = backends.into_iter().collect();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// To the replica whose turn it is, or to the next that answers.
async fn forward(mut client: TcpStream, backends: Vec<String>, first: usize) {
    for offset in 0..backends.len() {
        let backend = &backends[(first + offset) % backends.len()];
        if let Ok(mut replica) = TcpStream::connect(backend).await {
            // Either end may break: that is what these tests are about.
            let _ = copy_bidirectional(&mut client, &mut replica).await;
            return;
        }
    }
}
