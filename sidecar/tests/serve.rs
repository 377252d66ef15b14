//! The binary as the kubelet sees it, without an operator: LiteLLM may start all the same, and nothing but a
//! signal ends the process.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

const ROUTES: &str = concat!(
    r#"[{"resource":"tools","server":"tools","url":"https://tools.example.com/mcp","#,
    r#""transport":"StreamableHttp"}]"#
);

struct Sidecar {
    child: Child,
    health: SocketAddr,
    /// Where LiteLLM is to listen: reserved, and listening from [`Sidecar::litellm_listens`] on.
    litellm: Socket,
    /// Where users connect.
    inbound: SocketAddr,
    folder: tempfile::TempDir,
}

impl Sidecar {
    fn start() -> Self {
        Self::with(&[])
    }

    fn with(variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(
            folder.path().join("config.yaml"),
            "mcp_servers: {other: {url: http://o, timeout: 010}}",
        )
        .unwrap();
        let free = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (health, operator, users) = (free(), free(), free());
        let litellm = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        litellm.bind(&any.into()).unwrap();
        let inbound = users.local_addr().unwrap();
        let address = health.local_addr().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_mcp-auth-sidecar"))
            .arg("serve")
            .env("MCPAUTH_OUTBOUND", "127.0.0.1:0")
            .env("MCPAUTH_HEALTH", address.to_string())
            .env("MCPAUTH_INBOUND", inbound.to_string())
            .env("MCPAUTH_LITELLM", address_of(&litellm).to_string())
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
            .envs(variables.iter().copied())
            .stderr(fs::File::create(folder.path().join("log")).unwrap())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        drop((health, users));
        Self {
            child,
            health: address,
            litellm,
            inbound,
            folder,
        }
    }

    /// Status and body, or nothing while no socket listens.
    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.health).ok()?;
        // A probe that hangs is to fail the test and not to hang it.
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
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

    fn litellm_listens(&self) -> TcpListener {
        self.litellm.listen(16).unwrap();
        self.litellm.try_clone().unwrap().into()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(Path::new(self.folder.path()).join(name)).unwrap()
    }
}

fn address_of(socket: &Socket) -> SocketAddr {
    socket.local_addr().unwrap().as_socket().unwrap()
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

    let secret = sidecar.read("outbound-secret");
    assert!(
        secret.len() == 43 && overlay.contains(&format!(r#""mcpauth-outbound-secret": "{secret}""#)),
        "{overlay}"
    );
    let mode = |name| fs::metadata(sidecar.folder.path().join(name)).unwrap().mode() & 0o777;
    assert_eq!((mode("outbound-secret"), mode("overlay.yaml")), (0o600, 0o644));

    let listener = sidecar.litellm_listens();
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
            .env("MCPAUTH_POD_UID", "u")
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.success(), expected, "{arguments:?}");
    }
    sidecar.wait_for("/metrics", "mcpauth_sidecar_litellm_ready 1");
    sidecar.wait_for("/drain", "403 Forbidden");

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
    assert!(!log.contains(&secret), "{log}");
    assert!(
        log.contains("SIGTERM: leaving") && log.contains("TokenUnreadable"),
        "{log}"
    );
}

/// Waits until a connection to this address is taken, or refused.
fn wait_for_connections(address: SocketAddr, are_taken: bool) {
    for _ in 0..600 {
        if TcpStream::connect(address).is_ok() == are_taken {
            return;
        }
        sleep(Duration::from_millis(50));
    }
    panic!(
        "connections to {address} are never {}",
        if are_taken { "taken" } else { "refused" }
    );
}

#[test]
fn a_collector_that_cannot_be_called_does_not_keep_litellm_from_starting() {
    let collector = ("MCPAUTH_OTLP_ENDPOINT", "http://collector:4318");
    for (variables, expected) in [
        (vec![], "MCPAUTH_OTLP_ENDPOINT) is missing"),
        (
            vec![("MCPAUTH_OTLP_ENDPOINT", "https://ada:s3cret@collector")],
            "holds a user or a password",
        ),
        (
            vec![collector, ("MCPAUTH_OTLP_HEADERS", "s3cret")],
            "MCPAUTH_OTLP_HEADERS: header 1 has no `=`",
        ),
        (
            vec![
                ("MCPAUTH_OTLP_ENDPOINT", "https://collector"),
                ("MCPAUTH_OTLP_CA", "/does/not/exist"),
            ],
            "MCPAUTH_OTLP_CA) names \\\"/does/not/exist\\\", which cannot be read",
        ),
    ] {
        let mut sidecar = Sidecar::with(&[vec![("MCPAUTH_AUDIT_LOG", "otlp")], variables].concat());
        sidecar.wait_for("/startup", "200 OK");
        let log = sidecar.read("log");
        assert!(
            log.contains("no OpenTelemetry collector can be called") && log.contains(expected),
            "{log}"
        );
        assert!(!log.contains("s3cret"), "{log}");
    }
}

#[test]
fn users_can_connect_exactly_while_litellm_listens() {
    let mut sidecar = Sidecar::start();
    sidecar.wait_for("/startup", "200 OK");
    sidecar.wait_for("/ready", "503 Service Unavailable");
    assert!(
        TcpStream::connect(sidecar.inbound).is_err(),
        "as without the sidecar"
    );
    let litellm = sidecar.litellm_listens();
    wait_for_connections(sidecar.inbound, true);
    sidecar.wait_for("/ready", "200 OK");

    // It ends, and another process of it begins on the same port.
    let address = litellm.local_addr().unwrap();
    drop(litellm);
    sidecar.litellm = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    wait_for_connections(sidecar.inbound, false);
    sidecar.wait_for("/ready", "503 Service Unavailable");
    sidecar.litellm.set_reuse_address(true).unwrap();
    sidecar.litellm.bind(&address.into()).unwrap();
    let _litellm = sidecar.litellm_listens();
    wait_for_connections(sidecar.inbound, true);
    sidecar.wait_for("/ready", "200 OK");
}

#[test]
fn litellm_gets_no_connection_from_a_sidecar_at_rest() {
    let mut sidecar = Sidecar::start();
    let litellm = sidecar.litellm_listens();
    sidecar.wait_for("/ready", "200 OK");
    sidecar.wait_for("/metrics", "mcpauth_sidecar_litellm_ready 1");
    // The configuration is read again after several looks at LiteLLM: when that shows, they have been.
    fs::write(
        sidecar.folder.path().join("config.yaml"),
        "mcp_servers: {later: {url: http://l}}",
    )
    .unwrap();
    let is_read = |_| {
        sleep(Duration::from_millis(50));
        sidecar.read("overlay.yaml").contains("later")
    };
    assert!((0..1200).any(is_read), "{}", sidecar.read("log"));
    litellm.set_nonblocking(true).unwrap();
    let connection = litellm.accept();
    assert!(connection.is_err(), "{connection:?}");
}

/// Any container of the pod may have made a folder, or a link, of that name.
#[test]
fn the_overlay_and_the_mirror_are_in_shared_memory_as_soon_as_nothing_of_others_is_in_the_way() {
    let (memory, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let parent = memory.path().join("mcpauth");
    symlink(elsewhere.path(), &parent).unwrap();
    let folder = parent.join("0123");
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let mut sidecar = Sidecar::with(&[
        ("MCPAUTH_SHARED_FOLDER", folder.to_str().unwrap()),
        ("MCPAUTH_OVERLAY", &path("overlay.yaml")),
        ("MCPAUTH_CONFIG_MIRROR", &path("mirror")),
    ]);
    let is_told = |_| {
        sleep(Duration::from_millis(50));
        sidecar.read("log").contains("mcpauth is no folder")
    };
    assert!((0..1200).any(is_told), "{}", sidecar.read("log"));
    sidecar.wait_for("/startup", "503 Service Unavailable");
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    fs::remove_file(&parent).unwrap();
    sidecar.wait_for("/startup", "200 OK");
    assert!(
        fs::read_to_string(path("overlay.yaml"))
            .unwrap()
            .contains("tools")
    );
    let config = sidecar.folder.path().join("config.yaml");
    let wrapper = fs::read_to_string(format!("{}{}", path("mirror"), config.display())).unwrap();
    assert!(wrapper.contains(&path("overlay.yaml")), "{wrapper}");
    assert_eq!(
        fs::metadata(&parent).unwrap().mode() & 0o777,
        0o711,
        "nobody else lists it"
    );
    assert_eq!(
        fs::metadata(&folder).unwrap().mode() & 0o777,
        0o755,
        "LiteLLM reads it"
    );
}

/// The read of a configuration on a volume that hangs, as one over the network may, stands for ever.
#[test]
fn a_configuration_whose_read_hangs_holds_up_neither_probes_nor_users() {
    let mut sidecar = Sidecar::start();
    let listener = sidecar.litellm_listens();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        }
    });
    sidecar.wait_for("/ready", "200 OK");
    wait_for_connections(sidecar.inbound, true);
    let config = sidecar.folder.path().join("config.yaml");
    let pipe = sidecar.folder.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    fs::rename(&pipe, &config).unwrap();
    // It can be opened for writing as soon as somebody is about to read it, who then waits for what never comes.
    let open = || {
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK;
        rustix::fs::open(&config, flags, rustix::fs::Mode::empty()).ok()
    };
    let mut writer = None;
    for _ in 0..600 {
        writer = open();
        if writer.is_some() {
            break;
        }
        sleep(Duration::from_millis(50));
    }
    assert!(writer.is_some(), "it is never read: {}", sidecar.read("log"));
    for path in ["/startup", "/ready", "/metrics"] {
        sidecar.wait_for(path, "200 OK");
    }
    let mut user = TcpStream::connect(sidecar.inbound).unwrap();
    user.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    user.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    user.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}
