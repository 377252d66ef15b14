//! A set-up in which everything holds: what is printed, and what is left.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::set_up::{SetUp, TITLES, write};
use crate::support::{is_alive, message, pid, until};

#[test]
fn a_healthy_set_up_holds_in_all_five_and_leaves_nothing() {
    let set_up = SetUp::new();
    let output = set_up.check(&[], &[]);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}{}", message(&output));
    for (title, found) in TITLES.iter().zip([
        "1.110.2, 1 files as in its wheel",
        "1 of 1 servers\n    ✓ tools: ",
        "LiteLLM is ready with its own configuration and ours",
        "a tool call arrives with the token and the allowed cookie, and without the other one",
        "1 of 1 servers\n    ✓ tools: LiteLLM lists 2 tools",
    ]) {
        assert!(text.contains(&format!("✓ {title}: {found}")), "{found}:\n{text}");
    }
    set_up.nothing_is_left_and_no_secret_is_told(&output);
}

#[test]
fn programs_get_json_and_litellms_output_goes_where_it_is_wanted() {
    let set_up = SetUp::new();
    let output = set_up.check(
        &["-o", "json", "--litellm-log", "litellm.log"],
        &[("SAYS", "hello")],
    );
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["holds"], true, "{report}");
    assert_eq!(report["criteria"].as_array().unwrap().len(), 5);
    assert_eq!(report["criteria"][1]["servers"][0]["server"], "tools");
    assert_eq!(fs::read_to_string(set_up.path("litellm.log")).unwrap(), "hello\n");
}

/// A resource, by the addresses of its servers.
fn tools(mcp_server: &str, authorization_server: &str) -> String {
    format!(
        "apiVersion: mcpauth.dev/v1alpha1
kind: McpServerAuth
metadata: {{name: tools}}
spec:
  server: {{name: tools, url: 'http://{mcp_server}/mcp', allowInsecureHttp: true}}
  oauth2:
    tokenUrl: http://{authorization_server}/token
    allowInsecureHttp: true
    clientId: litellm
    clientAuthentication: {{method: ClientSecretPost, clientSecretRef: {{name: tools-oauth, key: secret}}}}
"
    )
}

#[test]
fn the_resources_of_a_folder_are_checked_too() {
    let set_up = SetUp::new();
    set_up.configure("{}");
    let [authorization_server, mcp_server] = set_up.servers;
    let resource = tools(&mcp_server.to_string(), &authorization_server.to_string());
    write(&set_up.path("resources/tools.yaml"), &resource);
    write(&set_up.path("resources/secrets/tools-oauth/secret"), "s3cret");
    let output = set_up.check(&["--resources", "resources"], &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    set_up.nothing_is_left_and_no_secret_is_told(&output);
}

#[test]
fn a_credential_that_has_ended_is_warned_of_and_what_works_holds() {
    let set_up = SetUp::new();
    set_up.configure("{}");
    let [authorization_server, mcp_server] = set_up.servers;
    let resource = format!(
        "apiVersion: v1
kind: Secret
metadata: {{name: tools-oauth, annotations: {{mcpauth.dev/expires-at: '2020-01-01T00:00:00Z'}}}}
stringData: {{secret: s3cret}}
---
{}",
        tools(&mcp_server.to_string(), &authorization_server.to_string())
    );
    write(&set_up.path("resources/tools.yaml"), &resource);
    let output = set_up.check(&["--resources", "resources"], &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text
        .lines()
        .find(|line| line.contains("tools: the token in use"))
        .unwrap();
    assert!(
        line.contains("Warning: CredentialExpired: Secret tools-oauth, named by"),
        "{text}"
    );
    assert!(line.contains("put a new one there"), "{text}");
    set_up.nothing_is_left_and_no_secret_is_told(&output);
}

#[test]
fn the_page_shows_what_a_healthy_set_up_prints() {
    let page =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/one-machine.md")).unwrap();
    let shown = page
        .lines()
        .skip_while(|line| *line != "    $ mcp-auth check -- litellm --config config.yaml");
    let shown = shown.skip(1).take_while(|line| !line.starts_with("    $ "));
    let shown: Vec<String> = shown.map(|line| without_digits(line.trim())).collect();
    assert_eq!(shown.len(), 7, "{shown:?}");
    let output = SetUp::new().check(&[], &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    let printed: Vec<String> = text.lines().map(|line| without_digits(line.trim())).collect();
    assert_eq!(printed, shown);
}

/// Each number as one `#`.
fn without_digits(line: &str) -> String {
    let mut text = String::new();
    for char in line.chars() {
        match char.is_ascii_digit() {
            true if text.ends_with('#') => {}
            true => text.push('#'),
            false => text.push(char),
        }
    }
    text
}

#[test]
fn nothing_is_left_of_a_check_that_is_killed() {
    let set_up = SetUp::new();
    let mut command = set_up
        .ground
        .program(&["check", "--", "litellm", "--config", "config.yaml"]);
    command
        .env("SECRET", "s3cret")
        .env("READINESS", "503")
        .env("PYTHONPATH", set_up.path("packages"));
    let mut child = command.spawn().unwrap();
    let report = set_up.ground.report();
    child.kill().unwrap();
    child.wait().unwrap();
    set_up.ground.nothing_is_left(&report);
    until("LiteLLM is gone", || {
        (!is_alive(pid(&report, "pid"))).then_some(())
    });
}
