//! What runs in the pod: the sidecar's own program, the mesh's proxy, and a stand-in for LiteLLM.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;

use rcgen::CertifiedKey;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use socket2::SockRef;

use crate::is_whole;
use crate::namespaces::PROXY_PORT;

pub const USERS_PORT: u16 = 4000;
pub const HEALTH_PORT: u16 = 16482;
const LITELLM_PORT: u16 = 16480;
const NAME: &str = "pod.mesh.example";
const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\nfrom LiteLLM";

pub struct Pod {
    sidecar: Child,
    client: Arc<ClientConfig>,
    environment: Vec<(&'static str, String)>,
    _folder: tempfile::TempDir,
}

impl Pod {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let in_folder = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        fs::write(folder.path().join("config.yaml"), "mcp_servers: {}").unwrap();
        let environment = vec![
            ("MCPAUTH_INBOUND", format!("0.0.0.0:{USERS_PORT}")),
            ("MCPAUTH_LITELLM", format!("127.0.0.1:{LITELLM_PORT}")),
            ("MCPAUTH_OUTBOUND", "127.0.0.1:16481".to_owned()),
            ("MCPAUTH_HEALTH", format!("0.0.0.0:{HEALTH_PORT}")),
            ("MCPAUTH_ROUTES", "[]".to_owned()),
            ("MCPAUTH_ORIGINAL_CONFIG", in_folder("config.yaml")),
            ("MCPAUTH_OVERLAY", in_folder("overlay.yaml")),
            ("MCPAUTH_OPERATOR", "https://127.0.0.1:1".to_owned()),
            ("MCPAUTH_OPERATOR_CA", "none".to_owned()),
            ("MCPAUTH_TOKEN_FILE", in_folder("token")),
            ("MCPAUTH_POD_NAMESPACE", "n".to_owned()),
            ("MCPAUTH_POD_NAME", "p".to_owned()),
            ("MCPAUTH_POD_UID", "u".to_owned()),
            ("MCPAUTH_START_TIMEOUT_SECONDS", "0".to_owned()),
            ("MCPAUTH_DRAIN_SECONDS", "5".to_owned()),
        ];
        let client = start_proxy();
        let sidecar = program(&environment).arg("serve").spawn().unwrap();
        Self {
            sidecar,
            client,
            environment,
            _folder: folder,
        }
    }

    /// The sidecar's program with these words, as the kubelet runs it in the container.
    pub fn program(&self, words: &[&str]) -> ExitStatus {
        self.spawn(words).wait().unwrap()
    }

    pub fn spawn(&self, words: &[&str]) -> Child {
        program(&self.environment).args(words).spawn().unwrap()
    }

    /// TLS as the mesh's other proxies speak it.
    pub fn tls(&self, stream: TcpStream) -> impl Read + Write {
        let name = ServerName::try_from(NAME).unwrap();
        StreamOwned::new(ClientConnection::new(self.client.clone(), name).unwrap(), stream)
    }

    /// Listens where LiteLLM was moved to, and answers whatever is asked.
    pub fn start_litellm(&self) -> TcpListener {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, LITELLM_PORT)).unwrap();
        let accepting = listener.try_clone().unwrap();
        thread::spawn(move || {
            for stream in accepting.incoming() {
                thread::spawn(move || answer(stream.unwrap()));
            }
        });
        listener
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.sidecar.kill();
        let _ = self.sidecar.wait();
    }
}

fn program(environment: &[(&'static str, String)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-auth-sidecar"));
    command
        .envs(environment.iter().cloned())
        .env("MCPAUTH_LOG", "error")
        .stdin(Stdio::null());
    command
}

fn answer(mut stream: TcpStream) {
    let mut head = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut piece) {
        head.extend_from_slice(&piece[..length]);
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            if stream.write_all(ANSWER.as_bytes()).is_err() {
                return;
            }
        }
    }
}

/// The mesh's proxy: takes TLS, and passes what is in it on to the port that was meant, on loopback. Returns what speaks
/// to it.
fn start_proxy() -> Arc<ClientConfig> {
    let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let server = Arc::new(server);
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PROXY_PORT)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let server = server.clone();
            // What is no TLS ends here, as with the mesh.
            thread::spawn(move || pass_on(stream.unwrap(), server));
        }
    });
    Arc::new(client)
}

/// One request and its answer.
fn pass_on(mut stream: TcpStream, server: Arc<ServerConfig>) -> io::Result<()> {
    let meant = SockRef::from(&stream).original_dst_v4()?;
    let port = meant.as_socket().map_or(0, |address| address.port());
    let mut connection = ServerConnection::new(server).map_err(io::Error::other)?;
    let mut tls = rustls::Stream::new(&mut connection, &mut stream);
    let mut piece = [0; 4096];
    let length = tls.read(&mut piece)?;
    let mut upstream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    upstream.write_all(&piece[..length])?;
    let mut answer = Vec::new();
    while !is_whole(&answer) {
        match upstream.read(&mut piece)? {
            0 => break,
            length => answer.extend_from_slice(&piece[..length]),
        }
    }
    tls.write_all(&answer)?;
    connection.send_close_notify();
    connection.write_tls(&mut stream)?;
    stream.shutdown(Shutdown::Write)
}
