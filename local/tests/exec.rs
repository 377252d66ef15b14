//! `mcp-auth exec` as a user runs it: real processes, real signals, and a stand-in for LiteLLM's process
//! (`litellm.py`), since what is asked here is what becomes of processes, ports and exit codes.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread::{sleep, spawn};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

const WAITS: u32 = 3000;
const WAIT: Duration = Duration::from_millis(20);

/// A folder with the stand-in in its `bin`, and a free port.
struct Ground {
    folder: TempDir,
    port: u16,
}

impl Ground {
    fn new(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).unwrap();
        fs::copy(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/litellm.py"),
            bin.join("litellm"),
        )
        .unwrap();
        fs::set_permissions(bin.join("litellm"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(folder.path().join("config.yaml"), config).unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        Self { folder, port }
    }

    fn command(&self, words: &[&str]) -> Command {
        let path = format!(
            "{}:{}",
            self.folder.path().join("bin").display(),
            std::env::var("PATH").unwrap()
        );
        let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-auth"));
        command
            .args(["exec", "--"])
            .args(words)
            .env("PATH", path)
            .env("REPORT", self.folder.path().join("report"))
            .env("TMPDIR", self.folder.path())
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for (name, _) in std::env::vars().filter(|(name, _)| name.to_ascii_lowercase().ends_with("_proxy")) {
            command.env_remove(name);
        }
        command
    }

    fn litellm(&self) -> Command {
        self.command(&[
            "litellm",
            "--config",
            "config.yaml",
            "--host",
            "127.0.0.1",
            "--port",
            &self.port.to_string(),
        ])
    }

    /// What the stand-in saw, once it listens.
    fn report(&self) -> Value {
        let path = self.folder.path().join("report");
        until("LiteLLM has started", || fs::read(&path).ok());
        serde_json::from_slice(&fs::read(&path).unwrap()).unwrap()
    }

    fn nothing_is_left(&self, report: &Value) {
        for process in ["pid", "sleeper"] {
            until("it is gone", || (!is_alive(pid(report, process))).then_some(()));
        }
        until("the folder is gone", || {
            let names = fs::read_dir(self.folder.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name());
            let is_ours = |name: std::ffi::OsString| name.to_string_lossy().starts_with("mcp-auth-");
            (!names.into_iter().any(is_ours)).then_some(())
        });
    }
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..WAITS {
        if let Some(found) = look() {
            return found;
        }
        sleep(WAIT);
    }
    panic!("it never came to this: {what}");
}

fn pid(report: &Value, name: &str) -> Pid {
    Pid::from_raw(i32::try_from(report[name].as_i64().unwrap()).unwrap()).unwrap()
}

/// A zombie has ended, and waits for its parent only.
fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    let state = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.split_ascii_whitespace().next());
    state.is_some_and(|state| state != "Z")
}

fn kill(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

fn message(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Answers each request with this JSON, and hands the request on.
fn answering(body: &'static str) -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, requests) = mpsc::channel();
    spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            loop {
                let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
                let length = text
                    .split("content-length: ")
                    .nth(1)
                    .and_then(|rest| rest.lines().next());
                let length = length.map_or(0, |length| length.trim().parse::<usize>().unwrap());
                if text
                    .split_once("\r\n\r\n")
                    .is_some_and(|(_, body)| body.len() >= length)
                {
                    break;
                }
                match stream.read(&mut buffer).unwrap_or(0) {
                    0 => break,
                    read => request.extend_from_slice(&buffer[..read]),
                }
            }
            let _ = sender.send(String::from_utf8_lossy(&request).into_owned());
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n";
            let _ = write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len());
        }
    });
    (address, requests)
}

#[test]
fn litellm_reaches_its_server_with_a_token_and_never_sees_the_secret() {
    let (authorization_server, token_requests) =
        answering(r#"{"access_token": "opaque-t0ken", "token_type": "Bearer", "expires_in": 3600}"#);
    let (mcp_server, calls) = answering(r#"{"jsonrpc": "2.0", "id": 1, "result": {"tools": []}}"#);
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

    // Users call the port that they always called.
    let mut stream = until("the port answers", || {
        TcpStream::connect(("127.0.0.1", ground.port)).ok()
    });
    stream
        .write_all(b"GET /health HTTP/1.1\r\nhost: litellm\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
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
        &mut ground.command(&["litellm", "--config", "/none.yaml"]),
        78,
        "/none.yaml does not exist",
    );
    let elsewhere = ground.port.to_string();
    let mut no_folder = ground.command(&["litellm", "--host", "127.0.0.1", "--port", &elsewhere]);
    check(no_folder.env("TMPDIR", "/does/not/exist"), 73, "Set TMPDIR");
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
