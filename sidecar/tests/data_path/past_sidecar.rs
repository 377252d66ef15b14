//! Tool calls that LiteLLM answers by another server of the same name, past the sidecar.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use mcp_auth_sidecar::proxy::inbound::LitellmServer;

use crate::scene::{Scripted, Sidecar, bytes, post, server, until, whole};

const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"tools-echo"}}"#;
const GOOD: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"isError":false}}"#;
const FAILED: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"isError":true}}"#;
const COUNTED: &str = r#"mcpauth_sidecar_calls_past_sidecar_total{server="tools"}"#;
/// As many as are enough.
const MANY: u64 = 10;

/// A LiteLLM that gives this answer to what users call, in an event stream, and calls the server `tools` by the sidecar
/// where it has been told of that.
async fn litellm(answer: &'static str, outbound: Arc<OnceLock<SocketAddr>>) -> Scripted {
    Scripted::start(move |request: Request<Incoming>| {
        let outbound = outbound.clone();
        async move {
            request.into_body().collect().await.unwrap();
            if let Some(outbound) = outbound.get() {
                bytes(post(*outbound, "/tools/mcp", CALL).await).await;
            }
            let events = format!(": ping\n\nevent: message\ndata: {answer}\n\n");
            let response = Response::builder().header("content-type", "text/event-stream");
            response.body(whole(events)).unwrap()
        }
    })
    .await
}

fn reasons(sidecar: &Sidecar) -> Vec<String> {
    let notices = sidecar.routes.notices().into_iter();
    notices.map(|notice| notice.reason).collect()
}

#[tokio::test]
async fn calls_that_are_answered_and_never_come_are_told_and_counted_until_one_comes() {
    let upstream = Scripted::start(async |request: Request<Incoming>| {
        request.into_body().collect().await.unwrap();
        Response::new(whole(GOOD))
    })
    .await;
    let outbound = Arc::new(OnceLock::new());
    let litellm = litellm(GOOD, outbound.clone()).await;
    let url = format!("http://{}/mcp", upstream.address);
    let sidecar = Sidecar::start(litellm.address, &[server(&url)]);
    let paths = ["/tools/mcp", "/mcp/tools", "/mcp/", "/root/mcp?x=1", "/mcp"];
    for path in paths.iter().cycle().take(10) {
        bytes(post(sidecar.inbound, path, CALL).await).await;
    }
    until(|| sidecar.metric(COUNTED) == MANY).await;
    let notices = sidecar.routes.notices();
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert_eq!(
        (notices[0].reason.as_str(), notices[0].server.as_deref()),
        ("CallsPastSidecar", Some("tools"))
    );
    assert!(notices[0].message.contains("database"), "{}", notices[0].message);

    outbound.set(sidecar.outbound).unwrap();
    bytes(post(sidecar.inbound, "/tools/mcp", CALL).await).await;
    until(|| reasons(&sidecar).is_empty()).await;
    assert_eq!(upstream.seen().len(), 1);
    assert_eq!(sidecar.metric(COUNTED), MANY, "this one came");
}

#[tokio::test]
async fn what_fails_and_what_is_not_ours_shows_nothing() {
    let failing = litellm(FAILED, Arc::default()).await;
    let sidecar = Sidecar::start(failing.address, &[server("http://127.0.0.1:9/mcp")]);
    for _ in 0..2 * MANY {
        bytes(post(sidecar.inbound, "/tools/mcp", CALL).await).await;
    }
    let answering = litellm(GOOD, Arc::default()).await;
    let other = Sidecar::start(answering.address, &[server("http://127.0.0.1:9/mcp")]);
    let of_another = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"other-echo"}}"#;
    let of_litellm = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"mcp_tool_search"}}"#;
    let listing = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"name":"tools-echo"}}"#;
    for _ in 0..2 * MANY {
        bytes(post(other.inbound, "/mcp", of_another).await).await;
        bytes(post(other.inbound, "/tools/mcp", of_litellm).await).await;
        bytes(post(other.inbound, "/tools/mcp", listing).await).await;
        bytes(post(other.inbound, "/v1/chat/completions", CALL).await).await;
    }
    // The last one is judged after all of these.
    bytes(post(other.inbound, "/tools/mcp", CALL).await).await;
    until(|| other.metric(COUNTED) == 1).await;
    assert_eq!(sidecar.metric(COUNTED), 0);
    assert!(reasons(&other).is_empty() && reasons(&sidecar).is_empty());
}

#[tokio::test]
async fn a_call_by_the_servers_alias_is_one_of_the_server_and_so_is_one_with_a_separator_of_the_users_own() {
    let answering = litellm(GOOD, Arc::default()).await;
    let server_of_litellm = LitellmServer {
        tool_prefix_separator: "__".into(),
        ..LitellmServer::from(answering.address)
    };
    let sidecar = Sidecar::start(server_of_litellm, &[server("http://127.0.0.1:9/mcp")]);
    let aliases = [("Our Tools", "tools"), ("elsewhere", "other")];
    let aliases = aliases.map(|(alias, server)| (alias.to_owned(), server.to_owned()));
    sidecar.routes.set_aliases(aliases.into());
    let call = |tool: &str| -> &'static str { CALL.replace("tools-echo", tool).leak() };
    // The first of them name a server, and the others name none of ours.
    let named = [
        ("/Our_Tools/mcp", "echo"),
        ("/mcp/Our_Tools", "echo"),
        ("/mcp", "Our_Tools__echo"),
        ("/mcp", "tools__echo"),
    ];
    for (path, tool) in named {
        bytes(post(sidecar.inbound, path, call(tool)).await).await;
    }
    for tool in ["tools-echo", "tools_echo", "tools", "elsewhere__echo", "echo"] {
        bytes(post(sidecar.inbound, "/mcp", call(tool)).await).await;
        bytes(post(sidecar.inbound, "/elsewhere/mcp", call(tool)).await).await;
    }
    // The last one is judged after all of these.
    bytes(post(sidecar.inbound, "/tools/mcp", CALL).await).await;
    until(|| sidecar.metric(COUNTED) > 4).await;
    assert_eq!(sidecar.metric(COUNTED), 5);
}
