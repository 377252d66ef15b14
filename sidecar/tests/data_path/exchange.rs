//! Users' own tokens: exchanged by the operator for what the user sent, and never replaced by the service's.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use mcp_auth_protocol::sync::{Credential, Problem, RejectionCause, Server, SubjectTokenSource};
use mcp_auth_sidecar::proxy::outbound::Limits;
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::scene::{Asked, Operator, Scripted, Sidecar, bearer, bytes, get, json, post, send, server, whole};

const CALL: &str = r#"{"jsonrpc":"2.0","id":"c-1","method":"tools/call","params":{"name":"x"}}"#;
const LIST: &str = r#"{"jsonrpc":"2.0","id":"l-1","method":"tools/list"}"#;

/// A user's browser, a LiteLLM that passes the context on, and an MCP server that says who it is asked by.
struct World {
    litellm: Scripted,
    upstream: Scripted,
    operator: Operator,
    sidecar: Sidecar,
}

impl World {
    async fn with(operator: Operator, upstream: Scripted, change: impl FnOnce(&mut Server)) -> Self {
        let litellm = Scripted::echo().await;
        let mut tools = server(&format!("http://{}/mcp", upstream.address));
        tools.route.exchange = Some(SubjectTokenSource::Cookie("idp_token".into()));
        change(&mut tools);
        let limits = Limits {
            exchange_timeout: Duration::from_secs(3_600),
            ..Limits::default()
        };
        let one = NonZeroUsize::MIN;
        let sidecar = Sidecar::with(litellm.address, &[tools], one, operator.clone(), limits);
        Self {
            litellm,
            upstream,
            operator,
            sidecar,
        }
    }

    /// The context header of a user with these cookies.
    async fn context(&self, cookies: &str) -> http::HeaderValue {
        let request = Request::get("/").header("cookie", cookies);
        send(self.sidecar.inbound, request, whole("")).await;
        self.litellm.seen().last().unwrap().headers["mcpauth-context"].clone()
    }

    /// What the operator is asked for this user.
    fn asked(&self, subject: &str, refused: Option<&str>) -> Asked {
        Asked {
            server: "tools".into(),
            url: format!("http://{}/mcp", self.upstream.address),
            subject: subject.into(),
            refused: refused.map(str::to_owned),
        }
    }

    async fn call(&self, context: &http::HeaderValue) -> Response<Incoming> {
        call(self.sidecar.outbound, context.clone()).await
    }
}

async fn call(outbound: std::net::SocketAddr, context: http::HeaderValue) -> Response<Incoming> {
    let request = Request::post("/tools/mcp").header("mcpauth-context", context);
    send(outbound, request, whole(CALL)).await
}

async fn whoami() -> Scripted {
    Scripted::start(async |request: Request<Incoming>| {
        let cookie = request
            .headers()
            .get("cookie")
            .map_or("", |value| value.to_str().unwrap());
        let who = request.headers()["authorization"].to_str().unwrap();
        Response::new(whole(format!("{who};{cookie}")))
    })
    .await
}

fn token_of_each_user() -> Operator {
    Operator::by(async |asked: Asked| Ok(bearer(&format!("token-of-{}", asked.subject))))
}

fn problem() -> Problem {
    Problem::new("SubjectRefused", "the authorization server says invalid_grant")
}

#[tokio::test]
async fn each_user_has_a_token_of_their_own_and_the_subject_stays_with_us() {
    let world = World::with(token_of_each_user(), whoami().await, |_| {}).await;
    let ada = world.context("idp_token=ada; session_id=S-a").await;
    let bob = world.context("idp_token=bob").await;
    for _ in 0..3 {
        assert_eq!(
            bytes(world.call(&ada).await).await,
            "Bearer token-of-ada;session_id=S-a"
        );
        assert_eq!(bytes(world.call(&bob).await).await, "Bearer token-of-bob;");
    }
    assert_eq!(
        world.operator.asked(),
        [world.asked("ada", None), world.asked("bob", None)],
        "once for each"
    );
    assert_eq!(
        world
            .sidecar
            .metric(r#"mcpauth_sidecar_exchanges_total{result="issued"}"#),
        2
    );
}

#[tokio::test]
async fn a_subject_that_is_allowed_too_goes_to_the_server_as_well() {
    let world = World::with(token_of_each_user(), whoami().await, |tools| {
        tools.route.cookies.push("idp_token".into());
    })
    .await;
    let ada = world.context("idp_token=ada").await;
    assert_eq!(
        bytes(world.call(&ada).await).await,
        "Bearer token-of-ada;idp_token=ada"
    );
}

#[tokio::test]
async fn a_header_is_a_subject_too_and_litellms_own_copy_of_it_never_passes() {
    let world = World::with(token_of_each_user(), whoami().await, |tools| {
        tools.route.exchange = Some(SubjectTokenSource::Header("x-idp-token".into()));
    })
    .await;
    let request = Request::get("/").header("x-idp-token", "ada");
    send(world.sidecar.inbound, request, whole("")).await;
    let context = world.litellm.only().headers["mcpauth-context"].clone();
    let request = Request::post("/tools/mcp")
        .header("mcpauth-context", context)
        .header("x-idp-token", "eve");
    let answer = send(world.sidecar.outbound, request, whole(CALL)).await;
    assert_eq!(bytes(answer).await, "Bearer token-of-ada;");
    assert!(!world.upstream.only().headers.contains_key("x-idp-token"));
}

#[tokio::test]
async fn without_a_subject_nothing_is_done_but_discovery_which_is_the_services() {
    let world = World::with(token_of_each_user(), whoami().await, |_| {}).await;
    let outbound = world.sidecar.outbound;
    let other = world.context("session_id=S-a").await;
    const READ: &str = r#"{"jsonrpc":"2.0","id":"c-1","method":"resources/read","params":{"uri":"a"}}"#;
    for answer in [
        post(outbound, "/tools/mcp", CALL).await,
        post(outbound, "/tools/mcp", READ).await,
        world.call(&other).await,
    ] {
        assert_eq!(answer.status(), StatusCode::FORBIDDEN);
        let body = json(answer).await;
        assert_eq!(
            (&body["id"], &body["error"]["code"]),
            (&"c-1".into(), &(-32055).into())
        );
    }
    assert_eq!(world.upstream.connections(), 0);
    assert_eq!(
        bytes(post(outbound, "/tools/mcp", LIST).await).await,
        "Bearer service-token;"
    );
    assert_eq!(get(outbound, "/tools/mcp").await.status(), StatusCode::FORBIDDEN);
    assert_eq!(world.operator.asked(), []);
}

#[tokio::test]
async fn an_exchange_that_fails_is_an_error_with_the_operators_reason_and_never_the_services_token() {
    let operator = Operator::by(async |_| Err(problem()));
    let world = World::with(operator, whoami().await, |_| {}).await;
    let ada = world.context("idp_token=ada-s3cret").await;
    let answer = world.call(&ada).await;
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    let body = json(answer).await;
    assert_eq!(
        (&body["id"], &body["error"]["code"]),
        (&"c-1".into(), &(-32065).into())
    );
    let message = body["error"]["message"].as_str().unwrap();
    for part in ["tools-auth", "SubjectRefused", "invalid_grant"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(!message.contains("s3cret"), "{message}");
    assert_eq!(world.upstream.connections(), 0);
    assert_eq!(
        world
            .sidecar
            .metric(r#"mcpauth_sidecar_exchanges_total{result="failed"}"#),
        1
    );
}

#[tokio::test]
async fn a_user_has_a_token_even_while_the_service_has_none() {
    let world = World::with(token_of_each_user(), whoami().await, |tools| {
        tools.credential = Credential::Unavailable {
            reason: "RequestFailed".into(),
            message: "down".into(),
            keep: false,
        };
    })
    .await;
    let ada = world.context("idp_token=ada").await;
    assert_eq!(bytes(world.call(&ada).await).await, "Bearer token-of-ada;");
}

#[tokio::test]
async fn calls_of_one_user_at_once_are_one_exchange_and_outlive_the_first_of_them() {
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    let operator = Operator::by(move |asked: Asked| {
        let opened = opened.clone();
        async move {
            opened.acquire().await.unwrap().forget();
            Ok(bearer(&format!("token-of-{}", asked.subject)))
        }
    });
    let world = World::with(operator, whoami().await, |_| {}).await;
    let ada = world.context("idp_token=ada").await;
    let outbound = world.sidecar.outbound;
    let start = || tokio::spawn(call(outbound, ada.clone()));
    let first = start();
    world.sidecar.waiting(1).await;
    let calls: Vec<_> = (0..20).map(|_| start()).collect();
    world.sidecar.waiting(21).await;
    first.abort();
    world.sidecar.waiting(20).await;
    gate.add_permits(1);
    for call in calls {
        assert_eq!(bytes(call.await.unwrap()).await, "Bearer token-of-ada;");
    }
    assert_eq!(world.operator.asked(), [world.asked("ada", None)]);
}

#[tokio::test]
async fn a_users_token_that_is_refused_is_exchanged_once_more_and_the_call_sent_again() {
    let operator = Operator::by(async |asked: Asked| {
        let token = asked
            .refused
            .map_or("first".to_owned(), |refused| format!("{refused}-renewed"));
        Ok(bearer(&token))
    });
    let upstream = Scripted::start(async |request: Request<Incoming>| {
        match request.headers()["authorization"] == "Bearer first" {
            true => Response::builder().status(401).body(whole("")).unwrap(),
            false => Response::new(whole("ok")),
        }
    })
    .await;
    let world = World::with(operator, upstream, |_| {}).await;
    let ada = world.context("idp_token=ada").await;
    for _ in 0..2 {
        assert_eq!(world.call(&ada).await.status(), StatusCode::OK);
    }
    assert_eq!(
        world.operator.asked(),
        [world.asked("ada", None), world.asked("ada", Some("first"))]
    );
    assert_eq!(world.upstream.seen().len(), 3);
    assert_eq!(
        world.sidecar.reports.borrow().refused,
        [],
        "it is not the service's token"
    );
    let line = r#"mcpauth_sidecar_tokens_refused_total{whose="user",why="unauthorized"}"#;
    assert_eq!(world.sidecar.metric(line), 1);
}

#[tokio::test]
async fn a_user_whose_tokens_are_all_refused_gets_an_error_and_others_are_not_held_up() {
    let operator = Operator::by(async |asked: Asked| {
        Ok(bearer(&format!(
            "{}{}",
            asked.subject,
            asked.refused.unwrap_or_default()
        )))
    });
    let upstream = Scripted::start(async |request: Request<Incoming>| {
        let who = request.headers()["authorization"].to_str().unwrap();
        match who.contains("ada") {
            true => Response::builder().status(401).body(whole("")).unwrap(),
            false => Response::new(whole("ok")),
        }
    })
    .await;
    let world = World::with(operator, upstream, |_| {}).await;
    let (ada, bob) = (
        world.context("idp_token=ada").await,
        world.context("idp_token=bob").await,
    );
    let body: Value = json(world.call(&ada).await).await;
    assert_eq!(body["error"]["code"], -32059);
    assert!(
        body["error"]["message"]
            .as_str()
            .unwrap()
            .contains("the user's own token"),
        "{body}"
    );
    assert_eq!(world.upstream.seen().len(), 2);
    assert_eq!(world.call(&bob).await.status(), StatusCode::OK);
    assert_eq!(
        post(world.sidecar.outbound, "/tools/mcp", LIST).await.status(),
        StatusCode::OK
    );
}

#[tokio::test]
async fn scopes_that_a_users_token_has_not_are_named_and_not_asked_for_in_the_services_name() {
    let upstream = Scripted::start(async |_| {
        let challenge = r#"Bearer error="insufficient_scope", scope="admin""#;
        let answer = Response::builder().status(403);
        answer
            .header("www-authenticate", challenge)
            .body(whole(""))
            .unwrap()
    })
    .await;
    let world = World::with(token_of_each_user(), upstream, |_| {}).await;
    let ada = world.context("idp_token=ada").await;
    let body: Value = json(world.call(&ada).await).await;
    assert_eq!(body["error"]["code"], -32063);
    let asks = |report: &mcp_auth_protocol::sync::Report| {
        let scopes =
            |refused: &mcp_auth_protocol::sync::RejectedToken| refused.why != RejectionCause::Unauthorized;
        report.refused.iter().any(scopes)
    };
    assert!(!asks(&world.sidecar.reports.borrow()));
}

#[tokio::test]
async fn a_token_for_one_url_is_not_used_for_another() {
    let world = World::with(token_of_each_user(), whoami().await, |_| {}).await;
    let ada = world.context("idp_token=ada").await;
    bytes(world.call(&ada).await).await;
    let moved_to = format!("HTTP://{}/mcp/", world.upstream.address);
    let mut moved = server(&moved_to);
    moved.route.exchange = Some(SubjectTokenSource::Cookie("idp_token".into()));
    world.sidecar.routes.apply(&[moved]);
    let request = Request::post("/tools/mcp/").header("mcpauth-context", ada);
    bytes(send(world.sidecar.outbound, request, whole(CALL)).await).await;
    let urls: Vec<_> = world
        .operator
        .asked()
        .into_iter()
        .map(|asked| asked.url)
        .collect();
    let first = format!("http://{}/mcp", world.upstream.address);
    assert_eq!(urls, [first, moved_to], "as the operator states them");
}

#[tokio::test]
async fn a_token_that_was_minted_for_something_else_is_not_used_any_more() {
    let world = World::with(token_of_each_user(), whoami().await, |tools| {
        tools.route.credential_identity = "read".into();
    })
    .await;
    let ada = world.context("idp_token=ada").await;
    for (credential_identity, times) in [("read", 1), ("read write", 2), ("read write", 2)] {
        let mut tools = server(&format!("http://{}/mcp", world.upstream.address));
        tools.route.exchange = Some(SubjectTokenSource::Cookie("idp_token".into()));
        tools.route.credential_identity = credential_identity.into();
        world.sidecar.routes.apply(&[tools]);
        assert_eq!(bytes(world.call(&ada).await).await, "Bearer token-of-ada;");
        assert_eq!(world.operator.asked(), vec![world.asked("ada", None); times]);
    }
}

/// As MCP clients and LiteLLM's authentication by JWT carry it.
#[tokio::test]
async fn the_token_that_the_user_authorizes_with_may_be_the_one_that_is_exchanged() {
    let of_authorization = |server: &mut Server| {
        server.route.exchange = Some(SubjectTokenSource::Header("authorization".into()));
    };
    let world = World::with(token_of_each_user(), whoami().await, of_authorization).await;
    let context = async |authorization: &str| {
        let request = Request::get("/").header("authorization", authorization);
        send(world.sidecar.inbound, request, whole("")).await;
        let seen = world.litellm.seen().last().unwrap().headers.clone();
        assert_eq!(
            seen["authorization"], authorization,
            "LiteLLM gets what it needs too"
        );
        seen.get("mcpauth-context").cloned()
    };
    let ada = context("Bearer ada.jwt.x").await.unwrap();
    assert_eq!(bytes(world.call(&ada).await).await, "Bearer token-of-ada.jwt.x;");
    assert_eq!(world.operator.asked(), [world.asked("ada.jwt.x", None)]);
    for no_users_token in ["Bearer sk-of-litellm-1234", "Basic YTpi"] {
        assert_eq!(
            context(no_users_token).await,
            None,
            "nothing of it goes anywhere else"
        );
    }
}
