//! The binary as the kubelet sees it, without an operator: LiteLLM may start all the same, and nothing but a
//! signal ends the process.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

const ROUTES: &str = concat!(
    r#"[{"resource":"tools","server":"tools","url":"https://tools.example.com/mcp","#,
    r#""transport":"StreamableHttp"}]"#
);

struct Sidecar {
    child: Child,
    health: SocketAddr,
    litellm: TcpListener,
    folder: tempfile::TempDir,
}

impl Sidecar {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(
            folder.path().join("config.yaml"),
            "mcp_servers: {other: {url: http://o, timeout: 010}}",
        )
        .unwrap();
        let free = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (health, operator, litellm) = (free(), free(), free());
        let address = health.local_addr().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_mcp-auth-sidecar"))
            .arg("serve")
            .env("MCPAUTH_OUTBOUND", "127.0.0.1:0")
            .env("MCPAUTH_HEALTH", address.to_string())
            .env("MCPAUTH_LITELLM", litellm.local_addr().unwrap().to_string())
            .env("MCPAUTH_ROUTES", ROUTES)
            .env("MCPAUTH_ORIGINAL_CONFIG", folder.path().join("config.yaml"))
            .env("MCPAUTH_OVERLAY", folder.path().join("overlay.yaml"))
            .env(
                "MCPAUTH_OPERATOR",
                format!("https://{}", operator.local_addr().unwrap()),
            )
            .env("MCPAUTH_OPERATOR_CA", "none")
            .env("MCPAUTH_TOKEN_FILE", folder.path().join("token"))
            .env("MCPAUTH_POD_NAMESPACE", "n")
            .env("MCPAUTH_POD_NAME", "p")
            .env("MCPAUTH_POD_UID", "u")
            .env("MCPAUTH_START_TIMEOUT_SECONDS", "1")
            .env("MCPAUTH_DRAIN_SECONDS", "0")
            .stderr(fs::File::create(folder.path().join("log")).unwrap())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        drop(health);
        Self {
            child,
            health: address,
            litellm,
            folder,
        }
    }

    /// Status and body, or nothing while no socket listens.
    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.health).ok()?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    fn wait_for(&mut self, path: &str, expected: &str) -> String {
        let mut last = None;
        for _ in 0..600 {
            last = self.get(path);
            if let Some(answer) = &last
                && answer.contains(expected)
            {
                return answer.clone();
            }
            assert!(
                self.child.try_wait().unwrap().is_none(),
                "it has ended: {}",
                self.read("log")
            );
            sleep(Duration::from_millis(50));
        }
        panic!(
            "{path} never said {expected:?} but {last:?}; {}",
            self.read("log")
        );
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(Path::new(self.folder.path()).join(name)).unwrap()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn litellm_starts_without_an_operator_and_sigterm_ends_it() {
    let mut sidecar = Sidecar::start();
    sidecar.wait_for("/startup", "200 OK");
    let overlay = sidecar.read("overlay.yaml");
    assert!(
        overlay.contains("http://127.0.0.1:0/tools/mcp") && overlay.contains("timeout: 010"),
        "{overlay}"
    );

    let listener = sidecar.litellm.try_clone().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        }
    });
    sidecar.wait_for("/ready", "200 OK");
    // As the kubelet does where the proxy of a mesh is in its way.
    for (arguments, expected) in [
        (vec!["probe", "/ready"], true),
        (vec!["drain"], true),
        (vec!["probe", "/x"], false),
    ] {
        let status = Command::new(env!("CARGO_BIN_EXE_mcp-auth-sidecar"))
            .args(&arguments)
            .env("MCPAUTH_HEALTH", sidecar.health.to_string())
            .env("MCPAUTH_DRAIN_SECONDS", "0")
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.success(), expected, "{arguments:?}");
    }
    sidecar.wait_for("/metrics", "mcpauth_sidecar_litellm_ready 1");
    sidecar.wait_for("/drain", "200 OK");

    let id = sidecar.child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .unwrap()
            .success()
    );
    assert!(sidecar.child.wait().unwrap().success());
    let log = sidecar.read("log");
    for line in log.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
    assert!(
        log.contains("SIGTERM: leaving") && log.contains("TokenUnreadable"),
        "{log}"
    );
}
