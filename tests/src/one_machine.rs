//! `mcp-auth exec --resources` on this machine, with a stand-in for LiteLLM's process that calls its MCP server.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::authority::{self, Certificate};
use crate::wait::until;
use crate::{seen, setting};

/// The tests of `mcp-auth exec` say what it does.
const STAND_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../local/tests/litellm.py");

pub struct OneMachine {
    folder: TempDir,
    /// Where users call.
    port: u16,
    /// What must not be in the log.
    secrets: Vec<String>,
    process: Option<Child>,
}

impl OneMachine {
    /// Nothing runs yet. The authority of the servers is known, where `Server::oauth2` looks for it.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder for the test");
        for name in ["bin", "resources"] {
            std::fs::create_dir(folder.path().join(name)).expect("the folder is new");
        }
        let litellm = folder.path().join("bin/litellm");
        std::fs::copy(STAND_IN, &litellm).expect("the stand-in is there");
        std::fs::set_permissions(litellm, Permissions::from_mode(0o755)).expect("it is ours");
        let machine = Self {
            folder,
            port: free_port(),
            secrets: Vec::new(),
            process: None,
        };
        machine.write("config.yaml", "{}");
        machine.apply(&json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "authority"},
            "data": {"ca.crt": authority::bundle()},
        }));
        machine
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A file of this machine.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder().join(name), text).expect("the file can be written");
    }

    /// Puts an object into the folder of resources.
    pub fn apply(&self, object: &Value) {
        let name = format!(
            "resources/{}-{}.json",
            object["kind"].as_str().expect("a kind"),
            object["metadata"]["name"].as_str().expect("a name")
        );
        self.write(&name, &object.to_string());
    }

    pub fn secret(&mut self, name: &str, data: Value) {
        for value in data.as_object().expect("keys").values() {
            let value = value.as_str().expect("a text");
            seen::note(value);
            self.secrets.push(value.to_owned());
        }
        self.apply(&json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name},
            "stringData": data,
        }));
    }

    pub fn certificate(&mut self, name: &str, certificate: &Certificate) {
        let data = json!({"tls.crt": certificate.chain, "tls.key": certificate.key});
        self.apply(&json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name},
            "type": "kubernetes.io/tls",
            "stringData": data,
        }));
        // What is public in PEM, and what is too short to be told from other text, is no secret.
        let lines = certificate
            .key
            .lines()
            .filter(|line| !line.starts_with('-') && line.len() >= 16);
        self.secrets.extend(lines.map(str::to_owned));
    }

    /// Starts LiteLLM by `mcp-auth exec`.
    pub fn start(&mut self) {
        let path = std::env::var("PATH").expect("PATH is set");
        let port = self.port.to_string();
        let log = std::fs::File::create(self.folder().join("log")).expect("the log can be written");
        let process = Command::new(setting("MCPAUTH_TEST_LOCAL"))
            .args([
                "exec",
                "--resources",
                "resources",
                "--audit-log",
                "audit.log",
                "--",
            ])
            .args([
                "litellm",
                "--config",
                "config.yaml",
                "--host",
                "127.0.0.1",
                "--port",
                &port,
            ])
            .current_dir(self.folder())
            .env("PATH", format!("{}/bin:{path}", self.folder().display()))
            .env("REPORT", self.folder().join("report"))
            .env("TMPDIR", self.folder())
            .env("MCPAUTH_LOG", "debug,hyper_util=info,h2=info,rustls=info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn();
        self.process = Some(process.expect("mcp-auth starts"));
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder().join("log")).unwrap_or_default()
    }

    /// What LiteLLM got when it called its MCP server `tools` at its start.
    pub async fn called(&mut self) -> String {
        let path = self.folder().join("report");
        let report = async || std::fs::read_to_string(&path).ok();
        let reported = until("LiteLLM's report", report, Option::is_some);
        let ended = self.process.as_mut().expect("it was started").wait();
        let report = tokio::select! {
            report = reported => report,
            _ = ended => None,
        };
        let Some(report) = report else {
            panic!("mcp-auth ended: {}", self.log());
        };
        let report: Value = serde_json::from_str(&report).expect("JSON");
        report["called"].as_str().unwrap_or_default().to_owned()
    }

    /// What a user's request that makes LiteLLM call the server `tools` is answered with.
    pub async fn call(&self, headers: &[(&'static str, String)]) -> String {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let url = format!("http://127.0.0.1:{}/call/tools", self.port);
        let answer = async || {
            let mut request = client.post(&url);
            for (name, value) in headers {
                request = request.header(*name, value);
            }
            request
                .send()
                .await
                .ok()?
                .error_for_status()
                .ok()?
                .text()
                .await
                .ok()
        };
        until("LiteLLM to answer", answer, Option::is_some)
            .await
            .unwrap_or_default()
    }

    /// Ends it in order. Neither log has any of the secrets, nor these tokens.
    pub async fn end(mut self, tokens: &[String]) {
        let mut process = self.process.take().expect("it was started");
        let pid = process.id().expect("it runs").to_string();
        let signalled = Command::new("kill").args(["-TERM", &pid]).status().await;
        assert!(signalled.expect("kill is there").success());
        let status = process.wait().await.expect("it is a child of this process");
        assert_eq!(status.code(), Some(7), "LiteLLM's own exit code: {}", self.log());
        let audit = std::fs::read_to_string(self.folder().join("audit.log")).expect("an audit log");
        assert!(audit.contains(r#""server":"tools""#), "{audit}");
        let told = self.log() + &audit;
        for secret in self.secrets.iter().chain(tokens) {
            assert!(!told.contains(secret.trim()), "a secret is told");
        }
    }
}

impl Default for OneMachine {
    fn default() -> Self {
        Self::new()
    }
}

/// One that nothing listens at.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").port()
}
