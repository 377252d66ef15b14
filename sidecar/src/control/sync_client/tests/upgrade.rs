//! Streams that leave HTTP by an upgrade, and what stands in the way of that.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_stream_leaves_http_with_its_first_report() {
    let authority = Authority::new();
    let mut operator = Operator::followed_with(&authority.pem);
    let call = operator.call(&authority).await;
    assert!(call.asks_for_upgrade());
    let headers = call.request.headers();
    assert_eq!(headers[CONNECTION], "upgrade");
    assert!(
        headers.contains_key(http::header::CONTENT_LENGTH),
        "a body that ends, since HTTP reads it whole before it hands the connection over"
    );
    let mut stream = call.accept();
    assert_eq!(stream.report().await.version, "1.2.3");
    stream.snapshot("r1", "").await;
    assert_eq!(stream.report().await.applied.as_deref(), Some("r1"));
}

#[tokio::test(start_paused = true)]
async fn an_operator_without_upgrades_is_asked_once_more_in_http_and_a_newer_one_by_its_next_stream() {
    let authority = Authority::new();
    let mut operator = Operator::followed_with(&authority.pem);
    // It reads the first report, answers, and ends the stream with the body.
    let older = operator.call(&authority).await;
    assert!(older.asks_for_upgrade());
    let first_at = older.at;
    let mut ended = older.accept_in_http();
    ended.report().await;
    let again = operator.call(&authority).await;
    assert!(!again.asks_for_upgrade());
    assert_eq!(again.at, first_at, "at once");
    let mut stream = again.accept_in_http();
    stream.report().await;
    stream.snapshot("r1", "").await;
    assert_eq!(stream.report().await.applied.as_deref(), Some("r1"));
    assert_eq!(operator.revisions(), ["r1"]);
    stream.cut();

    // The older one is not asked again.
    let call = operator.call(&authority).await;
    assert!(!call.asks_for_upgrade());
    let mut stream = call.accept();
    stream.report().await;
    let mut newer = operator::snapshot("r2", "");
    newer.capabilities = vec![Capability::Upgrade];
    stream.send(&serde_json::to_string(&newer).unwrap()).await;
    stream.report().await;
    stream.cut();
    assert!(operator.call(&authority).await.asks_for_upgrade());
}

/// A load balancer or a mesh that does not know the protocol may answer so.
#[tokio::test(start_paused = true)]
async fn what_refuses_the_upgrade_and_not_the_stream_does_not_keep_the_sidecar_from_its_operator() {
    let authority = Authority::new();
    let mut operator = Operator::followed_with(&authority.pem);
    let mut servers = Vec::new();
    // Each stream tries it anew: what stands between may have gone.
    for (status, revision) in [
        (StatusCode::BAD_REQUEST, "r1"),
        (StatusCode::UPGRADE_REQUIRED, "r2"),
    ] {
        let call = operator.call(&authority).await;
        assert!(call.asks_for_upgrade());
        let first_at = call.at;
        servers.push(call.refuse(status, "<html>"));
        let again = operator.call(&authority).await;
        assert!(!again.asks_for_upgrade());
        assert_eq!(again.at, first_at, "at once");
        let mut stream = again.accept_in_http();
        stream.report().await;
        stream.snapshot(revision, "").await;
        assert_eq!(stream.report().await.applied.as_deref(), Some(revision));
        stream.cut();
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_by_the_operator_or_for_want_of_rights_is_not_asked_for_twice() {
    let authority = Authority::new();
    let mut operator = Operator::followed_with(&authority.pem);
    let mut servers = Vec::new();
    for (status, body) in [
        (StatusCode::SERVICE_UNAVAILABLE, refusal("NotLeading")),
        (StatusCode::UNAUTHORIZED, "<html>".to_owned()),
        (StatusCode::FORBIDDEN, "<html>".to_owned()),
    ] {
        servers.push(operator.call(&authority).await.refuse(status, &body));
        let last = operator.call(&authority).await;
        assert!(last.asks_for_upgrade(), "after {status}");
        servers.push(last.refuse(StatusCode::FORBIDDEN, "<html>"));
    }
}
