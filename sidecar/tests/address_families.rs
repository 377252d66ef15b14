//! The sidecar on nodes that have one family of addresses: IPv6 alone, where loopback is all that there is of IPv4, and IPv4 alone.
//! Each test runs again in a network namespace of its own.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::{sleep, spawn};
use std::time::Duration;

/// Of the block that is for documentation (RFC 3849), so of nobody.
const POD: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
/// Those that injection gives the sidecar of a LiteLLM with `HOST=::`, which a namespace of its own has free.
const USERS_PORT: u16 = 4000;
const LITELLM_PORT: u16 = 16480;
const OUTBOUND_PORT: u16 = 16481;
const HEALTH_PORT: u16 = 16482;
/// Bounds all that a test waits for.
const ATTEMPTS: u32 = 1200;
const PAUSE: Duration = Duration::from_millis(50);
/// Set where the test runs in its namespace.
const INSIDE: &str = "MCPAUTH_TEST_ADDRESS_FAMILY";

#[test]
fn on_a_node_with_ipv6_alone_users_probes_and_litellm_are_served_and_the_operator_is_called() {
    let name = "on_a_node_with_ipv6_alone_users_probes_and_litellm_are_served_and_the_operator_is_called";
    in_a_namespace(name, || {
        run("ip", &["link", "set", "lo", "up"]);
        // On loopback, since not every kernel has a device for it.
        let address = format!("{POD}/128");
        run("ip", &["address", "add", &address, "dev", "lo", "nodad"]);
        // What the sidecar and LiteLLM say to each other goes by 127.0.0.1, which the kernel gives every loopback that is up.
        assert_eq!(addresses("-4"), ["127.0.0.1/8"]);

        let operator = TcpListener::bind((POD, 0)).unwrap();
        let sidecar = Sidecar::start(operator.local_addr().unwrap());
        operator.accept().unwrap();
        serves(&sidecar, POD.into());
    });
}

#[test]
fn on_a_node_without_ipv6_a_sidecar_that_is_to_listen_on_all_addresses_listens_on_those_of_ipv4() {
    let name = "on_a_node_without_ipv6_a_sidecar_that_is_to_listen_on_all_addresses_listens_on_those_of_ipv4";
    in_a_namespace(name, || {
        for scope in ["all", "default"] {
            fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1").ok();
        }
        run("ip", &["link", "set", "lo", "up"]);
        assert!(addresses("-6").is_empty(), "there is no IPv6");

        let operator = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let sidecar = Sidecar::start(operator.local_addr().unwrap());
        operator.accept().unwrap();
        serves(&sidecar, Ipv4Addr::LOCALHOST.into());
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

/// Runs `test` in a namespace that holds nothing yet. `name` is that of the calling test, which is started again for it.
fn in_a_namespace(name: &str, test: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return test();
    }
    let mut command = Command::new("unshare");
    command.arg("--net");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let status = command
        .arg("--")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare can be started");
    assert!(status.success(), "it failed in the namespace: see above");
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status();
    let status = status.unwrap_or_else(|error| {
        panic!("{program}: {error}; this test takes iproute2 and util-linux (apt-get install them)")
    });
    assert!(status.success(), "{program} {arguments:?}");
}

/// The addresses of a family, `-4` or `-6`, that the namespace has.
fn addresses(family: &str) -> Vec<String> {
    let output = Command::new("ip")
        .args([family, "-oneline", "address", "show"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let address = |line: &str| line.split_whitespace().nth(3).map(str::to_owned);
    text.lines().filter_map(address).collect()
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
