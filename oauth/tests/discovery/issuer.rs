//! From an issuer to its metadata.

use mcp_auth_oauth::{Clock, Discovery, Error, ServerLocation, ServerMetadata};
use serde_json::json;

use crate::server::{Reply, Server};
use crate::{registration, search};

const PLACES: [&str; 3] = [
    "/.well-known/oauth-authorization-server/tenant",
    "/.well-known/openid-configuration/tenant",
    "/tenant/.well-known/openid-configuration",
];

async fn discover(server: &Server, path: &str) -> Result<ServerMetadata, Error> {
    search(ServerLocation::Issuer(server.url(path))).await
}

/// As of web applications, which answer every address with their start page.
#[tokio::test]
async fn a_page_for_people_at_one_place_does_not_hide_the_document_at_the_next() {
    let server = Server::start().await;
    let page = Reply::Raw(
        "200 OK",
        "content-type: text/html\r\n".into(),
        "<!DOCTYPE html><title>Company</title>".into(),
    );
    server.set(PLACES[0], page);
    server.json(PLACES[1], server.metadata(&server.url("/tenant")));
    let metadata = discover(&server, "/tenant").await.unwrap();
    assert_eq!(*metadata.token_endpoint, server.url("/token"));
}

#[tokio::test]
async fn each_place_is_asked_in_order_until_one_answers() {
    for (index, place) in PLACES.iter().enumerate() {
        let server = Server::start().await;
        server.json(place, server.metadata(&server.url("/tenant")));
        let metadata = discover(&server, "/tenant").await.unwrap();
        assert_eq!(metadata.issuer, server.url("/tenant"));
        assert_eq!(*metadata.token_endpoint, server.url("/token"));
        let expected: Vec<_> = PLACES[..=index]
            .iter()
            .map(|place| format!("GET {place}"))
            .collect();
        assert_eq!(server.requests(), expected);
    }
}

#[tokio::test]
async fn nothing_found_lists_what_each_place_answered() {
    let server = Server::start().await;
    server.set(
        PLACES[0],
        Reply::Raw("200 OK", String::new(), "<!DOCTYPE html><p>Sign in".into()),
    );
    server.json(
        PLACES[1],
        json!({"issuer": server.url("/tenant"), "token_endpoint": "/token"}),
    );
    let error = discover(&server, "/tenant").await.unwrap_err();
    assert_eq!(error.reason(), "DiscoveryFailed");
    assert_eq!(
        error.to_string(),
        format!(
            "no metadata of the authorization server were found ({}: an HTML page instead of JSON; {}: its \
             token_endpoint is not an absolute URL; {}: HTTP status 404)",
            server.url(PLACES[0]),
            server.url(PLACES[1]),
            server.url(PLACES[2]),
        )
    );
    assert!(!error.message().contains("Sign in"));
}

#[tokio::test]
async fn metadata_of_another_issuer_are_refused_and_told_where_there_are_no_others() {
    let server = Server::start().await;
    server.json(PLACES[0], server.metadata("https://attacker.example.com"));
    let error = discover(&server, "/tenant").await.unwrap_err();
    assert_eq!(error.reason(), "IssuerMismatch");
    let message = error.message();
    assert!(message.contains("https://attacker.example.com"), "{message}");
    assert!(message.contains(&server.url("/tenant")), "{message}");
    assert_eq!(server.requests().len(), PLACES.len());
}

#[tokio::test]
async fn a_document_of_another_issuer_does_not_hide_the_right_one_at_the_next_place() {
    let server = Server::start().await;
    // As gateways before several tenants do, which answer everything below /.well-known by one document.
    let mut other = server.metadata(&server.url("/other"));
    other["token_endpoint"] = json!(server.url("/other/token"));
    server.json(PLACES[0], other);
    server.json(PLACES[2], server.metadata(&server.url("/tenant")));
    let metadata = discover(&server, "/tenant").await.unwrap();
    assert_eq!(metadata.issuer, server.url("/tenant"));
    assert_eq!(*metadata.token_endpoint, server.url("/token"));
}

#[tokio::test]
async fn a_slash_that_is_all_of_a_path_makes_no_other_issuer() {
    for (stated, asked) in [("/", ""), ("", "/")] {
        let server = Server::start().await;
        server.json(
            "/.well-known/oauth-authorization-server",
            server.metadata(&server.url(stated)),
        );
        let metadata = discover(&server, asked).await.unwrap();
        assert_eq!(
            metadata.issuer,
            server.url(stated),
            "as the server itself writes it"
        );
    }
}

#[tokio::test]
async fn a_slash_at_the_end_is_another_issuer_and_the_error_says_so() {
    let server = Server::start().await;
    server.json(PLACES[0], server.metadata(&server.url("/tenant")));
    let error = discover(&server, "/tenant/").await.unwrap_err();
    assert_eq!(error.reason(), "IssuerMismatch");
    assert!(
        error
            .message()
            .contains("a slash at the end makes the difference"),
        "{}",
        error.message()
    );
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let target = Server::authorization_server().await;
    let server = Server::start().await;
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect"] {
        let location = format!(
            "location: {}\r\n",
            target.url("/.well-known/oauth-authorization-server")
        );
        let place = "/.well-known/oauth-authorization-server";
        server.set(place, Reply::Raw(status, location, String::new()));
        let error = discover(&server, "").await.unwrap_err();
        assert!(
            error.to_string().contains("a redirect, which is not followed"),
            "{error}"
        );
    }
    assert_eq!(target.requests(), [""; 0]);
}

#[tokio::test]
async fn an_issuer_that_cannot_be_asked_is_refused_before_anything_is_sent() {
    let server = Server::start().await;
    for (issuer, allowed) in [
        (server.url(""), false),
        ("auth.example.com".into(), true),
        ("https://auth.example.com?tenant=a".into(), true),
        ("https://auth.example.com#a".into(), true),
        ("https://user:pass@auth.example.com".into(), true),
    ] {
        let mut registration = registration(ServerLocation::Issuer(issuer.clone()));
        registration.allow_insecure_http = allowed;
        let error = Discovery::new(&registration, Clock::system()).unwrap_err();
        assert_eq!(error.reason(), "InvalidUrl", "{issuer}");
        assert!(error.message().starts_with("issuer "), "{}", error.message());
    }
    assert_eq!(server.requests(), [""; 0]);
}

#[tokio::test]
async fn authorities_that_cannot_be_read_are_told_before_anything_is_sent() {
    let server = Server::start().await;
    let mut registration = registration(ServerLocation::Issuer(server.url("")));
    registration.ca_bundle = Some("no PEM".into());
    let error = Discovery::new(&registration, Clock::system()).unwrap_err();
    assert_eq!(error.reason(), "InvalidCaBundle");
}

#[test]
fn stated_endpoints_need_no_discovery() {
    let endpoints = ServerLocation::Endpoints {
        token_url: "https://auth.example.com/token".into(),
        revocation_url: None,
    };
    assert!(
        Discovery::new(&registration(endpoints), Clock::system())
            .unwrap()
            .is_none()
    );
}
