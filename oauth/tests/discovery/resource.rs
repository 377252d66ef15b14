//! From an MCP server to its issuer, and on to that one's metadata.

use mcp_auth_oauth::{Clock, Discovery, Error, Scope, ScopeOrigin, ServerLocation, ServerMetadata};
use serde_json::json;

use crate::server::{Reply, Server};
use crate::{registration, resource_at, search};

const OWN: &str = "/.well-known/oauth-protected-resource/mcp";
const ROOT: &str = "/.well-known/oauth-protected-resource";
const SERVER: &str = "/.well-known/oauth-authorization-server";

async fn discover(server: &Server) -> Result<ServerMetadata, Error> {
    search(resource_at(server.url("/mcp"))).await
}

/// With an issuer that was found before.
async fn discover_known(server: &Server, known: &str) -> Result<ServerMetadata, Error> {
    search(ServerLocation::ProtectedResource {
        url: server.url("/mcp"),
        ca_bundle: None,
        known_issuer: Some(known.into()),
    })
    .await
}

fn names(scopes: &[Scope]) -> Vec<&str> {
    scopes.iter().map(AsRef::as_ref).collect()
}

#[tokio::test]
async fn the_place_that_the_challenge_names_is_asked_and_no_other() {
    let auth = Server::authorization_server().await;
    let mcp = Server::naming(&auth.url("")).await;
    let metadata = discover(&mcp).await.unwrap();
    assert_eq!(metadata.issuer, auth.url(""));
    assert_eq!(*metadata.token_endpoint, auth.url("/token"));
    assert_eq!(mcp.requests(), ["POST /mcp", "GET /metadata.json"]);
    assert_eq!(auth.requests(), [format!("GET {SERVER}")]);
}

#[tokio::test]
async fn without_a_word_in_the_challenge_the_well_known_places_are_asked_in_order() {
    let auth = Server::authorization_server().await;
    for place in [OWN, ROOT] {
        let mcp = Server::start().await;
        mcp.unauthorized("Bearer");
        mcp.json(place, mcp.resource(&auth.url("")));
        assert_eq!(discover(&mcp).await.unwrap().issuer, auth.url(""));
        let requests = mcp.requests();
        assert_eq!(requests.last(), Some(&format!("GET {place}")), "{requests:?}");
        assert_eq!(requests[..2], ["POST /mcp".to_owned(), format!("GET {OWN}")]);
    }
}

#[tokio::test]
async fn a_server_that_answers_without_a_token_is_asked_for_its_metadata_all_the_same() {
    let auth = Server::authorization_server().await;
    let mcp = Server::start().await;
    // An endless stream, of which only the head is read.
    mcp.set("/mcp", Reply::Endless);
    mcp.json(OWN, mcp.resource(&auth.url("")));
    assert_eq!(discover(&mcp).await.unwrap().issuer, auth.url(""));
}

#[tokio::test]
async fn metadata_of_another_resource_are_refused_and_their_server_is_never_asked() {
    let auth = Server::authorization_server().await;
    let mcp = Server::naming(&auth.url("")).await;
    for resource in [
        "https://evil.example.com/mcp".to_owned(),
        auth.url("/mcp"),
        mcp.url("/other"),
    ] {
        mcp.json(
            "/metadata.json",
            json!({"resource": resource, "authorization_servers": [auth.url("")]}),
        );
        let error = discover(&mcp).await.unwrap_err();
        assert_eq!(error.reason(), "ResourceMismatch");
        assert!(error.message().contains(&resource), "{}", error.message());
    }
    assert_eq!(auth.requests(), [""; 0]);
}

#[tokio::test]
async fn metadata_of_another_resource_do_not_hide_the_server_s_own_at_the_next_place() {
    let auth = Server::authorization_server().await;
    let mcp = Server::naming(&auth.url("")).await;
    mcp.json(
        "/metadata.json",
        json!({"resource": mcp.url("/other"), "authorization_servers": ["https://evil.example.com"]}),
    );
    mcp.json(OWN, mcp.resource(&auth.url("")));
    assert_eq!(discover(&mcp).await.unwrap().issuer, auth.url(""));
}

/// Servers hosted by Google name `https://accounts.google.com` with a slash, and its metadata are without.
#[tokio::test]
async fn a_resource_may_name_its_issuer_with_a_slash_that_the_issuer_does_not_write_and_without_one_that_it_does()
 {
    for (named, stated) in [("/", ""), ("", "/")] {
        let auth = Server::start().await;
        auth.json(SERVER, auth.metadata(&auth.url(stated)));
        let mcp = Server::naming(&auth.url(named)).await;
        assert_eq!(discover(&mcp).await.unwrap().issuer, auth.url(stated));
        // Nor is it a change from what was found before.
        for known in ["", "/"] {
            let metadata = discover_known(&mcp, &auth.url(known)).await.unwrap();
            assert_eq!(metadata.issuer, auth.url(stated));
        }
    }
}

#[tokio::test]
async fn scopes_that_only_a_user_can_grant_are_not_requested() {
    let auth = Server::authorization_server().await;
    let mcp = Server::start().await;
    let mut document = mcp.resource(&auth.url(""));
    document["scopes_supported"] = json!(["openid", "tools:call", "offline_access", "profile"]);
    mcp.json(OWN, document);
    mcp.unauthorized("Bearer");
    let found = discover(&mcp).await.unwrap();
    assert_eq!(names(&found.scopes), ["tools:call", "profile"]);
    assert_eq!(found.scope_origin, ScopeOrigin::Metadata);
    mcp.unauthorized("Bearer scope=\"openid tools:basic\"");
    let found = discover(&mcp).await.unwrap();
    assert_eq!(names(&found.scopes), ["tools:basic"]);
    assert_eq!(found.scope_origin, ScopeOrigin::Challenge);
}

#[tokio::test]
async fn metadata_of_the_whole_origin_are_those_of_the_server() {
    let auth = Server::authorization_server().await;
    let mcp = Server::naming(&auth.url("")).await;
    mcp.json(
        "/metadata.json",
        json!({"resource": mcp.url(""), "authorization_servers": [auth.url("")]}),
    );
    assert_eq!(discover(&mcp).await.unwrap().issuer, auth.url(""));
}

#[tokio::test]
async fn metadata_may_be_at_another_host() {
    let auth = Server::authorization_server().await;
    let mcp = Server::start().await;
    mcp.unauthorized(&format!(
        "Bearer resource_metadata=\"{}\"",
        auth.url("/metadata.json")
    ));
    auth.json("/metadata.json", mcp.resource(&auth.url("")));
    assert_eq!(discover(&mcp).await.unwrap().issuer, auth.url(""));
}

#[tokio::test]
async fn scopes_are_the_challenge_s_or_else_the_metadata_s() {
    let auth = Server::authorization_server().await;
    let mcp = Server::start().await;
    let mut document = mcp.resource(&auth.url(""));
    document["scopes_supported"] = json!(["tools:read", "tools:call"]);
    mcp.json(OWN, document);
    mcp.unauthorized("Bearer");
    assert_eq!(
        names(&discover(&mcp).await.unwrap().scopes),
        ["tools:read", "tools:call"]
    );
    mcp.unauthorized("Bearer scope=\"tools:basic\"");
    assert_eq!(names(&discover(&mcp).await.unwrap().scopes), ["tools:basic"]);
}

#[tokio::test]
async fn another_issuer_than_the_known_one_is_told_and_never_asked() {
    let before = Server::authorization_server().await;
    let after = Server::authorization_server().await;
    let mcp = Server::naming(&after.url("")).await;
    let error = discover_known(&mcp, &before.url("")).await.unwrap_err();
    assert_eq!(error.reason(), "IssuerChanged");
    let message = error.message();
    assert!(
        message.contains(&before.url("")) && message.contains(&after.url("")),
        "{message}"
    );
    assert_eq!((before.requests(), after.requests()), (vec![], vec![]));
}

#[tokio::test]
async fn of_several_issuers_the_known_one_counts_and_else_the_first() {
    let first = Server::authorization_server().await;
    let second = Server::authorization_server().await;
    let mcp = Server::naming("").await;
    let mut document = mcp.resource("");
    document["authorization_servers"] = json!([first.url(""), second.url("")]);
    mcp.json("/metadata.json", document);
    assert_eq!(discover(&mcp).await.unwrap().issuer, first.url(""));
    assert_eq!(
        discover_known(&mcp, &second.url("")).await.unwrap().issuer,
        second.url("")
    );
}

#[tokio::test]
async fn an_older_server_has_its_metadata_at_its_own_root() {
    for slash in ["", "/"] {
        let mcp = Server::start().await;
        mcp.unauthorized("Bearer");
        mcp.json(SERVER, mcp.metadata(&mcp.url(slash)));
        let metadata = discover(&mcp).await.unwrap();
        assert_eq!(metadata.issuer, mcp.url(slash));
        assert_eq!(*metadata.token_endpoint, mcp.url("/token"));
    }
}

#[tokio::test]
async fn an_older_server_without_any_metadata_has_the_agreed_endpoints() {
    let mcp = Server::start().await;
    mcp.unauthorized("Bearer scope=\"a\"");
    let metadata = discover(&mcp).await.unwrap();
    assert_eq!(metadata.issuer, mcp.url(""));
    assert_eq!(*metadata.token_endpoint, mcp.url("/token"));
    assert_eq!(metadata.revocation_endpoint, None);
    assert_eq!(names(&metadata.scopes), ["a"]);
}

#[tokio::test]
async fn agreed_endpoints_are_not_used_unless_the_server_says_that_it_has_nothing_else() {
    let mcp = Server::start().await;
    // It asks for no token.
    mcp.json("/mcp", json!({}));
    assert_eq!(discover(&mcp).await.unwrap_err().reason(), "DiscoveryFailed");
    mcp.unauthorized("Bearer");
    for reply in [
        Reply::Raw("503 Service Unavailable", String::new(), String::new()),
        Reply::Raw("429 Too Many Requests", String::new(), String::new()),
        Reply::Close,
    ] {
        for place in [OWN, ROOT, SERVER] {
            mcp.set(place, reply.clone());
            assert_eq!(
                discover(&mcp).await.unwrap_err().reason(),
                "DiscoveryFailed",
                "{place}"
            );
            mcp.unset(place);
        }
    }
    // It was known to have another authorization server.
    let error = discover_known(&mcp, "https://auth.example.com")
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "DiscoveryFailed");
    // It names metadata, which it has not.
    mcp.unauthorized(&format!("Bearer resource_metadata=\"{}\"", mcp.url("/none")));
    assert_eq!(discover(&mcp).await.unwrap_err().reason(), "DiscoveryFailed");
}

#[tokio::test]
async fn an_older_server_that_gives_itself_out_as_another_is_refused() {
    let mcp = Server::start().await;
    mcp.unauthorized("Bearer");
    mcp.json(SERVER, mcp.metadata("https://auth.example.com"));
    assert_eq!(discover(&mcp).await.unwrap_err().reason(), "IssuerMismatch");
}

#[tokio::test]
async fn a_server_that_redirects_is_not_followed() {
    let target = Server::start().await;
    let mcp = Server::start().await;
    let location = format!("location: {}\r\n", target.url("/mcp"));
    mcp.set(
        "/mcp",
        Reply::Raw("307 Temporary Redirect", location, String::new()),
    );
    assert!(discover(&mcp).await.is_err());
    assert_eq!(target.requests(), [""; 0]);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_with_all_that_was_tried() {
    // Bound, so that nothing else gets the port, and never listening.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = socket.local_addr().unwrap().port();
    let _ = Server::start().await;
    let error = search(resource_at(format!("http://127.0.0.1:{port}/mcp")))
        .await
        .unwrap_err();
    let message = error.to_string();
    assert_eq!(
        message.matches("no connection: it was refused").count(),
        3,
        "{message}"
    );
}

#[tokio::test]
async fn plain_http_is_not_asked_unless_that_is_allowed() {
    let mcp = Server::start().await;
    let mut registration = registration(resource_at(mcp.url("/mcp")));
    registration.allow_insecure_http = false;
    let error = Discovery::new(&registration, Clock::system()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "server.url is plain http, which would show secrets to everyone on the way, and allowInsecureHttp \
         is not set"
    );
    assert_eq!(mcp.requests(), [""; 0]);
}
