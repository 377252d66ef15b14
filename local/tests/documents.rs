//! What the documents show of `mcp-auth exec` is run here as it stands there, with a stand-in for LiteLLM.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use rustix::process::Signal;
use support::{Ground, header, kill, serve};

const TOKEN_URL: &str = "https://auth.company.com/oauth2/token";

fn document(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)).unwrap()
}

/// Runs the lines as a user does who pastes them into a shell.
fn shell(ground: &Ground, lines: &str) -> Command {
    // The same environment, with our own program by its name.
    let template = ground.program(&[]);
    let program = Path::new(template.get_program()).parent().unwrap();
    let mut command = Command::new("sh");
    command
        .args(["-c", lines])
        .current_dir(ground.folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for (name, value) in template.get_envs() {
        match value {
            Some(value) if name == "PATH" => command.env(
                "PATH",
                format!("{}:{}", program.display(), value.to_str().unwrap()),
            ),
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
        .env("HOST", "127.0.0.1")
        .env("PORT", ground.port.to_string());
    command
}

#[test]
fn the_first_commands_of_readme_and_page_start_litellm_with_a_token() {
    let authorization_server = serve(|_| {
        let token = r#"{"access_token": "opaque-t0ken", "token_type": "Bearer", "expires_in": 3600}"#;
        (200, token.to_owned())
    });
    for name in ["README.md", "docs/one-machine.md"] {
        let (sender, calls) = mpsc::channel();
        let mcp_server = serve(move |request| {
            let _ = sender.send(header(request, "authorization").map(str::to_owned));
            (
                200,
                r#"{"jsonrpc": "2.0", "id": 1, "result": {"tools": []}}"#.to_owned(),
            )
        });
        let ground = Ground::new(&format!(
            "mcp_servers: {{tools: {{url: 'http://{mcp_server}/mcp'}}}}"
        ));
        let text = document(name);
        let mut lines: Vec<String> = text
            .lines()
            .map(str::trim)
            .skip_while(|line| !line.starts_with("export MCP_OAUTH2_TOKEN_URL="))
            .take_while(|line| line.starts_with("export MCP_OAUTH2_") || line.starts_with("mcp-auth exec "))
            .map(str::to_owned)
            .collect();
        let last = lines.pop().unwrap();
        assert_eq!(last, "mcp-auth exec -- litellm --config config.yaml", "{name}");
        // So that the signal below is for mcp-auth.
        lines.push(format!("exec {last}"));
        let script = lines.join("\n");
        assert!(script.contains(TOKEN_URL), "{script}");
        let script = script.replace(TOKEN_URL, &format!("http://{authorization_server}/token"));
        let child = shell(&ground, &script).spawn().unwrap();
        assert_eq!(
            calls.recv().unwrap().as_deref(),
            Some("Bearer opaque-t0ken"),
            "{name}"
        );
        ground.report();
        kill(&child, Signal::TERM);
        assert_eq!(child.wait_with_output().unwrap().status.code(), Some(7));
    }
}

#[test]
fn the_page_shows_what_is_said_of_set_ups_that_are_wrong() {
    let page = document("docs/one-machine.md");
    let (_, shown) = page
        .split_once("And what it says of a set-up that is wrong")
        .unwrap();
    let (_, shown) = shown.split_once("\n\n").unwrap();
    let (shown, _) = shown.split_once("\n\n").unwrap();
    let ground = Ground::new(
        "mcp_servers: {tools: {url: 'https://tools.example.com', auth: {oauth2: {token_url: 'https://auth.example.com', \
         client_id: a, client_secret: '${SECRET}'}}}}",
    );
    let resources = ground.folder.path().join("resources");
    fs::create_dir(&resources).unwrap();
    fs::write(
        resources.join("tools.yaml"),
        "apiVersion: mcpauth.dev/v1alpha1
kind: McpServerAuth
metadata: {name: tools}
spec:
  server: {name: other, url: 'https://tools.example.com/mcp'}
  oauth2:
    tokenUrl: https://auth.example.com/token
    clientID: litellm
    clientAuthentication: {method: ClientSecretBasic, clientSecretRef: {name: s, key: k}}
",
    )
    .unwrap();
    let config = ground.folder.path().join("config.yaml");
    let mut count = 0;
    for part in shown.split("    $ ").skip(1) {
        let (command, expected) = part.split_once('\n').unwrap();
        let block = fs::read_to_string(&config).unwrap();
        if command.contains("--resources") {
            fs::write(&config, "{}").unwrap();
        }
        let output = shell(&ground, command).output().unwrap();
        fs::write(&config, block).unwrap();
        assert_eq!(output.status.code(), Some(78), "{command}");
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            words(&String::from_utf8(output.stderr).unwrap()),
            words(expected),
            "{command}"
        );
        count += 1;
    }
    assert_eq!(count, 2, "{shown}");
}
