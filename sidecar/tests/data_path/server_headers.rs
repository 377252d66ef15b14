//! LiteLLM's own headers for one server or for an access group, `x-mcp-NAME-HEADER`: where a name has servers of ours.

use http::Request;

use crate::scene::{Scripted, Sidecar, send, server, whole};

const SERVER: &str = "http://127.0.0.1:9/mcp";

#[tokio::test]
async fn headers_for_one_server_go_where_that_server_is_ours_and_pass_where_it_is_not() {
    let litellm = Scripted::echo().await;
    let sidecar = Sidecar::start(litellm.address, &[server(SERVER)]);
    let names = || {
        let seen = litellm.seen().pop().unwrap();
        let names = seen.headers.keys().map(|name| name.as_str().to_owned());
        let mut names: Vec<_> = names.filter(|name| name.starts_with("x-mcp-")).collect();
        names.sort_unstable();
        names
    };
    let ask = async || {
        let mut request = Request::get("/mcp/");
        for name in [
            "x-mcp-tools-authorization",
            "X-Mcp-Tools-X-Tenant",
            "x-mcp-my_tools-x-tenant",
            "x-mcp-my_tools",
            "x-mcp-tools2-authorization",
            "x-mcp-other-authorization",
            "x-mcp-servers",
            "x-mcp-access-groups",
        ] {
            request = request.header(name, "x");
        }
        send(sidecar.inbound, request, whole("")).await;
        names()
    };
    let of_litellm_and_others = [
        "x-mcp-access-groups",
        "x-mcp-my_tools",
        "x-mcp-other-authorization",
        "x-mcp-servers",
        "x-mcp-tools2-authorization",
    ];
    let mut before = of_litellm_and_others.to_vec();
    before.insert(2, "x-mcp-my_tools-x-tenant");
    assert_eq!(ask().await, before);
    // What LiteLLM's configuration calls it.
    sidecar.routes.set_aliases(
        [("My Tools", "tools"), ("access", "tools")]
            .map(|(alias, server)| (alias.into(), server.into()))
            .into(),
    );
    assert_eq!(ask().await, of_litellm_and_others);
    sidecar.routes.apply(&[server(SERVER)]);
    assert_eq!(ask().await, of_litellm_and_others);
}

/// LiteLLM 1.110.2 sends `x-mcp-GROUP-HEADER` to all servers of an access group, of which others may need a credential.
#[tokio::test]
async fn headers_for_a_group_with_one_of_our_servers_go_but_for_credentials_that_our_servers_never_get() {
    let litellm = Scripted::echo().await;
    let sidecar = Sidecar::start(litellm.address, &[server(SERVER)]);
    let ask = async || {
        let mut request = Request::get("/mcp/");
        for name in [
            "x-mcp-staff-authorization",
            "X-Mcp-Staff-X-Tenant",
            "x-mcp-staff-mcp-session-id",
            "x-mcp-staff-mcp-method",
            "x-mcp-our_guests-x-tenant",
            "x-mcp-our_guests-x-api-key",
            "x-mcp-others-x-tenant",
            "x-mcp-access-groups",
        ] {
            request = request.header(name, "x");
        }
        send(sidecar.inbound, request, whole("")).await;
        let seen = litellm.seen().pop().unwrap();
        let names = seen.headers.keys().map(|name| name.as_str().to_owned());
        let mut names: Vec<_> = names.filter(|name| name.starts_with("x-mcp-")).collect();
        names.sort_unstable();
        names
    };
    assert_eq!(ask().await.len(), 8, "no group has a server of ours");
    let left = [
        "x-mcp-access-groups",
        "x-mcp-others-x-tenant",
        "x-mcp-our_guests-x-api-key",
        "x-mcp-staff-authorization",
    ];
    let groups = ["Staff", "our-guests", "access", ""].map(str::to_owned);
    sidecar.routes.set_access_groups(groups.into());
    assert_eq!(ask().await, left);
    sidecar.routes.apply(&[server(SERVER)]);
    assert_eq!(ask().await, left, "they are kept with other routes");
}
