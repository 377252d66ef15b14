//! One token request over real sockets: what is on the wire, and what comes of each fault.

// All of this is a test; clippy.toml's allowance only sees functions that are marked as one.
#![allow(clippy::unwrap_used)]

mod assertions;
mod certificates;
mod clock_skew;
mod echo;
mod github_app;
mod grants;
mod id_jag;
mod identity;
mod jwt;
mod odd_answers;
mod peculiar;
mod proofs;
mod provider_errors;
mod proxies;
mod revocation;
mod secrets;
mod server;
mod tls;

use std::time::Duration;

use mcp_auth_oauth::{
    Client, ClientAuthentication, ClientId, ConnectError, Error, IssuedToken, Limits, Registration, Scope,
    TokenRequest,
};
use server::{Server, Step, answer, json};

const SECRET: &str = "s:e/c+r&e=t %-long-enough";
const TOKEN: &str = r#"{"access_token":"t0p-s3cret","token_type":"Bearer","expires_in":3600}"#;

fn basic() -> ClientAuthentication {
    ClientAuthentication::SecretBasic(SECRET.into())
}

fn post() -> ClientAuthentication {
    ClientAuthentication::SecretPost(SECRET.into())
}

/// For requests that are to end by a limit.
fn tight() -> Limits {
    Limits {
        deadline: Duration::from_millis(300),
        ..Limits::default()
    }
}

async fn request_of(server: &Server) -> Result<IssuedToken, Error> {
    server
        .client(basic(), Limits::default())
        .request_token(&TokenRequest::default())
        .await
}

async fn error_of(step: Step) -> Error {
    request_of(&Server::start(step).await).await.unwrap_err()
}

#[tokio::test]
async fn the_request_is_what_the_rfc_says_with_the_secret_in_the_header() {
    let mut server = Server::start(Step::Send(json("200 OK", TOKEN))).await;
    let registration = Registration {
        client_id: Some(ClientId::new("client:id".into())),
        scopes: vec![Scope::new("tools:read".into()), Scope::new("tools:call".into())],
        audience: Some("urn:tools".into()),
        resource: Some("https://tools.example.com/mcp".into()),
        extra_parameters: [("tenant".into(), "a&b".into())].into(),
        ..server.registration(basic())
    };
    server::install_provider();
    let issued = Client::new(registration)
        .unwrap()
        .request_token(&TokenRequest::default())
        .await
        .unwrap();
    assert_eq!(issued.access_token.secret(), "t0p-s3cret");

    let request = server.request().await;
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let mut head: Vec<_> = head.split("\r\n").collect();
    assert_eq!(head.remove(0), "POST /token HTTP/1.1");
    head.sort_unstable();
    assert_eq!(
        head,
        [
            "accept-encoding: identity",
            "accept: application/json",
            // client%3Aid:s%3Ae%2Fc%2Br%26e%3Dt+%25-long-enough
            "authorization: Basic Y2xpZW50JTNBaWQ6cyUzQWUlMkZjJTJCciUyNmUlM0R0KyUyNS1sb25nLWVub3VnaA==",
            &format!("content-length: {}", body.len()),
            "content-type: application/x-www-form-urlencoded",
            &format!("host: 127.0.0.1:{}", server.port),
            concat!("user-agent: mcp-auth/", env!("CARGO_PKG_VERSION")),
        ]
    );
    assert_eq!(
        body,
        "grant_type=client_credentials&scope=tools%3Aread+tools%3Acall&audience=urn%3Atools\
         &resource=https%3A%2F%2Ftools.example.com%2Fmcp&tenant=a%26b"
    );
}

#[tokio::test]
async fn the_request_is_what_the_rfc_says_with_the_secret_in_the_form() {
    let mut server = Server::start(Step::Send(json("200 OK", TOKEN))).await;
    server
        .client(post(), Limits::default())
        .request_token(&TokenRequest::default())
        .await
        .unwrap();
    let request = server.request().await;
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(!head.to_ascii_lowercase().contains("authorization"), "{head}");
    assert_eq!(
        body,
        "grant_type=client_credentials&client_id=client&client_secret=s%3Ae%2Fc%2Br%26e%3Dt+%25-long-enough"
    );
}

#[tokio::test]
async fn a_refused_client_is_told_with_its_code_and_what_to_check() {
    let body = r#"{"error":"invalid_client","error_description":"Invalid client credentials"}"#;
    let error = error_of(Step::Send(json("401 Unauthorized", body))).await;
    assert_eq!(error.code(), "invalid_client");
    assert!(
        error
            .message()
            .contains("(Invalid client credentials): check clientId and the client secret")
    );
}

#[tokio::test]
async fn an_unavailable_server_is_told_with_its_status_and_its_retry_after() {
    let error = error_of(Step::Send(answer(
        "503 Service Unavailable",
        "retry-after: 120\r\n",
        "<html>",
    )))
    .await;
    let retry_after = mcp_auth_oauth::RetryAfter::parse("120");
    assert_eq!(
        error,
        Error::HttpStatus {
            status: 503,
            retry_after
        }
    );
}

#[tokio::test]
async fn a_login_page_is_no_token_and_its_content_is_not_told() {
    let page = "<!DOCTYPE html><title>Sign in</title>";
    let error = error_of(Step::Send(answer("200 OK", "content-type: text/html\r\n", page))).await;
    assert_eq!(error.reason(), "NotJson");
    assert!(
        error.message().contains("an HTML page of type text/html"),
        "{}",
        error.message()
    );
    assert!(!format!("{error:?} {}", error.message()).contains("Sign in"));
}

#[tokio::test]
async fn a_redirect_is_refused_and_its_target_never_called() {
    let target = Server::start(Step::Send(json("200 OK", TOKEN))).await;
    for status in [
        "301 Moved Permanently",
        "302 Found",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ] {
        let location = format!("location: http://127.0.0.1:{}/token?{SECRET}\r\n", target.port);
        let error = error_of(Step::Send(answer(status, &location, ""))).await;
        let host = Some("127.0.0.1".into());
        assert_eq!(
            error,
            Error::Redirected {
                status: status[..3].parse().unwrap(),
                host
            }
        );
    }
    assert_eq!(target.connections(), 0);
}

#[tokio::test]
async fn a_server_that_never_answers_meets_the_deadline() {
    let server = Server::start(Step::SendAndHang(Vec::new())).await;
    let error = server
        .client(basic(), tight())
        .request_token(&TokenRequest::default())
        .await
        .unwrap_err();
    assert_eq!(
        error,
        Error::Timeout {
            limit: tight().deadline
        }
    );
}

#[tokio::test]
async fn a_server_that_stops_in_the_middle_of_its_answer_meets_the_deadline() {
    let mut start = json("200 OK", TOKEN);
    start.truncate(start.len() - 10);
    let server = Server::start(Step::SendAndHang(start)).await;
    let error = server
        .client(basic(), tight())
        .request_token(&TokenRequest::default())
        .await
        .unwrap_err();
    assert_eq!(
        error,
        Error::Timeout {
            limit: tight().deadline
        }
    );
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_no_token() {
    let mut start = json("200 OK", TOKEN);
    start.truncate(start.len() - 10);
    assert_eq!(error_of(Step::Send(start)).await, Error::Interrupted);
    assert_eq!(error_of(Step::Send(Vec::new())).await, Error::Interrupted);
}

#[tokio::test]
async fn an_endless_answer_ends_at_the_limit() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n".to_vec();
    let error = error_of(Step::SendEndlessly(head)).await;
    assert_eq!(
        error,
        Error::TooLarge {
            limit: Limits::default().body
        }
    );
}

#[tokio::test]
async fn an_answer_of_exactly_the_limit_is_read() {
    let server = Server::start(Step::Send(json("200 OK", TOKEN))).await;
    let limits = |body| Limits {
        body,
        ..Limits::default()
    };
    assert!(
        server
            .client(basic(), limits(TOKEN.len()))
            .request_token(&TokenRequest::default())
            .await
            .is_ok()
    );
    let error = server
        .client(basic(), limits(TOKEN.len() - 1))
        .request_token(&TokenRequest::default())
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "TooLarge");
}

#[tokio::test]
async fn a_closed_port_is_a_refused_connection() {
    // Bound, so that nothing else gets the port, and never listening.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = socket.local_addr().unwrap().port();
    assert_eq!(
        error_at(&format!("http://127.0.0.1:{port}/token")).await,
        Error::Connect(ConnectError::Refused)
    );
}

#[tokio::test]
async fn a_host_that_cannot_resolve_is_told_apart() {
    // Too long for a name, so that no resolver is ever asked.
    let host = ["a".repeat(63).as_str(); 5].join(".");
    assert_eq!(
        error_at(&format!("http://{host}/token")).await,
        Error::Connect(ConnectError::Dns)
    );
}

async fn error_at(url: &str) -> Error {
    server::install_provider();
    let registration = Registration {
        allow_insecure_http: true,
        ..Registration::new(url, "client", basic())
    };
    Client::new(registration)
        .unwrap()
        .request_token(&TokenRequest::default())
        .await
        .unwrap_err()
}

#[tokio::test]
async fn what_the_server_echoes_of_the_secret_is_not_told() {
    let encoded = "s%3Ae%2Fc%2Br%26e%3Dt+%25-long-enough";
    let header = "Y2xpZW50OnMlM0FlJTJGYyUyQnIlMjZlJTNEdCslMjUtbG9uZy1lbm91Z2g=";
    for echoed in [SECRET, encoded, header] {
        for body in [
            format!(r#"{{"error":"invalid_client","error_description":"no such secret: {echoed}"}}"#),
            format!(r#"{{"error":"{echoed}","error_description":"{echoed}"}}"#),
            format!(r#"{{"access_token":"t","token_type":"{echoed}"}}"#),
            echoed.to_owned(),
        ] {
            for status in ["200 OK", "400 Bad Request"] {
                let headers = format!("content-type: {echoed}\r\n");
                let error = error_of(Step::Send(answer(status, &headers, &body))).await;
                let seen = format!(
                    "{error:?} {error} {} {} {}",
                    error.message(),
                    error.code(),
                    error.reason()
                );
                assert!(!seen.contains(echoed), "{seen}");
            }
        }
    }
}

#[tokio::test]
async fn each_request_has_a_connection_of_its_own() {
    let body = TOKEN.len();
    let kept_open = format!("HTTP/1.1 200 OK\r\ncontent-length: {body}\r\n\r\n{TOKEN}");
    let server = Server::start(Step::SendAndHang(kept_open.into())).await;
    let client = server.client(basic(), Limits::default());
    for _ in 0..3 {
        client.request_token(&TokenRequest::default()).await.unwrap();
    }
    assert_eq!(server.connections(), 3);
}
