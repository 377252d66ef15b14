//! Tenants of one operator: a namespace that is at its limits, and another one beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mcp_auth_crds::{McpServerAuth, McpServerAuthStatus, conditions, reasons};
use mcp_auth_tests::replica::{ANY_ADDRESS, Operator};
use mcp_auth_tests::resource::{oauth2, resource};
use mcp_auth_tests::sidecar::{Sidecar, bearer};
use mcp_auth_tests::wait::until;
use mcp_auth_tests::world::{World, message};
use mcp_auth_tests::{seen, setting};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::service::Service;

/// Resources of a namespace that are served.
const LIMIT: usize = 8;
const TOO_MANY: usize = 12;
const TOKEN: &str = "t3nant-opaque-access-token";

/// One authorization server that both tenants use: it holds the requests of the one, and answers those of the other.
struct SharedServer {
    url: String,
    held: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl SharedServer {
    async fn start() -> Self {
        seen::note(TOKEN);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let held = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&held);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&count)));
            }
        });
        Self { url, held, task }
    }

    fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }
}

impl Drop for SharedServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut stream: TcpStream, held: Arc<AtomicUsize>) {
    let mut request = [0; 8192];
    let length = stream.read(&mut request).await.unwrap_or_default();
    if request[..length].starts_with(b"POST /held ") {
        held.fetch_add(1, Ordering::SeqCst);
        return std::future::pending().await;
    }
    let body = json!({"access_token": TOKEN, "token_type": "Bearer", "expires_in": 600}).to_string();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n";
    let answer = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    let _ = stream.write_all(answer.as_bytes()).await;
}

async fn tenant(namespace: &str) -> World {
    let world = World::new(namespace, false).await;
    world
        .secret("tools-oauth", "client-secret", "t3nant-client-s3cret")
        .await;
    world
}

fn reason(status: &McpServerAuthStatus, type_: &str) -> String {
    let mut found = status
        .conditions
        .iter()
        .filter(|condition| condition.type_ == type_);
    found
        .next()
        .map(|condition| condition.reason.clone())
        .unwrap_or_default()
}

/// An operator of both namespaces, with these arguments beside.
pub fn operator_of_both(
    lease: &str,
    crowd: &World,
    quiet: &World,
    arguments: impl IntoIterator<Item = String>,
) -> Operator {
    let of_both = [
        ANY_ADDRESS.into(),
        format!("--watch-namespace={}", quiet.namespace),
    ];
    Operator {
        namespace: setting("MCPAUTH_TEST_OPERATOR_NAMESPACE"),
        watched_namespace: crowd.namespace.clone(),
        lease: lease.to_owned(),
        certificate_secret: "mcp-auth-operator-tls".into(),
        url: Some(setting("MCPAUTH_TEST_OPERATOR")),
        program: None,
        arguments: of_both.into_iter().chain(arguments).collect(),
    }
}

#[tokio::test]
async fn a_tenant_at_its_limits_is_told_so_and_another_gets_its_token_meanwhile() {
    let (crowd, quiet) = (tenant("tenants-crowd").await, tenant("tenants-quiet").await);
    let (server, service) = (SharedServer::start().await, Service::start().await);
    let limits = [
        format!("--max-resources-per-namespace={LIMIT}"),
        "--max-selector-terms=2".into(),
    ];
    let operator = operator_of_both("tenants", &crowd, &quiet, limits);
    let replica = operator.start("tenants", None, None).await;
    replica.until_leads().await;
    service.lead_to([replica.address.clone()]).await;

    // More than the namespace may have, and not one of them is answered.
    let name = |number: usize| format!("tools-{number:02}");
    for number in 0..TOO_MANY {
        let name = name(number);
        let spec = oauth2(&format!("{}/held", server.url));
        crowd
            .apply(&resource(&name, &name.replace('-', "_"), spec))
            .await
            .unwrap();
    }
    for number in LIMIT..TOO_MANY {
        let status = crowd
            .condition(
                &name(number),
                conditions::TOKEN_ISSUED,
                "False",
                reasons::LIMIT_EXCEEDED,
            )
            .await;
        let told = message(&status, conditions::TOKEN_ISSUED);
        assert!(
            told.contains("8 oldest") && told.contains("limits.resourcesPerNamespace"),
            "{told}"
        );
    }
    let last = name(TOO_MANY - 1);
    let told = async || crowd.events(&last).await;
    let is_told = |events: &Vec<(String, String)>| {
        events
            .iter()
            .any(|(reason, note)| reason == reasons::LIMIT_EXCEEDED && note.contains("8 oldest"))
    };
    until("an event of the limit", told, is_told).await;
    until("requests that are held", async || server.held(), |held| *held > 0).await;

    // The other tenant, at the same authorization server.
    let spec = oauth2(&format!("{}/token", server.url));
    quiet.apply(&resource("tools", "tools", spec)).await.unwrap();
    let pod = json!({"app.kubernetes.io/name": "litellm"});
    let pod = quiet.pod("litellm-0", pod).await;
    let mut sidecar = Sidecar::in_pod(&quiet, &pod).await;
    let snapshot = sidecar
        .until(|snapshot| bearer(snapshot, "tools").as_deref() == Some(TOKEN))
        .await;
    sidecar.say(|report| report.applied = Some(snapshot.revision));
    quiet
        .condition("tools", conditions::READY, "True", reasons::READY)
        .await;
    for number in 0..TOO_MANY {
        let status = crowd.status(&name(number)).await;
        assert_ne!(reason(&status, conditions::TOKEN_ISSUED), reasons::ISSUED);
        let is_beyond = reason(&status, conditions::TOKEN_ISSUED) == reasons::LIMIT_EXCEEDED;
        assert_eq!(is_beyond, number >= LIMIT, "{}", name(number));
    }

    // What works goes on where a change is beyond a limit, and a change back ends that.
    let selector = |value: Value| json!({"spec": {"podSelector": value}});
    let expression = json!({"key": "app.kubernetes.io/name", "operator": "In", "values": ["litellm"]});
    let three_terms = json!({
        "matchLabels": {"app.kubernetes.io/name": "litellm"},
        "matchExpressions": [expression],
    });
    quiet.patch("tools", &selector(three_terms)).await.unwrap();
    let status = quiet
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::LIMIT_EXCEEDED)
        .await;
    let told = message(&status, conditions::TOKEN_ISSUED);
    assert!(
        told.contains("limits.selectorTerms") && told.contains("the token in use serves until"),
        "{told}"
    );
    let mut again = Sidecar::in_pod(&quiet, &pod).await;
    again
        .until(|snapshot| bearer(snapshot, "tools").as_deref() == Some(TOKEN))
        .await;
    quiet.patch("tools", &selector(Value::Null)).await.unwrap();
    quiet
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;

    // Whoever is next gets the place of one that goes.
    crowd.delete::<McpServerAuth>(&name(0)).await;
    let next = name(LIMIT);
    until(
        "the next one to be taken up",
        async || reason(&crowd.status(&next).await, conditions::TOKEN_ISSUED),
        |reason| reason != reasons::LIMIT_EXCEEDED,
    )
    .await;
    let status = crowd.status(&last).await;
    assert_eq!(reason(&status, conditions::TOKEN_ISSUED), reasons::LIMIT_EXCEEDED);
}
