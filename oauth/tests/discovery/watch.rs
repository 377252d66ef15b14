//! The watch of an authorization server of which no token is requested.

use mcp_auth_oauth::{Client, Clock, DiscoveryState, DiscoveryWatch, Policy, ServerLocation};
use serde_json::json;

use crate::registration;
use crate::server::{Reply, Server};

fn watch(server: ServerLocation) -> DiscoveryWatch {
    let client = Client::new(registration(server)).unwrap();
    DiscoveryWatch::spawn(client, Policy::default(), Clock::system())
}

#[tokio::test]
async fn a_server_is_found_and_nothing_is_sent_to_its_token_endpoint() {
    let auth = Server::authorization_server().await;
    let watch = watch(ServerLocation::Issuer(auth.url("")));
    let mut states = watch.subscribe();
    states
        .wait_for(|state| *state == DiscoveryState::Found)
        .await
        .unwrap();
    let requests = auth.requests();
    assert!(
        requests
            .iter()
            .all(|request| request.starts_with("GET /.well-known/")),
        "{requests:?}"
    );
}

#[tokio::test]
async fn a_server_that_fails_is_told_with_what_came_back_and_found_once_it_answers() {
    let auth = Server::start().await;
    let metadata = "/.well-known/oauth-authorization-server";
    for path in [metadata, "/.well-known/openid-configuration"] {
        auth.set(
            path,
            Reply::Raw("503 Service Unavailable", String::new(), String::new()),
        );
    }
    let watch = watch(ServerLocation::Issuer(auth.url("")));
    let mut states = watch.subscribe();
    let failed = states
        .wait_for(|state| *state != DiscoveryState::Pending)
        .await
        .unwrap()
        .clone();
    let DiscoveryState::Failed(failure) = failed else {
        panic!("{failed:?}");
    };
    assert!(
        failure.error.message().contains("HTTP status 503"),
        "{}",
        failure.error.message()
    );
    auth.json(metadata, auth.metadata(&auth.url("")));
    states
        .wait_for(|state| *state == DiscoveryState::Found)
        .await
        .unwrap();
}

#[tokio::test]
async fn where_the_endpoints_are_stated_nothing_is_asked() {
    let auth = Server::start().await;
    auth.json("/token", json!({}));
    let watch = watch(ServerLocation::Endpoints {
        token_url: auth.url("/token"),
        revocation_url: None,
    });
    let mut states = watch.subscribe();
    states
        .wait_for(|state| *state == DiscoveryState::NothingToDiscover)
        .await
        .unwrap();
    assert_eq!(auth.requests(), [""; 0]);
}
