//! Credentials that end soon: in the log and in the metrics, and again when that changes.

use std::fs;
use std::path::Path;

use rustix::process::Signal;

use crate::support::{Ground, free_port, kill, request, serve, until};

const ENDED: &str = "2020-01-01T00:00:00Z";

/// A resource and its Secret, which states when it ends.
fn write_resource(folder: &Path, token_endpoint: &str, end: &str) {
    let text = format!(
        "apiVersion: v1
kind: Secret
metadata: {{name: tools-oauth, annotations: {{mcpauth.dev/expires-at: '{end}'}}}}
stringData: {{secret: s3cret}}
---
apiVersion: mcpauth.dev/v1alpha1
kind: McpServerAuth
metadata: {{name: tools}}
spec:
  server: {{name: tools, url: 'http://127.0.0.1:1/mcp', allowInsecureHttp: true}}
  oauth2:
    tokenUrl: {token_endpoint}
    allowInsecureHttp: true
    clientId: litellm
    clientAuthentication: {{method: ClientSecretPost, clientSecretRef: {{name: tools-oauth, key: secret}}}}
"
    );
    let file = folder.join("tools.yaml");
    // Whole or not at all.
    fs::write(file.with_extension("new"), text).unwrap();
    fs::rename(file.with_extension("new"), file).unwrap();
}

#[test]
fn a_credential_that_ends_is_told_and_measured_until_there_is_a_new_one() {
    let authorization_server = serve(|_| {
        let token = r#"{"access_token": "opaque-t0ken", "token_type": "Bearer", "expires_in": 3600}"#;
        (200, token.to_owned())
    });
    let token_endpoint = format!("http://{authorization_server}/token");
    let ground = Ground::new("{}");
    let folder = ground.folder.path().join("resources");
    fs::create_dir(&folder).unwrap();
    write_resource(&folder, &token_endpoint, ENDED);
    let metrics = free_port();
    let options = ["--resources", "resources", "--metrics", &metrics.to_string()];
    let mut child = ground.litellm_with(&options).spawn().unwrap();
    let report = ground.report();
    let measured = || {
        let head = "GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        request(metrics, head).map(|(_, text)| text)
    };
    let labels = "{namespace=\"\",name=\"tools\",credential=\"client-secret\"}";
    until("it is told", || {
        let log = ground.log();
        let told = log.lines().find(|line| line.contains("\"CredentialExpired\""))?;
        assert!(
            told.contains("WARN") && told.contains("\"resource\":\"tools\""),
            "{told}"
        );
        assert!(
            told.contains("Secret tools-oauth, named by spec.oauth2.clientAuthentication.clientSecretRef, ends at 2020-01-01"),
            "{told}"
        );
        Some(())
    });
    let text = until("it is measured", || {
        measured().filter(|text| text.contains("mcpauth_operator_credential_warning_level{"))
    });
    assert!(
        text.contains(&format!("mcpauth_operator_credential_warning_level{labels} 4\n")),
        "{text}"
    );
    let end = "mcpauth_operator_credential_expiry_timestamp_seconds";
    assert!(text.contains(&format!("{end}{labels} 1577836800.0\n")), "{text}");

    write_resource(&folder, &token_endpoint, "next summer");
    until("what is no time is told", || {
        ground.log().contains("\"ExpiryInvalid\"").then_some(())
    });
    write_resource(&folder, &token_endpoint, "2999-01-01T00:00:00Z");
    until("the end of it is told", || {
        ground
            .log()
            .contains("no credential ends soon any more")
            .then_some(())
    });
    until("and measured", || {
        measured()?
            .contains(&format!("mcpauth_operator_credential_warning_level{labels} 0\n"))
            .then_some(())
    });
    let log = ground.log();
    assert_eq!(
        log.matches("\"CredentialExpired\"").count(),
        1,
        "it is told once: {log}"
    );
    assert!(!log.contains("s3cret") && !text.contains("s3cret"));
    kill(&child, Signal::TERM);
    child.wait().unwrap();
    ground.nothing_is_left(&report);
}
