//! Where the search does not go, and how much it takes.

use std::time::Duration;

use mcp_auth_oauth::{Limits, ServerLocation};

use crate::server::{Reply, Server};
use crate::{discovery, pass, registration, resource_at, search, search_within};

const SERVER: &str = "/.well-known/oauth-authorization-server";

/// The same server under a name that the resource does not state.
fn elsewhere(server: &Server, path: &str) -> String {
    format!("http://localhost:{}{path}", server.port)
}

#[tokio::test]
async fn an_issuer_that_was_discovered_is_not_asked_at_a_private_address() {
    let auth = Server::start().await;
    for issuer in [
        elsewhere(&auth, ""),
        format!("http://127.0.0.2:{}", auth.port),
        format!("http://[::ffff:127.0.0.1]:{}", auth.port),
        format!("http://2130706434:{}", auth.port),
    ] {
        auth.json(SERVER, auth.metadata(&issuer));
        let mcp = Server::naming(&issuer).await;
        let error = search(resource_at(mcp.url("/mcp"))).await.unwrap_err();
        assert_eq!(error.reason(), "DiscoveryFailed");
        let message = error.message();
        assert!(
            message.contains("no connection: its address is private"),
            "{message}"
        );
        assert!(message.contains("allowPrivateAddresses: true"), "{message}");
    }
    assert_eq!(auth.requests(), [""; 0]);
}

#[tokio::test]
async fn it_is_asked_there_where_that_is_allowed() {
    let auth = Server::start().await;
    let issuer = elsewhere(&auth, "");
    auth.json(SERVER, auth.metadata(&issuer));
    let mcp = Server::naming(&issuer).await;
    let mut registration = registration(resource_at(mcp.url("/mcp")));
    registration.allow_private_addresses = true;
    assert_eq!(discovery(&registration).server().await.unwrap().issuer, issuer);
}

#[tokio::test]
async fn an_issuer_that_is_stated_may_be_at_a_private_address() {
    let auth = Server::start().await;
    let issuer = elsewhere(&auth, "");
    auth.json(SERVER, auth.metadata(&issuer));
    let metadata = search(ServerLocation::Issuer(issuer.clone())).await.unwrap();
    assert_eq!(metadata.issuer, issuer);
}

#[tokio::test]
async fn metadata_that_a_challenge_names_are_not_read_at_a_private_address() {
    let victim = Server::start().await;
    let mcp = Server::start().await;
    mcp.unauthorized(&format!(
        "Bearer resource_metadata=\"{}\"",
        elsewhere(&victim, "/admin")
    ));
    let error = search(resource_at(mcp.url("/mcp"))).await.unwrap_err();
    assert!(error.to_string().contains("its address is private"), "{error}");
    assert_eq!(victim.requests(), [""; 0]);
}

#[tokio::test]
async fn the_metadata_service_of_a_cloud_is_asked_by_nobody() {
    let _ = Server::start().await;
    for host in [
        "169.254.169.254",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
        "0.0.0.0",
    ] {
        let mut registration = registration(ServerLocation::Issuer(format!("http://{host}")));
        registration.allow_private_addresses = true;
        let error = discovery(&registration).server().await.unwrap_err();
        assert!(
            error.to_string().contains("no connection: its address is"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn an_endless_document_ends_at_the_limit() {
    let server = Server::start().await;
    server.set(SERVER, Reply::Endless);
    let error = search(ServerLocation::Issuer(server.url(""))).await.unwrap_err();
    assert!(error.to_string().contains("more than 1048576 bytes"), "{error}");
}

#[tokio::test]
async fn a_server_that_hangs_meets_the_deadline_of_each_request() {
    let server = Server::start().await;
    for place in [SERVER, "/.well-known/openid-configuration"] {
        server.set(place, Reply::Hang);
    }
    let tight = Limits {
        deadline: Duration::from_millis(200),
        ..Limits::default()
    };
    let issuer = ServerLocation::Issuer(server.url(""));
    let error = search_within(issuer, tight).await.unwrap_err();
    let message = error.to_string();
    assert_eq!(
        message.matches("no complete answer within 0.2 s").count(),
        2,
        "{message}"
    );
}

#[tokio::test]
async fn a_search_meets_a_deadline_of_its_own() {
    let server = Server::start().await;
    server.set("/mcp", Reply::Hang);
    let patient = Limits {
        deadline: Duration::from_secs(3600),
        ..Limits::default()
    };
    let search = tokio::spawn(search_within(resource_at(server.url("/mcp")), patient));
    // The clock is moved once the connection stands, which has a bound of its own.
    while server.requests().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    pass(Duration::from_secs(30)).await;
    let error = search.await.unwrap().unwrap_err();
    assert_eq!(error.reason(), "DiscoveryFailed");
    assert!(error.to_string().contains("took longer than 30 s"), "{error}");
}

#[tokio::test]
async fn documents_nested_without_end_are_no_documents() {
    let server = Server::start().await;
    let deep = format!("{{\"issuer\":{}", "[".repeat(100_000));
    server.set(SERVER, Reply::Raw("200 OK", String::new(), deep));
    let error = search(ServerLocation::Issuer(server.url(""))).await.unwrap_err();
    assert!(
        error.to_string().contains("broken JSON instead of JSON"),
        "{error}"
    );
}

#[tokio::test]
async fn what_other_servers_say_is_repeated_within_bounds() {
    let long = format!("https://evil.example.com/{}", "x".repeat(100_000));
    let server = Server::start().await;
    server.json(SERVER, server.metadata(&long));
    let error = search(ServerLocation::Issuer(server.url(""))).await.unwrap_err();
    assert_eq!(error.reason(), "IssuerMismatch");
    assert!(error.message().len() < 1500, "{}", error.message().len());
    let mcp = Server::naming(&long).await;
    let error = search(resource_at(mcp.url("/mcp"))).await.unwrap_err();
    assert!(error.message().len() < 1500, "{}", error.message().len());
}
