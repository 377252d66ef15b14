use serde_json::{Value, json};

use super::*;

fn now() -> Timestamp {
    "2026-11-29T12:00:00Z".parse().unwrap()
}

fn report(token: Value) -> TokenReport {
    let resource = json!({
        "apiVersion": "mcpauth.dev/v1alpha1", "kind": "McpServerAuth",
        "metadata": {"name": "tools", "namespace": "llm"},
        "spec": {"server": {"name": "tools", "url": "https://tools.example.com/mcp"}},
        "status": {
            "conditions": [{
                "type": "TokenIssued", "status": "True", "reason": "Issued", "message": "the token is valid",
                "lastTransitionTime": "2026-11-29T11:00:00Z",
            }],
            "token": token,
        },
    });
    TokenReport::new(&serde_json::from_value(resource).unwrap(), now())
}

fn plain(report: &TokenReport) -> String {
    let text = text::render(std::slice::from_ref(report));
    anstream::adapter::strip_str(&text).to_string()
}

#[test]
fn the_claims_of_a_jwt_are_listed_by_their_own_names() {
    let report = report(json!({
        "type": "Bearer", "format": "JWT", "scope": "read", "issuedAt": "2026-11-29T11:55:00Z",
        "expiresAt": "2026-11-29T12:05:00Z", "nextRefreshAt": "2026-11-29T12:01:40Z",
        "claims": {"issuer": "https://auth.example.com", "subject": "litellm", "audience": ["https://tools.example.com"]},
    }));
    assert!(report.serves());
    insta::assert_snapshot!(plain(&report));
}

#[test]
fn an_opaque_token_is_called_that_and_keeps_its_expiry() {
    let report = report(json!({"type": "Bearer", "format": "Opaque", "expiresAt": "2026-11-29T12:00:30Z"}));
    let text = plain(&report);
    assert!(text.contains("opaque: it has no claims to read"), "{text}");
    assert!(text.contains("2026-11-29T12:00:30Z (in 30s)"), "{text}");
}

#[test]
fn an_expired_token_and_none_are_faults() {
    let expired = report(json!({"type": "Bearer", "format": "Opaque", "expiresAt": "2026-11-29T11:59:59Z"}));
    assert!(!expired.serves());
    assert!(plain(&expired).contains("it has expired"), "{}", plain(&expired));
    let failed = report(json!({
        "lastError": {"time": "2026-11-29T11:59:59Z", "reason": "invalid_client", "message": "no"},
    }));
    assert!(!failed.serves());
    assert!(
        plain(&failed).contains("There is no token."),
        "{}",
        plain(&failed)
    );
}

#[test]
fn an_older_operator_is_named_with_both_versions() {
    let mut report = report(json!({"type": "Bearer", "expiresAt": "2026-11-29T12:05:00Z"}));
    assert!(report.is_of_older_operator);
    report.tell_of_older_operator(Some("0.0.9"));
    let note = report.note.clone().unwrap();
    let ours = format!("(version {})", env!("CARGO_PKG_VERSION"));
    assert!(note.contains("version 0.0.9") && note.contains(&ours), "{note}");
}
