//! The sidecar's metrics: those that the documentation names, and what they say of calls.

use std::collections::BTreeSet;
use std::path::Path;

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use mcp_auth_sidecar::control::controller;
use mcp_auth_sidecar::log::DroppedLines;

use crate::scene::{Scripted, Sidecar, bytes, get, post, server, unused_address, whole};

const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#;

/// Name and type of each metric of the sidecar in the table of docs/metrics.md.
fn documented() -> BTreeSet<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows = text.lines().filter_map(|line| {
        let mut cells = line
            .strip_prefix("| `mcpauth_sidecar_")?
            .split('|')
            .map(str::trim);
        let name = format!("mcpauth_sidecar_{}", cells.next()?.trim_end_matches('`'));
        Some((name, cells.next()?.to_owned()))
    });
    rows.collect()
}

#[tokio::test]
async fn the_documentation_lists_exactly_the_metrics_that_there_are() {
    // A server, and a request that is refused: metrics without any series are not exposed.
    let server = server("http://127.0.0.1:9/mcp");
    let mut sidecar = Sidecar::start(unused_address().await, &[server]);
    get(sidecar.outbound, "/unknown").await;
    // Those of the control plane are in the same registry in a pod.
    controller::Metrics::new(&mut sidecar.registry);
    DroppedLines::default().register(&mut sidecar.registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &sidecar.registry).unwrap();
    let exposed: BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| match kind {
            "counter" => (format!("{name}_total"), kind.to_owned()),
            kind => (name.to_owned(), kind.to_owned()),
        })
        .collect();
    assert!(exposed.len() > 10, "{text}");
    assert_eq!(documented(), exposed);
}

#[tokio::test]
async fn each_server_has_its_own_calls_and_times() {
    let upstream = Scripted::start(async |request: Request<Incoming>| {
        let fails = request.uri().path().ends_with("fails");
        request.into_body().collect().await.unwrap();
        let status = if fails { 500 } else { 200 };
        Response::builder().status(status).body(whole("{}")).unwrap()
    })
    .await;
    let named = |name: &str| {
        let mut server = server(&format!("http://{}/mcp", upstream.address));
        server.route.server = name.into();
        server
    };
    let sidecar = Sidecar::start(unused_address().await, &[named("tools"), named("crm")]);
    for path in ["/tools/mcp", "/tools/mcp", "/crm/mcp/fails"] {
        bytes(post(sidecar.outbound, path, CALL).await).await;
    }
    // Refused by the sidecar, so the server took no time.
    assert_eq!(get(sidecar.outbound, "/tools/elsewhere").await.status(), 404);
    assert_eq!(get(sidecar.outbound, "/unknown/mcp").await.status(), 404);
    let calls = |server: &str, status: &str| {
        let labels = format!(r#"server="{server}",status="{status}""#);
        sidecar.metric(&format!("mcpauth_sidecar_calls_total{{{labels}}}"))
    };
    assert_eq!((calls("tools", "2xx"), calls("tools", "4xx")), (2, 1));
    assert_eq!((calls("crm", "2xx"), calls("crm", "5xx")), (0, 1));
    let times = |server: &str, part: &str| {
        let labels = format!(r#"server="{server}",part="{part}""#);
        sidecar.metric(&format!(
            "mcpauth_sidecar_call_duration_seconds_count{{{labels}}}"
        ))
    };
    assert_eq!((times("tools", "sidecar"), times("tools", "server")), (3, 2));
    assert_eq!((times("crm", "sidecar"), times("crm", "server")), (1, 1));
    assert_eq!(calls("unknown", "4xx"), 0, "no label comes from a request");
}
