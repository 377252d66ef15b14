//! Calls of an MCP server through the sidecars, one after another for as long as a test lasts.

use std::sync::Arc;
use std::time::Duration;

use mcp_auth_tests::sidecar_process::Endpoint;
use serde_json::json;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

/// Between two calls of one sidecar.
const PAUSE: Duration = Duration::from_millis(200);

pub struct Calls {
    stop: watch::Sender<bool>,
    callers: Vec<JoinHandle<()>>,
    outcome: Arc<Mutex<Outcome>>,
}

#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub sent: usize,
    /// What was answered instead of a result.
    pub failed: Vec<String>,
}

impl Calls {
    pub fn start<'a>(endpoints: impl IntoIterator<Item = &'a Endpoint>) -> Self {
        let (stop, _) = watch::channel(false);
        let outcome: Arc<Mutex<Outcome>> = Arc::default();
        let callers = endpoints.into_iter().map(|endpoint| {
            let (endpoint, outcome, stopped) = (endpoint.clone(), outcome.clone(), stop.subscribe());
            tokio::spawn(async move {
                let client = reqwest::Client::new();
                while !*stopped.borrow() {
                    let failure = call(&client, &endpoint).await.err();
                    let mut outcome = outcome.lock().await;
                    outcome.sent += 1;
                    outcome.failed.extend(failure);
                    drop(outcome);
                    tokio::time::sleep(PAUSE).await;
                }
            })
        });
        let callers = callers.collect();
        Self {
            stop,
            callers,
            outcome,
        }
    }

    /// Once the calls under way have ended.
    pub async fn finish(self) -> Outcome {
        self.stop.send_replace(true);
        for caller in self.callers {
            caller.await.unwrap();
        }
        self.outcome.lock().await.clone()
    }
}

/// One call that the MCP server answers to whoever has a good token.
pub async fn call(client: &reqwest::Client, endpoint: &Endpoint) -> Result<(), String> {
    let initialize = json!({
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18", "capabilities": {},
            "clientInfo": {"name": "faults", "version": "1"},
        },
    });
    let request = client
        .post(&endpoint.url)
        .header("accept", "application/json, text/event-stream")
        .json(&initialize);
    let headers = endpoint.static_headers.iter();
    let request = headers.fold(request, |request, (name, value)| request.header(name, value));
    let response = request.send().await.map_err(|error| error.to_string())?;
    let status = response.status();
    let body = response.text().await.map_err(|error| error.to_string())?;
    match status.is_success() && body.contains("serverInfo") {
        true => Ok(()),
        false => Err(format!("{status}: {body}")),
    }
}
