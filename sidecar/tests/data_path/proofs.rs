//! Tokens that are bound to a key (RFC 9449), and the nonces that servers demand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use mcp_auth_http_auth::ProofKey;
use mcp_auth_protocol::sync::{Credential, Server};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::scene::{Body, Scripted, Seen, Sidecar, post, send, server, unused_address, whole};

const CALL: &str = r#"{"jsonrpc":"2.0","id":"c-1","method":"tools/call"}"#;

fn tools(url: &str) -> Server {
    let mut tools = server(url);
    tools.credential = Credential::Bearer {
        id: "a".into(),
        token: "bound-token".into(),
        proof_key: Some(ProofKey::generate().to_pem()),
        expires_at: None,
    };
    tools
}

/// What a proof claims.
fn claims(seen: &Seen) -> Value {
    let proof = seen.headers["dpop"].to_str().unwrap();
    let payload = proof.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

/// Demands the nonce that is next to be demanded, and gives out another with each answer that has a body.
async fn demands_a_nonce() -> Scripted {
    Scripted::start(async |request: Request<Incoming>| {
        let proof = request.headers()["dpop"].to_str().unwrap();
        let payload = URL_SAFE_NO_PAD.decode(proof.split('.').nth(1).unwrap()).unwrap();
        let claims: Value = serde_json::from_slice(&payload).unwrap();
        let answer = Response::builder().header("dpop-nonce", "n-2");
        match claims["nonce"].as_str() {
            Some("n-1" | "n-2") => answer.body(whole("ok")).unwrap(),
            _ => nonce_demanded("n-1"),
        }
    })
    .await
}

fn nonce_demanded(nonce: &str) -> Response<Body> {
    let answer = Response::builder().status(401);
    let answer = answer.header("www-authenticate", r#"DPoP error="use_dpop_nonce""#);
    answer.header("dpop-nonce", nonce).body(whole("")).unwrap()
}

#[tokio::test]
async fn each_request_carries_a_proof_of_its_own_for_the_servers_own_url() {
    let upstream = Scripted::echo().await;
    let url = format!("http://{}/mcp?tenant=1", upstream.address);
    let sidecar = Sidecar::start(unused_address().await, &[tools(&url)]);
    for _ in 0..2 {
        let request = Request::post("/tools/mcp?tenant=1").header("dpop", "the-clients-own");
        let answer = send(sidecar.outbound, request, whole(CALL)).await;
        assert_eq!(answer.status(), StatusCode::OK);
    }
    let seen = upstream.seen();
    for seen in &seen {
        assert_eq!(seen.headers["authorization"], "DPoP bound-token");
        assert_eq!(seen.headers.get_all("dpop").iter().count(), 1);
        let claims = claims(seen);
        assert_eq!(claims["htm"], "POST");
        assert_eq!(claims["htu"], format!("http://{}/mcp", upstream.address));
        let digest = URL_SAFE_NO_PAD.encode(Sha256::digest("bound-token"));
        assert_eq!(claims["ath"], digest);
    }
    assert_ne!(claims(&seen[0])["jti"], claims(&seen[1])["jti"]);
}

#[tokio::test]
async fn without_a_bound_token_there_is_no_proof_not_even_the_clients() {
    let upstream = Scripted::echo().await;
    let url = format!("http://{}/mcp", upstream.address);
    let sidecar = Sidecar::start(unused_address().await, &[server(&url)]);
    let request = Request::post("/tools/mcp").header("dpop", "the-clients-own");
    send(sidecar.outbound, request, whole(CALL)).await;
    assert!(!upstream.only().headers.contains_key("dpop"));
}

#[tokio::test]
async fn a_nonce_that_is_demanded_is_used_at_once_and_the_newest_from_then_on() {
    let upstream = demands_a_nonce().await;
    let url = format!("http://{}/mcp", upstream.address);
    let sidecar = Sidecar::start(unused_address().await, &[tools(&url)]);
    for _ in 0..2 {
        let answer = post(sidecar.outbound, "/tools/mcp", CALL).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(!answer.headers().contains_key("dpop-nonce"));
    }
    let nonces: Vec<_> = upstream
        .seen()
        .iter()
        .map(|seen| claims(seen)["nonce"].clone())
        .collect();
    assert_eq!(nonces, [Value::Null, "n-1".into(), "n-2".into()]);
    assert_eq!(sidecar.reports.borrow().refused, [], "the token is good");
    assert_eq!(
        sidecar.metric(r#"mcpauth_sidecar_replays_total{why="dpop_nonce"}"#),
        1
    );
}

/// Refuses proofs whose time is not within half a minute of its own clock, which is `ahead` seconds from that of the machine.
async fn refuses_other_times(ahead: i64) -> Scripted {
    let answer = move |request: Request<Incoming>| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let own = i64::try_from(now).unwrap() + ahead;
        let proof = request.headers()["dpop"].to_str().unwrap();
        let payload = URL_SAFE_NO_PAD.decode(proof.split('.').nth(1).unwrap()).unwrap();
        let claims: Value = serde_json::from_slice(&payload).unwrap();
        let date = UNIX_EPOCH + Duration::from_secs(u64::try_from(own).unwrap());
        let answer = Response::builder().header("date", httpdate::fmt_http_date(date));
        if (claims["iat"].as_i64().unwrap() - own).abs() <= 30 {
            return answer.body(whole("ok")).unwrap();
        }
        let answer = answer.status(401);
        let answer = answer.header("www-authenticate", r#"DPoP error="invalid_dpop_proof""#);
        answer.body(whole("")).unwrap()
    };
    Scripted::start(move |request| std::future::ready(answer(request))).await
}

#[tokio::test]
async fn a_proof_is_of_the_time_that_the_servers_clock_shows() {
    for ahead in [-3600, 300] {
        let upstream = refuses_other_times(ahead).await;
        let url = format!("http://{}/mcp", upstream.address);
        let sidecar = Sidecar::start(unused_address().await, &[tools(&url)]);
        for _ in 0..2 {
            let answer = post(sidecar.outbound, "/tools/mcp", CALL).await;
            assert_eq!(answer.status(), StatusCode::OK, "{ahead}");
        }
        assert_eq!(upstream.seen().len(), 3, "the first call was sent once more");
        assert_eq!(sidecar.reports.borrow().refused, [], "the token is good");
        assert_eq!(
            sidecar.metric(r#"mcpauth_sidecar_replays_total{why="dpop_clock"}"#),
            1
        );
    }
}

/// Whatever time it says, a server that takes no proof is told of as one that takes no token.
#[tokio::test]
async fn a_server_whose_clock_is_another_with_each_answer_is_not_asked_without_end() {
    let hours = Arc::new(AtomicU64::new(1));
    let upstream = Scripted::start(move |_| {
        let hour = hours.fetch_add(1, Ordering::Relaxed);
        let date = SystemTime::now() + Duration::from_secs(3600 * hour);
        let answer = Response::builder()
            .status(401)
            .header("date", httpdate::fmt_http_date(date));
        let answer = answer.header("www-authenticate", r#"DPoP error="invalid_dpop_proof""#);
        std::future::ready(answer.body(whole("")).unwrap())
    })
    .await;
    let url = format!("http://{}/mcp", upstream.address);
    let sidecar = Sidecar::start(unused_address().await, &[tools(&url)]);
    let waiting = tokio::spawn(post(sidecar.outbound, "/tools/mcp", CALL));
    let mut reports = sidecar.reports.clone();
    let report = reports
        .wait_for(|report| !report.refused.is_empty())
        .await
        .unwrap();
    assert_eq!(report.refused.len(), 1);
    drop(report);
    assert_eq!(upstream.seen().len(), 2);
    waiting.abort();
}

#[tokio::test]
async fn a_server_that_never_has_enough_nonces_is_asked_twice() {
    let upstream = Scripted::start(async |_| nonce_demanded("again")).await;
    let url = format!("http://{}/mcp", upstream.address);
    let sidecar = Sidecar::start(unused_address().await, &[tools(&url)]);
    let answer = post(sidecar.outbound, "/tools/mcp", CALL).await;
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(upstream.seen().len(), 2);
    assert_eq!(sidecar.reports.borrow().refused, []);
}
