//! `mcp-auth exec` as a user runs it: real processes, real signals, and a stand-in for LiteLLM's process
//! (`litellm.py`), since what is asked here is what becomes of processes, ports and exit codes.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod support;

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::mpsc;

use rustix::process::{Signal, kill_process};

use support::{Ground, free_port, kill, message, pid, request, serve, until};

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

#[test]
fn a_litellm_that_does_not_listen_where_it_was_moved_is_told() {
    let ground = Ground::new("{}");
    let mut child = ground
        .litellm_with(&["--start-timeout-seconds", "20"])
        .env("STAYS", "so")
        .spawn()
        .unwrap();
    let expected = "LiteLLM does not listen on 127.0.0.1:";
    until("it is told", || ground.log().contains(expected).then_some(()));
    kill(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(7), "{}", ground.log());
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
            "--otlp-ca (MCPAUTH_OTLP_CA) is the text of PEM certificates, not a file: write --otlp-ca \"$(cat FILE)\"",
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
    assert!(
        !ground.folder.path().join("report").exists(),
        "LiteLLM was not started"
    );
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

#[test]
fn nothing_is_left_when_mcp_auth_is_killed() {
    let ground = Ground::new("{}");
    let mut child = ground.litellm().spawn().unwrap();
    let report = ground.report();
    child.kill().unwrap();
    child.wait().unwrap();
    ground.nothing_is_left(&report);
}

#[test]
fn nothing_is_left_when_the_supervisor_is_killed() {
    let ground = Ground::new("{}");
    let child = ground.litellm().spawn().unwrap();
    let report = ground.report();
    kill_process(pid(&report, "parent"), Signal::KILL).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(137), "{}", message(&output));
    ground.nothing_is_left(&report);
}

#[test]
fn the_end_of_litellm_by_sigkill_is_passed_on_as_shells_do() {
    let ground = Ground::new("{}");
    let child = ground.litellm().spawn().unwrap();
    let report = ground.report();
    kill_process(pid(&report, "pid"), Signal::KILL).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.status.signal()), (Some(137), None));
    ground.nothing_is_left(&report);
}

#[test]
fn an_older_litellm_is_ended_and_named() {
    let ground = Ground::new("{}");
    let output = ground.litellm().env("STATED_VERSION", "1.77.0").output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(
        message(&output).contains("this is LiteLLM 1.77.0, and mcp-auth needs 1.80.17"),
        "{}",
        message(&output)
    );
    ground.nothing_is_left(&ground.report());
}

#[test]
fn two_side_by_side_disturb_each_other_only_where_they_want_the_same_port() {
    let (first, second) = (Ground::new("{}"), Ground::new("{}"));
    let children = [
        first.litellm().spawn().unwrap(),
        second.litellm().spawn().unwrap(),
    ];
    let reports = [first.report(), second.report()];
    assert_ne!(reports[0]["words"], reports[1]["words"]);
    until("the first listens", || {
        TcpStream::connect(("127.0.0.1", first.port)).ok()
    });
    let output = first.litellm().output().unwrap();
    assert_eq!(output.status.code(), Some(69));
    assert!(
        message(&output).contains(&format!("127.0.0.1:{} cannot be listened on", first.port)),
        "{}",
        message(&output)
    );
    for child in children {
        kill(&child, Signal::INT);
        child.wait_with_output().unwrap();
    }
}

#[test]
fn what_is_wrong_ends_before_litellm_starts_with_a_message_and_a_code_of_its_own() {
    let ground = Ground::new("mcp_servers: {tools: {url: 'https://tools.example.com', auth: {oauth: {}}}}");
    let check = |command: &mut Command, code: i32, expected: &str| {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", message(&output));
        assert!(message(&output).contains(expected), "{}", message(&output));
        assert_eq!(
            message(&output).lines().count(),
            1,
            "one message: {}",
            message(&output)
        );
    };
    check(
        &mut ground.command(&["litellm-that-is-not-there"]),
        127,
        "litellm-that-is-not-there: command not found",
    );
    check(&mut ground.command(&["/etc/passwd"]), 126, "cannot be run");
    check(
        &mut ground.litellm(),
        78,
        "mcp_servers.tools.auth: unknown field `oauth`",
    );
    check(
        ground.command(&["litellm"]).env("MCP_OAUTH2_CLIENT_ID", "a"),
        78,
        "MCP_OAUTH2_CLIENT_ID is set, and",
    );
    check(
        ground
            .command(&["litellm"])
            .env("LITELLM_MCP_AUTH_AUTO_PATCH", "maybe"),
        78,
        "must be true or false",
    );
    check(
        &mut ground.command(&["litellm", "--host", "2001:db8::1", "--port", "4000"]),
        69,
        "[2001:db8::1]:4000 cannot be listened on: address not available. The address is none of this machine's, or IPv6 is \
         off here",
    );
    check(
        &mut ground.command(&["litellm", "--port", "70000"]),
        64,
        "--port \"70000\" is no port",
    );
    check(
        &mut ground.program(&["exec", "--resources", "/does/not/exist", "--", "litellm"]),
        78,
        "/does/not/exist cannot be read: entity not found. Check --resources",
    );
    let ssl = ["litellm", "--config", "config.yaml", "--ssl_keyfile_path", "/key"];
    fs::write(ground.folder.path().join("config.yaml"), "{}").unwrap();
    check(
        &mut ground.command(&ssl),
        78,
        "the option --ssl_keyfile_path makes LiteLLM serve TLS",
    );
    check(
        ground
            .command(&["litellm", "--config", "config.yaml"])
            .env("HTTPS_PROXY", "::s3cret"),
        78,
        "HTTPS_PROXY is not the URL of a proxy: write it as http://proxy.example.com:3128",
    );
    // The second would be the name of a target, and silence all others.
    for directives in ["nonsense==x", "verbose"] {
        check(
            ground
                .command(&["litellm", "--config", "config.yaml"])
                .env("MCPAUTH_LOG", directives),
            78,
            "MCPAUTH_LOG is neither a level nor directives: write it as info",
        );
    }
    check(
        &mut ground.command(&["litellm", "--config", "/none.yaml"]),
        78,
        "/none.yaml does not exist",
    );
    let elsewhere = ground.port.to_string();
    let mut no_folder = ground.command(&["litellm", "--host", "127.0.0.1", "--port", &elsewhere]);
    check(no_folder.env("TMPDIR", "/does/not/exist"), 73, "Set TMPDIR");
}

#[test]
fn a_secret_that_is_not_set_is_named_before_anything_starts() {
    let ground = Ground::new(
        "mcp_servers: {tools: {url: 'https://tools.example.com', auth: {oauth2: {token_url: 'https://auth.example.com', \
         client_id: a, client_secret: '${SECRET}'}}}}",
    );
    let output = ground.litellm().output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(
        message(&output),
        "mcp-auth: mcp_servers.tools.auth.oauth2.client_secret refers to ${SECRET}, which is not set: set SECRET, or \
         SECRET_FILE to the file that holds it\n"
    );
    assert!(
        !ground.folder.path().join("report").exists(),
        "LiteLLM was not started"
    );
}

#[test]
fn a_litellm_that_ends_at_its_start_is_told_with_its_own_code() {
    let ground = Ground::new("{}");
    let output = ground.litellm().env("ENDS_WITH", "3").output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", message(&output));
    let told = message(&output);
    let told: Vec<&str> = told.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(told.len(), 2, "that there is no server, and: {told:?}");
    assert!(
        told[1].contains("LiteLLM ended before it was ready: its own output says why"),
        "{told:?}"
    );
    let names = fs::read_dir(ground.folder.path()).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let left: Vec<String> = names.filter(|name| name.starts_with("mcp-auth-")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_home_that_cannot_be_written_to_keeps_nothing_from_starting() {
    let ground = Ground::new("{}");
    // Nothing can be written there, by root either.
    let child = ground.litellm().env("HOME", "/proc").spawn().unwrap();
    let report = ground.report();
    kill(&child, Signal::TERM);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", message(&output));
    ground.nothing_is_left(&report);
}

#[test]
fn the_switch_runs_litellm_untouched() {
    let ground = Ground::new("{}");
    let port = ground.port.to_string();
    let mut command = ground.command(&["litellm", "--port", &port]);
    let child = command
        .env("LITELLM_MCP_AUTH_AUTO_PATCH", "false")
        .spawn()
        .unwrap();
    let report = ground.report();
    assert_eq!(
        report["pid"].as_u64(),
        Some(u64::from(child.id())),
        "it is the same process"
    );
    assert_eq!(report["words"], serde_json::json!(["--port", port]));
    assert!(report["environment"].get("CONFIG_FILE_PATH").is_none());
    kill_process(pid(&report, "sleeper"), Signal::KILL).unwrap();
    kill(&child, Signal::TERM);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(7));
}
