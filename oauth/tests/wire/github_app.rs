//! Installation access tokens of a GitHub App, by answers in the shapes that GitHub documents and sends:
//! <https://docs.github.com/en/rest/apps/apps#create-an-installation-access-token-for-an-app>,
//! <https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/generating-a-json-web-token-jwt-for-a-github-app>,
//! <https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api>.

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine};
use jiff::Timestamp;
use mcp_auth_oauth::{
    Algorithm, Client, ClientAuthentication, Clock, Error, GitHubApp, Grant, IssuedToken, Registration,
    RetryAfter, SigningKey, TokenRequest,
};
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use serde_json::{Value, json};

use crate::server::{self, Server, Step, answer};

const KEY: &str = include_str!("../../src/jose/signing_key/testdata/rsa.pkcs1.pem");
const NOW: i64 = 1_900_000_000;
/// The form that GitHub has issued since April 2026, which only looks like a JWT.
const TOKEN: &str = "ghs_123456_eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjF9.c2ln";

fn app(repositories: &[&str], permissions: &[(&str, &str)]) -> GitHubApp {
    GitHubApp {
        app_id: 123_456,
        key: SigningKey::parse(KEY, Some(Algorithm::Rs256), None).unwrap(),
        repositories: repositories.iter().map(|name| (*name).to_owned()).collect(),
        permissions: permissions
            .iter()
            .map(|(name, access)| ((*name).to_owned(), (*access).to_owned()))
            .collect(),
    }
}

async fn request(server: &Server, app: GitHubApp) -> Result<IssuedToken, Error> {
    server::install_provider();
    let registration = Registration {
        grant: Grant::GitHubApp(app),
        ..server.registration(ClientAuthentication::None)
    };
    Client::new(registration)
        .unwrap()
        .with_clock(Clock::starting_at(Timestamp::from_second(NOW).unwrap()))
        .request_token(&TokenRequest::default())
        .await
}

fn issued() -> Value {
    json!({
        "token": TOKEN,
        // An hour after the time of the answer, by a clock that is ten minutes ahead of this one.
        "expires_at": "2030-03-17T18:56:40Z",
        "permissions": {"contents": "read", "metadata": "read"},
        "repository_selection": "selected",
    })
}

fn created() -> Vec<u8> {
    let headers = "content-type: application/json; charset=utf-8\r\ndate: Sun, 17 Mar 2030 17:56:40 GMT\r\n";
    answer("201 Created", headers, &issued().to_string())
}

async fn refusal(status: &str, headers: &str, message: &str) -> Error {
    let body = json!({
        "message": message,
        "documentation_url": "https://docs.github.com/rest",
        "status": &status[..3],
    });
    let headers = format!("content-type: application/json; charset=utf-8\r\n{headers}");
    let server = Server::start(Step::Send(answer(status, &headers, &body.to_string()))).await;
    request(&server, app(&[], &[])).await.unwrap_err()
}

fn decoded(part: &str) -> Value {
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

#[tokio::test]
async fn an_app_signs_who_it_is_and_gets_a_token_for_what_it_names() {
    let mut server = Server::start(Step::Send(created())).await;
    let narrowed = app(&["tools"], &[("contents", "read")]);
    let token = request(&server, narrowed).await.unwrap();
    assert_eq!(token.access_token.secret(), TOKEN);
    // By the clock of the server that states the end, and not by this one.
    assert_eq!(token.expires_in, Some(3600));
    assert_eq!(token.scope.as_deref(), Some("contents:read metadata:read"));
    assert!(token.claims.is_none(), "it is GitHub's to read");

    let request = server.request().await;
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(body).unwrap(),
        json!({"repositories": ["tools"], "permissions": {"contents": "read"}})
    );
    for (name, value) in [
        ("accept", "application/vnd.github+json"),
        ("content-type", "application/json"),
        ("x-github-api-version", "2022-11-28"),
    ] {
        assert_eq!(server::header(head, name), Some(value));
    }
    // GitHub refuses requests without.
    assert!(
        server::header(head, "user-agent")
            .unwrap()
            .starts_with("mcp-auth/")
    );

    let bearer = server::header(head, "authorization").unwrap();
    let jwt = bearer.strip_prefix("Bearer ").unwrap();
    let (message, signature) = jwt.rsplit_once('.').unwrap();
    let base64: String = KEY.lines().filter(|line| !line.starts_with('-')).collect();
    let pair = RsaKeyPair::from_der(&BASE64_STANDARD.decode(base64).unwrap()).unwrap();
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public().as_ref())
        .verify(
            message.as_bytes(),
            &BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap(),
        )
        .unwrap();
    let (header, claims) = message.split_once('.').unwrap();
    assert_eq!(decoded(header), json!({"alg": "RS256", "typ": "JWT"}));
    assert_eq!(
        decoded(claims),
        json!({"iss": 123_456, "iat": NOW - 60, "exp": NOW + 540})
    );
}

#[tokio::test]
async fn without_narrowing_the_token_is_for_all_of_the_installation() {
    let mut server = Server::start(Step::Send(created())).await;
    request(&server, app(&[], &[])).await.unwrap();
    let request = server.request().await;
    assert!(request.ends_with("\r\n\r\n{}"), "{request}");
}

#[tokio::test]
async fn each_refusal_names_the_field_and_is_not_asked_again_soon() {
    for (status, message, reason, field) in [
        (
            "401 Unauthorized",
            "A JSON web token could not be decoded",
            "GitHubKeyRefused",
            "githubApp.keyRef",
        ),
        (
            "404 Not Found",
            "Not Found",
            "GitHubInstallationNotFound",
            "githubApp.installationId",
        ),
        (
            "403 Forbidden",
            "This installation has been suspended",
            "GitHubInstallationSuspended",
            "suspension",
        ),
        (
            "422 Unprocessable Entity",
            "The permissions requested are not granted to this installation.",
            "GitHubNotGranted",
            "githubApp.permissions",
        ),
        (
            "403 Forbidden",
            "Resource not accessible by integration",
            "GitHubRefused",
            "installation",
        ),
    ] {
        let error = refusal(status, "", message).await;
        assert_eq!(error.reason(), reason);
        let told = error.message();
        assert!(told.contains(message) && told.contains(field), "{told}");
        assert!(error.is_permanent(), "{told}");
    }
}

#[tokio::test]
async fn a_rate_limit_is_waited_for_by_the_header_that_ends_it() {
    let reset = NOW + 120;
    let exhausted = format!("x-ratelimit-remaining: 0\r\nx-ratelimit-reset: {reset}\r\n");
    let at_reset = RetryAfter::Date(Timestamp::from_second(reset).unwrap());
    let secondary = "You have exceeded a secondary rate limit";
    for (status, headers, message, expected) in [
        (
            "403 Forbidden",
            exhausted.as_str(),
            "API rate limit exceeded",
            at_reset,
        ),
        (
            "429 Too Many Requests",
            exhausted.as_str(),
            "API rate limit exceeded",
            at_reset,
        ),
        (
            "403 Forbidden",
            "retry-after: 30\r\n",
            secondary,
            RetryAfter::Delay(Duration::from_secs(30)),
        ),
        // GitHub asks for a minute where it says nothing.
        (
            "403 Forbidden",
            "x-ratelimit-remaining: 4999\r\n",
            secondary,
            RetryAfter::Delay(Duration::from_secs(60)),
        ),
    ] {
        let error = refusal(status, headers, message).await;
        assert_eq!(error.reason(), "GitHubRateLimited");
        assert_eq!(error.retry_after(), Some(expected), "{status} {headers}");
        assert!(!error.is_permanent());
    }
}

#[tokio::test]
async fn an_answer_without_a_usable_token_is_no_token() {
    for (status, body, reason) in [
        (
            "201 Created",
            r#"{"expires_at":"2030-03-17T18:56:40Z"}"#,
            "NoInstallationToken",
        ),
        ("201 Created", r#"{"token":""}"#, "NoInstallationToken"),
        ("201 Created", r#"{"token":"a b"}"#, "NoInstallationToken"),
        ("200 OK", "<html>", "NotJson"),
        ("502 Bad Gateway", "<html>", "HttpStatus"),
        ("500 Internal Server Error", r#"{"message":"oops"}"#, "HttpStatus"),
        ("401 Unauthorized", "<html>", "GitHubKeyRefused"),
    ] {
        let server = Server::start(Step::Send(answer(status, "", body))).await;
        let error = request(&server, app(&[], &[])).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{status} {body}");
    }
    let moved = "location: https://ghe.example.com/api/v3/\r\n";
    let server = Server::start(Step::Send(answer("301 Moved Permanently", moved, ""))).await;
    let error = request(&server, app(&[], &[])).await.unwrap_err();
    assert!(error.message().contains("apiUrl"), "{}", error.message());
}

#[tokio::test]
async fn the_jwt_of_the_app_is_never_told() {
    let mut server = Server::start(Step::Send(answer("401 Unauthorized", "", "{}"))).await;
    let _ = request(&server, app(&[], &[])).await;
    let sent = server.request().await;
    let jwt = server::header(&sent, "authorization").unwrap()[7..].to_owned();
    // The same second and the same key give the same JWT.
    let body = json!({"message": format!("could not decode {jwt}")}).to_string();
    let server = Server::start(Step::Send(answer("401 Unauthorized", "", &body))).await;
    let error = request(&server, app(&[], &[])).await.unwrap_err();
    assert_eq!(error.reason(), "GitHubKeyRefused");
    assert!(!error.message().contains(&jwt) && !format!("{error:?}").contains(&jwt));
}
