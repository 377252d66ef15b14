//! A set-up in which everything holds, to be broken in one place.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::support::{Ground, header, message, serve};

pub const TITLES: [&str; 5] = [
    "LiteLLM is unmodified",
    "OAuth2 works",
    "The configuration loads",
    "Headers are built and arrive",
    "MCP client and servers take them",
];

/// A set-up in which everything holds, to be broken in one place.
pub struct SetUp {
    pub ground: Ground,
    /// Of the authorization server and the MCP server.
    pub servers: [SocketAddr; 2],
}

impl SetUp {
    pub fn new() -> Self {
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

    pub fn configuration(&self) -> String {
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

    pub fn configure(&self, text: &str) {
        fs::write(self.path("config.yaml"), text).unwrap();
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.ground.folder.path().join(name)
    }

    /// A package `litellm` that Python finds, with the hashes of its one file.
    pub fn install_litellm(&self) {
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

    pub fn check(&self, options: &[&str], variables: &[(&str, &str)]) -> Output {
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
    pub fn breaks(&self, variables: &[(&str, &str)], broken: &[usize], expected: &[&str]) {
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

    pub fn nothing_is_left_and_no_secret_is_told(&self, output: &Output) {
        let told = String::from_utf8_lossy(&output.stdout).into_owned() + &message(output);
        assert!(!told.contains("s3cret") && !told.contains("t0ken"), "{told}");
        if self.path("report").exists() {
            let report = self.ground.report();
            self.ground.nothing_is_left(&report);
            fs::remove_file(self.path("report")).unwrap();
        }
    }
}

pub fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// An MCP server with two tools that takes one token.
pub fn mcp_server(request: &str) -> (u16, String) {
    match header(request, "authorization") {
        Some("Bearer t0ken") => answer(request),
        _ => (401, r#"{"error": "no token of ours"}"#.to_owned()),
    }
}

pub fn answer(request: &str) -> (u16, String) {
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
