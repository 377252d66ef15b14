//! What a sidecar learns of its MCP servers.

use std::net::Ipv4Addr;

use http::{Response, StatusCode};
use mcp_auth_protocol::reachability::{Reachability, ServerReachability};
use mcp_auth_sidecar::proxy::routes::connection_checks;
use tokio::net::TcpSocket;

use crate::scene::{Scripted, Sidecar, bearer, bytes, post, server, until, unused_address, whole};
use crate::wires::{Options, Secure};

fn learned(sidecar: &Sidecar) -> ServerReachability {
    let [only] = sidecar.routes.reachability().try_into().expect("one server");
    only
}

async fn sidecar_for(url: &str) -> Sidecar {
    Sidecar::start(unused_address().await, &[server(url)])
}

/// What one call has shown.
async fn after_a_call(sidecar: &Sidecar) -> ServerReachability {
    bytes(post(sidecar.outbound, "/tools/mcp", "{}").await).await;
    learned(sidecar)
}

#[tokio::test]
async fn a_server_is_not_spoken_to_before_the_first_call_and_answers_from_then_on() {
    let upstream = Scripted::echo().await;
    let url = format!("http://{}/mcp", upstream.address);
    let sidecar = sidecar_for(&url).await;
    assert_eq!(learned(&sidecar).state, Reachability::NotContacted);
    assert_eq!(after_a_call(&sidecar).await.state, Reachability::Answered);

    let mut renewed = server(&url);
    renewed.credential = bearer("another");
    sidecar.routes.apply(&[renewed]);
    assert_eq!(
        learned(&sidecar).state,
        Reachability::Answered,
        "a new token changes nothing"
    );
    sidecar.routes.apply(&[server(&format!("{url}/other"))]);
    assert_eq!(learned(&sidecar).state, Reachability::NotContacted);
}

#[tokio::test]
async fn a_call_that_finds_no_server_says_so() {
    let sidecar = sidecar_for(&format!("http://{}/mcp", unused_address().await)).await;
    let learned = after_a_call(&sidecar).await;
    assert_eq!(learned.state, Reachability::ConnectionFailed);
    assert!(learned.detail.contains("refused"), "{learned:?}");
}

#[tokio::test]
async fn a_wrong_path_is_told_and_an_ended_session_is_none() {
    let upstream = Scripted::start(async |request: http::Request<_>| {
        let is_known = request.uri().path() == "/mcp/right";
        let mut answer = Response::new(whole("{}"));
        *answer.status_mut() = if is_known {
            StatusCode::OK
        } else {
            StatusCode::NOT_FOUND
        };
        answer
    })
    .await;
    let sidecar = sidecar_for(&format!("http://{}/mcp", upstream.address)).await;
    let below = post(sidecar.outbound, "/tools/mcp/other", "{}").await;
    assert_eq!(below.status(), StatusCode::NOT_FOUND);
    assert_eq!(learned(&sidecar).state, Reachability::Answered);
    assert_eq!(after_a_call(&sidecar).await.state, Reachability::PathNotFound);
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_told_apart_from_one_for_another_host() {
    let upstream = Secure::start(Options::default(), async |_| Response::new(whole("{}"))).await;
    let trusting = upstream.tools();

    let mut without_bundle = trusting.clone();
    without_bundle.route.ca_bundle = None;
    let sidecar = Sidecar::start(unused_address().await, &[without_bundle]);
    let untrusted = after_a_call(&sidecar).await;
    assert_eq!(
        untrusted.state,
        Reachability::CertificateNotTrusted,
        "{untrusted:?}"
    );

    let mut by_address = trusting.clone();
    by_address.route.url = format!("https://{}/mcp", upstream.address);
    sidecar.routes.apply(&[by_address]);
    let other_host = after_a_call(&sidecar).await;
    assert_eq!(
        other_host.state,
        Reachability::CertificateForOtherHost,
        "{other_host:?}"
    );

    sidecar.routes.apply(&[trusting]);
    assert_eq!(after_a_call(&sidecar).await.state, Reachability::Answered);
}

#[tokio::test]
async fn a_missing_ca_bundle_is_found_before_any_call() {
    let upstream = Secure::start(Options::default(), async |_| Response::new(whole("{}"))).await;
    let mut tools = upstream.tools();
    let bundle = tools.route.ca_bundle.take();
    let sidecar = Sidecar::start(unused_address().await, &[tools.clone()]);
    let checks = tokio::spawn(connection_checks::run(sidecar.routes.clone()));
    until(|| learned(&sidecar).state == Reachability::CertificateNotTrusted).await;

    tools.route.ca_bundle = bundle;
    sidecar.routes.apply(&[tools]);
    until(|| learned(&sidecar).state == Reachability::Connected).await;
    assert!(upstream.seen().is_empty(), "a connection, and no request");
    checks.abort();
}

#[tokio::test]
async fn a_server_that_is_back_is_known_before_the_next_call() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    let sidecar = sidecar_for(&format!("http://{address}/mcp")).await;
    let checks = tokio::spawn(connection_checks::run(sidecar.routes.clone()));
    assert_eq!(after_a_call(&sidecar).await.state, Reachability::ConnectionFailed);
    let _listener = socket.listen(16).unwrap();
    until(|| learned(&sidecar).state == Reachability::Connected).await;
    checks.abort();
}
