//! The sidecar on nodes that have one family of addresses: IPv6 alone, where loopback is all that there is of IPv4, and IPv4 alone.
//! Each test runs again in a network namespace of its own.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod network_namespace;

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::{sleep, spawn};
use std::time::Duration;

use network_namespace::{in_a_namespace, with_ipv6_alone, without_ipv6};

/// Those that injection gives the sidecar of a LiteLLM with `HOST=::`, which a namespace of its own has free.
const USERS_PORT: u16 = 4000;
const LITELLM_PORT: u16 = 16480;
const OUTBOUND_PORT: u16 = 16481;
const HEALTH_PORT: u16 = 16482;
/// Bounds all that a test waits for.
const ATTEMPTS: u32 = 1200;
const PAUSE: Duration = Duration::from_millis(50);

#[test]
fn on_a_node_with_ipv6_alone_users_probes_and_litellm_are_served_and_the_operator_is_called() {
    let name = "on_a_node_with_ipv6_alone_users_probes_and_litellm_are_served_and_the_operator_is_called";
    in_a_namespace(name, || {
        let pod = with_ipv6_alone();
        // What the sidecar and LiteLLM say to each other goes by 127.0.0.1.
        let operator = TcpListener::bind((pod, 0)).unwrap();
        let sidecar = Sidecar::start(operator.local_addr().unwrap());
        operator.accept().unwrap();
        serves(&sidecar, pod);
    });
}

#[test]
fn on_a_node_without_ipv6_a_sidecar_that_is_to_listen_on_all_addresses_listens_on_those_of_ipv4() {
    let name = "on_a_node_without_ipv6_a_sidecar_that_is_to_listen_on_all_addresses_listens_on_those_of_ipv4";
    in_a_namespace(name, || {
        let pod = without_ipv6();
        let operator = TcpListener::bind((pod, 0)).unwrap();
        let sidecar = Sidecar::start(operator.local_addr().unwrap());
        operator.accept().unwrap();
        serves(&sidecar, pod);
    });
}

/// Probes and users at `address`, whom LiteLLM is told of by that address, and LiteLLM's MCP client on loopback.
fn serves(sidecar: &Sidecar, address: IpAddr) {
    sidecar.until("the startup probe passes", || {
        ask((address, HEALTH_PORT).into(), "/startup")
            .is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
    });
    let litellm = TcpListener::bind((Ipv4Addr::LOCALHOST, LITELLM_PORT)).unwrap();
    spawn(move || litellm.incoming().for_each(|stream| echo(stream.unwrap())));
    let mut answer = String::new();
    sidecar.until("users reach LiteLLM", || {
        answer = ask((address, USERS_PORT).into(), "/v1/models").unwrap_or_default();
        answer.starts_with("HTTP/1.1 200")
    });
    assert!(
        answer.contains(&format!("x-forwarded-for: {address}\r\n")),
        "{answer}"
    );
    // Without the overlay's secret it is refused, by the sidecar.
    let refused = ask((Ipv4Addr::LOCALHOST, OUTBOUND_PORT).into(), "/tools/mcp").unwrap();
    assert!(refused.contains("caller_not_allowed"), "{refused}");
}

struct Sidecar {
    child: Child,
    folder: tempfile::TempDir,
}

impl Sidecar {
    fn start(operator: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certificate = rcgen::generate_simple_self_signed(["operator".to_owned()]).unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("token"), "token").unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_mcp-auth-sidecar"))
            .arg("serve")
            .env("MCPAUTH_INBOUND", format!("[::]:{USERS_PORT}"))
            .env("MCPAUTH_LITELLM", format!("127.0.0.1:{LITELLM_PORT}"))
            .env("MCPAUTH_OUTBOUND", format!("127.0.0.1:{OUTBOUND_PORT}"))
            .env("MCPAUTH_HEALTH", format!("[::]:{HEALTH_PORT}"))
            .env("MCPAUTH_ROUTES", "[]")
            .env("MCPAUTH_OVERLAY", path("overlay.yaml"))
            .env("MCPAUTH_OPERATOR", format!("https://{operator}"))
            .env("MCPAUTH_OPERATOR_CA", certificate.cert.pem())
            .env("MCPAUTH_TOKEN_FILE", path("token"))
            .env("MCPAUTH_POD_NAMESPACE", "n")
            .env("MCPAUTH_POD_NAME", "p")
            .env("MCPAUTH_POD_UID", "u")
            .env("MCPAUTH_START_TIMEOUT_SECONDS", "1")
            .env("MCPAUTH_DRAIN_SECONDS", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(path("log")).unwrap())
            .spawn()
            .unwrap();
        Self { child, folder }
    }

    fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        for _ in 0..ATTEMPTS {
            if holds() {
                return;
            }
            sleep(PAUSE);
        }
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap();
        panic!("it never came that {what}: {log}");
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The answer to a request, or nothing while nobody listens.
fn ask(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer).into_owned())
}

/// Answers one request with its head.
fn echo(mut stream: TcpStream) {
    let mut head = Vec::new();
    let mut piece = [0; 4096];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return,
            Ok(length) => head.extend_from_slice(&piece[..length]),
        }
    }
    let start = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        head.len()
    );
    let _ = stream.write_all(&[start.as_bytes(), &head].concat());
}
