//! Which MCP server a resource is of, and what LiteLLM is told of it.

use mcp_auth_tests::world::World;
use serde_json::{Value, json};

use super::are_refused;

#[tokio::test]
async fn a_server_that_cannot_be_called_or_told_of_is_refused_with_the_field_and_the_way_out() {
    let world = World::new("admission-servers", false).await;
    let long = "a".repeat(65);
    let many: serde_json::Map<String, Value> =
        (0..65).map(|number| (format!("l{number}"), json!("x"))).collect();
    let expression = |values: usize| json!({"key": "team", "operator": "In", "values": vec!["x"; values]});
    let cases: &[(Value, &str)] = &[
        (json!({"server": {"name": "my-tools"}}), "spec.server.name"),
        (json!({"server": {"name": ""}}), "spec.server.name"),
        (
            json!({"server": {"url": "tools.example.com/mcp"}}),
            "url must be an absolute http or https URL",
        ),
        (
            json!({"server": {"url": "ftp://tools.example.com"}}),
            "url must be an absolute http or https URL",
        ),
        (
            json!({"server": {"url": "https://tools.example.com/mcp#x"}}),
            "url must have no fragment",
        ),
        (
            json!({"server": {"url": "https://me:pw@tools.example.com/mcp"}}),
            "no user name or password",
        ),
        (
            json!({"server": {"url": "http://tools.example.com/mcp"}}),
            "server.allowInsecureHttp: true",
        ),
        (
            json!({"server": {"transport": "Websocket"}}),
            "spec.server.transport",
        ),
        (
            json!({"server": {"affinityCookies": ["token"]}}),
            "LiteLLM's own UI session",
        ),
        (
            json!({"server": {"affinityCookies": ["lb;"]}}),
            "spec.server.affinityCookies[0]",
        ),
        (
            json!({"server": {"affinityCookies": vec!["lb"; 9]}}),
            "spec.server.affinityCookies",
        ),
        (
            json!({
                "server": {"affinityCookies": ["other", "lb"]},
                "cookiePassthrough": {"enabled": true, "cookieNames": ["session_id", "lb"]},
            }),
            "server.affinityCookies names a cookie of users",
        ),
        (
            json!({
                "server": {"affinityCookies": ["lb"]},
                "oauth2": {"tokenExchange": {"subjectCookie": "lb"}},
            }),
            "server.affinityCookies names a cookie of users",
        ),
        (
            json!({"server": {"affinityCookies": ["lb"]}, "audit": {"user": {"cookie": "lb"}}}),
            "server.affinityCookies names a cookie of users",
        ),
        (
            json!({"server": {"tls": {"caBundle": {}}}}),
            "exactly one of secretKeyRef and configMapKeyRef",
        ),
        (
            json!({"liteLLM": {"description": "os.environ/LITELLM_MASTER_KEY"}}),
            "one of its environment variables",
        ),
        (json!({"liteLLM": {"alias": "my-tools"}}), "alias"),
        (json!({"liteLLM": {"allowedTools": []}}), "allowedTools"),
        (
            json!({"liteLLM": {"allowedTools": ["a"], "disallowedTools": ["b"]}}),
            "cannot both be set",
        ),
        (
            json!({"liteLLM": {"allowedParameters": {"": ["city"]}}}),
            "name of a tool",
        ),
        (json!({"liteLLM": {"timeoutSeconds": 0}}), "timeoutSeconds"),
        (json!({"server": {"name": long}}), "spec.server.name"),
        (json!({"server": {"url": null}}), "spec.server.url"),
        (
            json!({"server": {"uri": "https://tools.example.com"}}),
            "spec.server.uri",
        ),
        (
            json!({"podSelector": {"matchLabels": many}}),
            "spec.podSelector.matchLabels",
        ),
        (
            json!({"podSelector": {"matchExpressions": vec![expression(1); 65]}}),
            "spec.podSelector.matchExpressions",
        ),
        (
            json!({"podSelector": {"matchExpressions": [expression(65)]}}),
            "spec.podSelector.matchExpressions[0].values",
        ),
    ];
    are_refused(&world, cases).await;
}
