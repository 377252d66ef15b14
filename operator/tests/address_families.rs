//! The operator on nodes that have one family of addresses: IPv6 alone, where loopback is all that there is of IPv4, and IPv4 alone.
//! Each test runs again in a network namespace of its own, with a stand-in for the API server there that knows one resource.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

#[path = "../../sidecar/tests/network_namespace/mod.rs"]
mod network_namespace;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::{sleep, spawn};
use std::time::Duration;

use network_namespace::{in_a_namespace, with_ipv6_alone, without_ipv6};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use reqwest::{Certificate, Client};
use serde_json::{Value, json};

/// The chart's ports, which a namespace of its own has free.
const WEBHOOK_PORT: u16 = 10250;
const HEALTH_PORT: u16 = 8080;
/// Bounds all that a test waits for.
const ATTEMPTS: u32 = 1200;
const PAUSE: Duration = Duration::from_millis(50);

#[test]
fn on_a_node_with_ipv6_alone_the_operator_calls_the_api_server_and_serves_the_webhook_and_probes() {
    let name =
        "on_a_node_with_ipv6_alone_the_operator_calls_the_api_server_and_serves_the_webhook_and_probes";
    in_a_namespace(name, || serves_at(with_ipv6_alone()));
}

#[test]
fn on_a_node_without_ipv6_the_operator_listens_on_all_addresses_of_ipv4() {
    let name = "on_a_node_without_ipv6_the_operator_listens_on_all_addresses_of_ipv4";
    in_a_namespace(name, || serves_at(without_ipv6()));
}

fn serves_at(pod: IpAddr) {
    let api_server = TcpListener::bind((pod, 0)).unwrap();
    let operator = Operator::start(pod, api_server.local_addr().unwrap());
    spawn(move || {
        for stream in api_server.incoming() {
            spawn(move || api_server_answers(stream.unwrap()));
        }
    });
    rustls::crypto::ring::default_provider()
        .install_default()
        .unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let authority = Certificate::from_pem(operator.authority.as_bytes()).unwrap();
        let client = Client::builder()
            .tls_certs_only([authority])
            .no_proxy()
            .build()
            .unwrap();
        let live = format!("http://{}/healthz", SocketAddr::new(pod, HEALTH_PORT));
        let is_live = async || {
            client
                .get(&live)
                .send()
                .await
                .is_ok_and(|answer| answer.status() == 200)
        };
        operator.until("it answers the kubelet", is_live).await;
        let webhook = format!("https://{}/v1/inject", SocketAddr::new(pod, WEBHOOK_PORT));
        let injects = async || {
            // Before it has listed the resource it has no answer.
            let Ok(answer) = client.post(&webhook).json(&review()).send().await else {
                return false;
            };
            let answer: Value = answer.json().await.unwrap_or_default();
            answer["response"]["auditAnnotations"]["decision"] == "Injected"
        };
        operator.until("the webhook injects the pod", injects).await;
    });
}

fn review() -> Value {
    let pod = json!({
        "metadata": {"generateName": "litellm-", "labels": {"app.kubernetes.io/name": "litellm"}},
        "spec": {"containers": [{"name": "litellm", "image": "ghcr.io/berriai/litellm:v1.85.1", "args": ["--port", "4000"]}]},
    });
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "u", "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "llm", "operation": "CREATE", "userInfo": {}, "object": pod,
        },
    })
}

struct Operator {
    child: Child,
    folder: tempfile::TempDir,
    /// PEM of who has signed its certificate.
    authority: String,
}

impl Operator {
    /// With the addresses that the chart has it listen on, and the certificates of somebody else.
    fn start(pod: IpAddr, api_server: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::from_ca_cert_pem(&authority, key).unwrap();
        let key = KeyPair::generate().unwrap();
        let serving = CertificateParams::new([pod.to_string()]).unwrap();
        let serving = serving.signed_by(&key, &issuer).unwrap();
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c", "users": [],
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{api_server}")}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        });
        for (name, text) in [
            ("ca.crt", authority.clone()),
            ("tls.crt", serving.pem()),
            ("tls.key", key.serialize_pem()),
            ("kubeconfig", kubeconfig.to_string()),
            ("sidecar.json", r#"{"image": "sidecar:1"}"#.to_owned()),
        ] {
            fs::write(path(name), text).unwrap();
        }
        let child = Command::new(env!("CARGO_BIN_EXE_mcp-auth-operator"))
            .env_clear()
            .env("KUBECONFIG", path("kubeconfig"))
            .args(["--namespace", "mcp-auth-system", "--identity", "operator-0"])
            .args([
                "--operator-url",
                "https://operator:443",
                "--serving-name",
                &pod.to_string(),
            ])
            .args([
                "--listen",
                &format!("[::]:{WEBHOOK_PORT}"),
                "--listen-health",
                &format!("[::]:{HEALTH_PORT}"),
            ])
            .arg("--certificate-folder")
            .arg(folder.path())
            .arg("--sidecar-settings")
            .arg(path("sidecar.json"))
            .stdin(Stdio::null())
            .stdout(fs::File::create(path("log")).unwrap())
            .stderr(fs::File::create(path("errors")).unwrap())
            .spawn()
            .unwrap();
        Self {
            child,
            folder,
            authority,
        }
    }

    async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        for _ in 0..ATTEMPTS {
            if holds().await {
                return;
            }
            sleep(PAUSE);
        }
        let read = |name| fs::read_to_string(self.folder.path().join(name)).unwrap();
        panic!("it never came that {what}: {}{}", read("log"), read("errors"));
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Answers the requests of one connection: lists hold one resource, and nothing of other kinds; watches tell of nothing, and
/// nothing is found by name.
fn api_server_answers(stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            match reader.read_line(&mut head) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        let header = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(':'));
            lines.find_map(|(found, value)| found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned()))
        };
        let length = header("content-length").and_then(|length| length.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let is_list = head.starts_with("GET ") && path.ends_with('s');
        let answer = match (is_list, query.contains("watch=true")) {
            (true, true) => {
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
                    .to_owned()
            }
            (true, false) => with_body("200 OK", &list(path)),
            (false, _) => with_body(
                "404 Not Found",
                &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}),
            ),
        };
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn list(path: &str) -> Value {
    let resource = json!({
        "apiVersion": "mcpauth.dev/v1alpha1", "kind": "McpServerAuth",
        "metadata": {"name": "tools", "namespace": "llm", "generation": 1, "uid": "1", "resourceVersion": "1"},
        "spec": {
            "server": {"name": "tools", "url": "https://tools.example.com/mcp"},
            "bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}},
        },
    });
    let items = match path.ends_with("/mcpserverauths") {
        true => vec![resource],
        false => vec![],
    };
    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": items})
}

fn with_body(status: &str, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}
