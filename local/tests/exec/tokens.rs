//! Which servers get a token, and who sees the secret.

use std::sync::mpsc;

use rustix::process::Signal;

use crate::support::{Ground, kill, message, request, serve, until};

#[test]
fn litellm_reaches_its_server_with_a_token_and_never_sees_the_secret() {
    let recorded = |body: &'static str| {
        let (sender, requests) = mpsc::channel();
        let address = serve(move |request| {
            let _ = sender.send(request.to_owned());
            (200, body.to_owned())
        });
        (address, requests)
    };
    let (authorization_server, token_requests) =
        recorded(r#"{"access_token": "opaque-t0ken", "token_type": "Bearer", "expires_in": 3600}"#);
    let (mcp_server, calls) = recorded(r#"{"jsonrpc": "2.0", "id": 1, "result": {"tools": []}}"#);
    let ground = Ground::new(&format!(
        "mcp_servers:
  tools:
    url: http://{mcp_server}/mcp
    auth:
      oauth2: {{token_url: 'http://{authorization_server}/token', client_id: litellm, client_secret: '${{SECRET}}'}}
"
    ));
    let child = ground.litellm().env("SECRET", "s3cret").spawn().unwrap();
    let report = ground.report();
    assert!(
        token_requests
            .recv()
            .unwrap()
            .contains("grant_type=client_credentials")
    );
    let call = calls.recv().unwrap().to_ascii_lowercase();
    assert!(call.contains("authorization: bearer opaque-t0ken"), "{call}");
    assert!(report["called"].as_str().unwrap().contains("tools"));
    assert!(!report.to_string().contains("s3cret"), "in LiteLLM's environment");
    assert!(
        !call.contains("mcpauth-"),
        "what LiteLLM shows goes no further: {call}"
    );
    assert_eq!(report["folder"], "0o700", "nobody else reads what LiteLLM shows");

    // Users call the port that they always called.
    let (_, answer) = until("the port answers", || {
        request(
            ground.port,
            "GET /health HTTP/1.1\r\nhost: litellm\r\nconnection: close\r\n\r\n",
        )
    });
    assert!(answer.contains("healthy"), "{answer}");

    kill(&child, Signal::TERM);
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(7),
        "LiteLLM's own: {}",
        message(&output)
    );
    let log = message(&output);
    assert!(!log.contains("s3cret") && !log.contains("opaque-t0ken"), "{log}");
    ground.nothing_is_left(&report);
}

#[test]
fn litellm_can_read_the_client_secret_in_no_process_of_ours() {
    let authorization_server = serve(|_| {
        let token = r#"{"access_token": "opaque-t0ken", "token_type": "Bearer", "expires_in": 3600}"#;
        (200, token.to_owned())
    });
    let ground = Ground::new("mcp_servers: {tools: {url: 'http://127.0.0.1:9/mcp'}}");
    let mut command = ground.litellm();
    command
        .env(
            "MCP_OAUTH2_TOKEN_URL",
            format!("http://{authorization_server}/token"),
        )
        .env("MCP_OAUTH2_CLIENT_ID", "litellm")
        .env("MCP_OAUTH2_CLIENT_SECRET", "s3cret");
    let child = ground.as_nobody(&command).spawn().unwrap();
    let report = ground.report();
    let environment = report["environment"].as_object().unwrap();
    assert!(
        !environment.keys().any(|name| name.starts_with("MCP_OAUTH2_")),
        "{report}"
    );
    assert!(!report.to_string().contains("s3cret"), "in LiteLLM's environment");
    // A process of the same user that does nothing against it shows that the looking works.
    let expected = serde_json::json!({"sleeper": true, "supervisor": false, "mcp-auth": false});
    assert_eq!(report["can_read"], expected);
    kill(&child, Signal::TERM);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", message(&output));
    assert!(
        !message(&output).contains("the kernel lets"),
        "{}",
        message(&output)
    );
    ground.nothing_is_left(&report);
}

#[test]
fn nothing_to_authenticate_to_is_told_with_the_ways_out() {
    let ground = Ground::new("mcp_servers: {tools: {url: 'https://tools.example.com/mcp'}}");
    let child = ground.litellm().spawn().unwrap();
    ground.report();
    kill(&child, Signal::TERM);
    let log = message(&child.wait_with_output().unwrap());
    let expected = "no MCP server is authenticated to: set MCP_OAUTH2_*, add an auth block";
    let told: Vec<&str> = log.lines().filter(|line| line.contains(expected)).collect();
    assert_eq!(told.len(), 1, "{log}");
    assert!(told[0].contains("WARN"), "{log}");
}

#[test]
fn servers_that_get_no_token_are_named_with_the_reason() {
    let ground = Ground::new(
        "mcp_servers:
  closed: {url: 'https://a.example.com/mcp', auth: false}
  own: {url: 'https://b.example.com/mcp', auth_type: bearer_token}
  local: {command: server}
",
    );
    let mut command = ground.litellm();
    command
        .env("MCP_OAUTH2_TOKEN_URL", "https://auth.example.com/token")
        .env("MCP_OAUTH2_CLIENT_ID", "litellm")
        .env("MCP_OAUTH2_CLIENT_SECRET", "s3cret");
    let child = command.spawn().unwrap();
    ground.report();
    kill(&child, Signal::TERM);
    let log = message(&child.wait_with_output().unwrap());
    for expected in [
        "mcp_servers.closed gets no token: its auth is false",
        "mcp_servers.own gets no token: LiteLLM authenticates to it by itself",
        "mcp_servers.local gets no token: it is not reached by a url",
        "no MCP server is authenticated to",
    ] {
        assert!(log.contains(expected), "{expected}: {log}");
    }
}
