//! `mcp-auth check` as a user runs it, with a stand-in for LiteLLM: what holds, and what is said of each set-up that
//! is broken.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Output;

use serde_json::Value;
use support::{Ground, header, is_alive, message, pid, serve, until};

const TITLES: [&str; 5] = [
    "LiteLLM is unmodified",
    "OAuth2 works",
    "The configuration loads",
    "Headers are built and arrive",
    "MCP client and servers take them",
];

/// A set-up in which everything holds, to be broken in one place.
struct SetUp {
    ground: Ground,
    /// Of the authorization server and the MCP server.
    servers: [SocketAddr; 2],
}

impl SetUp {
    fn new() -> Self {
        let authorization_server = serve(|request| match request.contains("client_secret=s3cret") {
            true => (
                200,
                r#"{"access_token": "t0ken", "token_type": "Bearer", "expires_in": 3600}"#.to_owned(),
            ),
            false => (401, r#"{"error": "invalid_client"}"#.to_owned()),
        });
        let mcp_server = serve(mcp_server);
        let set_up = Self {
            ground: Ground::new(""),
            servers: [authorization_server, mcp_server],
        };
        set_up.configure(&set_up.configuration());
        set_up.install_litellm();
        set_up
    }

    fn configuration(&self) -> String {
        let [authorization_server, mcp_server] = self.servers;
        format!(
            "general_settings: {{master_key: sk-s3cret-key}}
mcp_servers:
  tools:
    url: http://{mcp_server}/mcp
    auth:
      oauth2: {{token_url: 'http://{authorization_server}/token', client_id: litellm, client_secret: '${{SECRET}}',
        client_authentication: client_secret_post}}
"
        )
    }

    fn configure(&self, text: &str) {
        fs::write(self.path("config.yaml"), text).unwrap();
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.ground.folder.path().join(name)
    }

    /// A package `litellm` that Python finds, with the hashes of its one file.
    fn install_litellm(&self) {
        write(&self.path("packages/litellm/__init__.py"), "");
        let information = self.path("packages/litellm-1.110.2.dist-info");
        write(
            &information.join("METADATA"),
            "Metadata-Version: 2.1\nName: litellm\nVersion: 1.110.2\n",
        );
        let hash = "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU";
        write(
            &information.join("RECORD"),
            &format!("litellm/__init__.py,sha256={hash},0\n"),
        );
    }

    fn check(&self, options: &[&str], variables: &[(&str, &str)]) -> Output {
        let port = self.ground.port.to_string();
        let litellm = [
            "--",
            "litellm",
            "--config",
            "config.yaml",
            "--host",
            "127.0.0.1",
            "--port",
            &port,
        ];
        let words = [&["check"], options, &litellm].concat();
        let mut command = self.ground.program(&words);
        command
            .env("SECRET", "s3cret")
            .env("PYTHONPATH", self.path("packages"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .envs(variables.iter().copied());
        command.output().unwrap()
    }

    /// What is said where these criteria, by number, do not hold and all others do.
    fn breaks(&self, variables: &[(&str, &str)], broken: &[usize], expected: &[&str]) {
        let output = self.check(&[], variables);
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}{}", message(&output));
        for (index, title) in TITLES.iter().enumerate() {
            let mark = if broken.contains(&(index + 1)) {
                '✗'
            } else {
                '✓'
            };
            assert!(
                text.contains(&format!("{mark} {title}: ")),
                "{mark} {title}:\n{text}"
            );
        }
        for expected in expected {
            assert!(text.contains(expected), "{expected}:\n{text}");
        }
        self.nothing_is_left_and_no_secret_is_told(&output);
    }

    fn nothing_is_left_and_no_secret_is_told(&self, output: &Output) {
        let told = String::from_utf8_lossy(&output.stdout).into_owned() + &message(output);
        assert!(!told.contains("s3cret") && !told.contains("t0ken"), "{told}");
        if self.path("report").exists() {
            let report = self.ground.report();
            self.ground.nothing_is_left(&report);
            fs::remove_file(self.path("report")).unwrap();
        }
    }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// An MCP server with two tools that takes one token.
fn mcp_server(request: &str) -> (u16, String) {
    match header(request, "authorization") {
        Some("Bearer t0ken") => answer(request),
        _ => (401, r#"{"error": "no token of ours"}"#.to_owned()),
    }
}

fn answer(request: &str) -> (u16, String) {
    let body = request.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let message: Value = serde_json::from_str(body).unwrap_or_default();
    let result = match message["method"].as_str() {
        Some("tools/list") => serde_json::json!({"tools": [{"name": "a"}, {"name": "b"}]}),
        Some("initialize") => serde_json::json!({"protocolVersion": "2025-06-18", "capabilities": {}}),
        _ => serde_json::json!({}),
    };
    let answer = serde_json::json!({"jsonrpc": "2.0", "id": message["id"], "result": result});
    (200, answer.to_string())
}

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

#[test]
fn the_resources_of_a_folder_are_checked_too() {
    let set_up = SetUp::new();
    set_up.configure("{}");
    let [authorization_server, mcp_server] = set_up.servers;
    let resource = format!(
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
    );
    write(&set_up.path("resources/tools.yaml"), &resource);
    write(&set_up.path("resources/secrets/tools-oauth/secret"), "s3cret");
    let output = set_up.check(&["--resources", "resources"], &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    set_up.nothing_is_left_and_no_secret_is_told(&output);
}

#[test]
fn a_changed_file_of_litellm_is_named() {
    let set_up = SetUp::new();
    write(&set_up.path("packages/litellm/__init__.py"), "patched = True\n");
    set_up.breaks(
        &[],
        &[1],
        &["1 files of LiteLLM 1.110.2 are not those of its wheel, such as litellm/__init__.py"],
    );
}

#[test]
fn a_client_secret_that_the_authorization_server_refuses_is_told() {
    let set_up = SetUp::new();
    set_up.breaks(
        &[("SECRET", "wrong")],
        &[2, 5],
        &["✗ OAuth2 works: 0 of 1 servers", "invalid_client"],
    );
}

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
fn a_litellm_that_ends_at_its_start_is_told() {
    let set_up = SetUp::new();
    let output = set_up.check(&[], &[("ENDS_WITH", "3")]);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for expected in [
        "✓ OAuth2 works: 1 of 1 servers",
        "✗ The configuration loads: LiteLLM ended with exit status: 3 before it was ready; see its output: \
         --litellm-log FILE",
        "✗ Headers are built and arrive: not known, since LiteLLM does not run",
        "✗ tools: not known, since LiteLLM does not run",
    ] {
        assert!(text.contains(expected), "{expected}:\n{text}");
    }
    set_up.nothing_is_left_and_no_secret_is_told(&output);
}

#[test]
fn a_litellm_that_does_not_get_ready_is_given_up() {
    let set_up = SetUp::new();
    let output = set_up.check(&["--timeout-seconds", "1"], &[("READINESS", "503")]);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("LiteLLM is not ready after 1 s"), "{text}");
    set_up.nothing_is_left_and_no_secret_is_told(&output);
}

#[test]
fn a_litellm_that_loses_the_users_context_is_told() {
    let set_up = SetUp::new();
    set_up.breaks(
        &[("LOSES", "context")],
        &[4],
        &["the tool call arrives without the user's allowed cookie"],
    );
}

#[test]
fn a_server_that_rejects_the_token_is_told() {
    let mut set_up = SetUp::new();
    set_up.servers[1] = serve(|_| (401, r#"{"error": "not for us"}"#.to_owned()));
    set_up.configure(&set_up.configuration());
    set_up.breaks(&[], &[5], &["✗ tools: initialize is answered with status 502 Bad Gateway: McpServerAuth mcp_servers.tools: the MCP server \
           rejected the service token (401)"]);
}

#[test]
fn a_server_that_answers_without_a_token_too_is_warned_of() {
    let mut set_up = SetUp::new();
    set_up.servers[1] = serve(answer);
    set_up.configure(&set_up.configuration());
    let output = set_up.check(&["-o", "json"], &[]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["holds"], true, "{report}");
    let warning = report["criteria"][4]["servers"][0]["warning"].as_str();
    assert!(
        warning
            .unwrap_or_default()
            .starts_with("it answers without a token, too"),
        "{report}"
    );
    assert!(report["criteria"][1]["servers"][0].get("warning").is_none());
    let output = set_up.check(&[], &[]);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(
        text.contains("✓ tools: LiteLLM lists 2 tools. Warning: it answers without a token, too"),
        "{text}"
    );
}

#[test]
fn what_python_runs_at_its_start_and_speaks_of_litellm_is_named() {
    let set_up = SetUp::new();
    write(
        &set_up.path("packages/sitecustomize.py"),
        "# patches litellm.proxy\n",
    );
    set_up.breaks(
        &[],
        &[1],
        &["sitecustomize.py at each start, which speaks of litellm and may patch it"],
    );
    fs::remove_file(set_up.path("packages/sitecustomize.py")).unwrap();

    let base = set_up.path("user").to_str().unwrap().to_owned();
    let variables = [("PYTHONUSERBASE", &*base)];
    let site = std::process::Command::new("python3")
        .args(["-c", "import site; print(site.getusersitepackages())"])
        .envs(variables)
        .output()
        .unwrap();
    let site = String::from_utf8(site.stdout).unwrap();
    write(&set_up.path("packages/innocent.py"), "");
    write(
        &set_up.path("packages/patch_of_ours.py"),
        "import sys  # for litellm\n",
    );
    write(
        &Path::new(site.trim()).join("other.pth"),
        "# litellm\nimport innocent\n",
    );
    let output = set_up.check(&[], &variables);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("✓ LiteLLM is unmodified: "), "{text}");
    write(
        &set_up.path("packages/hooks/of_ours.py"),
        "hook = 1  # for litellm\n",
    );
    let pth = Path::new(site.trim()).join("patch.pth");
    for (line, file) in [
        ("import sys; import patch_of_ours\n", "patch_of_ours.py"),
        ("import os, patch_of_ours\n", "patch_of_ours.py"),
        ("import os; from patch_of_ours import sys\n", "patch_of_ours.py"),
        ("import os; from hooks.of_ours import hook\n", "hooks/of_ours.py"),
        ("import os; from hooks import of_ours\n", "hooks/of_ours.py"),
    ] {
        write(&pth, line);
        let expected = format!("{file} at each start");
        set_up.breaks(&variables, &[1], &[&expected]);
    }

    // Python does not look into the user's folder then.
    let output = set_up.check(&[], &[variables[0], ("PYTHONNOUSERSITE", "1")]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("✓ LiteLLM is unmodified: "), "{text}");
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
fn a_server_that_is_not_there_is_told() {
    let mut set_up = SetUp::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    set_up.servers[1] = listener.local_addr().unwrap();
    drop(listener);
    set_up.configure(&set_up.configuration());
    set_up.breaks(&[], &[5], &["✗ tools: initialize is answered with status 50"]);
}

#[test]
fn a_litellm_that_hides_a_servers_tools_is_told() {
    let set_up = SetUp::new();
    set_up.breaks(
        &[("HIDES", "tools")],
        &[5],
        &["✗ tools: it takes the token, and LiteLLM lists none of its tools"],
    );
}

#[test]
fn a_set_up_without_any_protected_server_is_told() {
    let set_up = SetUp::new();
    set_up.configure("{}");
    set_up.breaks(
        &[],
        &[2, 5],
        &["no MCP server is authenticated to: set MCP_OAUTH2_*"],
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
