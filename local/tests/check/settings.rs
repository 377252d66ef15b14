//! Settings that cannot be used.

use crate::set_up::SetUp;
use crate::support::message;

#[test]
fn an_auth_block_that_does_not_parse_is_named() {
    let set_up = SetUp::new();
    set_up.configure(&set_up.configuration().replace("oauth2:", "oauth:"));
    set_up.breaks(
        &[],
        &[1, 2, 3, 4, 5],
        &[
            "✗ The configuration loads: mcp_servers.tools.auth: unknown field `oauth`",
            "✗ LiteLLM is unmodified: not known, since the configuration does not load",
        ],
    );
    // Nothing is left that it could be checked with.
    set_up.check(&[], &[]);
    assert!(!set_up.path("report").exists(), "LiteLLM was not started");
}

#[test]
fn one_auth_block_that_does_not_parse_is_named_and_the_rest_is_checked() {
    let set_up = SetUp::new();
    let other =
        "  other: {url: 'https://other.example.com/mcp', auth: {oauth: {client_secret: '${OTHER}'}}}\n";
    set_up.configure(&format!("{}{other}", set_up.configuration()));
    let output = set_up.check(&[], &[("OTHER", "0ther-s3cret")]);
    assert!(
        !set_up.ground.report()["environment"]
            .to_string()
            .contains("0ther-s3cret"),
        "LiteLLM sees it"
    );
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(
        text.contains("✗ The configuration loads: mcp_servers.other.auth: unknown field `oauth`"),
        "{text}"
    );
    assert_eq!(
        text.lines().filter(|line| line.starts_with('✓')).count(),
        4,
        "{text}"
    );
    set_up.nothing_is_left_and_no_secret_is_told(&output);
}

#[test]
fn a_proxy_that_is_no_url_is_told_before_anything_is_sent() {
    let set_up = SetUp::new();
    let output = set_up.check(&[], &[("HTTPS_PROXY", "::s3cret")]);
    assert_eq!(output.status.code(), Some(78));
    assert!(
        message(&output).contains("HTTPS_PROXY is not the URL of a proxy"),
        "{}",
        message(&output)
    );
    set_up.nothing_is_left_and_no_secret_is_told(&output);
}

#[test]
fn the_collector_of_exec_is_looked_at_before_anything_starts_and_nothing_is_sent_or_written() {
    let set_up = SetUp::new();
    for (options, expected) in [
        (
            &["--audit-log", "otlp"][..],
            "--otlp-endpoint (MCPAUTH_OTLP_ENDPOINT) is missing",
        ),
        (
            &[
                "--tracing=enabled",
                "--otlp-endpoint=https://collector:4318",
                "--otlp-ca=-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            ],
            "the collector's certificates cannot be verified",
        ),
    ] {
        let output = set_up.check(options, &[]);
        assert_eq!(output.status.code(), Some(78), "{}", message(&output));
        assert!(message(&output).contains(expected), "{}", message(&output));
    }
    let file = set_up.path("audit.log");
    let options = ["--audit-log", file.to_str().unwrap(), "--metrics", "1"];
    let output = set_up.check(&options, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", message(&output));
    assert!(!file.exists());
}

#[test]
fn a_switch_that_is_off_is_told() {
    let set_up = SetUp::new();
    set_up.breaks(
        &[("LITELLM_MCP_AUTH_AUTO_PATCH", "false")],
        &[3],
        &["✗ The configuration loads: LITELLM_MCP_AUTH_AUTO_PATCH is false"],
    );
}

#[test]
fn a_command_that_is_not_there_is_no_check() {
    let set_up = SetUp::new();
    let output = set_up
        .ground
        .program(&["check", "--", "litellm-that-is-not-there"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(127));
    assert!(message(&output).contains("command not found"));
    assert!(output.stdout.is_empty());
}
