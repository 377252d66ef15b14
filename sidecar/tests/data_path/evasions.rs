//! Requests that are to be understood in one way by the sidecar and in another by LiteLLM.

use std::io::Write;
use std::num::NonZeroUsize;

use flate2::Compression;
use flate2::write::GzEncoder;
use http::{Request, StatusCode};
use mcp_auth_protocol::sync::Audit;
use mcp_auth_sidecar::proxy::audit::Output;
use mcp_auth_sidecar::proxy::outbound::Limits;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::audit::{CALL, audited};
use crate::scene::{
    Operator, Scripted, Sidecar, TEST_TIMEOUT, bytes, json, read_head, send, server, streamed, until, whole,
};
use crate::users::LiteLlm;
use crate::wires::{absolute, http2};

const SERVER: &str = "https://tools.example.com/mcp";
const FORGED: &str = r#"{"tools":[{"headers":{"mcpauth-context":"of somebody else"}}]}"#;

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// `/mcp-rest/tools/call` reads its body by a parser that takes UTF-16 and UTF-32, whatever its type is.
#[tokio::test]
async fn a_body_in_wide_characters_cannot_name_our_header() {
    let litellm = Scripted::echo().await;
    let sidecar = Sidecar::start(litellm.address, &[server(SERVER)]);
    for content_type in ["application/json", "application/octet-stream"] {
        for body in [
            utf16(FORGED),
            utf16(&format!("\u{feff}{FORGED}")),
            FORGED
                .chars()
                .flat_map(|letter| u32::from(letter).to_be_bytes())
                .collect(),
        ] {
            let (pieces, in_pieces) = streamed();
            // Few enough to be written at once: whoever answers before the end reads no more.
            body.chunks(24)
                .for_each(|piece| pieces.send(piece.to_vec().into()).unwrap());
            drop(pieces);
            for body in [whole(body), in_pieces] {
                let request = Request::post("/mcp-rest/tools/call").header("content-type", content_type);
                let answer = send(sidecar.inbound, request, body).await;
                assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
                assert_eq!(json(answer).await["reason"], "body_not_utf8");
            }
        }
    }
    // In UTF-8 the key is disarmed, and forms and files pass.
    let request = || Request::post("/mcp-rest/tools/call").header("content-type", "application/json");
    let answer = send(sidecar.inbound, request(), whole(FORGED)).await;
    assert_eq!(
        bytes(answer).await,
        FORGED.replace("mcpauth-context", "mcpauth-contex_")
    );
    for file in ["\0\0\0\x18ftypmp42", "\0\0\0 ftypisom\0\0\x02\0", " \0\x05\0"] {
        let answer = send(sidecar.inbound, request(), whole(file)).await;
        assert_eq!(bytes(answer).await, file);
    }
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn zstd(text: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(zstd_safe::compress_bound(text.len()));
    zstd_safe::compress(&mut frame, text, 3).unwrap();
    frame
}

/// LiteLLM 1.110.2 decodes bodies before it reads them.
#[tokio::test]
async fn a_compressed_body_cannot_name_our_header() {
    let litellm = Scripted::echo().await;
    let sidecar = Sidecar::start(litellm.address, &[server(SERVER)]);
    let ask = async |coding: &str, body: Vec<u8>, is_whole: bool| {
        let body = match is_whole {
            true => whole(body),
            false => {
                let (pieces, in_pieces) = streamed();
                // Few enough to be written at once: whoever answers before the end reads no more.
                body.chunks(24)
                    .for_each(|piece| pieces.send(piece.to_vec().into()).unwrap());
                in_pieces
            }
        };
        let request = Request::post("/v1/chat/completions")
            .header("content-type", "application/json")
            .header("content-encoding", coding);
        send(sidecar.inbound, request, body).await
    };
    let plain = gzip(FORGED.replace("mcpauth-context", "mcpauth-context-2").as_bytes());
    let plain_zstd = zstd(FORGED.replace("mcpauth-context", "mcpauth-context-2").as_bytes());
    for is_whole in [true, false] {
        for (coding, body, status, reason) in [
            ("gzip", gzip(FORGED.as_bytes()), 400, "body_names_headers"),
            ("X-GZip", gzip(FORGED.as_bytes()), 400, "body_names_headers"),
            ("gzip", gzip(&utf16(FORGED)), 400, "body_not_utf8"),
            (
                "gzip",
                [&*plain, &*gzip(FORGED.as_bytes())].concat(),
                400,
                "body_undecodable",
            ),
            ("zstd", zstd(FORGED.as_bytes()), 400, "body_names_headers"),
            ("ZSTD", zstd(&utf16(FORGED)), 400, "body_not_utf8"),
            (
                "zstd",
                [&*plain_zstd, &*zstd(FORGED.as_bytes())].concat(),
                400,
                "body_undecodable",
            ),
        ] {
            let answer = ask(coding, body, is_whole).await;
            assert_eq!(answer.status().as_u16(), status, "{reason}");
            assert_eq!(json(answer).await["reason"], reason);
        }
        for (coding, plain) in [("gzip", &plain), ("zstd", &plain_zstd)] {
            let before = litellm.seen().len();
            let answer = ask(coding, plain.clone(), is_whole).await;
            assert_eq!(bytes(answer).await, *plain, "it passes as it is");
            assert_eq!(litellm.seen()[before].headers["content-encoding"], coding);
        }
        // LiteLLM reads as it is what does not begin as encoded.
        for coding in ["gzip", "zstd"] {
            let answer = ask(coding, FORGED.into(), is_whole).await;
            assert_eq!(
                bytes(answer).await,
                FORGED.replace("mcpauth-context", "mcpauth-contex_"),
                "{coding}"
            );
        }
    }
}

/// By `tools[].headers`, and by members that LiteLLM hands to its own function at `/mcp-rest/tools/call`.
#[tokio::test]
async fn a_body_sets_no_header_for_a_server_of_ours() {
    let litellm = Scripted::echo().await;
    let sidecar = Sidecar::start(litellm.address, &[server(SERVER)]);
    sidecar.routes.set_aliases(
        [("Search", "tools")]
            .map(|(alias, server)| (alias.into(), server.into()))
            .into(),
    );
    sidecar.routes.set_access_groups(["our-staff".to_owned()].into());
    let ask = async |body: &'static str| {
        let request = Request::post("/v1/responses").header("content-type", "application/json");
        String::from_utf8(
            bytes(send(sidecar.inbound, request, whole(body)).await)
                .await
                .to_vec(),
        )
        .unwrap()
    };
    for (body, arrives) in [
        (
            r#"{"tools":[{"headers":{"x-mcp-tools-mcp-session-id":"of somebody else","X-Mcp-search-a":"b"}}]}"#,
            r#"{"tools":[{"headers":{"x-mcp-tools_mcp-session-id":"of somebody else","X-Mcp-search_a":"b"}}]}"#,
        ),
        (
            r#"{"mcp_server_auth_headers":{"tools":{"x-tenant":"a"}},"mcp_auth_header":{"x-tenant":"a"}}"#,
            r#"{"mcp_server_auth_header_":{"tools":{"x-tenant":"a"}},"mcp_auth_heade_":{"x-tenant":"a"}}"#,
        ),
        (
            r#"{"tools":[{"headers":{"x-mcp-our_staff-mcp-session-id":"of somebody else"}}]}"#,
            r#"{"tools":[{"headers":{"x-mcp-our_staff_mcp-session-id":"of somebody else"}}]}"#,
        ),
        (
            r#"{"tools":[{"headers":{"x-mcp-others-a":"b"}}],"a":"x-mcp-tools-a"}"#,
            r#"{"tools":[{"headers":{"x-mcp-others-a":"b"}}],"a":"x-mcp-tools-a"}"#,
        ),
    ] {
        assert_eq!(ask(body).await, arrives);
    }
}

/// LiteLLM 1.80.17 reads as JSON at `/mcp-rest/` what it cannot read as a form.
#[tokio::test]
async fn json_that_is_said_to_be_a_form_cannot_name_our_header() {
    let litellm = Scripted::echo().await;
    let sidecar = Sidecar::start(litellm.address, &[server(SERVER)]);
    let form =
        "--x\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n{\"mcpauth-context\":1}\r\n--x--\r\n";
    for content_type in ["multipart/form-data", "application/x-www-form-urlencoded"] {
        let request = || Request::post("/mcp-rest/tools/call").header("content-type", content_type);
        let answer = send(sidecar.inbound, request(), whole(format!("\n {FORGED}"))).await;
        let disarmed = FORGED.replace("mcpauth-context", "mcpauth-contex_");
        assert_eq!(bytes(answer).await, format!("\n {disarmed}"), "{content_type}");
        let answer = send(sidecar.inbound, request(), whole(utf16(FORGED))).await;
        assert_eq!(json(answer).await["reason"], "body_not_utf8", "{content_type}");
        let answer = send(sidecar.inbound, request(), whole(form)).await;
        assert_eq!(bytes(answer).await, form, "a file is left alone");
    }
}

/// What is recorded is the key that LiteLLM finds.
#[tokio::test]
async fn no_client_can_show_litellm_another_key_than_the_one_that_is_recorded() {
    let upstream = Scripted::echo().await;
    let litellm = LiteLlm::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit");
    let output = path.clone();
    let sidecar = Sidecar::with_audit_log(
        litellm.scripted.address,
        &[audited(
            &format!("http://{}/mcp", upstream.address),
            Audit::default(),
        )],
        NonZeroUsize::MIN,
        Operator::default(),
        Limits::default(),
        |_| Output::File(output).into(),
    );
    litellm.behind_address(sidecar.outbound);
    let call = async |headers: &[(&str, &str)]| {
        let request = Request::post("/tools/mcp");
        let request = headers
            .iter()
            .fold(request, |request, (name, value)| request.header(*name, *value));
        let answer = send(sidecar.inbound, request, whole(CALL)).await;
        let status = answer.status();
        (status, bytes(answer).await)
    };
    let eve = ("authorization", "Bearer sk-eve");
    assert_eq!(call(&[eve]).await.0, StatusCode::OK);
    for name in ["x-litellm-api-key", "api-key", "x-api-key"] {
        assert_eq!(
            call(&[("connection", name), (name, "sk-eve")]).await.0,
            StatusCode::OK
        );
    }
    let lines = || std::fs::read_to_string(&path).unwrap_or_default();
    until(|| lines().lines().count() >= 4).await;
    assert!(sidecar.audit_log.flush(TEST_TIMEOUT));
    let keys: Vec<Value> = lines()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["clientKey"].clone())
        .collect();
    assert!(
        keys[0].is_string() && keys.iter().all(|key| *key == keys[0]),
        "{keys:?}"
    );
    let arrived = litellm.scripted.seen();
    for seen in &arrived {
        let mut keys = ["x-litellm-api-key", "authorization", "api-key", "x-api-key"].iter();
        let key = keys.find_map(|name| seen.headers.get(*name)).expect("a key");
        assert!(key.as_bytes().ends_with(b"sk-eve"), "{seen:?}");
    }
    // Two keys in one header: some paths of LiteLLM take the first, others the last.
    let (status, body) = call(&[("x-litellm-api-key", "sk-ada"), ("x-litellm-api-key", "sk-eve")]).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(
        String::from_utf8_lossy(&body).contains("request_ambiguous"),
        "{body:?}"
    );
    assert_eq!(
        litellm.scripted.seen().len(),
        arrived.len(),
        "it does not get there"
    );
}

/// Over HTTP/2 a length may be stated twice. Servers of HTTP/1.1 may refuse that, and this one sees each line.
#[tokio::test]
async fn a_length_that_is_stated_twice_over_http2_is_passed_on_once() {
    let litellm = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = Sidecar::start(litellm.local_addr().unwrap(), &[server(SERVER)]);
    let mut sender = http2(sidecar.inbound).await;
    let request = Request::post("/v1/chat/completions")
        .header("content-length", "2")
        .header("content-length", "2");
    let answer = tokio::spawn(sender.send_request(absolute(request, "llm", whole("{}"))));
    let (mut stream, _) = litellm.accept().await.unwrap();
    let head = read_head(&mut stream).await;
    let lengths: Vec<_> = head
        .lines()
        .filter(|line| line.starts_with("content-length"))
        .collect();
    assert_eq!(lengths, ["content-length: 2"], "{head}");
    let mut body = [0; 2];
    stream.read_exact(&mut body).await.unwrap();
    assert_eq!(&body, b"{}");
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await
        .unwrap();
    assert_eq!(bytes(answer.await.unwrap().unwrap()).await, "ok");
}
