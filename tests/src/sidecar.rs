//! A sidecar by script: it speaks the sync protocol with whatever token and claims a test wants.

use futures::StreamExt;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Pod, Secret, ServiceAccount};
use kube::ResourceExt;
use kube::api::{Api, PostParams};
use mcp_auth_protocol::pod::AUDIENCE;
use mcp_auth_protocol::reachability::{Reachability, ServerReachability};
use mcp_auth_protocol::sync::{
    self, Credential, ExchangeRequest, ExchangeResponse, Problem, RejectedToken, RejectionCause, Report,
    Snapshot, SnapshotLine,
};
use reqwest::Certificate;
use secrecy::ExposeSecret;
use serde_json::json;
use tokio::sync::mpsc;

use crate::wait::{LIMIT, until};
use crate::world::World;
use crate::{seen, setting};

/// Snapshots that a test looks at before it gives up. Heartbeats go on for ever.
const LINES: usize = 100;

pub struct Sidecar {
    /// Lines upwards; none: an empty one.
    reports: mpsc::UnboundedSender<Option<Report>>,
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

/// What a sidecar reports of a server.
pub fn learned(server: &str, state: Reachability) -> ServerReachability {
    ServerReachability {
        server: server.to_owned(),
        state,
        since: 1_795_435_200,
        detail: String::new(),
    }
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
    let accounts: Api<ServiceAccount> = world.api();
    request_token(&accounts, "default", audience, pod, 600).await
}

/// A token of this account that lasts so many seconds.
pub async fn request_token(
    accounts: &Api<ServiceAccount>,
    account: &str,
    audience: &str,
    pod: Option<&Pod>,
    seconds: u32,
) -> String {
    let bound =
        pod.map(|pod| json!({"kind": "Pod", "apiVersion": "v1", "name": pod.name_any(), "uid": pod.uid()}));
    let request = json!({
        "metadata": {},
        "spec": {"audiences": [audience], "expirationSeconds": seconds, "boundObjectRef": bound},
    });
    let request: TokenRequest = serde_json::from_value(request).expect("a token request");
    let answer = accounts
        .create_token_request(account, &PostParams::default(), &request)
        .await;
    answer
        .expect("a token is issued")
        .status
        .expect("it is in the status")
        .token
}

/// The certificate authority of the operator.
pub async fn authority(world: &World) -> Certificate {
    Certificate::from_pem(authority_pem(world).await.as_bytes()).expect("PEM")
}

/// The same as text.
pub async fn authority_pem(world: &World) -> String {
    let secrets: Api<Secret> =
        Api::namespaced(world.client.clone(), &setting("MCPAUTH_TEST_OPERATOR_NAMESPACE"));
    // A test deletes it, and the operator restores it.
    let look = async || secrets.get_opt("mcp-auth-operator-tls").await.expect("an answer");
    let secret = until("the operator's certificates", look, Option::is_some).await;
    let data = secret.and_then(|secret| secret.data).expect("it has data");
    String::from_utf8(data["ca.crt"].0.clone()).expect("PEM")
}

impl Sidecar {
    /// Connects as the sidecar of this pod.
    pub async fn in_pod(world: &World, pod: &Pod) -> Self {
        let token = token(world, AUDIENCE, Some(pod)).await;
        Self::connect(world, Some(&token), report(pod))
            .await
            .expect("the operator serves it")
    }

    pub async fn connect(world: &World, token: Option<&str>, report: Report) -> Result<Self, Refused> {
        Self::connect_to(
            &setting("MCPAUTH_TEST_OPERATOR"),
            &client(world).await,
            token,
            report,
        )
        .await
    }

    /// The same to the operator at this URL, by a client that trusts it.
    pub async fn connect_to(
        operator: &str,
        client: &reqwest::Client,
        token: Option<&str>,
        report: Report,
    ) -> Result<Self, Refused> {
        let (reports, receiver) = mpsc::unbounded_channel::<Option<Report>>();
        reports.send(Some(report.clone())).expect("the receiver is there");
        let body = futures::stream::unfold(receiver, |mut receiver| async move {
            let mut line = match receiver.recv().await? {
                Some(report) => serde_json::to_vec(&report).expect("a report is plain values"),
                None => Vec::new(),
            };
            line.push(b'\n');
            Some((Ok::<_, std::io::Error>(line), receiver))
        });
        let url = format!("{operator}{}", sync::PATH);
        let mut request = client.post(url).body(reqwest::Body::wrap_stream(body));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = served(request).await?;
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
        tokio::time::timeout(LIMIT, self.next_snapshot())
            .await
            .expect("the operator says more than heartbeats")
    }

    async fn next_snapshot(&mut self) -> Option<Snapshot> {
        let line = self.next_bytes().await?;
        let snapshot: Snapshot = serde_json::from_slice(&line).expect("a snapshot");
        note(&snapshot.servers);
        Some(snapshot)
    }

    /// The next line, be it a snapshot or what changed of one.
    pub async fn next_line(&mut self) -> SnapshotLine {
        let line = tokio::time::timeout(LIMIT, self.next_bytes()).await;
        let line = line.expect("the operator says more than heartbeats");
        let line = serde_json::from_slice(&line.expect("the stream goes on")).expect("a line");
        match &line {
            SnapshotLine::Whole(snapshot) => note(&snapshot.servers),
            SnapshotLine::Delta(delta) => note(&delta.servers),
        }
        line
    }

    async fn next_bytes(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if line.len() > 1 {
                    return Some(line);
                }
                // A heartbeat.
                continue;
            }
            self.buffer.extend(self.lines.next().await?);
        }
    }

    /// Waits until the operator asks whether this sidecar is there; false if it ends the stream before. Snapshots on the way are
    /// passed over.
    pub async fn asked(&mut self) -> bool {
        while let Some(line) = self.next_bytes().await {
            if line == format!("{}\n", sync::QUESTION).into_bytes() {
                return true;
            }
        }
        false
    }

    /// Answers a question.
    pub fn answer(&self) {
        // A stream that the operator has ended shows at the next line.
        let _ = self.reports.send(None);
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
        let _ = self.reports.send(Some(self.report.clone()));
    }
}

/// Exchanges a user's token, as the sidecar of this pod does it for a tool call. `refused` names the token
/// that the MCP server did not take.
pub async fn exchange(
    world: &World,
    pod: &Pod,
    server: &str,
    subject_token: &str,
    refused: Option<&str>,
) -> Result<Credential, Refused> {
    seen::note(subject_token);
    // For a server that the pod has no resource for there is no URL either.
    let url = world.server_url(server).await.unwrap_or_default();
    let request = ExchangeRequest {
        pod: report(pod).pod,
        server: server.to_owned(),
        url,
        subject_token: subject_token.to_owned().into(),
        refused: refused.map(str::to_owned),
    };
    let url = format!("{}{}", setting("MCPAUTH_TEST_OPERATOR"), sync::EXCHANGE_PATH);
    let token = token(world, AUDIENCE, Some(pod)).await;
    let request = client(world).await.post(url).bearer_auth(token).json(&request);
    let exchanged: ExchangeResponse = served(request).await?.json().await.expect("a credential");
    if let Some(token) = token_of(&exchanged.credential) {
        seen::note(&token);
    }
    Ok(exchanged.credential)
}

/// A report that the MCP server does not take the token in use.
pub fn refused(snapshot: &Snapshot, server: &str, why: RejectionCause) -> RejectedToken {
    let Some(Credential::Bearer { id, .. }) = credential(snapshot, server) else {
        panic!("there is no token for {server}");
    };
    RejectedToken {
        server: server.to_owned(),
        token: id.clone(),
        why,
    }
}

/// What there is for a server, if it is served at all.
pub fn credential<'a>(snapshot: &'a Snapshot, server: &str) -> Option<&'a Credential> {
    let mut servers = snapshot.servers.iter();
    servers
        .find(|served| served.route.server == server)
        .map(|served| &served.credential)
}

/// The bearer token for a server, if there is one.
pub fn bearer(snapshot: &Snapshot, server: &str) -> Option<String> {
    token_of(credential(snapshot, server)?)
}

/// The token of a credential, if there is one.
pub fn token_of(credential: &Credential) -> Option<String> {
    match credential {
        Credential::Bearer { token, .. } => Some(token.expose_secret().to_owned()),
        Credential::Unavailable { .. } => None,
    }
}

async fn client(world: &World) -> reqwest::Client {
    reqwest::Client::builder()
        .tls_certs_only([authority(world).await])
        .build()
        .expect("a client")
}

async fn served(request: reqwest::RequestBuilder) -> Result<reqwest::Response, Refused> {
    let response = request.send().await.expect("the operator answers");
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    Err(Refused {
        status: status.as_u16(),
        problem: response.json().await.expect("a problem in JSON"),
    })
}

/// Everything secret in a snapshot, to be looked for afterwards.
fn note(servers: &[sync::Server]) {
    for server in servers {
        if let Credential::Bearer { token, proof_key, .. } = &server.credential {
            seen::note(token.expose_secret());
            proof_key.iter().for_each(|key| seen::note(key.expose_secret()));
        }
        if let Some(certificate) = &server.client_certificate {
            seen::note(certificate.key.expose_secret());
        }
    }
}
