//! A cluster that takes connections and answers nothing: each command ends by itself, within what the product promises.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod support;

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::{sleep, spawn};
use std::time::Duration;

use clap::CommandFactory;
use mcp_auth_cli::args::Args;
use mcp_auth_cli::{ExitStatus, UNANSWERED_LIMIT};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use support::kubeconfig;

/// Every way in which the commands ask a cluster. `FILE` is a manifest.
const COMMANDS: [&[&str]; 10] = [
    &["status"],
    &["status", "--watch"],
    &["doctor"],
    &["doctor", "--criteria"],
    &["explain", "litellm-0"],
    &["token", "tools"],
    &["logs", "--audit"],
    &["logs", "--audit", "--follow"],
    &["render", "--file", "FILE"],
    &["render", "--output", "json", "--file", "FILE"],
];
/// Commands that ask none.
const WITHOUT_CLUSTER: [&str; 3] = ["import", "completion", "__complete"];
/// Looks before a command is taken to go on for ever. Only a failing test makes so many.
const LOOKS: u32 = 6000;
const LOOK: Duration = Duration::from_millis(50);

/// What takes connections and answers nothing, for as long as this is there.
struct Silent {
    address: SocketAddr,
    /// Connections wait here, taken by the kernel. Absent where a thread has it.
    _listener: Option<TcpListener>,
}

impl Silent {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self {
            address: listener.local_addr().unwrap(),
            _listener: Some(listener),
        }
    }

    /// It finishes TLS, and says nothing more.
    fn behind_tls() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        // Ends with the tests.
        spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let connection = ServerConnection::new(config.clone()).unwrap();
                spawn(move || {
                    let mut stream = StreamOwned::new(connection, stream);
                    // Until the peer gives up.
                    while stream.read(&mut [0; 1024]).is_ok_and(|read| read > 0) {}
                });
            }
        });
        Self {
            address,
            _listener: None,
        }
    }

    fn still_takes_connections(&self) -> bool {
        TcpStream::connect(self.address).is_ok()
    }
}

fn start(command: &[&str], kubeconfig: &Path, manifest: &Path) -> Child {
    let manifest = manifest.to_str().unwrap();
    let words = command
        .iter()
        .map(|word| if *word == "FILE" { manifest } else { word });
    Command::new(env!("CARGO_BIN_EXE_kubectl-mcp_auth"))
        .args(words)
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .env_remove("HTTPS_PROXY")
        .env_remove("https_proxy")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Exit code, standard output and standard error of a program that ends by itself.
fn ended(mut child: Child, command: &[&str]) -> (Option<i32>, String, String) {
    let ends = (0..LOOKS).any(|_| {
        sleep(LOOK);
        child.try_wait().unwrap().is_some()
    });
    if !ends {
        child.kill().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    assert!(ends, "{command:?} goes on: {output:?}");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The seconds in `does not answer within N s`.
fn stated_limit(message: &str) -> u64 {
    let (_, rest) = message.split_once("does not answer within ").expect(message);
    rest.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn every_command_gives_up_a_cluster_that_does_not_answer_and_says_so_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let manifest = folder.join("pod.yaml");
    std::fs::write(
        &manifest,
        "{apiVersion: v1, kind: Pod, metadata: {name: litellm}, spec: {containers: [{name: litellm, image: litellm}]}}",
    )
    .unwrap();
    let (plain, behind_tls) = (Silent::start(), Silent::behind_tls());
    let cases = [
        ("HTTP", format!("server: 'http://{}'", plain.address)),
        ("TLS", format!("server: 'https://{}'", plain.address)),
        (
            "HTTP within TLS",
            format!(
                "server: 'https://{}', insecure-skip-tls-verify: true",
                behind_tls.address
            ),
        ),
        (
            "a proxy",
            format!(
                "server: 'https://api.corp.invalid:6443', proxy-url: 'http://{}'",
                plain.address
            ),
        ),
    ];
    for (what, cluster) in cases {
        let kubeconfig = kubeconfig(folder, &cluster);
        let running = COMMANDS.map(|command| (command, start(command, &kubeconfig, &manifest)));
        for (command, child) in running {
            let (code, out, err) = ended(child, command);
            assert_eq!(
                code,
                Some(i32::from(ExitStatus::ClusterUnusable.code())),
                "{what}, {command:?}: {err}"
            );
            assert_eq!(out, "", "{what}, {command:?}");
            assert_eq!(err.lines().count(), 1, "{what}, {command:?}: {err}");
            assert!(
                stated_limit(&err) < UNANSWERED_LIMIT.as_secs(),
                "{what}, {command:?}: {err}"
            );
        }
        assert!(plain.still_takes_connections() && behind_tls.still_takes_connections());
    }
}

#[test]
fn no_command_that_asks_a_cluster_is_left_out_here() {
    let root = Args::command();
    for command in root.get_subcommands().map(|command| command.get_name()) {
        let asks = COMMANDS.iter().any(|words| words[0] == command);
        assert_ne!(
            asks,
            WITHOUT_CLUSTER.contains(&command),
            "{command}: add it to the one list or to the other"
        );
    }
}
