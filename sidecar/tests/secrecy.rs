//! Nothing secret is ever written: not to the log at its finest, not to the metrics, not into errors.

// Clippy knows only functions marked as tests for tests; what they share is one as well.
#![allow(clippy::unwrap_used)]
#![allow(dead_code, reason = "the scene is that of the data path's tests")]

#[path = "data_path/scene.rs"]
mod scene;

use std::io::Write;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use mcp_auth_http_auth::ProofKey;
use mcp_auth_protocol::sync::{Credential, Problem, SubjectTokenSource};
use mcp_auth_sidecar::proxy::outbound::Limits;
use secrecy::ExposeSecret;

use scene::{Asked, Operator, SECRET, Scripted, Sidecar, bytes, post, send, server, whole};

const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#;
const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A server that never takes a token, in each way there is, and repeats it in its challenge.
async fn spiteful() -> Scripted {
    Scripted::start(async |request: Request<Incoming>| {
        let token = request.headers()["authorization"].to_str().unwrap().to_owned();
        let (status, error) = match request.headers()["x-way"].to_str().unwrap() {
            "unauthorized" => (401, "invalid_token"),
            "nonce" => (401, "use_dpop_nonce"),
            "scope" => (403, "insufficient_scope"),
            _ => (403, "invalid_token"),
        };
        Response::builder()
            .status(status)
            .header(
                "www-authenticate",
                format!(r#"DPoP error="{error}", error_description="{token}""#),
            )
            .header("dpop-nonce", "n0nce-s3cret")
            .body(whole(token))
            .unwrap()
    })
    .await
}

fn credential(token: &str, key: &ProofKey) -> Credential {
    Credential::Bearer {
        id: "id".into(),
        token: token.into(),
        proof_key: Some(key.to_pem()),
        expires_at: None,
    }
}

#[tokio::test]
async fn no_token_key_proof_or_subject_is_written_anywhere() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();

    let (litellm, upstream) = (Scripted::echo().await, spiteful().await);
    let operator = Operator::by(async |asked: Asked| match asked.refused {
        None => Ok(credential("user-t0ken-s3cret", &ProofKey::generate())),
        Some(_) => Err(Problem::new("SubjectRefused", "invalid_grant")),
    });
    let key = ProofKey::generate();
    let mut tools = server(&format!("http://{}/mcp", upstream.address));
    tools.route.exchange = Some(SubjectTokenSource::Cookie("idp_token".into()));
    tools.credential = credential("service-t0ken-s3cret", &key);
    let limits = Limits {
        token_wait: Duration::from_millis(50),
        probe_interval: Duration::ZERO,
        ..Limits::default()
    };
    let one = NonZeroUsize::MIN;
    let sidecar = Sidecar::with(litellm.address, &[tools], one, operator, limits);

    let mut answers = Vec::new();
    let mut contexts = Vec::new();
    for way in ["unauthorized", "nonce", "scope", "other"] {
        let cookies = format!("idp_token=subject-s3cret-{way}; session_id=session-s3cret");
        send(
            sidecar.inbound,
            Request::get("/").header("cookie", cookies),
            whole(""),
        )
        .await;
        let context = litellm.seen().last().unwrap().headers["mcpauth-context"].clone();
        let request = Request::post("/tools/mcp").header("x-way", way);
        let list = send(sidecar.outbound, request, whole(LIST)).await;
        let request = Request::post("/tools/mcp")
            .header("x-way", way)
            .header("mcpauth-context", &context);
        let call = send(sidecar.outbound, request, whole(CALL)).await;
        for answer in [list, call] {
            answers.push(format!("{:?}", answer.headers()));
            answers.push(String::from_utf8(bytes(answer).await.to_vec()).unwrap());
        }
        contexts.push(context);
    }
    post(sidecar.outbound, "/tools/mcp", CALL).await;
    answers.push(format!("{:?}", sidecar.reports.borrow()));
    prometheus_client::encoding::text::encode(&mut answers[0], &sidecar.registry).unwrap();

    let proofs: Vec<_> = upstream
        .seen()
        .iter()
        .map(|seen| seen.headers["dpop"].clone())
        .collect();
    assert!(proofs.len() > 8, "each way was gone: {}", proofs.len());
    let written = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(
        written.contains("token rejected") && written.contains("SubjectRefused"),
        "{written}"
    );
    // All that is logged about one request can be found together.
    let ids = |message: &str| {
        let lines = written.lines().filter(|line| line.contains(message));
        let ids = lines.filter_map(|line| line.split(" request=").nth(1)?.split(' ').next());
        ids.collect::<Vec<_>>()
    };
    let refused = ids("request refused");
    for message in ["token rejected", "no token for a user"] {
        let ids = ids(message);
        assert!(
            !ids.is_empty() && ids.iter().all(|id| refused.contains(id)),
            "{written}"
        );
    }
    let pem = key.to_pem();
    let line_of_key = pem.expose_secret().lines().nth(1).unwrap();
    let sent = proofs
        .iter()
        .chain(&contexts)
        .map(|value| value.to_str().unwrap());
    let secrets = sent.chain(["s3cret", line_of_key, SECRET]);
    for secret in secrets {
        assert!(!written.contains(secret), "{secret} in the log:\n{written}");
        for answer in &answers {
            assert!(!answer.contains(secret), "{secret} in {answer}");
        }
    }
}
