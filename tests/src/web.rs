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

/// The parameters of a form, by name.
pub type Form = HashMap<String, String>;

/// From the form of a request to the whole answer.
type Responder = Arc<dyn Fn(&Form) -> String + Send + Sync>;

#[derive(Default)]
struct Script {
    responders: HashMap<String, Responder>,
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
        let answer = http(status, headers, body);
        self.respond(path, Arc::new(move |_| answer.clone()));
    }

    /// What a path is answered with from now on: a status and JSON, by the form of the request.
    pub fn by_form(
        &self,
        path: &str,
        answer: impl Fn(&Form) -> (&'static str, Value) + Send + Sync + 'static,
    ) {
        let responder = move |form: &Form| {
            let (status, body) = answer(form);
            http(status, "content-type: application/json\r\n", &body.to_string())
        };
        self.respond(path, Arc::new(responder));
    }

    fn respond(&self, path: &str, responder: Responder) {
        let mut script = self.script.lock().expect("no test panics meanwhile");
        script.responders.insert(path.to_owned(), responder);
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

fn http(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn form(body: &str) -> Form {
    let url = reqwest::Url::parse(&format!("http://form.invalid/?{body}"));
    url.map(|url| url.query_pairs().into_owned().collect())
        .unwrap_or_default()
}

/// Whether head and body are there.
fn is_complete(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.parse::<usize>().ok()).flatten()
    });
    body.len() >= length.unwrap_or(0)
}

async fn answer(mut stream: TcpStream, script: Arc<Mutex<Script>>) {
    let mut request = Vec::new();
    while !is_complete(&request) && request.len() < LONGEST {
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
        script.responders.get(&path).cloned()
    };
    let (_, body) = request.split_once("\r\n\r\n").unwrap_or_default();
    let answer = match answer {
        Some(responder) => responder(&form(body)),
        None => "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".into(),
    };
    // Who asked may be gone.
    let _ = stream.write_all(answer.as_bytes()).await;
}
