//! Endpoints that metadata name, judged by the administrator's rules before anything is made for them.

use mcp_auth_oauth::{AccessToken, Destinations, ServerLocation};
use serde_json::json;

use crate::client::{ask, client, issue};
use crate::server::Server;
use crate::{registration, resource_at};

/// The servers of these tests are at 127.0.0.1; the same machine by this name is not listed.
fn elsewhere(server: &Server, path: &str) -> String {
    format!("http://localhost:{}{path}", server.port)
}

fn only_listed(server: ServerLocation) -> mcp_auth_oauth::Registration {
    let mut registration = registration(server);
    registration.allow_private_addresses = true;
    registration.destinations = Destinations {
        hosts: ["127.0.0.1".parse().unwrap()].into(),
        ..Destinations::default()
    };
    registration
}

#[tokio::test]
async fn a_token_endpoint_that_is_not_allowed_gets_no_request_and_is_told_by_field_host_and_rule() {
    let victim = Server::start().await;
    issue(&victim, "t0p");
    let auth = Server::start().await;
    auth.json(
        "/.well-known/oauth-authorization-server",
        json!({"issuer": auth.url(""), "token_endpoint": elsewhere(&victim, "/token")}),
    );
    let client = client(only_listed(ServerLocation::Issuer(auth.url(""))));
    for error in [
        ask(&client).await.unwrap_err(),
        client.exchange_token(&"us3r".into()).await.unwrap_err(),
        client.discover().await.unwrap_err(),
    ] {
        assert_eq!(error.reason(), "NotAllowed");
        assert!(error.is_not_allowed() && error.is_permanent());
        let message = error.message();
        for part in [
            "token_endpoint",
            "the host localhost is not among",
            "policy.authorizationServers",
        ] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }
    assert_eq!(victim.requests(), [""; 0]);
}

#[tokio::test]
async fn a_revocation_endpoint_that_is_not_allowed_is_shown_no_token_and_keeps_none_from_being_issued() {
    let victim = Server::start().await;
    let auth = Server::start().await;
    issue(&auth, "t0p");
    let mut metadata = auth.metadata(&auth.url(""));
    metadata["revocation_endpoint"] = json!(elsewhere(&victim, "/revoke"));
    auth.json("/.well-known/oauth-authorization-server", metadata);
    let client = client(only_listed(ServerLocation::Issuer(auth.url(""))));
    let issued = ask(&client).await.unwrap();
    let error = client
        .revoke(&AccessToken::new(issued.access_token.secret().clone()))
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "NotAllowed");
    assert!(
        error.message().contains("revocation_endpoint"),
        "{}",
        error.message()
    );
    assert_eq!(victim.requests(), [""; 0]);
}

#[tokio::test]
async fn an_authorization_server_that_is_named_and_not_allowed_is_not_told_to_be_a_private_address() {
    let victim = Server::authorization_server().await;
    let mcp = Server::naming(&elsewhere(&victim, "")).await;
    let error = ask(&client(only_listed(resource_at(mcp.url("/mcp")))))
        .await
        .unwrap_err();
    assert!(error.is_not_allowed());
    let message = error.message();
    assert!(
        message.contains("policy.authorizationServers") && !message.contains("allowPrivateAddresses"),
        "{message}"
    );
    assert_eq!(victim.requests(), [""; 0]);
}
