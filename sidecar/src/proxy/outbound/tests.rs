//! An MCP server of the routing table, for the tests of this half.

use super::*;
use crate::proxy::routes::ServerState;
use mcp_auth_protocol::sync::{self, Transport, UserContext};
use prometheus_client::registry::Registry;
use tokio::sync::watch;

pub(super) fn server(url: &str, transport: Transport) -> Arc<McpServer> {
    server_named("tools", url, transport)
}

pub(super) fn server_named(name: &str, url: &str, transport: Transport) -> Arc<McpServer> {
    let routes = Routes::new(
        NonZeroUsize::MIN,
        Metrics::new(&mut Registry::default()),
        watch::Sender::default(),
    );
    let route = sync::Route {
        resource: name.into(),
        server: name.into(),
        url: url.into(),
        transport,
        http1_only: false,
        affinity_cookies: Vec::new(),
        answer_timeout_seconds: None,
        ca_bundle: None,
        cookies: vec!["session_id".into()],
        headers: vec!["x-forwarded-user".into()],
        user_context: UserContext::Optional,
        exchange: None,
        credential_identity: String::new(),
        audit: None,
        litellm: None,
    };
    let credential = sync::Credential::Bearer {
        id: String::new(),
        token: "service".into(),
        proof_key: None,
        expires_at: Some(1_000),
    };
    assert_eq!(
        routes.apply(&[sync::Server {
            route,
            credential,
            resource_uid: None,
            client_certificate: None,
            egress_proxy: None,
            addresses: None,
            declined: None,
        }]),
        []
    );
    routes.table().server(name).unwrap().clone()
}

pub(super) fn usable<T>(url: &str, transport: Transport, then: impl FnOnce(&UsableServer) -> T) -> T {
    match &server(url, transport).state {
        ServerState::Usable(usable) => then(usable),
        ServerState::Unusable(unusable) => panic!("{unusable}"),
    }
}
