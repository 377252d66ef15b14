//! What `exec` writes and serves for others: audit lines, metrics and what goes to a collector.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc;

use rustix::process::Signal;

use crate::support::{Ground, free_port, header, kill, message, request, serve, until};

#[test]
fn prometheus_finds_the_metrics_where_they_are_wanted() {
    let authorization_server = serve(|_| {
        let token = r#"{"access_token": "opaque-t0ken", "token_type": "Bearer", "expires_in": 3600}"#;
        (200, token.to_owned())
    });
    let mcp_server = serve(|_| {
        (
            200,
            r#"{"jsonrpc": "2.0", "id": 1, "result": {"tools": []}}"#.to_owned(),
        )
    });
    let ground = Ground::new(&format!(
        "mcp_servers: {{tools: {{url: 'http://{mcp_server}/mcp'}}}}"
    ));
    let metrics = free_port();
    let options = ["--metrics", &metrics.to_string(), "--audit-log", "audit.log"];
    let mut child = ground
        .litellm_with(&options)
        .env(
            "MCP_OAUTH2_TOKEN_URL",
            format!("http://{authorization_server}/token"),
        )
        .env("MCP_OAUTH2_CLIENT_ID", "litellm")
        .env("MCP_OAUTH2_CLIENT_SECRET", "s3cret")
        .spawn()
        .unwrap();
    ground.report();
    let head = "GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    // LiteLLM has called once; its line is written a moment later.
    let text = until("the call is counted", || {
        let (status, text) = request(metrics, head)?;
        assert_eq!(status, 200, "{text}");
        text.contains("mcpauth_sidecar_audit_lines_total 1\n")
            .then_some(text)
    });
    for expected in [
        "mcpauth_sidecar_calls_total{server=\"tools\",status=\"2xx\"} 1\n",
        "mcpauth_sidecar_log_lines_dropped_total{cause=\"full\"} 0\n",
        "mcpauth_operator_token_requests_total{namespace=\"\",name=\"mcp_servers.tools\"} 1\n",
        "mcpauth_operator_token_expiry_timestamp_seconds{namespace=\"\",name=\"mcp_servers.tools\"} ",
        "mcpauth_operator_token_issued_timestamp_seconds{namespace=\"\",name=\"mcp_servers.tools\"} ",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(!text.contains("t0ken") && !text.contains("s3cret"), "{text}");

    let second = Ground::new("{}")
        .litellm_with(&options)
        .stderr(std::process::Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(69));
    let expected = format!("127.0.0.1:{metrics} cannot be listened on for the metrics");
    assert!(message(&second).contains(&expected), "{}", message(&second));
    kill(&child, Signal::TERM);
    child.wait().unwrap();
}

#[test]
fn the_audit_log_is_for_its_owner_alone_and_one_that_cannot_be_written_is_told_before_litellm_starts() {
    let ground = Ground::new("{}");
    for (file, code, expected) in [
        (
            "/does/not/exist/audit.log",
            73,
            "/does/not/exist/audit.log cannot be written: entity not found. Check --audit-log",
        ),
        ("", 64, "must be stdout, otlp or the path of a file"),
    ] {
        let mut command = ground.litellm_with(&["--audit-log", file]);
        let output = command.stderr(std::process::Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", message(&output));
        assert!(message(&output).contains(expected), "{}", message(&output));
    }
    assert!(
        !ground.folder.path().join("report").exists(),
        "LiteLLM was not started"
    );
    let mut child = ground
        .litellm_with(&["--audit-log", "audit.log"])
        .spawn()
        .unwrap();
    ground.report();
    let mode = fs::metadata(ground.folder.path().join("audit.log"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    kill(&child, Signal::TERM);
    child.wait().unwrap();
}

#[test]
fn a_collector_that_cannot_be_called_is_told_before_litellm_starts() {
    let ground = Ground::new("{}");
    for (options, headers, expected) in [
        (vec![], "", "--otlp-endpoint (MCPAUTH_OTLP_ENDPOINT) is missing"),
        (
            vec!["--otlp-endpoint", "collector:4318"],
            "",
            "--otlp-endpoint (MCPAUTH_OTLP_ENDPOINT) must be http://HOST:PORT",
        ),
        (
            vec!["--otlp-endpoint", "http://collector:4318"],
            "s3cret",
            "MCPAUTH_OTLP_HEADERS: header 1 has no `=`",
        ),
        (
            vec![
                "--otlp-endpoint",
                "https://collector:4318",
                "--otlp-ca",
                "/ca.pem",
            ],
            "",
            "--otlp-ca (MCPAUTH_OTLP_CA) names \"/ca.pem\", which cannot be read: entity not found",
        ),
    ] {
        let options = [vec!["--audit-log", "otlp"], options].concat();
        let mut command = ground.litellm_with(&options);
        command.env("MCPAUTH_OTLP_HEADERS", headers);
        let output = command.stderr(std::process::Stdio::piped()).output().unwrap();
        let message = message(&output);
        assert_eq!(output.status.code(), Some(78), "{message}");
        assert!(
            message.contains(expected) && !message.contains("s3cret"),
            "{message}"
        );
    }
    let mut command =
        ground.litellm_with(&["--audit-log", "otlp", "--otlp-endpoint", "http://collector:4318"]);
    command.env("MCPAUTH_OTLP_HEADERS_FILE", "/does/not/exist");
    let output = command.stderr(std::process::Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{}", message(&output));
    let expected = "MCPAUTH_OTLP_HEADERS_FILE names a file that cannot be read: entity not found";
    assert!(message(&output).contains(expected), "{}", message(&output));
    assert!(
        !ground.folder.path().join("report").exists(),
        "LiteLLM was not started"
    );
}

#[test]
fn the_collectors_headers_come_from_a_file_that_litellm_does_not_hear_of() {
    let (sender, received) = mpsc::channel();
    let collector = serve(move |request| {
        let _ = sender.send(header(request, "authorization").map(str::to_owned));
        (200, "{}".to_owned())
    });
    let authorization_server = serve(|_| {
        let token = r#"{"access_token": "opaque-t0ken", "token_type": "Bearer", "expires_in": 3600}"#;
        (200, token.to_owned())
    });
    let mcp_server = serve(|_| {
        (
            200,
            r#"{"jsonrpc": "2.0", "id": 1, "result": {"tools": []}}"#.to_owned(),
        )
    });
    let ground = Ground::new(&format!(
        "mcp_servers: {{tools: {{url: 'http://{mcp_server}/mcp'}}}}"
    ));
    let headers = ground.folder.path().join("headers");
    fs::write(&headers, "authorization=Bearer%20s3cret\n").unwrap();
    let endpoint = format!("http://{collector}");
    let options = ["--audit-log", "otlp", "--otlp-endpoint", &endpoint];
    let mut child = ground
        .litellm_with(&options)
        .env(
            "MCP_OAUTH2_TOKEN_URL",
            format!("http://{authorization_server}/token"),
        )
        .env("MCP_OAUTH2_CLIENT_ID", "litellm")
        .env("MCP_OAUTH2_CLIENT_SECRET", "s3cret-of-the-client")
        .env("MCPAUTH_OTLP_HEADERS_FILE", &headers)
        .spawn()
        .unwrap();
    let report = ground.report();
    assert_eq!(received.recv().unwrap().as_deref(), Some("Bearer s3cret"));
    let variables = report["environment"].as_object().unwrap();
    assert!(!variables.contains_key("MCPAUTH_OTLP_HEADERS_FILE"), "{report}");
    kill(&child, Signal::TERM);
    child.wait().unwrap();
}

#[test]
fn a_collector_that_nothing_goes_to_is_told_and_empty_variables_are_as_none() {
    let ground = Ground::new("{}");
    let mut command = ground.litellm_with(&["--otlp-endpoint", "http://collector:4318"]);
    let mut child = command.env("MCPAUTH_TRACING", "").spawn().unwrap();
    ground.report();
    let log = ground.log();
    assert!(log.contains("names a collector, and nothing goes there"), "{log}");
    kill(&child, Signal::TERM);
    child.wait().unwrap();
}
