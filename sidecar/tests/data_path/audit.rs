//! The audit log: what of real calls is written, and what never is.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use mcp_auth_protocol::sync::{Audit, AuditUser, Credential, Server, SubjectTokenSource};
use mcp_auth_sidecar::proxy::audit::Output;
use mcp_auth_sidecar::proxy::outbound::Limits;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::scene::{
    Operator, Scripted, Sidecar, TEST_TIMEOUT, bearer, bytes, post, read_head, send, server, streamed, until,
    unused_address, whole,
};
use crate::users::LiteLlm;

pub const CALL: &str = concat!(
    r#"{"method":"tools/call","params":{"name":"search","arguments":{"query":"v4lue","limit":10}},"#,
    r#""jsonrpc":"2.0","id":1}"#
);

/// A sidecar whose audit log is a file.
struct Scene {
    sidecar: Sidecar,
    folder: tempfile::TempDir,
}

impl Scene {
    fn start(litellm: SocketAddr, servers: &[Server]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sidecar = with_output(litellm, servers, folder.path().join("audit"));
        Self { sidecar, folder }
    }

    /// Everything that was written, once there are so many lines.
    async fn text(&self, lines: usize) -> String {
        let path = self.folder.path().join("audit");
        let text = || std::fs::read_to_string(&path).unwrap_or_default();
        until(|| text().lines().count() >= lines).await;
        assert!(self.sidecar.audit_log.flush(TEST_TIMEOUT));
        assert_eq!(text().lines().count(), lines, "{}", text());
        text()
    }

    /// The lines, each of which is as the schema says.
    async fn lines(&self, number: usize) -> Vec<Value> {
        let text = self.text(number).await;
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines.inspect(validate).collect()
    }

    async fn only(&self) -> Value {
        self.lines(1).await.remove(0)
    }
}

fn with_output(litellm: SocketAddr, servers: &[Server], output: PathBuf) -> Sidecar {
    Sidecar::with_audit_log(
        litellm,
        servers,
        NonZeroUsize::MIN,
        Operator::default(),
        Limits::default(),
        |_| Output::File(output).into(),
    )
}

/// The documented schema.
pub fn validate(line: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/audit.schema.json");
    let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
    let schema = compiler.compile(path.to_str().unwrap(), &mut schemas).unwrap();
    if let Err(error) = schemas.validate(line, schema) {
        panic!("{line}\nis not as docs/audit.schema.json says: {error:#}");
    }
}

pub fn audited(url: &str, audit: Audit) -> Server {
    let mut server = server(url);
    server.route.audit = Some(audit);
    server
}

fn by_user(from: SubjectTokenSource, claim: Option<&str>) -> Audit {
    Audit {
        argument_names: false,
        user: Some(AuditUser {
            from,
            claim: claim.map(Into::into),
            verification: None,
        }),
    }
}

fn url(upstream: &Scripted) -> String {
    format!("http://{}/mcp", upstream.address)
}

/// A call of a user, through LiteLLM.
async fn call(sidecar: &Sidecar, key: &str, headers: &[(&str, &str)]) -> StatusCode {
    let request = Request::post("/tools/mcp")
        .header("authorization", format!("Bearer {key}"))
        .header("mcp-session-id", "s3ssion-of-mcp");
    let request = headers
        .iter()
        .fold(request, |request, (name, value)| request.header(*name, *value));
    let answer = send(sidecar.inbound, request, whole(CALL)).await;
    let status = answer.status();
    bytes(answer).await;
    status
}

#[tokio::test]
async fn two_users_are_told_apart_and_no_line_holds_a_session_a_key_a_token_or_a_value() {
    let (litellm, upstream) = (LiteLlm::start().await, Scripted::echo().await);
    let scene = Scene::start(
        litellm.scripted.address,
        &[audited(&url(&upstream), Audit::default())],
    );
    litellm.behind_address(scene.sidecar.outbound);
    let ada = [("cookie", "session_id=S-ada-1234; other=0ther")];
    let eve = [("cookie", "session_id=S-eve-5678")];
    assert_eq!(call(&scene.sidecar, "sk-ada-key", &ada).await, 200);
    assert_eq!(call(&scene.sidecar, "sk-eve-key", &eve).await, 200);
    assert_eq!(call(&scene.sidecar, "sk-ada-key", &ada).await, 200);
    let text = scene.text(3).await;
    let lines = scene.lines(3).await;
    let [ada, eve, again] = [0, 1, 2].map(|line| &lines[line]);
    for field in ["user", "clientKey"] {
        assert!(ada[field] != Value::Null, "{ada}");
        assert_eq!(ada[field], again[field]);
        assert_ne!(ada[field], eve[field]);
    }
    assert_eq!(
        ada["session"], eve["session"],
        "it is LiteLLM's, here one for all"
    );
    for secret in [
        "S-ada",
        "S-eve",
        "0ther",
        "sk-ada",
        "sk-eve",
        "s3ssion",
        "service-token",
        "v4lue",
        "query",
    ] {
        assert!(!text.contains(secret), "{secret} in\n{text}");
    }
    for (field, expected) in [
        ("namespace", "llm"),
        ("pod", "litellm-0"),
        ("server", "tools"),
        ("resource", "tools-auth"),
        ("httpMethod", "POST"),
        ("method", "tools/call"),
        ("tool", "search"),
        ("outcome", "answered"),
    ] {
        assert_eq!(ada[field], expected, "{ada}");
    }
    assert_eq!((&ada["status"], &ada["replayed"]), (&200.into(), &false.into()));
    // The server answers with the message.
    assert_eq!(ada["requestBytes"], CALL.len());
    assert_eq!(ada["responseBytes"], CALL.len());
    assert!(ada["durationMs"].as_f64() >= ada["serverMs"].as_f64());
    assert!(ada["serverMs"].as_f64() > Some(0.0));
    assert_eq!(scene.sidecar.metric("mcpauth_sidecar_audit_lines_total"), 3);
}

#[tokio::test]
async fn a_header_or_a_claim_of_a_token_names_the_user_and_need_not_reach_the_server() {
    let (litellm, upstream) = (LiteLlm::start().await, Scripted::echo().await);
    let payload = URL_SAFE_NO_PAD.encode(r#"{"email":"ada@example.com"}"#);
    let token = format!("e30.{payload}.c2ln");
    let named = |name: &str, from, claim| {
        let mut server = audited(&url(&upstream), by_user(from, claim));
        server.route.server = name.into();
        server
    };
    let scene = Scene::start(
        litellm.scripted.address,
        &[
            named("by_header", SubjectTokenSource::Header("x-user".into()), None),
            named(
                "by_claim",
                SubjectTokenSource::Cookie("id_token".into()),
                Some("email"),
            ),
        ],
    );
    litellm.behind_address(scene.sidecar.outbound);
    for path in ["/by_header/mcp", "/by_claim/mcp"] {
        let request = Request::post(path)
            .header("x-user", "ada")
            .header("cookie", format!("id_token={token}"));
        bytes(send(scene.sidecar.inbound, request, whole(CALL)).await).await;
    }
    let lines = scene.lines(2).await;
    let user = |id: &str, source: &str| serde_json::json!({"id": id, "source": source, "verified": false});
    assert_eq!(lines[0]["user"], user("ada", "header:x-user"));
    assert_eq!(lines[1]["user"], user("ada@example.com", "cookie:id_token"));
    assert!(!scene.text(2).await.contains(&payload));
    for seen in upstream.seen() {
        assert!(!seen.headers.contains_key("x-user"));
        assert!(!seen.headers.contains_key("cookie"));
    }
}

#[tokio::test]
async fn a_request_without_the_user_that_is_expected_says_so() {
    let upstream = Scripted::echo().await;
    let audit = by_user(SubjectTokenSource::Header("x-user".into()), None);
    let scene = Scene::start(unused_address().await, &[audited(&url(&upstream), audit)]);
    bytes(post(scene.sidecar.outbound, "/tools/mcp", CALL).await).await;
    let user = serde_json::json!({"source": "header:x-user", "problem": "Missing"});
    assert_eq!(scene.only().await["user"], user);
}

#[tokio::test]
async fn names_of_arguments_are_written_where_the_resource_says_so() {
    let upstream = Scripted::echo().await;
    let audit = Audit {
        argument_names: true,
        user: None,
    };
    let scene = Scene::start(unused_address().await, &[audited(&url(&upstream), audit)]);
    bytes(post(scene.sidecar.outbound, "/tools/mcp", CALL).await).await;
    let line = scene.only().await;
    assert_eq!(line["argumentNames"], serde_json::json!(["query", "limit"]));
    assert_eq!(line["user"], Value::Null);
    assert!(!line.to_string().contains("v4lue"));
}

#[tokio::test]
async fn nothing_is_written_where_the_resource_says_nothing() {
    let upstream = Scripted::echo().await;
    let mut other = audited(&url(&upstream), Audit::default());
    other.route.server = "other".into();
    let scene = Scene::start(unused_address().await, &[server(&url(&upstream)), other]);
    bytes(post(scene.sidecar.outbound, "/tools/mcp", CALL).await).await;
    bytes(post(scene.sidecar.outbound, "/other/mcp", CALL).await).await;
    assert_eq!(scene.only().await["server"], "other");
}

#[tokio::test]
async fn a_call_that_the_sidecar_refuses_is_written_with_its_reason() {
    let mut tools = audited("http://127.0.0.1:9/mcp", Audit::default());
    tools.credential = Credential::Unavailable {
        reason: "SecretMissing".into(),
        message: "no Secret".into(),
        keep: false,
    };
    let scene = Scene::start(unused_address().await, &[tools]);
    let answer = post(scene.sidecar.outbound, "/tools/mcp", CALL).await;
    assert_eq!(answer.status(), 503);
    let length = bytes(answer).await.len();
    assert_eq!(
        post(scene.sidecar.outbound, "/tools/else", CALL).await.status(),
        404
    );
    let lines = scene.lines(2).await;
    assert_eq!(lines[0]["outcome"], "failed");
    assert_eq!(lines[0]["reason"], "token_unavailable");
    assert_eq!(lines[0]["status"], 503);
    assert_eq!(lines[0]["tool"], "search");
    assert_eq!(lines[0]["responseBytes"], length);
    assert_eq!(lines[0]["serverMs"], 0.0);
    assert_eq!(lines[1]["reason"], "path_not_served");
    assert_eq!(
        lines[1]["tool"], "search",
        "the body of a refused call is read for its id"
    );
}

#[tokio::test]
async fn a_call_that_was_sent_again_is_one_line() {
    let upstream = Scripted::start(async |request: Request<Incoming>| {
        let fresh = request.headers()["authorization"] == "Bearer new";
        let status = if fresh { 200 } else { 401 };
        request.into_body().collect().await.unwrap();
        Response::builder().status(status).body(whole("{}")).unwrap()
    })
    .await;
    let mut tools = audited(&url(&upstream), Audit::default());
    tools.credential = bearer("old");
    let scene = Scene::start(unused_address().await, &[tools.clone()]);
    let renew = async {
        scene.sidecar.refused().await;
        tools.credential = bearer("new");
        scene.sidecar.routes.apply(&[tools]);
    };
    let (answer, ()) = tokio::join!(post(scene.sidecar.outbound, "/tools/mcp", CALL), renew);
    assert_eq!(answer.status(), 200);
    bytes(answer).await;
    let line = scene.only().await;
    assert_eq!((&line["replayed"], &line["status"]), (&true.into(), &200.into()));
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_written_as_broken() {
    let upstream = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}/mcp", upstream.local_addr().unwrap());
    let (close, closing) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(async move {
        let (mut stream, _) = upstream.accept().await.unwrap();
        read_head(&mut stream).await;
        let half = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf";
        stream.write_all(half).await.unwrap();
        // The message is read, so that closing resets nothing.
        stream.read_exact(&mut [0; CALL.len()]).await.unwrap();
        closing.await.unwrap();
    });
    let scene = Scene::start(unused_address().await, &[audited(&url, Audit::default())]);
    let answer = post(scene.sidecar.outbound, "/tools/mcp", CALL).await;
    close.send(()).unwrap();
    assert!(answer.into_body().collect().await.is_err());
    let line = scene.only().await;
    assert_eq!(
        (&line["outcome"], &line["status"]),
        (&"broken".into(), &200.into())
    );
    assert_eq!(line["responseBytes"], 4);
}

#[tokio::test]
async fn a_call_whose_client_goes_away_is_written_as_cancelled() {
    let upstream = Scripted::start(async |_| std::future::pending().await).await;
    let scene = Scene::start(
        unused_address().await,
        &[audited(&url(&upstream), Audit::default())],
    );
    let waiting = tokio::spawn(post(scene.sidecar.outbound, "/tools/mcp", CALL));
    until(|| upstream.seen().len() == 1).await;
    // With the last of its tasks the client's connection goes as well.
    waiting.abort();
    drop(waiting.await);
    let line = scene.only().await;
    assert_eq!(line["outcome"], "cancelled");
    assert_eq!(line["status"], Value::Null);
    assert_eq!(line["tool"], "search");
}

#[tokio::test]
async fn an_event_stream_that_the_client_closes_after_its_answer_was_answered() {
    let (events, body) = streamed();
    let body = std::sync::Mutex::new(Some(body));
    let body = std::sync::Arc::new(body);
    let upstream = Scripted::start(move |_| {
        let body = body.lock().unwrap().take().unwrap();
        async move {
            Response::builder()
                .header("content-type", "text/event-stream")
                .body(body)
                .unwrap()
        }
    })
    .await;
    let scene = Scene::start(
        unused_address().await,
        &[audited(&url(&upstream), Audit::default())],
    );
    let mut answer = post(scene.sidecar.outbound, "/tools/mcp", CALL).await;
    events.send(Bytes::from_static(b"data: {}\n\n")).unwrap();
    answer.body_mut().frame().await.unwrap().unwrap();
    drop(answer);
    let line = scene.only().await;
    assert_eq!(line["outcome"], "answered");
    assert_eq!(line["responseBytes"], 10);
}

#[tokio::test]
async fn a_body_too_long_to_be_read_first_is_written_by_its_beginning() {
    let upstream = Scripted::echo().await;
    let scene = Scene::start(
        unused_address().await,
        &[audited(&url(&upstream), Audit::default())],
    );
    let long = CALL.replace("v4lue", &"v4lue".repeat(100_000));
    let answer = send(
        scene.sidecar.outbound,
        Request::post("/tools/mcp"),
        whole(long.clone()),
    )
    .await;
    assert_eq!(bytes(answer).await.len(), long.len());
    let line = scene.only().await;
    assert_eq!(line["tool"], "search");
    assert_eq!(line["requestBytes"], long.len());
    assert_eq!(line["responseBytes"], long.len());
}

#[tokio::test]
async fn each_message_of_a_batch_has_a_line_and_a_trace_is_named() {
    let upstream = Scripted::echo().await;
    let scene = Scene::start(
        unused_address().await,
        &[audited(&url(&upstream), Audit::default())],
    );
    let id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let traced = format!(
        r#"{{"method":"ping","params":{{"_meta":{{"traceparent":"00-{id}-00f067aa0ba902b7-01"}}}}}}"#
    );
    let batch = format!("[{CALL},{traced}]");
    bytes(
        send(
            scene.sidecar.outbound,
            Request::post("/tools/mcp"),
            whole(batch.clone()),
        )
        .await,
    )
    .await;
    let lines = scene.lines(2).await;
    assert!(lines.iter().all(|line| line["batchSize"] == 2));
    assert_eq!(
        (&lines[0]["tool"], &lines[0]["traceId"]),
        (&"search".into(), &Value::Null)
    );
    assert_eq!(
        (&lines[1]["method"], &lines[1]["traceId"]),
        (&"ping".into(), &id.into())
    );
}

#[tokio::test]
async fn an_output_that_takes_nothing_holds_up_no_call_and_lost_lines_are_counted() {
    let upstream = Scripted::start(async |request: Request<Incoming>| {
        request.into_body().collect().await.unwrap();
        Response::new(whole("{}"))
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("audit");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // Whoever opens it waits for a reader, and none comes.
    let sidecar = with_output(
        unused_address().await,
        &[audited(&url(&upstream), Audit::default())],
        pipe.clone(),
    );
    // Bodies so long that the queue is full after some hundred calls.
    let body = CALL.replace("v4lue", &"v".repeat(60_000));
    let dropped = || sidecar.metric(r#"mcpauth_sidecar_audit_lines_dropped_total{cause="queue_full"}"#);
    let mut calls = 0;
    while dropped() < 10 {
        assert!(calls < 1000, "the queue has no bound");
        let request = Request::post("/tools/mcp");
        assert_eq!(
            send(sidecar.outbound, request, whole(body.clone()))
                .await
                .status(),
            200
        );
        calls += 1;
    }
    assert!(
        !sidecar.audit_log.flush(Duration::from_millis(1)),
        "nothing is written"
    );
    // What waited is written as soon as somebody reads.
    let reading = tokio::task::spawn_blocking(move || {
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(std::fs::File::open(pipe).unwrap()));
        lines.next().unwrap().unwrap()
    });
    let line = tokio::time::timeout(TEST_TIMEOUT, reading)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["tool"], "search");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_holds_up_no_call_and_lost_lines_are_counted() {
    let upstream = Scripted::echo().await;
    let sidecar = with_output(
        unused_address().await,
        &[audited(&url(&upstream), Audit::default())],
        "/dev/full".into(),
    );
    for _ in 0..3 {
        assert_eq!(post(sidecar.outbound, "/tools/mcp", CALL).await.status(), 200);
    }
    let lost = || sidecar.metric(r#"mcpauth_sidecar_audit_lines_dropped_total{cause="write_failed"}"#);
    until(|| lost() == 3).await;
    assert_eq!(sidecar.metric("mcpauth_sidecar_audit_lines_total"), 0);
}
