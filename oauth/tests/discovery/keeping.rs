//! How long what was found is kept, and what becomes of it when it cannot be had again.

use std::sync::Arc;
use std::time::Duration;

use mcp_auth_oauth::{Clock, Discovery};

use crate::server::{Reply, Server};
use crate::{pass, registration, resource_at, start};

const HOUR: Duration = Duration::from_secs(3600);

struct Scene {
    auth: Server,
    mcp: Server,
    discovery: Discovery,
}

async fn scene() -> Scene {
    let auth = Server::authorization_server().await;
    let mcp = Server::naming(&auth.url("")).await;
    let registration = registration(resource_at(mcp.url("/mcp")));
    let discovery = Discovery::new(&registration, Clock::starting_at(start()));
    Scene {
        auth,
        mcp,
        discovery: discovery.unwrap().unwrap(),
    }
}

impl Scene {
    /// The issuer or the reason why there is none, and whether anybody was asked for it.
    async fn ask(&self) -> (String, bool) {
        let outcome = self.discovery.server().await;
        let issuer_or_reason = match outcome {
            Ok(server) => server.issuer.clone(),
            Err(error) => error.reason().to_owned(),
        };
        (issuer_or_reason, !self.mcp.requests().is_empty())
    }

    fn issuer(&self) -> String {
        self.auth.url("")
    }
}

#[tokio::test]
async fn metadata_are_kept_for_an_hour() {
    let scene = scene().await;
    assert_eq!(scene.ask().await, (scene.issuer(), true));
    assert_eq!(scene.ask().await, (scene.issuer(), false));
    pass(HOUR - Duration::from_secs(30)).await;
    assert_eq!(scene.ask().await, (scene.issuer(), false));
    pass(Duration::from_secs(30)).await;
    assert_eq!(scene.ask().await, (scene.issuer(), true));
}

#[tokio::test]
async fn callers_at_the_same_time_share_one_search() {
    let scene = scene().await;
    let (one, other) = tokio::join!(scene.discovery.server(), scene.discovery.server());
    assert!(Arc::ptr_eq(&one.unwrap(), &other.unwrap()));
    assert_eq!(scene.auth.requests().len(), 1);
}

#[tokio::test]
async fn what_is_forgotten_is_searched_for_again_but_not_within_a_minute() {
    let scene = scene().await;
    scene.discovery.invalidate_unless_fresh().await;
    assert_eq!(scene.ask().await, (scene.issuer(), true));
    scene.discovery.invalidate_unless_fresh().await;
    assert_eq!(scene.ask().await, (scene.issuer(), false));
    pass(Duration::from_secs(60)).await;
    scene.discovery.invalidate_unless_fresh().await;
    assert_eq!(scene.ask().await, (scene.issuer(), true));
}

#[tokio::test]
async fn metadata_that_cannot_be_had_again_serve_on() {
    let scene = scene().await;
    scene.ask().await;
    pass(HOUR).await;
    for reply in [
        Reply::Close,
        Reply::Raw("503 Service Unavailable", String::new(), String::new()),
        Reply::Raw("404 Not Found", String::new(), String::new()),
    ] {
        scene.mcp.set("/metadata.json", reply);
        assert_eq!(scene.ask().await, (scene.issuer(), true));
        // They are not searched for at every call.
        assert_eq!(scene.ask().await, (scene.issuer(), false));
        pass(Duration::from_secs(60)).await;
    }
}

#[tokio::test]
async fn a_first_search_that_fails_is_an_error_and_the_next_call_searches_again() {
    let scene = scene().await;
    scene.mcp.set("/metadata.json", Reply::Close);
    assert_eq!(scene.ask().await, ("DiscoveryFailed".into(), true));
    scene.mcp.name(&scene.issuer());
    assert_eq!(scene.ask().await, (scene.issuer(), true));
}

#[tokio::test]
async fn another_issuer_ends_the_service_of_the_first_until_that_is_named_again() {
    let scene = scene().await;
    scene.ask().await;
    pass(HOUR).await;
    let other = Server::authorization_server().await;
    scene.mcp.name(&other.url(""));
    assert_eq!(scene.ask().await, ("IssuerChanged".into(), true));
    // Not the first one either where nothing can be had.
    scene.mcp.set("/metadata.json", Reply::Close);
    assert_eq!(scene.ask().await, ("DiscoveryFailed".into(), true));
    scene.mcp.name(&other.url(""));
    assert_eq!(scene.ask().await, ("IssuerChanged".into(), true));
    assert_eq!(other.requests(), [""; 0]);
    scene.mcp.name(&scene.issuer());
    assert_eq!(scene.ask().await, (scene.issuer(), true));
}
