//! The watch of an authorization server of which no token is requested.

use std::time::Duration;

use mcp_auth_oauth::{
    Client, Clock, DiscoveryState, DiscoveryWatch, ExchangeProfile, Policy, PreflightProblem, ServerLocation,
    TokenExchange, TokenUse,
};
use serde_json::json;
use tokio::time::timeout;

use crate::server::{Reply, Server};
use crate::{pass, registration, resource_at, start};

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
async fn a_server_that_an_exchange_finds_again_as_it_was_ends_the_failure() {
    let (auth, other) = (
        Server::authorization_server().await,
        Server::authorization_server().await,
    );
    let mcp = Server::naming(&auth.url("")).await;
    let clock = Clock::starting_at(start());
    let client = Client::new(registration(resource_at(mcp.url("/mcp"))))
        .unwrap()
        .with_clock(clock.clone());
    client.discover().await.unwrap();
    mcp.name(&other.url(""));
    pass(Duration::from_secs(2 * 60 * 60)).await;
    let watch = DiscoveryWatch::spawn(client.clone(), Policy::default(), clock.clone());
    let mut states = watch.subscribe();
    let failed = states
        .wait_for(|state| *state != DiscoveryState::Pending)
        .await
        .unwrap()
        .clone();
    let DiscoveryState::Failed(failure) = failed else {
        panic!("{failed:?}");
    };
    assert_eq!(failure.error.reason(), "IssuerChanged");
    // By itself the watch looks after an hour now.
    clock.set_by(-60 * 60);
    mcp.name(&auth.url(""));
    client.discover().await.unwrap();
    timeout(
        Duration::from_secs(30),
        states.wait_for(|state| *state == DiscoveryState::Found),
    )
    .await
    .expect("the watch hears of it")
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

/// A client whose exchanges are granted by an identity provider.
fn by_identity_provider(server: ServerLocation, identity_provider: ServerLocation) -> Client {
    let mut registration = registration(server);
    registration.token_exchange = TokenExchange {
        profile: ExchangeProfile::IdJag,
        identity_provider: Some(Box::new(self::registration(identity_provider))),
        ..TokenExchange::default()
    };
    Client::new(registration).unwrap()
}

#[tokio::test]
async fn the_identity_provider_is_looked_up_too_and_what_is_wrong_there_is_told_as_its_own() {
    let auth = Server::authorization_server().await;
    let provider = Server::start().await;
    let stated = || ServerLocation::Endpoints {
        token_url: auth.url("/token"),
        revocation_url: None,
    };
    for server in [ServerLocation::Issuer(auth.url("")), stated()] {
        let metadata = "/.well-known/openid-configuration";
        provider.set(
            metadata,
            Reply::Raw("404 Not Found", String::new(), String::new()),
        );
        let client = by_identity_provider(server, ServerLocation::Issuer(provider.url("")));
        let watch = DiscoveryWatch::spawn(client.clone(), Policy::default(), Clock::system());
        let mut states = watch.subscribe();
        let failed = states
            .wait_for(|state| *state != DiscoveryState::Pending)
            .await
            .unwrap()
            .clone();
        let DiscoveryState::Failed(failure) = failed else {
            panic!("{failed:?}");
        };
        let told = failure.error.message();
        assert!(
            told.starts_with("at the identity provider") && told.contains(&provider.url("")),
            "{told}"
        );
        let mut there = provider.metadata(&provider.url(""));
        there["grant_types_supported"] = json!(["authorization_code"]);
        provider.json(metadata, there);
        states
            .wait_for(|state| *state == DiscoveryState::Found)
            .await
            .unwrap();
        let found = client.discovered_identity_provider().unwrap();
        assert_eq!(found.issuer, provider.url(""));
        let problems = client.preflight(TokenUse::Users);
        assert!(
            matches!(problems[..], [PreflightProblem::IdentityProvider(_)]),
            "{problems:?}"
        );
        let told = problems[0].to_string();
        assert!(
            told.starts_with("at the identity provider: grant_types_supported"),
            "{told}"
        );
        assert_eq!(client.preflight(TokenUse::Service), [], "it has no part in that");
    }
    let requests = provider.requests();
    assert!(
        requests.iter().all(|request| request.starts_with("GET ")),
        "{requests:?}"
    );
}

#[tokio::test]
async fn where_both_endpoints_are_stated_nothing_is_asked_of_either() {
    let stated = |path: &str| ServerLocation::Endpoints {
        token_url: format!("http://127.0.0.1:1/{path}"),
        revocation_url: None,
    };
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = by_identity_provider(stated("token"), stated("idp"));
    let watch = DiscoveryWatch::spawn(client, Policy::default(), Clock::system());
    assert_eq!(*watch.subscribe().borrow(), DiscoveryState::NothingToDiscover);
}
