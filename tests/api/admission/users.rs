//! What of a user is passed on, and who is written down.

use mcp_auth_protocol::header_denylist::{DENIED_HEADERS, DENIED_PREFIXES};
use mcp_auth_tests::world::World;
use serde_json::{Value, json};

use super::{apply, are_refused};

#[tokio::test]
async fn what_of_a_user_cannot_be_passed_on_is_refused_with_the_field_and_the_way_out() {
    let world = World::new("admission-users", false).await;
    let cases: &[(Value, &str)] = &[
        (json!({"audit": {"level": "Everything"}}), "spec.audit.level"),
        (
            json!({"audit": {"user": {"claim": "sub"}}}),
            "exactly one of cookie and header",
        ),
        (
            json!({"audit": {"user": {"cookie": "token"}}}),
            "LiteLLM's own UI session",
        ),
        (
            json!({"audit": {"user": {"header": "X-Id", "jwks": {"issuer": "https://auth.example.com"}}}}),
            "jwks needs claim",
        ),
        (
            json!({"audit": {"user": {"header": "X-Id", "claim": "sub", "jwks": {"issuer": "http://auth.example.com"}}}}),
            "replace the keys",
        ),
        (
            json!({"audit": {"user": {"header": "X-Id", "claim": "sub", "jwks": {
                "issuer": "https://auth.example.com",
                "url": "auth.example.com/keys",
            }}}}),
            "absolute http or https URLs",
        ),
        (
            json!({"audit": {"user": {"header": "Authorization"}}}),
            "LiteLLM's own credentials",
        ),
        (
            json!({"cookiePassthrough": {"enabled": true}}),
            "there is no wildcard",
        ),
        (
            json!({"cookiePassthrough": {"enabled": true, "cookieNames": ["a b"]}}),
            "cookieNames",
        ),
        (
            json!({"cookiePassthrough": {"enabled": true, "cookieNames": ["token"]}}),
            "LiteLLM's own UI session",
        ),
        (
            json!({"headerPassthrough": {"headerNames": ["Authorization"]}}),
            "headerNames must not hold credentials",
        ),
        (
            json!({"headerPassthrough": {"headerNames": ["COOKIE"]}}),
            "headerNames must not hold credentials",
        ),
        (
            json!({"headerPassthrough": {"headerNames": ["Mcp-Session-Id"]}}),
            "headers of the MCP transport",
        ),
        (
            json!({"headerPassthrough": {"headerNames": ["mcpauth-context"]}}),
            "mcp-auth",
        ),
        (
            json!({"headerPassthrough": {"headerNames": ["X-Forwarded-User", "X-Forwarded-For"]}}),
            "where a request came from",
        ),
        (
            json!({"headerPassthrough": {"headerNames": ["Content-Language"]}}),
            "headers of the body or of the connection",
        ),
        (
            json!({"headerPassthrough": {"headerNames": ["X User"]}}),
            "headerNames",
        ),
        (json!({"headerPassthrough": {"headerNames": [""]}}), "headerNames"),
        (
            json!({"cookiePassthrough": {"enabled": true, "cookieNames": [""]}}),
            "cookieNames",
        ),
        (
            json!({"cookiePassthrough": {"enabled": true, "cookieNames": ["sid=1"]}}),
            "cookieNames",
        ),
        (
            json!({"cookiePassthrough": {"cookieNames": ["token"]}}),
            "LiteLLM's own UI session",
        ),
        (
            json!({"cookiePassthrough": {"cookieNames": ["session_id"]}}),
            "cookieNames needs enabled: true",
        ),
        (
            json!({"cookiePassthrough": {"enabled": true, "cookieNames": ["session_*"]}}),
            "cookieNames looks like a pattern",
        ),
        (
            json!({"cookiePassthrough": {"enabled": true, "cookieNames": ["^session$"]}}),
            "cookieNames looks like a pattern",
        ),
        (
            json!({"headerPassthrough": {"headerNames": ["X-User-*"]}}),
            "headerNames looks like a pattern",
        ),
        (
            json!({"cookiePassthrough": {"cookieNames": vec!["a"; 65]}}),
            "spec.cookiePassthrough.cookieNames",
        ),
        (
            json!({"cookiePassthrough": {"enabled": "yes"}}),
            "spec.cookiePassthrough.enabled",
        ),
    ];
    are_refused(&world, cases).await;
}

/// The sidecar refuses these whoever lists them; here the user is told at once, in whatever case they are
/// written.
#[tokio::test]
async fn no_header_that_the_sidecar_refuses_gets_past_admission() {
    let world = World::new("admission-headers", false).await;
    let prefixed = DENIED_PREFIXES.map(|prefix| format!("{prefix}x"));
    for name in DENIED_HEADERS.map(str::to_owned).into_iter().chain(prefixed) {
        for spelled in [name.clone(), name.to_uppercase()] {
            let passed = json!({"headerPassthrough": {"headerNames": ["X-Forwarded-User", spelled]}});
            let exchanged = json!({"oauth2": {"tokenExchange": {"subjectHeader": spelled}}});
            for changes in [passed, exchanged] {
                let refusal = apply(&world, changes.clone()).await.map(|created| created.spec);
                let refusal = refusal.expect_err(&format!("{changes} is refused"));
                assert!(refusal.contains("must not"), "{changes}: {refusal}");
            }
        }
    }
}
