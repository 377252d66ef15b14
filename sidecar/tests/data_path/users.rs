//! Both halves together: a user's cookies on the way through LiteLLM to the MCP server.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use mcp_auth_protocol::sync::{Server, UserContext};
use tokio::sync::OnceCell;

use crate::scene::{Body, Scripted, Sidecar, bytes, get, send, server, whole};

const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#;

/// A LiteLLM that passes the message on to the server in the request's path, as the real one does: with the
/// context header and with headers of its own.
pub struct LiteLlm {
    pub scripted: Scripted,
    outbound: Arc<OnceCell<SocketAddr>>,
}

impl LiteLlm {
    pub async fn start() -> Self {
        let outbound = Arc::<OnceCell<SocketAddr>>::default();
        let known = outbound.clone();
        let scripted = Scripted::start(move |request| call(request, known.clone())).await;
        Self { scripted, outbound }
    }

    pub fn sidecar(&self, servers: &[Server]) -> Sidecar {
        let sidecar = Sidecar::with_workers(self.scripted.address, servers, NonZeroUsize::new(2).unwrap());
        self.behind_address(sidecar.outbound);
        sidecar
    }

    /// Calls MCP servers by this address from now on.
    pub fn behind_address(&self, outbound: SocketAddr) {
        self.outbound.set(outbound).unwrap();
    }
}

async fn call(request: Request<Incoming>, outbound: Arc<OnceCell<SocketAddr>>) -> Response<Body> {
    let mut onward = Request::post(request.uri()).header("authorization", "Bearer sk-litellm");
    for name in ["mcpauth-context", "mcp-session-id"] {
        if let Some(value) = request.headers().get(name) {
            onward = onward.header(name, value);
        }
    }
    let call = request.into_body().collect().await.unwrap().to_bytes();
    let answer = send(*outbound.get().unwrap(), onward, whole(call)).await;
    answer.map(|body| body.map_err(|error| panic!("{error}")).boxed())
}

/// An MCP server that says who called.
async fn whoami() -> Scripted {
    Scripted::start(async |request: Request<Incoming>| {
        let text = |name: &str| {
            let all: Vec<_> = request
                .headers()
                .get_all(name)
                .iter()
                .map(|value| value.to_str().unwrap())
                .collect();
            all.join("|")
        };
        let answer = format!(
            "{};{};{}",
            text("authorization"),
            text("cookie"),
            text("x-forwarded-user")
        );
        Response::new(whole(Bytes::from(answer)))
    })
    .await
}

#[tokio::test]
async fn each_server_gets_its_own_names_and_no_other() {
    let (litellm, upstream) = (LiteLlm::start().await, whoami().await);
    let url = format!("http://{}/mcp", upstream.address);
    let mut crm = server(&url);
    crm.route.server = "crm".into();
    crm.route.cookies = vec!["crm_session".into(), "csrf".into()];
    crm.route.headers = vec![];
    let sidecar = litellm.sidecar(&[server(&url), crm]);
    let ask = async |path: &str| {
        let request = Request::post(path)
            .header(
                "cookie",
                "token=ui; session_id=S-a; csrf=C; crm_session=R; tracking=1",
            )
            .header("x-forwarded-user", "ada");
        bytes(send(sidecar.inbound, request, whole(CALL)).await).await
    };
    assert_eq!(ask("/tools/mcp").await, "Bearer service-token;session_id=S-a;ada");
    assert_eq!(
        ask("/crm/mcp").await,
        "Bearer service-token;crm_session=R; csrf=C;"
    );
    assert_eq!(
        sidecar.metric(r#"mcpauth_sidecar_contexts_total{result="opened"}"#),
        2
    );
}

#[tokio::test]
async fn users_at_the_same_time_are_never_mixed() {
    let (litellm, upstream) = (LiteLlm::start().await, whoami().await);
    let mut tools = server(&format!("http://{}/mcp", upstream.address));
    tools.route.user_context = UserContext::Required;
    let sidecar = litellm.sidecar(&[tools]);
    let ask = async |user: usize| {
        let mut request = Request::post("/tools/mcp").header("x-forwarded-user", format!("user-{user}"));
        if !user.is_multiple_of(3) {
            request = request.header("cookie", format!("session_id=S-{user}"));
        }
        bytes(send(sidecar.inbound, request, whole(CALL)).await).await
    };
    for round in 0..5 {
        let users = round * 40..(round + 1) * 40;
        let answers = futures::future::join_all(users.clone().map(ask)).await;
        for (user, answer) in users.zip(answers) {
            let cookie = if !user.is_multiple_of(3) {
                format!("session_id=S-{user}")
            } else {
                String::new()
            };
            assert_eq!(answer, format!("Bearer service-token;{cookie};user-{user}"));
        }
    }
    let request = Request::post("/tools/mcp").header("cookie", "session_id=1; session_id=2");
    assert_eq!(send(sidecar.inbound, request, whole(CALL)).await.status(), 403);
}

#[tokio::test]
async fn a_context_of_another_process_or_beside_another_calls_nothing() {
    let upstream = whoami().await;
    let url = format!("http://{}/mcp", upstream.address);
    let litellm = Scripted::echo().await;
    let first = Sidecar::start(litellm.address, &[server(&url)]);
    let request = Request::get("/").header("cookie", "session_id=S-a");
    send(first.inbound, request, whole("")).await;
    let context = litellm.only().headers["mcpauth-context"].clone();
    let ask = async |sidecar: &Sidecar, contexts: &[&http::HeaderValue]| {
        let request = contexts
            .iter()
            .fold(Request::post("/tools/mcp"), |request, context| {
                request.header("mcpauth-context", *context)
            });
        let answer = send(sidecar.outbound, request, whole(CALL)).await;
        (answer.status().as_u16(), bytes(answer).await)
    };
    let known = (200, "Bearer service-token;session_id=S-a;".into());
    assert_eq!(ask(&first, &[&context]).await, known);
    assert_eq!(ask(&first, &[&context, &context]).await, known);
    let contradicting = [&context, &http::HeaderValue::from_static("1AAAA")];
    assert_eq!(ask(&first, &contradicting).await.0, 403);
    let second = Sidecar::start(litellm.address, &[server(&url)]);
    assert_eq!(ask(&second, &[&context]).await.0, 403);
    assert_eq!(upstream.seen().len(), 2);
}

#[tokio::test]
async fn a_cookie_that_never_arrives_is_told_until_it_does() {
    let litellm = Scripted::echo().await;
    let sidecar = Sidecar::start(litellm.address, &[server("http://127.0.0.1:9/mcp")]);
    let ask = async |cookie: &'static str| {
        let request = Request::post("/v1/chat/completions").header("cookie", cookie);
        bytes(send(sidecar.inbound, request, whole("{}")).await).await;
    };
    for _ in 0..99 {
        ask("Session_Id=of-another-case").await;
    }
    assert_eq!(sidecar.routes.notices(), [], "too few to say so");
    // What cannot call a tool says nothing either way.
    bytes(get(sidecar.inbound, "/health/liveliness").await).await;
    assert_eq!(sidecar.routes.notices(), []);
    ask("").await;
    let notices = sidecar.routes.notices();
    let [notice] = &notices[..] else {
        panic!("{notices:?}")
    };
    assert_eq!(
        (&*notice.reason, notice.server.as_deref()),
        ("CookieNeverArrived", Some("tools"))
    );
    assert!(notice.message.contains("session_id"), "{notice:?}");
    // printf %s session_id | sha256sum
    let metric = r#"mcpauth_sidecar_cookies_total{name="5c3a09bf"}"#;
    assert_eq!(sidecar.metric(metric), 0);
    ask("session_id=s-1").await;
    assert_eq!(sidecar.routes.notices(), []);
    assert_eq!(sidecar.metric(metric), 1);
}
