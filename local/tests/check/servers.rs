//! Authorization servers and MCP servers that do not take what they are sent, or take anything.

use serde_json::Value;

use crate::set_up::{SetUp, answer};
use crate::support::serve;

#[test]
fn a_client_secret_that_the_authorization_server_refuses_is_told() {
    let set_up = SetUp::new();
    set_up.breaks(
        &[("SECRET", "wrong")],
        &[2, 5],
        &["✗ OAuth2 works: 0 of 1 servers", "invalid_client"],
    );
}

#[test]
fn a_server_that_rejects_the_token_is_told() {
    let mut set_up = SetUp::new();
    set_up.servers[1] = serve(|_| (401, r#"{"error": "not for us"}"#.to_owned()));
    set_up.configure(&set_up.configuration());
    set_up.breaks(&[], &[5], &["✗ tools: initialize is answered with status 502 Bad Gateway: McpServerAuth mcp_servers.tools: the MCP server \
           rejected the service token (401)"]);
}

#[test]
fn a_server_that_answers_without_a_token_too_is_warned_of() {
    let mut set_up = SetUp::new();
    set_up.servers[1] = serve(answer);
    set_up.configure(&set_up.configuration());
    let output = set_up.check(&["-o", "json"], &[]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["holds"], true, "{report}");
    let warning = report["criteria"][4]["servers"][0]["warning"].as_str();
    assert!(
        warning
            .unwrap_or_default()
            .starts_with("it answers without a token, too"),
        "{report}"
    );
    assert!(report["criteria"][1]["servers"][0].get("warning").is_none());
    let output = set_up.check(&[], &[]);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(
        text.contains("✓ tools: LiteLLM lists 2 tools. Warning: it answers without a token, too"),
        "{text}"
    );
}

#[test]
fn a_server_that_is_not_there_is_told() {
    let mut set_up = SetUp::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    set_up.servers[1] = listener.local_addr().unwrap();
    drop(listener);
    set_up.configure(&set_up.configuration());
    set_up.breaks(&[], &[5], &["✗ tools: initialize is answered with status 50"]);
}

#[test]
fn a_set_up_without_any_protected_server_is_told() {
    let set_up = SetUp::new();
    set_up.configure("{}");
    set_up.breaks(
        &[],
        &[2, 5],
        &["no MCP server is authenticated to: set MCP_OAUTH2_*"],
    );
}
