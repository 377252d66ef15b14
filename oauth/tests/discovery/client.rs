//! A client whose server is discovered: where its credentials go, and what becomes of the token.

use std::time::Duration;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use mcp_auth_oauth::{
    Client, Clock, Error, IssuedToken, Registration, Scope, ServerLocation, TokenCheckMode, TokenRequest,
};
use serde_json::{Value, json};

use crate::server::{Reply, Server};
use crate::{pass, registration, resource_at, start};

pub fn client(registration: Registration) -> Client {
    Client::new(registration)
        .unwrap()
        .with_clock(Clock::starting_at(start()))
}

pub async fn ask(client: &Client) -> Result<IssuedToken, Error> {
    client.request_token(&TokenRequest::default()).await
}

fn jwt(claims: &Value) -> String {
    let claims = BASE64_URL_SAFE_NO_PAD.encode(claims.to_string());
    format!("e30.{claims}.c2ln")
}

pub fn issue(server: &Server, token: &str) {
    server.json("/token", json!({"access_token": token, "token_type": "Bearer"}));
}

#[tokio::test]
async fn the_token_is_asked_for_at_the_endpoint_that_was_discovered() {
    let auth = Server::authorization_server().await;
    issue(&auth, "t0p");
    let mcp = Server::naming(&auth.url("")).await;
    let issued = ask(&client(registration(resource_at(mcp.url("/mcp")))))
        .await
        .unwrap();
    assert_eq!(issued.access_token.secret(), "t0p");
    assert_eq!(issued.server.unwrap().issuer, auth.url(""));
    assert_eq!(auth.requests().last().unwrap(), "POST /token");
}

#[tokio::test]
async fn an_issuer_that_changed_is_shown_no_credentials() {
    let before = Server::authorization_server().await;
    let after = Server::authorization_server().await;
    issue(&before, "t0p");
    issue(&after, "t0p");
    let mcp = Server::naming(&before.url("")).await;
    let client = client(registration(resource_at(mcp.url("/mcp"))));
    ask(&client).await.unwrap();
    mcp.name(&after.url(""));
    pass(Duration::from_secs(3600)).await;
    assert_eq!(ask(&client).await.unwrap_err().reason(), "IssuerChanged");
    assert_eq!(after.requests(), [""; 0]);
}

#[tokio::test]
async fn an_issuer_that_changed_is_noticed_once_its_tokens_are_refused() {
    let before = Server::authorization_server().await;
    let after = Server::authorization_server().await;
    issue(&before, "t0p");
    let mcp = Server::naming(&before.url("")).await;
    let client = client(registration(resource_at(mcp.url("/mcp"))));
    ask(&client).await.unwrap();
    mcp.name(&after.url(""));
    let refused = |rejections_in_a_row| TokenRequest {
        rejections_in_a_row,
        ..TokenRequest::default()
    };
    // One refused token is nothing special: another one of the same server will do.
    client.request_token(&refused(1)).await.unwrap();
    let error = client.request_token(&refused(2)).await.unwrap_err();
    assert_eq!(error.reason(), "IssuerChanged");
    assert_eq!(after.requests(), [""; 0]);
}

#[tokio::test]
async fn a_token_is_for_the_resource_as_its_metadata_call_it() {
    let auth = Server::authorization_server().await;
    let mcp = Server::naming(&auth.url("")).await;
    // RFC 9728 section 3.3: the metadata may speak of all of the server.
    mcp.json(
        "/metadata.json",
        json!({"resource": mcp.url(""), "authorization_servers": [auth.url("")]}),
    );
    let mut registration = registration(resource_at(mcp.url("/mcp")));
    registration.resource = Some(mcp.url("/mcp"));
    registration.check.mode = TokenCheckMode::Enforce;
    issue(&auth, &jwt(&json!({"aud": mcp.url("")})));
    ask(&client(registration.clone())).await.unwrap();
    issue(&auth, &jwt(&json!({"aud": mcp.url("/mcp")})));
    let error = ask(&client(registration)).await.unwrap_err();
    assert_eq!(error.reason(), "TokenMismatch");
}

#[tokio::test]
async fn credentials_are_not_sent_to_a_private_address_that_metadata_name() {
    let victim = Server::start().await;
    issue(&victim, "t0p");
    let auth = Server::start().await;
    let elsewhere = format!("http://localhost:{}/token", victim.port);
    auth.json(
        "/.well-known/oauth-authorization-server",
        json!({"issuer": auth.url(""), "token_endpoint": elsewhere}),
    );
    let mut registration = registration(ServerLocation::Issuer(auth.url("")));
    let error = ask(&client(registration.clone())).await.unwrap_err();
    assert_eq!(error.reason(), "ConnectForbidden");
    assert!(
        error.message().contains("allowPrivateAddresses: true"),
        "{}",
        error.message()
    );
    assert_eq!(victim.requests(), [""; 0]);
    registration.allow_private_addresses = true;
    ask(&client(registration)).await.unwrap();
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_discovered_anew() {
    let auth = Server::authorization_server().await;
    let client = client(registration(ServerLocation::Issuer(auth.url(""))));
    assert_eq!(ask(&client).await.unwrap_err().reason(), "HttpStatus");
    auth.json(
        "/.well-known/oauth-authorization-server",
        json!({"issuer": auth.url(""), "token_endpoint": auth.url("/new/token")}),
    );
    auth.json("/new/token", json!({"access_token": "t0p"}));
    // An endpoint that fails is no reason to ask for the metadata with each attempt.
    assert_eq!(ask(&client).await.unwrap_err().reason(), "HttpStatus");
    let requests = auth.requests();
    assert_eq!(
        requests.iter().filter(|line| line.starts_with("GET")).count(),
        1,
        "{requests:?}"
    );
    pass(Duration::from_secs(60)).await;
    assert_eq!(ask(&client).await.unwrap_err().reason(), "HttpStatus");
    ask(&client).await.unwrap();
}

#[tokio::test]
async fn a_token_of_another_issuer_or_for_another_resource_is_not_handed_out() {
    let auth = Server::authorization_server().await;
    let mut registration = registration(ServerLocation::Issuer(auth.url("")));
    registration.resource = Some("https://tools.example.com/mcp".into());
    for (claim, value) in [
        ("iss", json!("https://evil.example.com")),
        ("aud", json!(["account"])),
    ] {
        let mut claims = json!({"iss": auth.url(""), "aud": "https://tools.example.com/mcp"});
        claims[claim] = value;
        let token = jwt(&claims);
        issue(&auth, &token);
        registration.check.mode = TokenCheckMode::Enforce;
        let error = ask(&client(registration.clone())).await.unwrap_err();
        assert_eq!(error.reason(), "TokenMismatch");
        assert!(
            error.message().contains(&format!("its claim {claim} is")),
            "{error}"
        );
        assert!(!format!("{error:?}").contains(&token));
        registration.check.mode = TokenCheckMode::Report;
        let reported = ask(&client(registration.clone())).await.unwrap();
        assert_eq!(reported.mismatch.unwrap().claim, claim);
        registration.check.mode = TokenCheckMode::Off;
        let unseen = ask(&client(registration.clone())).await.unwrap();
        assert_eq!(unseen.mismatch, None);
    }
    registration.check.mode = TokenCheckMode::Enforce;
    registration.check.accepted_audiences = vec!["account".into()];
    ask(&client(registration)).await.unwrap();
}

/// Entra issues tokens of version 1 in the name of `https://sts.windows.net/TENANT/`; Active Directory Federation
/// Services say in their metadata which issuer their tokens name.
#[tokio::test]
async fn a_token_of_an_issuer_that_is_accepted_or_that_the_metadata_name_is_handed_out() {
    const OTHER: &str = "https://sts.windows.net/tenant/";
    let auth = Server::authorization_server().await;
    let mut registration = registration(ServerLocation::Issuer(auth.url("")));
    issue(&auth, &jwt(&json!({"iss": OTHER})));
    let error = ask(&client(registration.clone())).await.unwrap_err();
    assert!(
        error.message().contains("tokenCheck.acceptedIssuers"),
        "{}",
        error.message()
    );
    registration.check.accepted_issuers = vec![OTHER.into()];
    ask(&client(registration.clone())).await.unwrap();

    registration.check.accepted_issuers.clear();
    let mut metadata = auth.metadata(&auth.url(""));
    metadata["access_token_issuer"] = json!(OTHER);
    auth.json("/.well-known/oauth-authorization-server", metadata);
    ask(&client(registration)).await.unwrap();
}

#[tokio::test]
async fn issuers_that_are_accepted_are_enforced_where_the_endpoints_are_stated_too() {
    let auth = Server::start().await;
    let mut registration = registration(ServerLocation::Endpoints {
        token_url: auth.url("/token"),
        revocation_url: None,
    });
    issue(&auth, &jwt(&json!({"iss": "https://evil.example.com"})));
    ask(&client(registration.clone())).await.unwrap();
    registration.check.accepted_issuers = vec!["https://auth.example.com".into()];
    let error = ask(&client(registration)).await.unwrap_err();
    assert_eq!(error.reason(), "TokenMismatch");
}

#[tokio::test]
async fn a_token_of_fewer_scopes_or_of_another_clock_is_handed_out_and_reported() {
    let auth = Server::authorization_server().await;
    let mut registration = registration(ServerLocation::Issuer(auth.url("")));
    registration.scopes = ["a", "b", "c", "d", "e"]
        .map(|name| Scope::new(name.into()))
        .into();
    for (claim, claims) in [
        ("scope", json!({"scope": "a b c d"})),
        ("nbf", json!({"nbf": start().as_second() + 3600})),
        ("iat", json!({"iat": start().as_second() + 3600})),
    ] {
        issue(&auth, &jwt(&claims));
        let issued = ask(&client(registration.clone())).await.unwrap();
        assert_eq!(issued.mismatch.unwrap().claim, claim);
    }
}

#[tokio::test]
async fn refused_scopes_that_nobody_stated_are_told_with_where_they_come_from() {
    let auth = Server::authorization_server().await;
    let refused = r#"{"error":"invalid_scope"}"#;
    auth.set(
        "/token",
        Reply::Raw("400 Bad Request", String::new(), refused.into()),
    );
    let mcp = Server::naming(&auth.url("")).await;
    let mut document = mcp.resource(&auth.url(""));
    document["scopes_supported"] = json!(["tools:call"]);
    mcp.json("/metadata.json", document);
    let mut registration = registration(resource_at(mcp.url("/mcp")));
    let message = ask(&client(registration.clone())).await.unwrap_err().message();
    assert!(message.contains("scopes_supported"), "{message}");
    registration.scopes = vec![Scope::new("tools:call".into())];
    let message = ask(&client(registration)).await.unwrap_err().message();
    assert!(message.contains("check that scopes names only"), "{message}");
}

#[tokio::test]
async fn a_token_that_says_when_it_ends_needs_no_word_of_the_server_for_it() {
    let auth = Server::authorization_server().await;
    let registration = registration(ServerLocation::Issuer(auth.url("")));
    let claims = json!({"exp": start().as_second() + 300, "cnf": {"x5t#S256": "thumb"}});
    issue(&auth, &jwt(&claims));
    let issued = ask(&client(registration.clone())).await.unwrap();
    let life = issued.expires_in.unwrap();
    assert!((290..=300).contains(&life), "{life}");
    assert!(issued.certificate_bound);
    let stated = json!({"access_token": jwt(&claims), "expires_in": 60});
    auth.set("/token", Reply::Json(stated));
    let issued = ask(&client(registration)).await.unwrap();
    assert_eq!(issued.expires_in, Some(60));
}

#[tokio::test]
async fn a_token_does_not_outlive_what_it_says_of_itself_whatever_the_server_says() {
    let auth = Server::authorization_server().await;
    let token = jwt(&json!({"exp": start().as_second() + 300}));
    auth.json("/token", json!({"access_token": token, "expires_in": 3600}));
    for mode in [
        TokenCheckMode::Enforce,
        TokenCheckMode::Report,
        TokenCheckMode::Off,
    ] {
        let mut registration = registration(ServerLocation::Issuer(auth.url("")));
        registration.check.mode = mode;
        let life = ask(&client(registration)).await.unwrap().expires_in.unwrap();
        assert!((290..=300).contains(&life), "{life}");
    }
}

#[tokio::test]
async fn authorities_and_addresses_that_cannot_be_used_are_told_when_the_client_is_made() {
    let _ = Server::start().await;
    let error = Client::new(registration(ServerLocation::Issuer("auth.example.com".into()))).unwrap_err();
    assert_eq!(error.to_string(), "issuer is not an absolute URL");
}
