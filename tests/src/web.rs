//! A web server by script, for metadata and challenges that no real server can be made to give.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Longest request that is read.
const LONGEST: usize = 64 * 1024;

pub struct Web {
    pub url: String,
    script: Arc<Mutex<Script>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Script {
    answers: HashMap<String, String>,
    requested_paths: Vec<String>,
}

impl Drop for Web {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Web {
    /// Answers 404 on every path without a scripted answer.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("it listens"));
        let script = Arc::<Mutex<Script>>::default();
        let shared = script.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, shared.clone()));
            }
        });
        Self { url, script, task }
    }

    /// What a path is answered with from now on.
    pub fn json(&self, path: &str, body: &Value) {
        self.answer(
            path,
            "200 OK",
            "content-type: application/json\r\n",
            &body.to_string(),
        );
    }

    /// `headers` are whole lines.
    pub fn answer(&self, path: &str, status: &str, headers: &str, body: &str) {
        let answer = format!(
            "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        let mut script = self.script.lock().expect("no test panics meanwhile");
        script.answers.insert(path.to_owned(), answer);
    }

    /// Paths asked for so far, in order.
    pub fn requested_paths(&self) -> Vec<String> {
        self.script
            .lock()
            .expect("no test panics meanwhile")
            .requested_paths
            .clone()
    }
}

async fn answer(mut stream: TcpStream, script: Arc<Mutex<Script>>) {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < LONGEST {
        match stream.read_buf(&mut request).await {
            Ok(read) if read > 0 => {}
            _ => return,
        }
    }
    let request = String::from_utf8_lossy(&request);
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let answer = {
        let mut script = script.lock().expect("no test panics meanwhile");
        script.requested_paths.push(path.clone());
        script.answers.get(&path).cloned()
    };
    let answer = answer.unwrap_or_else(|| "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".into());
    // Who asked may be gone.
    let _ = stream.write_all(answer.as_bytes()).await;
}
