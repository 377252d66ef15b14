//! Answers in odd forms, as servers, gateways and proxies before them give them: what is a token all the same, and what the rest
//! is told as.

use mcp_auth_oauth::{Error, IssuedToken, Limits, TokenRequest};

use crate::server::{self, Server, Step, answer, json};
use crate::{TOKEN, basic, error_of, request_of, tight};

const JSON: &str = "content-type: application/json\r\n";
const REFUSED: &str = r#"{"error":"invalid_client","error_description":"wrong"}"#;

async fn issued(bytes: impl Into<Vec<u8>>) -> IssuedToken {
    let server = Server::start(Step::Send(bytes.into())).await;
    request_of(&server).await.unwrap()
}

#[tokio::test]
async fn json_behind_a_byte_order_mark_is_json() {
    let token = issued(json("200 OK", &format!("\u{feff}{TOKEN}"))).await;
    assert_eq!(token.access_token.secret(), "t0p-s3cret");
    let error = error_of(Step::Send(json(
        "401 Unauthorized",
        &format!("\u{feff}{REFUSED}"),
    )))
    .await;
    assert_eq!(error.code(), "invalid_client");
}

#[tokio::test]
async fn answers_are_asked_for_as_they_are_and_a_compressed_one_is_told() {
    let mut compressed = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\nconnection: close\r\n\r\n".to_vec();
    compressed.extend([0x1f, 0x8b, 0x08, 0, 0, 0, 0, 0, 0, 0xff, 0x03, 0]);
    let mut server = Server::start(Step::Send(compressed)).await;
    let error = request_of(&server).await.unwrap_err();
    let message = error.message();
    assert!(
        message.contains("is compressed instead of JSON") && message.contains("Accept-Encoding: identity"),
        "{message}"
    );
    let (head, _) = server.form().await;
    assert_eq!(server::header(&head, "accept-encoding"), Some("identity"));
}

#[tokio::test]
async fn an_answer_by_http_1_0_or_in_chunks_or_after_an_interim_one_is_read() {
    let chunked = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{TOKEN}\r\n0\r\n\r\n",
        TOKEN.len()
    );
    for answer in [
        format!("HTTP/1.0 200 OK\r\n{JSON}\r\n{TOKEN}"),
        chunked,
        format!(
            "HTTP/1.1 103 Early Hints\r\nlink: </>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{TOKEN}",
            TOKEN.len()
        ),
    ] {
        let token = issued(answer).await;
        assert_eq!(token.access_token.secret(), "t0p-s3cret");
    }
}

#[tokio::test]
async fn chunks_without_an_end_are_no_answer() {
    let endless = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{TOKEN}\r\n",
        TOKEN.len()
    );
    let broken = error_of(Step::Send(endless.clone().into())).await;
    assert_eq!(broken, Error::Interrupted);
    let server = Server::start(Step::SendAndHang(endless.into())).await;
    let client = server.client(basic(), tight());
    let hanging = client.request_token(&TokenRequest::default()).await.unwrap_err();
    let limit = tight().deadline;
    assert_eq!(hanging, Error::Timeout { limit });
}

/// As Slack and GitHub's OAuth answer.
#[tokio::test]
async fn an_error_with_status_200_is_told_as_what_it_is() {
    for (body, code) in [
        (r#"{"ok":false,"error":"invalid_client_id"}"#, "invalid_client_id"),
        (
            r#"{"error":"incorrect_client_credentials","error_description":"The client_id and/or client_secret passed are incorrect."}"#,
            "incorrect_client_credentials",
        ),
    ] {
        let error = error_of(Step::Send(json("200 OK", body))).await;
        assert_eq!(error.code(), code);
        assert!(error.is_permanent(), "{error}");
        assert!(error.message().contains("this client's registration"), "{error}");
    }
}

/// Gateways that answer in the place of the authorization server say no more.
#[tokio::test]
async fn an_error_that_stands_in_the_challenge_alone_is_read_from_there() {
    for body in ["", "<html>no</html>", "{}"] {
        let headers = "www-authenticate: Bearer realm=\"oauth\", error=\"invalid_client\"\r\n";
        let error = error_of(Step::Send(answer("401 Unauthorized", headers, body))).await;
        assert_eq!(error.code(), "invalid_client", "{body}");
        assert!(error.message().contains("check clientId"), "{error}");
    }
    let other = "www-authenticate: Bearer error=\"unauthorized\"\r\n";
    let error = error_of(Step::Send(answer("401 Unauthorized", other, ""))).await;
    assert_eq!((error.code(), error.reason()), ("unauthorized", "other_error"));
    // What the body says counts before that, and a server's own fault is none of the client's.
    let error = error_of(Step::Send(answer(
        "400 Bad Request",
        other,
        r#"{"error":"invalid_scope"}"#,
    )))
    .await;
    assert_eq!(error.code(), "invalid_scope");
    let error = error_of(Step::Send(answer("503 Service Unavailable", other, ""))).await;
    assert_eq!(error.reason(), "HttpStatus");
}

#[tokio::test]
async fn a_token_in_the_body_of_a_redirect_is_none() {
    let redirect = answer("302 Found", "location: /login\r\n", TOKEN);
    assert_eq!(error_of(Step::Send(redirect)).await.reason(), "Redirected");
}

#[tokio::test]
async fn of_two_equal_names_the_last_counts_and_words_of_other_alphabets_do_no_harm() {
    let twice = r#"{"access_token":"first","token_type":"Bearer","access_token":"second"}"#;
    assert_eq!(
        issued(json("200 OK", twice)).await.access_token.secret(),
        "second"
    );
    let words = r#"{"error":"invalid_client","error_description":"Ungültiges Geheimnis 秘密 \u0007"}"#;
    let error = error_of(Step::Send(json("401 Unauthorized", words))).await;
    let message = error.message();
    assert!(
        message.contains("invalid_client (Ung?ltiges Geheimnis ?? ?)") && message.contains("check clientId"),
        "{message}"
    );
}

#[tokio::test]
async fn a_token_of_16_kib_arrives_whole() {
    let long = "t".repeat(16 * 1024);
    let body = format!(r#"{{"access_token":"{long}","token_type":"Bearer","expires_in":"3599.5"}}"#);
    let server = Server::start(Step::Send(json("200 OK", &body))).await;
    let client = server.client(basic(), Limits::default());
    let token = client.request_token(&TokenRequest::default()).await.unwrap();
    assert_eq!(
        (token.access_token.secret().len(), token.expires_in),
        (16 * 1024, Some(3599))
    );
}
