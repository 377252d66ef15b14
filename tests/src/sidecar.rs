//! A sidecar by script: it speaks the sync protocol with whatever token and claims a test wants.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Pod, Secret, ServiceAccount};
use kube::ResourceExt;
use kube::api::{Api, PostParams};
use mcp_auth_protocol::pod::AUDIENCE;
use mcp_auth_protocol::sync::{self, Problem, Report, Snapshot};
use reqwest::Certificate;
use serde_json::json;
use tokio::sync::mpsc;

use crate::setting;
use crate::world::World;

/// The operator sends a heartbeat more often.
const PATIENCE: Duration = Duration::from_secs(60);
/// Snapshots that a test looks at before it gives up. Heartbeats go on for ever.
const LINES: usize = 100;

pub struct Sidecar {
    reports: mpsc::UnboundedSender<Report>,
    lines: std::pin::Pin<Box<dyn futures::Stream<Item = Vec<u8>> + Send>>,
    buffer: Vec<u8>,
    report: Report,
}

/// Why the operator would not serve it.
#[derive(Debug)]
pub struct Refused {
    pub status: u16,
    pub problem: Problem,
}

/// The report of a sidecar in this pod.
pub fn report(pod: &Pod) -> Report {
    let pod = sync::Pod {
        namespace: pod.namespace().expect("a namespace"),
        name: pod.name_any(),
        uid: pod.uid().expect("a uid"),
    };
    Report {
        pod,
        version: "test".into(),
        ..Report::default()
    }
}

/// A ServiceAccount token, bound to the pod if there is one.
pub async fn token(world: &World, audience: &str, pod: Option<&Pod>) -> String {
    let bound =
        pod.map(|pod| json!({"kind": "Pod", "apiVersion": "v1", "name": pod.name_any(), "uid": pod.uid()}));
    let request = json!({
        "metadata": {},
        "spec": {"audiences": [audience], "expirationSeconds": 600, "boundObjectRef": bound},
    });
    let request: TokenRequest = serde_json::from_value(request).expect("a token request");
    let accounts: Api<ServiceAccount> = world.api();
    let answer = accounts
        .create_token_request("default", &PostParams::default(), &request)
        .await;
    answer
        .expect("a token is issued")
        .status
        .expect("it is in the status")
        .token
}

/// The certificate authority of the operator.
pub async fn authority(world: &World) -> Certificate {
    let secrets: Api<Secret> =
        Api::namespaced(world.client.clone(), &setting("MCPAUTH_TEST_OPERATOR_NAMESPACE"));
    let secret = secrets
        .get("mcp-auth-operator-tls")
        .await
        .expect("the operator made its certificates");
    Certificate::from_pem(&secret.data.expect("it has data")["ca.crt"].0).expect("PEM")
}

impl Sidecar {
    /// Connects as the sidecar of this pod.
    pub async fn of(world: &World, pod: &Pod) -> Self {
        let token = token(world, AUDIENCE, Some(pod)).await;
        Self::connect(world, Some(&token), report(pod))
            .await
            .expect("the operator serves it")
    }

    pub async fn connect(world: &World, token: Option<&str>, report: Report) -> Result<Self, Refused> {
        let client = reqwest::Client::builder()
            .tls_certs_only([authority(world).await])
            .build()
            .expect("a client");
        let (reports, receiver) = mpsc::unbounded_channel::<Report>();
        reports.send(report.clone()).expect("the receiver is there");
        let body = futures::stream::unfold(receiver, |mut receiver| async move {
            let mut line = serde_json::to_vec(&receiver.recv().await?).expect("a report is plain values");
            line.push(b'\n');
            Some((Ok::<_, std::io::Error>(line), receiver))
        });
        let url = format!("{}{}", setting("MCPAUTH_TEST_OPERATOR"), sync::PATH);
        let mut request = client.post(url).body(reqwest::Body::wrap_stream(body));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.expect("the operator answers");
        let status = response.status();
        if !status.is_success() {
            let problem = response.json().await.expect("a problem in JSON");
            return Err(Refused {
                status: status.as_u16(),
                problem,
            });
        }
        let lines = response
            .bytes_stream()
            .filter_map(async |chunk| chunk.ok().map(|chunk| chunk.to_vec()));
        Ok(Self {
            reports,
            lines: lines.boxed(),
            buffer: Vec::new(),
            report,
        })
    }

    /// The next snapshot; none once the operator has ended the stream.
    pub async fn next(&mut self) -> Option<Snapshot> {
        let mut heartbeats = 0;
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if line.len() > 1 {
                    return Some(serde_json::from_slice(&line).expect("a snapshot"));
                }
                heartbeats += 1;
                assert!(heartbeats < 5, "nothing but heartbeats for a minute");
                continue;
            }
            let more = tokio::time::timeout(PATIENCE, self.lines.next()).await;
            self.buffer
                .extend(more.expect("the operator says something within a minute")?);
        }
    }

    /// The next snapshot that is as wanted.
    pub async fn until(&mut self, wanted: impl Fn(&Snapshot) -> bool) -> Snapshot {
        for _ in 0..LINES {
            let snapshot = self.next().await.expect("the stream goes on");
            if wanted(&snapshot) {
                return snapshot;
            }
        }
        panic!("none of {LINES} snapshots is as wanted");
    }

    /// Says what it has taken over, and whatever else the test wants to report.
    pub fn say(&mut self, change: impl FnOnce(&mut Report)) {
        change(&mut self.report);
        // A stream that the operator has ended shows at the next snapshot.
        let _ = self.reports.send(self.report.clone());
    }
}

/// The bearer token for a server, if there is one.
pub fn bearer(snapshot: &Snapshot, server: &str) -> Option<String> {
    use secrecy::ExposeSecret;
    let server = snapshot
        .servers
        .iter()
        .find(|found| found.route.server == server)?;
    match &server.credential {
        sync::Credential::Bearer { token, .. } => Some(token.expose_secret().to_owned()),
        sync::Credential::Unavailable { .. } => None,
    }
}
