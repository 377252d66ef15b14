//! What the tests of `mcp-auth` stand on: real processes, and servers on loopback.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]
#![allow(dead_code, reason = "no test program needs all of them")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::thread::{sleep, spawn};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

pub const WAITS: u32 = 3000;
pub const WAIT: Duration = Duration::from_millis(20);

/// A folder with the stand-in in its `bin`, and a free port.
pub struct Ground {
    pub folder: TempDir,
    pub port: u16,
}

impl Ground {
    pub fn new(config: &str) -> Self {
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
        Self {
            folder,
            port: free_port(),
        }
    }

    pub fn command(&self, words: &[&str]) -> Command {
        self.program(&[&["exec", "--"], words].concat())
    }

    /// `mcp-auth` with these words.
    pub fn program(&self, words: &[&str]) -> Command {
        let path = format!(
            "{}:{}",
            self.folder.path().join("bin").display(),
            std::env::var("PATH").unwrap()
        );
        let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-auth"));
        command
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

    /// `mcp-auth exec` with the stand-in on the free port.
    pub fn litellm(&self) -> Command {
        self.litellm_with(&[])
    }

    /// The same with options of ours, and with its log in a file.
    pub fn litellm_with(&self, options: &[&str]) -> Command {
        let port = self.port.to_string();
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
        let mut command = self.program(&[&["exec"], options, &litellm].concat());
        if !options.is_empty() {
            command.stderr(fs::File::create(self.log_file()).unwrap());
        }
        command
    }

    /// Runs it as a user without rights, where the test has those of root, which may read everything.
    pub fn as_nobody(&self, command: &Command) -> Command {
        const NOBODY: u32 = 65534;
        let folder = self.folder.path();
        let program = folder.join("mcp-auth");
        fs::copy(command.get_program(), &program).unwrap();
        let mut unprivileged = Command::new(program);
        unprivileged.args(command.get_args()).current_dir(folder);
        copy_environment(command, &mut unprivileged);
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(folder, Some(NOBODY), Some(NOBODY)).unwrap();
            // Another Python may be in a folder of root's.
            let path = format!("{}:/usr/local/bin:/usr/bin:/bin", folder.join("bin").display());
            unprivileged.uid(NOBODY).gid(NOBODY).env("PATH", path);
        }
        unprivileged
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        unprivileged
    }

    /// Runs it in a network of its own, which has loopback and no IPv6. Takes iproute2 and util-linux.
    pub fn without_ipv6(&self, command: &Command) -> Command {
        const PREPARE: &str = "off=/proc/sys/net/ipv6/conf/all/disable_ipv6; [ ! -e $off ] || echo 1 > $off; \
                               ip link set lo up && exec \"$@\"";
        let mut alone = Command::new("unshare");
        alone.arg("--net");
        if !rustix::process::geteuid().is_root() {
            alone.args(["--user", "--map-root-user"]);
        }
        alone
            .args(["--", "sh", "-c", PREPARE, "sh"])
            .arg(command.get_program())
            .args(command.get_args())
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        copy_environment(command, &mut alone);
        alone
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// The log so far of [`litellm_with`](Self::litellm_with).
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap()
    }

    /// What the stand-in saw, once it listens.
    pub fn report(&self) -> Value {
        let path = self.folder.path().join("report");
        until("LiteLLM has started", || fs::read(&path).ok());
        serde_json::from_slice(&fs::read(&path).unwrap()).unwrap()
    }

    pub fn nothing_is_left(&self, report: &Value) {
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

/// The variables that a command sets and removes.
pub fn copy_environment(from: &Command, to: &mut Command) {
    for (name, value) in from.get_envs() {
        match value {
            Some(value) => to.env(name, value),
            None => to.env_remove(name),
        };
    }
}

/// One that nothing listens at.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..WAITS {
        if let Some(found) = look() {
            return found;
        }
        sleep(WAIT);
    }
    panic!("it never came to this: {what}");
}

pub fn pid(report: &Value, name: &str) -> Pid {
    Pid::from_raw(i32::try_from(report[name].as_i64().unwrap()).unwrap()).unwrap()
}

/// A zombie has ended, and waits for its parent only.
pub fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    let state = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.split_ascii_whitespace().next());
    state.is_some_and(|state| state != "Z")
}

pub fn kill(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

pub fn message(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// An HTTP server on loopback: `answer` gets each request as text, and gives status and JSON.
pub fn serve(answer: impl Fn(&str) -> (u16, String) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, answer) = (stream.unwrap(), answer.clone());
            spawn(move || {
                if let Some(request) = read_message(&mut stream) {
                    let (status, body) = answer(&request);
                    let head = "content-type: application/json\r\nconnection: close\r\n";
                    let length = body.len();
                    let _ = write!(
                        stream,
                        "HTTP/1.1 {status} Status\r\n{head}content-length: {length}\r\n\r\n{body}"
                    );
                }
            });
        }
    });
    address
}

/// A whole message, with its body; nothing where the peer ends before.
fn read_message(stream: &mut TcpStream) -> Option<String> {
    let mut message = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&message).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = header(head, "content-length").map_or(0, |length| length.parse::<usize>().unwrap());
            if body.len() >= length {
                return Some(text);
            }
        }
        match stream.read(&mut buffer).unwrap_or(0) {
            0 => return None,
            read => message.extend_from_slice(&buffer[..read]),
        }
    }
}

/// A header's value, by its name in lower case.
pub fn header<'a>(message: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = message.lines().skip(1).take_while(|line| !line.is_empty());
    lines.find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Sends a request to the port and reads status and body.
pub fn request(port: u16, request: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let answer = read_message(&mut stream)?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    Some((status, body.to_owned()))
}
