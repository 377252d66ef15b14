//! A web server by script, for metadata and challenges that no real server can be made to give.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
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

/// A request as it arrived.
pub struct Request {
    head: String,
    /// Of the body.
    pub form: Form,
}

/// From a request to the whole answer.
type Responder = Arc<dyn Fn(&Request) -> String + Send + Sync>;

impl Request {
    /// The value of a header, by its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// A parameter of the form; empty where it is not there.
    pub fn parameter(&self, name: &str) -> &str {
        self.form.get(name).map(String::as_str).unwrap_or_default()
    }

    /// Client identifier and secret, from the Authorization header or else from the form (RFC 6749 section 2.3.1).
    pub fn client(&self) -> (String, String) {
        let Some(encoded) = self
            .header("authorization")
            .and_then(|value| value.strip_prefix("Basic "))
        else {
            let of_form = |name: &str| self.parameter(name).to_owned();
            return (of_form("client_id"), of_form("client_secret"));
        };
        let pair = STANDARD
            .decode(encoded)
            .ok()
            .and_then(|pair| String::from_utf8(pair).ok());
        let pair = pair.unwrap_or_default();
        let (id, secret) = pair.split_once(':').unwrap_or_default();
        let decode = |text: &str| form(&format!("value={text}")).remove("value").unwrap_or_default();
        (decode(id), decode(secret))
    }
}

/// The value of a header of a request's head.
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.lines().skip(1);
    let mut headers = lines.filter_map(|line| line.split_once(':'));
    let found = headers.find(|(found, _)| found.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.trim())
}

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

    /// What a path is answered with from now on: a status and JSON, by the request.
    pub fn by_request(
        &self,
        path: &str,
        answer: impl Fn(&Request) -> (&'static str, Value) + Send + Sync + 'static,
    ) {
        let responder = move |request: &Request| {
            let (status, body) = answer(request);
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
    let length = header(head, "content-length").and_then(|length| length.parse::<usize>().ok());
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
    let (head, body) = request.split_once("\r\n\r\n").unwrap_or_default();
    let answer = match answer {
        Some(responder) => responder(&Request {
            head: head.to_owned(),
            form: form(body),
        }),
        None => "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".into(),
    };
    // Who asked may be gone.
    let _ = stream.write_all(answer.as_bytes()).await;
}
