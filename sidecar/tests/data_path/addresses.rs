//! At which addresses an MCP server may be, by the administrator's policy: judged when a connection is opened.

use http::StatusCode;
use mcp_auth_protocol::sync::ServerAddresses;

use crate::scene::{Scripted, Sidecar, json, post, server, unused_address};

#[tokio::test]
async fn a_name_that_leads_to_a_forbidden_address_is_sent_nothing_and_the_error_says_why() {
    let upstream = Scripted::echo().await;
    // The one name that leads to loopback on every machine.
    let url = format!("http://localhost:{}/mcp", upstream.address.port());
    let at = |addresses: Option<ServerAddresses>| {
        let mut server = server(&url);
        server.addresses = addresses;
        [server]
    };
    let sidecar = Sidecar::start(unused_address().await, &[]);
    let is_refused = async |addresses| {
        sidecar.routes.apply(&at(Some(addresses)));
        let answer = post(sidecar.outbound, "/tools/mcp", "{}").await;
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY, "{addresses:?}");
        let answer = json(answer).await.to_string();
        assert!(
            answer.contains("server_unreachable") && answer.contains("policy.addresses"),
            "{answer}"
        );
        let [learned] = sidecar.routes.reachability().try_into().expect("one server");
        assert!(learned.detail.contains("policy.addresses"), "{learned:?}");
    };
    is_refused(ServerAddresses::Public).await;
    is_refused(ServerAddresses::NotLoopback).await;
    assert_eq!(upstream.connections(), 0);

    // An operator of before says nothing of addresses.
    for allowed in [None, Some(ServerAddresses::Any)] {
        sidecar.routes.apply(&at(allowed));
        let answer = post(sidecar.outbound, "/tools/mcp", "{}").await;
        assert_eq!(answer.status(), StatusCode::OK, "{allowed:?}");
    }
    assert_eq!(upstream.seen().len(), 2);

    // Nor does a connection of before serve on.
    is_refused(ServerAddresses::NotLoopback).await;
    assert_eq!(upstream.seen().len(), 2);
}
