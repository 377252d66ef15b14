//! Egress proxies of the machine that the plugin runs on.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::{Arc, Mutex};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use support::kubeconfig;

const ELSEWHERE: &str = "https://api.corp.invalid:6443";

/// An address at which nothing listens any more.
fn address_without_listener() -> String {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string()
}

/// A proxy that refuses every request and records it.
struct Proxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// With a certificate, if it is asked by TLS.
    fn start(tls: Option<&Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let (noted, tls) = (asked.clone(), tls.cloned());
        // Ends with the tests.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                match &tls {
                    Some(tls) => {
                        let connection = ServerConnection::new(tls.clone()).unwrap();
                        refuse(StreamOwned::new(connection, stream), &noted);
                    }
                    None => refuse(stream, &noted),
                }
            }
        });
        Self { address, asked }
    }

    /// First lines of the requests.
    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// Whoever asks has the answer after it was noted.
fn refuse(mut stream: impl Read + Write, asked: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    let mut bytes = [0; 1024];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut bytes) {
            Ok(read) if read > 0 => head.extend_from_slice(&bytes[..read]),
            _ => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let line = head.lines().next().unwrap().to_owned();
    asked.lock().unwrap().push(line);
    // It may be gone.
    let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n");
}

/// What `status` says of a cluster that cannot be reached.
fn error_message(cluster: &str, variables: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = kubeconfig(folder.path(), cluster);
    let mut program = Command::new(env!("CARGO_BIN_EXE_kubectl-mcp_auth"));
    for name in ["HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"] {
        program.env_remove(name);
    }
    let output = program
        .args(["status", "--kubeconfig"])
        .arg(&kubeconfig)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_proxy_of_the_environment_keeps_nobody_from_the_api_server_of_this_machine() {
    let server = address_without_listener();
    let proxy = format!("http://{}", address_without_listener());
    for exceptions in [
        "",
        "localhost,127.0.0.1,",
        "a,,b",
        "/var/run/docker.sock",
        "<local>; a b",
    ] {
        let message = error_message(
            &format!("server: 'https://{server}'"),
            &[("HTTPS_PROXY", &proxy), ("NO_PROXY", exceptions)],
        );
        assert!(
            message.contains(&server),
            "{exceptions}: it is the API server that does not answer: {message}"
        );
        assert!(
            !message.to_lowercase().contains("proxy"),
            "{exceptions}: {message}"
        );
    }
}

#[test]
fn what_no_proxy_says_decides_of_the_proxy_of_the_environment_and_of_no_other() {
    let proxy = Proxy::start(None);
    let url = format!("http://{}", proxy.address);
    let cluster = format!("server: '{ELSEWHERE}'");
    for exceptions in [
        "*.corp.invalid",
        "a,,api.corp.invalid:6443,",
        ".corp.invalid,/var/run/docker.sock",
    ] {
        let message = error_message(&cluster, &[("HTTPS_PROXY", &url), ("NO_PROXY", exceptions)]);
        assert!(
            message.contains(ELSEWHERE) && !message.to_lowercase().contains("proxy"),
            "{exceptions}: {message}"
        );
    }
    assert_eq!(proxy.asked(), [""; 0]);

    let of_environment = error_message(&cluster, &[("HTTPS_PROXY", &url), ("NO_PROXY", "a,,b")]);
    let of_cluster = error_message(&format!("{cluster}, proxy-url: '{url}'"), &[("NO_PROXY", ",*")]);
    for message in [of_environment, of_cluster] {
        assert!(message.contains(&format!("through the proxy {url}")), "{message}");
    }
    assert_eq!(proxy.asked(), ["CONNECT api.corp.invalid:6443 HTTP/1.1"; 2]);
}

#[test]
fn the_certificate_of_an_https_proxy_has_to_be_of_the_authority_of_the_cluster() {
    let identity = |name: &str| generate_simple_self_signed([name.to_owned()]).unwrap();
    let CertifiedKey { cert, signing_key } = identity("localhost");
    let tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![cert.der().clone()],
            PrivateKeyDer::Pkcs8(signing_key.serialize_der().into()),
        )
        .unwrap();
    let proxy = Proxy::start(Some(&Arc::new(tls)));
    let folder = tempfile::tempdir().unwrap();
    let told_with = |authority: &str| {
        let path = folder.path().join("authority.pem");
        std::fs::write(&path, authority).unwrap();
        let url = format!("https://localhost:{}", proxy.address.port());
        let path = path.display();
        let message = error_message(
            &format!("server: '{ELSEWHERE}', proxy-url: '{url}', certificate-authority: '{path}'"),
            &[],
        );
        assert!(message.contains(&format!("through the proxy {url}")), "{message}");
    };
    told_with(&identity("another").cert.pem());
    assert_eq!(proxy.asked(), [""; 0]);
    told_with(&cert.pem());
    assert_eq!(proxy.asked(), ["CONNECT api.corp.invalid:6443 HTTP/1.1"]);
}
