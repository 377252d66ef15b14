//! What a client knows of the issuer before it was issued anything, and what its successor takes over.

use mcp_auth_oauth::{ClientAuthentication, Registration, ServerLocation};
use serde_json::json;

use crate::client::{ask, client, issue};
use crate::server::{Reply, Server};
use crate::{registration, resource_at};

/// With another secret.
fn corrected(registration: &Registration) -> Registration {
    Registration {
        authentication: ClientAuthentication::SecretBasic("corrected-s3cret".into()),
        ..registration.clone()
    }
}

fn refuse(server: &Server) {
    let refusal = json!({"error": "invalid_client"}).to_string();
    server.set("/token", Reply::Raw("401 Unauthorized", String::new(), refusal));
}

#[tokio::test]
async fn the_server_is_told_once_it_is_discovered_although_it_issued_nothing() {
    let auth = Server::authorization_server().await;
    let mcp = Server::naming(&auth.url("")).await;
    refuse(&auth);
    let client = client(registration(resource_at(mcp.url("/mcp"))));
    assert_eq!(client.discovered_server(), None);
    assert_eq!(mcp.requests(), [""; 0]);
    assert_eq!(ask(&client).await.unwrap_err().reason(), "invalid_client");
    mcp.requests();
    assert_eq!(client.discovered_server().unwrap().issuer, auth.url(""));
    assert_eq!(mcp.requests(), [""; 0]);
}

#[tokio::test]
async fn a_corrected_secret_is_not_shown_to_another_server_than_the_one_that_refused_the_first() {
    let before = Server::authorization_server().await;
    let after = Server::authorization_server().await;
    refuse(&before);
    issue(&after, "t0p");
    let mcp = Server::naming(&before.url("")).await;
    let registration = registration(resource_at(mcp.url("/mcp")));
    let first = client(registration.clone());
    assert_eq!(ask(&first).await.unwrap_err().reason(), "invalid_client");

    mcp.name(&after.url(""));
    let second = client(corrected(&registration)).with_known_issuer_from(&first);
    assert_eq!(ask(&second).await.unwrap_err().reason(), "IssuerChanged");
    // Nor by the next, whose predecessor found nothing.
    let third = client(corrected(&registration)).with_known_issuer_from(&second);
    assert_eq!(ask(&third).await.unwrap_err().reason(), "IssuerChanged");
    assert_eq!(after.requests(), [""; 0]);

    mcp.name(&before.url(""));
    issue(&before, "t0p");
    ask(&third).await.unwrap();
    assert_eq!(third.discovered_server().unwrap().issuer, before.url(""));
}

#[tokio::test]
async fn what_is_known_of_one_mcp_server_says_nothing_of_another_or_of_a_stated_issuer() {
    let one = Server::authorization_server().await;
    let other = Server::authorization_server().await;
    issue(&one, "t0p");
    issue(&other, "t0p");
    let mcp = Server::naming(&one.url("")).await;
    let first = client(registration(resource_at(mcp.url("/mcp"))));
    ask(&first).await.unwrap();
    let elsewhere = Server::naming(&other.url("")).await;
    for location in [
        resource_at(elsewhere.url("/mcp")),
        ServerLocation::Issuer(other.url("")),
    ] {
        let second = client(registration(location)).with_known_issuer_from(&first);
        let issued = ask(&second).await.unwrap();
        assert_eq!(issued.server.unwrap().issuer, other.url(""));
    }
}

#[tokio::test]
async fn the_issuer_that_the_registration_states_comes_before_what_the_other_client_knows() {
    let before = Server::authorization_server().await;
    let after = Server::authorization_server().await;
    issue(&before, "t0p");
    issue(&after, "t0p");
    let mcp = Server::naming(&before.url("")).await;
    let first = client(registration(resource_at(mcp.url("/mcp"))));
    ask(&first).await.unwrap();
    mcp.name(&after.url(""));
    let location = ServerLocation::ProtectedResource {
        url: mcp.url("/mcp"),
        ca_bundle: None,
        known_issuer: Some(after.url("")),
    };
    let second = client(registration(location)).with_known_issuer_from(&first);
    assert_eq!(ask(&second).await.unwrap().server.unwrap().issuer, after.url(""));
}
