//! What ends `exec` before LiteLLM starts, or as soon as it is known.

use std::fs;
use std::process::Command;

use rustix::process::Signal;

use crate::support::{Ground, kill, message};

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
fn a_command_without_the_dashes_is_told_where_they_stand_for_the_subcommand_that_was_given() {
    for subcommand in ["exec", "check"] {
        let output = Command::new(env!("CARGO_BIN_EXE_mcp-auth"))
            .args([subcommand, "--config", "config.yaml"])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(64));
        let told = message(&output);
        let command = format!("mcp-auth {subcommand} -- litellm --config config.yaml");
        assert!(told.contains(&command), "{told}");
        assert!(!told.contains("tip:"), "one way out, not two: {told}");
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
fn without_ipv6_an_address_of_it_is_told_and_the_default_one_serves() {
    let ground = Ground::new("{}");
    let on_ipv6 = ground.command(&["litellm", "--host", "::1", "--port", "4000"]);
    let output = ground.without_ipv6(&on_ipv6).output().unwrap();
    assert_eq!(output.status.code(), Some(69), "{}", message(&output));
    let expected = "[::1]:4000 cannot be listened on: address not available. The address is none of this machine's, or IPv6 is off \
                    here";
    assert!(message(&output).contains(expected), "{}", message(&output));

    let by_default = ground.command(&["litellm", "--config", "config.yaml"]);
    let child = ground.without_ipv6(&by_default).spawn().unwrap();
    let report = ground.report();
    kill(&child, Signal::TERM);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", message(&output));
    ground.nothing_is_left(&report);
}
