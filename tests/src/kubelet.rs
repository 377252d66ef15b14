//! A kubelet by script: the node of pods that nothing runs, with logs that a test writes and ports that lead to where a
//! test listens. The API server asks it for `pods/log` and `pods/portforward` as it asks a real one, over TLS.

use std::collections::HashMap;
use std::io::Cursor;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use futures::{SinkExt, StreamExt};
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;

/// Longest request that is read.
const LONGEST: usize = 64 * 1024;

/// A node with this kubelet.
pub struct Kubelet {
    /// For `spec.nodeName`.
    pub node: String,
    logs: Arc<watch::Sender<Logs>>,
    ports: Ports,
    task: JoinHandle<()>,
}

/// Where a pod's port leads to, by `NAMESPACE/POD:PORT`.
type Ports = Arc<Mutex<HashMap<String, SocketAddr>>>;

/// Lines by `NAMESPACE/POD/CONTAINER`, each with the time that it was written at in front.
type Logs = HashMap<String, Vec<String>>;

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Kubelet {
    /// Starts it, and makes its node.
    pub async fn start(client: &Client, node: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("it listens").port();
        let acceptor = TlsAcceptor::from(Arc::new(tls()));
        let logs = Arc::new(watch::Sender::new(Logs::new()));
        let ports = Ports::default();
        let (shared_logs, shared_ports) = (logs.clone(), ports.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, logs) = (acceptor.clone(), shared_logs.subscribe());
                let ports = shared_ports.clone();
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        answer(stream, logs, ports).await;
                    }
                });
            }
        });
        register(client, node, port).await;
        Self {
            node: node.to_owned(),
            logs,
            ports,
            task,
        }
    }

    /// Lets a pod's port lead to this address.
    pub fn forward(&self, pod: &str, port: u16, to: SocketAddr) {
        let mut ports = self.ports.lock().expect("no test panics meanwhile");
        ports.insert(format!("{pod}:{port}"), to);
    }

    /// Writes a line into the log of a container.
    pub fn write(&self, container: &str, time: &str, line: &str) {
        self.logs.send_modify(|logs| {
            let lines = logs.entry(container.to_owned()).or_default();
            lines.push(format!("{time} {line}\n"));
        });
    }
}

fn tls() -> ServerConfig {
    let certificate = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let key = PrivatePkcs8KeyDer::from(certificate.signing_key.serialize_der());
    ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.cert.der().clone()], key.into())
        .expect("the key is that of the certificate")
}

/// The node, whose status says where its kubelet is.
async fn register(client: &Client, name: &str, port: u16) {
    let nodes: Api<Node> = Api::all(client.clone());
    // Of an earlier run against the same API server.
    let _ = nodes.delete(name, &DeleteParams::default()).await;
    let node = json!({"metadata": {"name": name}});
    let node: Node = serde_json::from_value(node).expect("a node");
    nodes
        .create(&PostParams::default(), &node)
        .await
        .expect("the node is new");
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }});
    nodes
        .patch_status(name, &PatchParams::default(), &Patch::Merge(&status))
        .await
        .expect("the node has a status");
}

async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    logs: watch::Receiver<Logs>,
    ports: Ports,
) {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < LONGEST {
        match stream.read_buf(&mut request).await {
            Ok(read) if read > 0 => {}
            _ => return,
        }
    }
    let text = String::from_utf8_lossy(&request).into_owned();
    let target = text.split(' ').nth(1).unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if let Some(container) = path.strip_prefix("/containerLogs/") {
        // Who asked may be gone.
        let _ = send_log(stream, container, query, logs).await;
    } else if let Some(pod) = path.strip_prefix("/portForward/") {
        let port = parameter(query, "port").unwrap_or_default();
        let to = ports
            .lock()
            .expect("no test panics meanwhile")
            .get(&format!("{pod}:{port}"))
            .copied();
        // What was read of the request is read again.
        let (read, write) = tokio::io::split(stream);
        let stream = tokio::io::join(Cursor::new(request).chain(read), write);
        if let (Some(to), Ok(port)) = (to, port.parse()) {
            forward(stream, port, to).await;
        }
    } else {
        let answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        let _ = stream.write_all(answer).await;
    }
}

fn parameter(query: &str, name: &str) -> Option<String> {
    let mut parameters = query.split('&').filter_map(|pair| pair.split_once('='));
    parameters
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.replace("%3A", ":"))
}

/// Kubernetes' port-forward over a WebSocket: the first byte of a message is its channel, data or error, and the first
/// message of each names the port.
async fn forward(stream: impl AsyncRead + AsyncWrite + Unpin + Send, port: u16, to: SocketAddr) {
    #[allow(clippy::result_large_err, reason = "the signature is the library's")]
    let agree = |_: &Request, mut response: Response| {
        let protocol = HeaderValue::from_static("v4.channel.k8s.io");
        response.headers_mut().insert("sec-websocket-protocol", protocol);
        Ok(response)
    };
    let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(stream, agree).await else {
        return;
    };
    let [low, high] = port.to_le_bytes();
    for channel in [0, 1] {
        if socket
            .send(Message::binary(vec![channel, low, high]))
            .await
            .is_err()
        {
            return;
        }
    }
    let mut connection = TcpStream::connect(to).await.expect("the test listens");
    let mut buffer = vec![0; 16 * 1024];
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Binary(data))) if data.first() == Some(&0) => {
                    if connection.write_all(&data[1..]).await.is_err() {
                        return;
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
            read = connection.read(&mut buffer) => match read {
                Ok(read) if read > 0 => {
                    let message = [&[0], &buffer[..read]].concat();
                    if socket.send(Message::binary(message)).await.is_err() {
                        return;
                    }
                }
                _ => {
                    let _ = socket.close(None).await;
                    return;
                }
            },
        }
    }
}

/// In chunks, whole or from a second on, and on and on if it is to be followed.
async fn send_log(
    mut stream: impl AsyncWrite + Unpin,
    container: &str,
    query: &str,
    mut logs: watch::Receiver<Logs>,
) -> std::io::Result<()> {
    let follow = parameter(query, "follow").is_some_and(|follow| follow == "true");
    let since = parameter(query, "sinceTime").unwrap_or_default();
    let has_times = parameter(query, "timestamps").is_some_and(|timestamps| timestamps == "true");
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let mut sent = 0;
    loop {
        let lines = logs
            .borrow_and_update()
            .get(container)
            .cloned()
            .unwrap_or_default();
        // A kubelet compares whole seconds too, since its clients send no more.
        let is_wanted = |line: &&String| line.as_str() >= since.trim_end_matches('Z');
        for line in lines.iter().skip(sent).filter(is_wanted) {
            let line = match line.split_once(' ') {
                Some((_, line)) if !has_times => line,
                _ => line,
            };
            stream
                .write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes())
                .await?;
        }
        stream.flush().await?;
        sent = lines.len();
        if !follow || logs.changed().await.is_err() {
            break;
        }
    }
    stream.write_all(b"0\r\n\r\n").await?;
    stream.flush().await
}
