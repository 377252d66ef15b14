//! Calls that carry a user's cookies or headers beside the service's token: a refusal may be about either.

use std::net::SocketAddr;
use std::num::NonZeroUsize;

use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use mcp_auth_protocol::sync::{DeclinedRefresh, RejectionCause, Server};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::scene::{Operator, Scripted, Sidecar, json, post, send, whole};
use crate::tokens::{CALL, PATIENT, challenge, is_error, takes_only, tools, unauthorized};

const SAID: &str = "tokens that were just issued are refused as well";
const BLAMED: &str = "the user's cookies or headers";

struct World {
    litellm: Scripted,
    sidecar: Sidecar,
}

impl World {
    async fn new(servers: &[Server]) -> Self {
        let litellm = Scripted::echo().await;
        let one = NonZeroUsize::MIN;
        let sidecar = Sidecar::with(litellm.address, servers, one, Operator::default(), PATIENT);
        Self { litellm, sidecar }
    }

    async fn context(&self, session: &str) -> HeaderValue {
        let request = Request::get("/").header("cookie", format!("session_id={session}"));
        send(self.sidecar.inbound, request, whole("")).await;
        self.litellm.seen().last().unwrap().headers["mcpauth-context"].clone()
    }

    fn call(&self, context: &HeaderValue) -> JoinHandle<Response<Incoming>> {
        tokio::spawn(call(self.sidecar.outbound, context.clone()))
    }

    fn plain(&self) -> JoinHandle<Response<Incoming>> {
        let outbound = self.sidecar.outbound;
        tokio::spawn(async move { post(outbound, "/tools/mcp", CALL).await })
    }
}

async fn call(outbound: SocketAddr, context: HeaderValue) -> Response<Incoming> {
    let request = Request::post("/tools/mcp").header("mcpauth-context", context);
    send(outbound, request, whole(CALL)).await
}

/// Takes every token, and no session that has ended.
async fn minds_sessions() -> Scripted {
    Scripted::start(async |request: Request<Incoming>| {
        let cookie = request.headers().get("cookie");
        match cookie.is_some_and(|cookie| cookie.to_str().unwrap().contains("ended")) {
            true => challenge(401, "Bearer"),
            false => Response::new(whole("ok")),
        }
    })
    .await
}

fn declined(mut server: Server, token: &str) -> Server {
    server.declined = Some(DeclinedRefresh {
        token: token.into(),
        why: RejectionCause::Unauthorized,
        message: SAID.into(),
    });
    server
}

async fn tells(answer: Response<Incoming>, part: &str) {
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    let body: Value = json(answer).await;
    assert!(is_error(&body, -32059), "{body}");
    assert!(
        body["error"]["message"].as_str().unwrap().contains(part),
        "{body}"
    );
}

#[tokio::test]
async fn one_users_refusal_holds_nobody_else_up_even_where_the_operator_declines() {
    let upstream = minds_sessions().await;
    let world = World::new(&[tools(&upstream, "old")]).await;
    let (ada, bob) = (world.context("ended").await, world.context("good").await);
    let refused = world.call(&ada);
    assert_eq!(world.sidecar.refused().await, [unauthorized("old")]);
    world.sidecar.waiting(1).await;
    for call in [world.call(&bob), world.plain()] {
        assert_eq!(call.await.unwrap().status(), StatusCode::OK);
    }
    world
        .sidecar
        .routes
        .apply(&[declined(tools(&upstream, "old"), "old")]);
    tells(refused.await.unwrap(), SAID).await;
    for call in [world.call(&bob), world.plain()] {
        assert_eq!(call.await.unwrap().status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn two_tokens_refused_to_one_user_are_the_users_matter_and_no_third_is_asked_for() {
    let upstream = minds_sessions().await;
    let world = World::new(&[tools(&upstream, "old")]).await;
    let ada = world.context("ended").await;
    assert_eq!(world.plain().await.unwrap().status(), StatusCode::OK);
    let refused = world.call(&ada);
    world.sidecar.refused().await;
    world.sidecar.routes.apply(&[tools(&upstream, "new")]);
    tells(refused.await.unwrap(), BLAMED).await;
    assert_eq!(upstream.seen().len(), 3, "it was repeated once");
    let reported = || world.sidecar.reports.borrow().refused.clone();
    assert_eq!(reported(), [], "the new token is not");

    tells(world.call(&ada).await.unwrap(), BLAMED).await;
    world.sidecar.routes.apply(&[tools(&upstream, "newer")]);
    tells(world.call(&ada).await.unwrap(), BLAMED).await;
    assert_eq!(
        upstream.seen().len(),
        5,
        "each call is tried, and answered at once"
    );
    assert_eq!(reported(), []);

    let eve = world.context("ended-too").await;
    let _refused = world.call(&eve);
    assert_eq!(
        world.sidecar.refused().await,
        [unauthorized("newer")],
        "another user is another matter"
    );
}

#[tokio::test]
async fn where_no_token_was_ever_taken_it_is_not_the_user_and_each_token_is_reported() {
    let upstream = Scripted::start(async |_| challenge(401, "Bearer")).await;
    let world = World::new(&[tools(&upstream, "old")]).await;
    let ada = world.context("good").await;
    let refused = world.call(&ada);
    assert_eq!(world.sidecar.refused().await, [unauthorized("old")]);
    world.sidecar.routes.apply(&[tools(&upstream, "new")]);
    tells(refused.await.unwrap(), "the one that replaced it as well").await;
    assert_eq!(world.sidecar.refused().await, [unauthorized("new")]);
}

#[tokio::test]
async fn a_refusal_without_any_user_is_about_the_token_and_holds_users_up_too() {
    let upstream = takes_only("new").await;
    let world = World::new(&[tools(&upstream, "old")]).await;
    let ada = world.context("good").await;
    let mut calls = vec![world.call(&ada)];
    world.sidecar.waiting(1).await;
    calls.push(world.plain());
    world.sidecar.waiting(2).await;
    assert_eq!(upstream.seen().len(), 2);
    calls.extend([world.call(&ada), world.plain()]);
    world.sidecar.waiting(4).await;
    assert_eq!(upstream.seen().len(), 2, "the server is spared");
    world.sidecar.routes.apply(&[tools(&upstream, "new")]);
    for call in calls {
        assert_eq!(call.await.unwrap().status(), StatusCode::OK);
    }
}
